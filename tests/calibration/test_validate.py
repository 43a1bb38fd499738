"""Calibrate, replay, predict and compare in one go, on a server whose step times are known."""

import gzip
import json
from dataclasses import replace

import pytest
from commandline import WORKFLOW, assert_one_line, jsonl, workspan
from strategies import profile, roomy

import calibration.validate
from calibration.from_server import Bench, Plan
from calibration.grid import Cell
from calibration.validate import Study, folder, validate
from calibration.validate_report import facts, print_validation
from live.fake import FakeServer
from live.measure import Setup
from sim.choices import Choices
from sim.compare import line_up
from sim.latency import Overheads, StepTime
from sim.load import ConcurrentSessions, SessionRate
from sim.traces import read

STEP = StepTime(const_s=8e-3, prefill_token_s=1e-4, decode_seq_s=5e-4, kv_token_s=1e-6, attention_pair_s=1e-8)
CELLS = [
    *(Cell("prefill", 1, 0, length) for length in (16, 256, 900)),
    *(Cell("decode", batch, context, 0) for batch in (1, 4) for context in (48, 500)),
    Cell("shared", 4, 512, 0),
    Cell("mixed", 2, 200, 400),
]


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proof")
    traces = jsonl(folder / "traces.jsonl", *({**WORKFLOW, "id": name} for name in "abc"))
    workflows, _ = read([traces])
    policies, base = line_up(["sequential", "async"], None)
    loads = [ConcurrentSessions(2), SessionRate(20.0)]
    with FakeServer(profile(roomy(max_num_seqs=8), STEP, Overheads(input_s=0.003))) as server:
        study = Study(workflows, policies, base, loads, 0, Choices(), Setup(2, 60, hardware="a laptop"))
        plan = Plan(CELLS, dict.fromkeys(CELLS, 0.1), [])
        said = []
        result = validate(Bench(server.url, {}), plan, study, "proof", folder / "out", said.append, lambda _: None)
    return result, folder / "out", said


def test_what_is_predicted_is_what_is_measured_on_an_engine_that_is_known(proof):
    result, _, _ = proof
    found = facts(result)
    assert found["summary"]["session latency, mean"]["mean_error"] < 0.1
    assert found["summary"]["makespan"]["worst_error"] < 0.15
    assert found["summary"]["wrong_winners"] == 0
    assert abs(found["drift_between_calibrations"]) < 0.2
    json.dumps(found, allow_nan=False)


def test_every_load_leaves_its_records_and_the_prediction_beside_them(proof):
    result, output, said = proof
    for one in result.replays:
        for side in (output / folder(one.load), output / folder(one.load) / "predicted"):
            assert json.loads((side / "result.json").read_text())["policies"].keys() == {"sequential", "async"}
    assert said == [
        "calibrating",
        "replaying, 2 concurrent sessions",
        "replaying, 20 sessions/s (Poisson)",
        "calibrating again",
        "predicting",
    ]


def test_the_report_names_every_load_and_policy_and_says_that_it_is_no_measurement(proof, capsys):
    print_validation(proof[0])
    said = capsys.readouterr().out
    for part in ("2 concurrent sessions", "20 sessions/s", "sequential", "async", "Wrong winners: 0 of"):
        assert part in said
    assert "is no measurement: its engine is fake" in said


def test_an_end_from_outside_ends_it_and_keeps_what_was_measured(tmp_path, monkeypatch):
    measure = calibration.validate._measure
    monkeypatch.setattr(calibration.validate, "_measure", lambda *args: replace(measure(*args), interrupted=True))
    workflows, _ = read([jsonl(tmp_path / "traces.jsonl", WORKFLOW)])
    policies, base = line_up(["async"], None)
    load, cells, said = ConcurrentSessions(1), CELLS[:2], []
    with FakeServer(profile(roomy(max_num_seqs=8), STEP)) as server:
        study = Study(workflows, policies, base, [load, SessionRate(20.0)], 0, Choices(), Setup(2, 60))
        plan = Plan(cells, dict.fromkeys(cells, 0.1), [])
        with pytest.raises(KeyboardInterrupt):
            validate(Bench(server.url, {}), plan, study, "proof", tmp_path / "out", said.append, lambda _: None)
    assert said == ["calibrating", "replaying, 1 concurrent sessions"]
    assert len(gzip.decompress((tmp_path / "out/before.samples.jsonl.gz").read_bytes()).splitlines()) == 2
    assert (tmp_path / "out" / folder(load) / "calls.jsonl").exists()


def test_what_cannot_be_validated_is_one_line(tmp_path):
    traces = jsonl(tmp_path / "traces.jsonl", WORKFLOW)
    command = ("validate", traces, "--server", "http://127.0.0.1:9", "--policy", "async", "-o", tmp_path / "out")
    assert_one_line(workspan(*command, "--session-rate", 1, "--session-rate", 1), "the same load twice")
    done = workspan(*command)
    assert done.returncode == 2
    assert "--server http://127.0.0.1:9: " in done.stderr.splitlines()[-1]
