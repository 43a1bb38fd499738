"""Comparisons on a server: against the fake one, whose times are the profile's."""

import json

import pytest
from commandline import WORKFLOW, assert_one_line, jsonl, workspan
from strategies import profile

from live.fake import FakeServer
from live.measure import Setup, measure
from live.measured import Measured, Repetition
from live.refusals import check_policies, check_servers
from live.server import Server, ServerInfo
from live.tools import Callables
from sim.choices import Choices
from sim.compare import compare, line_up
from sim.errors import RunError
from sim.load import Alone, ConcurrentSessions, SessionRate
from sim.policies import parse_policy
from sim.record import EngineStats, RunResult, SessionRecord
from sim.traces import read

PROFILE = profile()


@pytest.fixture(scope="module")
def server():
    with FakeServer(PROFILE) as running:
        yield running.url


@pytest.fixture
def traces(tmp_path):
    return jsonl(tmp_path / "traces.jsonl", WORKFLOW, {**WORKFLOW, "id": "v", "framework": "Other"})


def measured(server, workflows, load, repetitions=1):
    policies, base = line_up(["sequential", "async"], None)
    return measure(workflows, policies, base, [Server(server)], load, 0, Choices(), Setup(repetitions))


@pytest.mark.parametrize("load", [Alone(), ConcurrentSessions(2), SessionRate(20)], ids=str)
def test_a_replay_has_the_order_and_the_cached_tokens_of_the_simulation(server, traces, load):
    workflows, _ = read([traces])
    policies, base = line_up(["sequential", "async"], None)
    predicted = compare(workflows, policies, base, PROFILE, load, seed=0)
    replayed = measured(server, workflows, load)
    for name in policies:
        records = [side.runs[name].records for side in (predicted, replayed)]
        # The two workflows are one program: sent at one instant, either can be the first that the server sees.
        first, second = (sorted((r.call_id, r.num_cached_tokens) for r in some) for some in records)
        assert first == second
        order = [[session.session for session in side.runs[name].sessions] for side in (predicted, replayed)]
        assert order[0] == order[1]
        assert {record.status for record in records[1]} == {"finished"}


def test_a_replay_on_the_fake_server_is_as_fast_as_predicted(server, traces):
    workflows, _ = read([traces])
    policies, base = line_up(["sequential", "async"], None)
    predicted = compare(workflows, policies, base, PROFILE, Alone(), seed=0)
    replayed = measured(server, workflows, Alone(), repetitions=3)
    for name in policies:
        one, three = predicted.runs[name].makespan_s, replayed.runs[name].makespan_s
        assert one < three / 3 < 1.5 * one
    assert replayed.gain("async")["speedup"] == pytest.approx(predicted.gain("async")["speedup"], rel=0.2)


def test_a_fake_server_is_never_called_a_measurement(server, traces):
    workflows, _ = read([traces])
    replayed = measured(server, workflows, ConcurrentSessions(2))
    assert replayed.provenance()["engine"] == "fake"
    assert replayed.engine.startswith("fake vLLM, no measurement: ")


def test_the_command_writes_records_with_repetitions_and_says_what_was_predicted(server, traces, tmp_path):
    folder = tmp_path / "out"
    done = workspan(
        *("replay", traces, "--server", server, "--policy", "sequential", "--policy", "async", "--repeat", 2),
        *("--concurrent-sessions", 2, "--profile", "rtxpro6000-llama-3.1-8b", "-o", folder, "--hardware", "a laptop"),
    )
    assert done.returncode == 0, done.stderr
    assert "predicted / measured" in done.stdout
    assert "makespan varies by" in done.stdout
    header, *rows = map(json.loads, (folder / "calls.jsonl").read_text().splitlines())
    assert (header["engine"], header["repetitions"], header["degraded"]) == ("fake", 2, False)
    assert {(row["policy"], row["repetition"]) for row in rows} == {
        (p, r) for p in ("sequential", "async") for r in (0, 1)
    }
    assert len(rows) == 2 * 2 * 6
    assert header["hardware"] == "a laptop"
    assert json.loads((folder / "predicted" / "result.json").read_text())["provenance"]["engine"] == "simulated"


def test_calls_that_fail_end_with_exit_code_2_and_keep_their_records(server, traces, tmp_path):
    long = {**WORKFLOW, "id": "long", "nodes": [{**WORKFLOW["nodes"][0], "prompt": [["x", 200_000]]}], "edges": []}
    done = workspan(
        *("replay", jsonl(tmp_path / "long.jsonl", WORKFLOW, long), "--server", server, "--policy", "async"),
        *("-o", tmp_path / "out"),
    )
    assert done.returncode == 2
    assert "1 of 4 calls failed, the first: HTTP 400" in done.stderr
    rows = (tmp_path / "out" / "calls.jsonl").read_text().splitlines()[1:]
    assert sorted(json.loads(row)["status"] for row in rows) == ["failed", "finished", "finished", "finished"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:8000", "http://127.0.0.1:9/v1"])
def test_a_server_that_is_none_is_one_line(url, traces):
    done = workspan("replay", traces, "--server", url, "--policy", "async")
    assert done.returncode == 2
    assert f"--server {url}: " in done.stderr.splitlines()[-1]
    assert_one_line(workspan("live", "check", "--server", url), f"--server {url}: ")


def test_check_says_what_works_and_which_flag_is_missing(server):
    done = workspan("live", "check", "--server", server)
    assert done.returncode == 0, done.stderr
    assert "a fake vLLM" in done.stdout
    assert "--scheduling-policy priority" in done.stdout


def info(url="http://x", model="m", cache=None, **scheduler):
    return ServerInfo(url, "0.32.0", model, 100, cache or {}, scheduler)


def checked(policy, *infos):
    check_servers({policy: parse_policy(policy)}, [Server(one.url) for one in infos], infos)


def test_a_policy_that_a_server_cannot_honour_is_refused_with_the_mend():
    checked("demote", info(policy="priority"))
    checked("demote", info())
    with pytest.raises(
        RunError, match="runs with scheduling_policy fcfs; restart it with --scheduling-policy priority"
    ):
        checked("demote", info(policy="priority"), info("http://y", policy="fcfs"))
    with pytest.raises(RunError, match="enable_prefix_caching False; restart it with --enable-prefix-caching"):
        checked("prefill_ahead", info(cache={"enable_prefix_caching": "False"}))


def test_replicas_are_different_servers_of_one_model():
    with pytest.raises(RunError, match="http://x: given twice"):
        checked("async", info(), info("http://x"))
    with pytest.raises(RunError, match="http://y: serves n, http://x serves m; replicas need one model"):
        checked("async", info(), info("http://y", "n"))


@pytest.mark.parametrize(
    ("policy", "setup", "mend"),
    [
        ("sticky", {}, "sticky: a router needs several replicas; give --server several times"),
        ("prefill_ahead", {"texts": {("w", "a"): None}}, "leave out --texts"),
        ("speculate_tool", {"executor": Callables({"f": print}, 1)}, "give --tools recorded"),
    ],
)
def test_a_policy_that_cannot_be_replayed_so_is_refused_with_the_mend(policy, setup, mend):
    given = {"replicas": 1, "profile": None, "texts": {}, "executor": None, **setup}
    with pytest.raises(RunError, match=mend):
        check_policies({policy: parse_policy(policy)}, **given)


def repeated(*latencies):
    """A comparison whose repetitions have these latencies of one workflow under (sequential, async)."""
    policies, base = line_up(["sequential", "async"], None)
    repetitions = [
        Repetition(name, number, RunResult((), (session(latency),), EngineStats(), latency), ())
        for number, pair in enumerate(latencies)
        for name, latency in zip(policies, pair, strict=True)
    ]
    workflows, _ = [], None
    return Measured(
        workflows=workflows,
        policies=policies,
        baseline=base,
        load=Alone(),
        seed=0,
        runs={},
        bounds={},
        servers=[info()],
        repetitions=repetitions,
        interrupted=False,
    )


def session(latency):
    return SessionRecord(0, "w", "Test", 0.0, latency, latency, 1, "finished")


def test_one_repetition_has_no_interval_and_says_so():
    one = repeated((2.0, 1.0))
    assert one.speedup("async", {"w": (2.0, 1.0)}) == (2.0, None)
    assert any("One repetition cannot tell" in line for line in one.limits())


def test_the_interval_covers_the_scatter_between_repetitions():
    even = repeated(*[(2.0, 1.0)] * 5).speedup("async", {"w": (2.0, 1.0)})
    assert even == (2.0, (pytest.approx(2.0), pytest.approx(2.0)))
    _, (low, high) = repeated((2.0, 1.0), (1.0, 2.0), (2.0, 1.5), (1.5, 2.0)).speedup("async", {"w": (1.6, 1.6)})
    assert low < 0.5 < 1 < 2 < high


def test_late_sending_degrades_the_run():
    late = [Repetition("async", 0, RunResult((), (), EngineStats(), 0.0), [0.0, 0.5])]
    fields = {**vars(repeated((1.0, 1.0))), "repetitions": late}
    assert Measured(**fields).degraded
    assert any("DEGRADED" in line for line in Measured(**fields).limits())
