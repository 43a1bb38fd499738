"""The flat row of a run: its definitions by hand, its agreement with `summary`, its keys, its types, its speed."""

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import policies, profiles, workflows

from sim.bench_row import Slo, bench_row
from sim.load import Alone, ConcurrentSessions, SessionRate
from sim.metrics import summary
from sim.policies import parse_policy
from sim.record import EngineStats, Extras, Record, RunResult, SessionRecord
from sim.simulate import simulate

crowds = st.integers(1, 5).flatmap(lambda n: st.tuples(*(workflows(name=f"w{i}") for i in range(n))))
loads = st.sampled_from([Alone(), ConcurrentSessions(2), SessionRate(2.0)])
ASYNC = parse_policy("async")
EMPTY = RunResult((), (), EngineStats(), 0.0)


def call(session, sent_s, ttft_s, decode_s, output, cached=None, status="finished", prompt=100):
    first_s, finished = sent_s + ttft_s, status == "finished"
    times = {"scheduled_s": sent_s, "first_token_s": first_s, "finished_s": first_s + decode_s if finished else None}
    return Record(
        session=session,
        workflow_id=f"w{session}",
        call_id="c",
        agent="a",
        num_prompt_tokens=prompt,
        num_cached_tokens=cached,
        num_output_tokens=output,
        sent_s=sent_s,
        **times,
        num_preemptions=0,
        status=status,
    )


def session(number, latency_s, busy_s=1.0, status="finished"):
    return SessionRecord(number, f"w{number}", "drawn", 1.0, 1.0 + latency_s, busy_s, 1, status)


@pytest.fixture
def run():
    """Four sessions in 10 s, of which two finish; four calls finish, one fails, one is under way."""
    records = (
        call(0, 1.0, ttft_s=0.5, decode_s=2.0, output=11, cached=50),  # tpot 0.2
        call(0, 3.5, ttft_s=0.25, decode_s=0.0, output=1, cached=100),
        call(1, 1.0, ttft_s=1.0, decode_s=4.0, output=5),  # tpot 1.0
        call(2, 1.0, ttft_s=0.75, decode_s=1.25, output=6, cached=0),  # tpot 0.25
        call(3, 1.0, ttft_s=9.0, decode_s=0.0, output=3, status="failed"),
        call(2, 3.0, ttft_s=9.0, decode_s=0.0, output=3, status="unfinished"),
    )
    sessions = (
        session(0, 4.0, 2.0),
        session(1, 8.0, 16.0),
        session(2, 2.0, status="aborted"),
        session(3, 1, 1, "failed"),
    )
    engine = EngineStats(100, 5.0, 250, 9000, 7, prefill_s=1.0, decode_s=2.0, kv_s=0.5, mixed_s=1.5, outside_s=0.25)
    return RunResult(records, sessions, engine, 10.0, Extras(2, 30, 4, 1, 1.5), replicas=2)


def picked(row, keys):
    return {key: row[key] for key in keys.split()}


def test_what_is_counted_per_second_is_of_the_whole_run(run):
    row = bench_row(run, counted={0})
    assert picked(row, "duration completed failed unfinished total_input_tokens total_output_tokens") == {
        "duration": 10.0,
        "completed": 4,
        "failed": 1,
        "unfinished": 1,
        "total_input_tokens": 400,
        "total_output_tokens": 23,
    }
    assert picked(row, "request_throughput output_throughput total_token_throughput session_throughput") == {
        "request_throughput": 0.4,
        "output_throughput": 2.3,
        "total_token_throughput": 42.3,
        "session_throughput": 0.2,
    }
    assert [row[f"{end}_sessions"] for end in ("completed", "failed", "aborted", "unfinished")] == [2, 1, 1, 0]


def test_latencies_are_in_milliseconds_of_finished_calls_and_sessions(run):
    row = bench_row(run)
    ttft = [500.0, 250.0, 1000.0, 750.0]
    assert row["mean_ttft_ms"] == row["median_ttft_ms"] == row["p50_ttft_ms"] == 625.0
    assert row["std_ttft_ms"] == pytest.approx(math.sqrt(sum((one - 625) ** 2 for one in ttft) / 4))
    # Between the third and the fourth of four, by 0.7, 0.85 and 0.97 of the way.
    assert picked(row, "p90_ttft_ms p95_ttft_ms p99_ttft_ms") == pytest.approx(
        {"p90_ttft_ms": 925.0, "p95_ttft_ms": 962.5, "p99_ttft_ms": 992.5}
    )
    assert row["mean_e2el_ms"] == pytest.approx((2500 + 250 + 5000 + 2000) / 4)
    assert picked(row, "mean_session_latency_ms median_session_latency_ms std_session_latency_ms") == {
        "mean_session_latency_ms": 6000.0,
        "median_session_latency_ms": 6000.0,
        "std_session_latency_ms": 2000.0,
    }
    assert row["parallelism"] == (2 + 16) / (4 + 8)


def test_a_call_of_one_token_has_no_time_per_output_token(run):
    assert bench_row(run)["mean_tpot_ms"] == pytest.approx((200 + 1000 + 250) / 3)
    one = bench_row(RunResult(run.records[1:2], (), EngineStats(), 1.0), slo=Slo(tpot_s=1e-9))
    assert one["mean_tpot_ms"] is one["p99_tpot_ms"] is None
    assert one["mean_ttft_ms"] == 250
    assert one["request_goodput"] == 1  # as vLLM has it


def test_only_counted_sessions_have_latencies(run):
    row = bench_row(run, counted=[1, 2])
    assert (row["mean_ttft_ms"], row["mean_session_latency_ms"], row["parallelism"]) == (875.0, 8000.0, 2.0)
    nobody = bench_row(run, counted=())
    assert [nobody[key] for key in nobody if key.endswith("_ms")] == [None] * 28
    assert nobody["parallelism"] is None
    assert nobody["completed"] == 4


def test_goodput_is_what_keeps_to_every_given_limit(run):
    goodput = {
        Slo(ttft_s=0.75): (0.3, 0.1),
        Slo(ttft_s=0.75, tpot_s=0.2): (0.2, 0.1),
        Slo(e2el_s=2.0): (0.2, 0.0),  # session 0 has a call of 2.5 s
        Slo(session_latency_s=8.0): (None, 0.2),
        Slo(session_latency_s=7.9): (None, 0.1),
        Slo(session_latency_s=7.9, ttft_s=0.4): (0.1, 0.0),
        Slo(): (None, None),
        None: (None, None),
    }
    for slo, (calls, sessions) in goodput.items():
        row = bench_row(run, counted={0}, slo=slo)
        assert (row["request_goodput"], row["session_goodput"]) == (calls, sessions), slo


def test_a_limit_is_a_positive_number_of_seconds():
    for bad in ({"ttft_s": 0}, {"e2el_s": -1.0}, {"tpot_s": math.inf}, {"session_latency_s": "2"}, {"ttft_ms": 5}):
        with pytest.raises(ValidationError):
            Slo(**bad)


def test_the_engine_and_the_extras_are_told_as_they_are(run):
    row = bench_row(run)
    assert list(row.items())[-16:] == [
        ("steps", 100),
        ("mean_batch_size", 2.5),
        ("gpu_busy_share", 0.25),
        ("preemptions", 7),
        ("busy_s", 5.0),
        ("prefill_s", 1.0),
        ("decode_s", 2.0),
        ("kv_s", 0.5),
        ("mixed_s", 1.5),
        ("outside_s", 0.25),
        ("prefix_cache_hit_rate", 150 / 300),  # of the calls that tell
        ("ahead_calls", 2),
        ("ahead_tokens", 30),
        ("guessed_tools", 4),
        ("wasted_tools", 1),
        ("wasted_tool_s", 1.5),
    ]
    untold = bench_row(RunResult(run.records[2:3], (), EngineStats(*[None] * 5), 10.0))
    assert {untold[key] for key in ("steps", "gpu_busy_share", "prefill_s", "prefix_cache_hit_rate")} == {None}


def test_where_nothing_happened_there_are_the_same_keys(run):
    row = bench_row(EMPTY, slo=Slo(ttft_s=1.0))
    assert list(row) == list(bench_row(run))
    assert {row[key] for key in row if key.endswith(("_ms", "throughput", "goodput", "share", "rate"))} == {None}
    assert {
        row[key]
        for key in row
        if key.startswith(("completed", "failed", "total_input", "total_output", "ahead", "wasted"))
    } == {0}


@settings(max_examples=60, deadline=None)
@given(crowds, policies, profiles(), loads, st.data())
def test_the_row_says_what_the_summary_says(crowd, policy, engine, load, data):
    result = simulate(crowd, policy, engine, load, seed=1)
    row, told = bench_row(result), summary(result)
    for ours, theirs in (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("session_latency", "session_latency_s")):
        for what, value in told[theirs].items():
            assert row[f"{what}_{ours}_ms"] == (None if value is None else pytest.approx(value * 1000))
    same = {
        "duration": "makespan_s",
        "output_throughput": "output_tokens_per_s",
        "session_throughput": "sessions_per_s",
        "prefix_cache_hit_rate": "prefix_cache_hit_share",
        **{name: name for name in ("steps", "mean_batch_size", "parallelism", "gpu_busy_share", "preemptions")},
    }
    assert [row[name] for name in same] == [told[name] and pytest.approx(told[name]) for name in same.values()]
    assert row["completed"] + row["failed"] + row["unfinished"] == sum(told["calls"].values())
    assert sum(row[key] for key in row if key.endswith("_sessions")) == sum(told["sessions"].values())
    assert {type(value) for value in row.values()} <= {int, float, type(None)}
    assert json.loads(json.dumps(row, allow_nan=False)) == row

    # A looser limit is kept by no fewer, and by none more than there are.
    tight, loose = sorted(data.draw(st.tuples(*[st.floats(1e-3, 10)] * 2)))
    rows = [bench_row(result, slo=Slo(ttft_s=s, session_latency_s=s)) for s in (tight, loose)]
    for kind in ("request", "session"):
        most = row[f"{kind}_throughput"]
        if most is not None:
            assert 0 <= rows[0][f"{kind}_goodput"] <= rows[1][f"{kind}_goodput"] <= most


@settings(max_examples=30, deadline=None)
@given(crowds, profiles(), st.sets(st.integers(0, 4)))
def test_the_latencies_of_some_sessions_are_those_of_a_run_of_which_they_are_all(crowd, engine, counted):
    result = simulate(crowd, ASYNC, engine, ConcurrentSessions(2), seed=1)
    rest = RunResult(
        tuple(record for record in result.records if record.session in counted),
        tuple(one for one in result.sessions if one.session in counted),
        result.engine,
        result.makespan_s,
    )
    row, alone = bench_row(result, counted), bench_row(rest)
    latencies = [key for key in row if key.endswith("_ms")]
    assert [row[key] for key in latencies] == [alone[key] for key in latencies]


def test_a_row_of_many_calls_is_made_at_once():
    rng = np.random.default_rng(0)
    records = tuple(call(i // 6, float(i), *rng.random(2).tolist(), output=20, cached=3) for i in range(24_000))
    result = RunResult(records, tuple(session(i, 5.0) for i in range(4000)), EngineStats(), 24_000.0)
    taken = []
    for _ in range(3):
        began = time.process_time()
        bench_row(result, range(100, 3900), Slo(ttft_s=0.5, session_latency_s=6.0))
        taken.append(time.process_time() - began)
    assert min(taken) < 0.06


def test_it_loads_neither_scipy_nor_matplotlib():
    code = "import sys, sim.bench_row; print({'scipy', 'matplotlib', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
