"""A replay with its prediction, compared: against the fake server, whose times are the profile's."""

import json

import pytest
from commandline import WORKFLOW, jsonl, workspan
from strategies import profile

from live.fake import FakeServer
from live.measure import Setup, measure
from live.server import Server
from sim.agreement import compare_results
from sim.agreement.data import read_side
from sim.choices import Choices
from sim.compare import compare, line_up
from sim.load import ConcurrentSessions
from sim.results import write
from sim.settings import EngineSettings
from sim.traces import read

PROFILE = profile()


@pytest.fixture(scope="module")
def server():
    with FakeServer(PROFILE) as running:
        yield running.url


@pytest.fixture
def traces(tmp_path):
    return jsonl(tmp_path / "traces.jsonl", WORKFLOW, {**WORKFLOW, "id": "v", "framework": "Other"})


def test_a_replay_agrees_with_its_prediction_in_memory_and_in_its_folder(server, traces, tmp_path):
    workflows, _ = read([traces])
    policies, base = line_up(["sequential", "async"], None)
    predicted = compare(workflows, policies, base, PROFILE, ConcurrentSessions(2), seed=0)
    measured = measure(
        workflows, policies, base, [Server(server)], ConcurrentSessions(2), 0, Choices(), Setup(repetitions=3)
    )
    agreement = compare_results(predicted, measured)
    found = agreement.metrics()
    assert found["policies.async.e2el.per_call.count"] == 6
    assert found["policies.async.session_latency.mean.noise"] > 0
    assert found["policies.async.computed_tokens.unknown"] == 0
    assert found["speedup.pairs_above_noise"] in (0, 1)
    assert "measured is no measurement: its engine is fake." in agreement.notes
    # What the replay says of its speed-up is what is shown of it.
    stated = measured.gain("async")
    names = ("measured", "measured_low", "measured_high")
    shown = [found[f"policies.async.speedup.{name}"] for name in names]
    assert shown == pytest.approx([stated["speedup"], *stated["speedup_ci95"]])
    write(measured, tmp_path / "m")
    again = compare_results(predicted, read_side(tmp_path / "m")).metrics()
    assert {name for name, value in again.items() if value is None} == {
        n for n, value in found.items() if value is None
    }
    assert [v for v in again.values() if v is not None] == pytest.approx([v for v in found.values() if v is not None])


def test_the_folder_of_a_replay_is_compared_with_the_prediction_in_it(server, traces, tmp_path):
    folder = tmp_path / "out"
    replay = workspan(
        *("replay", traces, "--server", server, "--policy", "sequential", "--policy", "async", "--repeat", 2),
        *("--concurrent-sessions", 2, "--profile", "rtxpro6000-llama-3.1-8b", "-o", folder),
    )
    assert replay.returncode == 0, replay.stderr
    assert "call by call: error (noise), bias, correlation" in replay.stdout
    done = workspan("compare", folder, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["provenance"]["measured"]["repetitions"] == 2
    assert result["metrics"]["policies.async.e2el.per_call.count"] == 6


def test_a_replay_whose_calls_all_fail_says_why(tmp_path):
    short = EngineSettings(
        vllm_version="0.32.0", max_num_seqs=4, max_num_batched_tokens=64, max_model_len=1000, num_gpu_blocks=100
    )
    long = {**WORKFLOW, "nodes": [{**WORKFLOW["nodes"][0], "prompt": [["x", 5_000]]}], "edges": []}
    traces = jsonl(tmp_path / "long.jsonl", long)
    with FakeServer(profile(short)) as server:
        done = workspan(
            *("replay", traces, "--server", server.url, "--policy", "async", "--profile", "rtxpro6000-llama-3.1-8b")
        )
    assert done.returncode == 2
    assert "calls failed, the first: HTTP 400" in done.stderr.splitlines()[-1]
