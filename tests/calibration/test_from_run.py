"""Inverse calibration: on a run with known coefficients, and on the recorded ones."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from strategies import profile, roomy

import calibration
import sim.latency
from calibration.from_run import accuracy, calibrate, fit, predict, read_run
from sim.errors import RunError
from sim.latency import StepTime, load_profile, shipped

RUNS = Path(calibration.__file__).parent / "runs"
WORKLOAD = "sharegpt-llama-3.1-8b-300-sps10.jsonl.gz"
TRUTH = StepTime(const_s=8e-3, prefill_token_s=6e-5, decode_seq_s=1e-4, kv_token_s=3e-7, attention_pair_s=1e-8)


def write_run(folder, engine, count=24):
    """A run of the simulator itself in the form of a recorded one."""
    rng = random.Random(1)
    prompts = [[rng.randrange(1000) for _ in range(rng.choice([50, 1500, 6000]))] for _ in range(count)]
    outputs = [rng.choice([5, 40, 120]) for _ in range(count)]
    rows = [
        {"output_toks": output, "queued_ts": 100 + 0.05 * number, "first_token_ts": 201.0, "last_token_ts": 202.0}
        for number, output in enumerate(outputs)
    ]
    with gzip.open(folder / "workload.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps({"input_tok_ids": ids}) + "\n" for ids in prompts)
    write_requests(folder, rows)
    first, last = predict(read_run(folder, folder / "workload.jsonl.gz", 16), engine)
    for row, begun, ended in zip(rows, first, last, strict=True):
        row |= {"first_token_ts": 100 + begun, "last_token_ts": 100 + ended}
    write_requests(folder, rows)


def write_requests(folder, rows):
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_known_coefficients_are_found_again(tmp_path):
    engine = profile(roomy(max_num_seqs=8), TRUTH)
    write_run(tmp_path, engine)
    run = read_run(tmp_path, tmp_path / "workload.jsonl.gz", 16)
    found = fit(run, engine, slice(None))
    for name in ("const_s", "prefill_token_s", "decode_seq_s", "kv_token_s", "attention_pair_s"):
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=0.05), name
    errors = accuracy(run, engine.model_copy(update={"step_time": found}), slice(None))
    assert errors["e2el_mape_pct"] < 0.05


def test_requests_with_equal_beginnings_share_segments(tmp_path):
    with gzip.open(tmp_path / "w.gz", "wt") as lines:
        lines.writelines(json.dumps({"input_tok_ids": [*range(32), *tail]}) + "\n" for tail in ([1, 2], [3]))
    write_requests(
        tmp_path,
        [{"output_toks": 1, "queued_ts": at, "first_token_ts": 2.0, "last_token_ts": 2.0} for at in (1.0, 1.5)],
    )
    run = read_run(tmp_path, tmp_path / "w.gz", 16)
    one, other = (workflow.calls[0].prompt for workflow in run.workflows.values())
    assert one[:2] == other[:2]
    assert [segment.num_tokens for segment in one] == [16, 16, 2]
    assert one[2] != other[2]
    np.testing.assert_allclose(run.queued, [0, 0.5])


#: Profiles whose run is in the project: recorded on a shared machine, whose noise is some percent.
OWN = ("cpu-tiny-llama",)


@pytest.mark.parametrize("name", [name for name in shipped() if name not in OWN and not load_profile(name).derived])
def test_the_accuracy_that_a_profile_of_a_gpu_states_is_reproduced(name, groundtruth):
    known = load_profile(name)
    folder = groundtruth / name.replace("-", "_", 1)
    measured = accuracy(read_run(folder, groundtruth / WORKLOAD, 16), known, slice(None))
    assert_stated(known, measured)
    assert measured["e2el_mape_pct"] < 0.5


@pytest.mark.parametrize("name", OWN)
def test_the_accuracy_that_a_profile_recorded_here_states_is_reproduced(name):
    known, folder = load_profile(name), RUNS / name
    run = read_run(folder, folder / "workload.jsonl.gz", known.engine.block_size)
    measured = accuracy(run, known, slice(None))
    assert_stated(known, measured)
    assert measured["e2el_mape_pct"] < 8


def assert_stated(known, measured):
    for key, value in measured.items():
        # The coefficients are stored with six digits.
        assert known.accuracy[key] == pytest.approx(value, abs=0.02), key


def test_a_calibrated_profile_says_what_it_was_measured_with(tmp_path):
    engine = profile(roomy(max_num_seqs=8), TRUTH)
    write_run(tmp_path, engine, count=6)
    run = read_run(tmp_path, tmp_path / "workload.jsonl.gz", 16)
    found = calibrate(run, engine)
    longest = max(workflow.calls[0].num_prompt_tokens for workflow in run.workflows.values())
    assert longest + 5 <= found.measured.request_tokens <= longest + 120
    assert set(found.accuracy) == {
        f"{part}{name}"
        for part in ("", "held_out_")
        for name in ("e2el_mape_pct", "e2el_mean_error_pct", "ttft_mean_error_pct", "tpot_mean_error_pct")
    }


def run_command(folder):
    (folder / "p.yaml").write_bytes(next(Path(sim.latency.__file__).parent.glob("profiles/*.yaml")).read_bytes())
    command = [sys.executable, "-m", "calibration.from_run", folder, "--workload", folder / "workload.jsonl.gz"]
    return subprocess.run([*command, "--profile", folder / "p.yaml"], capture_output=True, text=True, check=False)


REQUEST = {"output_toks": 5, "queued_ts": 1.0, "first_token_ts": 2.0, "last_token_ts": 3.0}
BROKEN_REQUESTS = {
    "missing": (None, "requests.jsonl: No such file or directory"),
    "empty": ("", "requests.jsonl, line 1: no JSON object"),
    "broken JSON": ("{", "requests.jsonl, line 1: no JSON object with output_toks"),
    "without instants": ('{"output_toks": 5}', "requests.jsonl, line 1: no JSON object"),
    "no text": (b"\xff", "requests.jsonl: not text in UTF-8"),
    "another number": ((json.dumps(REQUEST) + "\n") * 3, "3 requests, but"),
    "out of order": (json.dumps({**REQUEST, "first_token_ts": 0.5}), "request 1: no answer, or instants out of order"),
    "without end": (json.dumps({**REQUEST, "last_token_ts": float("nan")}), "request 1: no answer, or instants"),
    "without answer": (json.dumps({**REQUEST, "output_toks": 0}), "request 1: no answer"),
    "one request": (json.dumps(REQUEST), "1 requests are too few to fit"),
}


@pytest.mark.parametrize(("requests", "problem"), BROKEN_REQUESTS.values(), ids=BROKEN_REQUESTS)
def test_a_run_that_cannot_be_read_is_one_line_and_exit_2(requests, problem, tmp_path):
    with gzip.open(tmp_path / "workload.jsonl.gz", "wt") as lines:
        lines.write(json.dumps({"input_tok_ids": [1, 2]}) + "\n")
    if requests is not None:
        (tmp_path / "requests.jsonl").write_bytes(requests if isinstance(requests, bytes) else requests.encode())
    assert_one_line(run_command(tmp_path), problem)


@pytest.mark.parametrize(
    ("workload", "problem"),
    [
        (b"\x1f\x8b\x08broken", "workload.jsonl.gz: damaged gzip"),
        (b'{"input_tok_ids": 3}', "line 1: no JSON object with"),
        (b'{"input_tok_ids": []}', "empty prompt"),
    ],
)
def test_a_workload_that_cannot_be_read_is_one_line_and_exit_2(workload, problem, tmp_path):
    write_requests(tmp_path, [REQUEST])
    (tmp_path / "workload.jsonl.gz").write_bytes(workload)
    assert_one_line(run_command(tmp_path), problem)


def test_a_request_that_the_profiles_engine_cannot_run_is_named(tmp_path):
    write_run(tmp_path, profile(roomy(max_num_seqs=8), TRUTH), count=6)
    run = read_run(tmp_path, tmp_path / "workload.jsonl.gz", 16)
    with pytest.raises(RunError, match=r"request-\d .*max_model_len.*; give the profile the settings"):
        predict(run, profile(roomy(max_num_seqs=8, max_model_len=60), TRUTH))


def assert_one_line(done, problem):
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert problem in done.stderr
