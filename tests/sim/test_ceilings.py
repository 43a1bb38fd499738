import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import profile, profiles, request, roomy, workflows

from sim.bounds import span_s
from sim.ceilings import Ceilings, capacity_rate, no_queue_s, saturation, sustained
from sim.compare import compare
from sim.fleet import fleet_of
from sim.latency import Overheads, StepTime
from sim.load import Alone, ConcurrentSessions, SessionRate
from sim.policies import parse_policy
from sim.record import EngineStats, Record, RunResult, SessionRecord
from sim.simulate import simulate
from sim.workflow import Call, Edge, Segment, Tape, Workflow

ASYNC = parse_policy("async")
loads = st.sampled_from([Alone(), ConcurrentSessions(1), ConcurrentSessions(3), SessionRate(2.0), SessionRate(100.0)])
crowds = st.integers(1, 5).flatmap(lambda n: st.tuples(*(workflows(name=f"w{i}") for i in range(n))))
laws = settings(max_examples=300, deadline=None)
FLAT = StepTime(const_s=0.01, prefill_token_s=0.0, decode_seq_s=0.0, kv_token_s=0.0, attention_pair_s=0.0)


@laws
@given(crowds, profiles(), loads)
def test_no_session_is_faster_than_without_a_queue(crowd, engine, load):
    least = no_queue_s(crowd, engine)
    for session in simulate(crowd, ASYNC, engine, load, seed=1).sessions:
        if session.status == "finished":
            assert session.latency_s >= least[session.workflow_id] * (1 - 1e-9)


@laws
@given(crowds, profiles(), st.sampled_from([ConcurrentSessions(5), SessionRate(100.0)]))
def test_no_run_ends_more_sessions_per_second_than_the_capacity(crowd, engine, load):
    result = simulate(crowd, ASYNC, engine, load, seed=1)
    finished = sum(session.status == "finished" for session in result.sessions)
    most = capacity_rate(crowd, engine)
    assert finished <= most * result.makespan_s * (1 + 1e-9)
    assert (finished == 0) == (most == 0)


@settings(max_examples=50, deadline=None)
@given(workflows(), profiles())
def test_a_workflow_that_shares_with_nobody_has_no_queue_on_its_span(workflow, engine):
    assert no_queue_s([workflow], engine) == {workflow.id: span_s(workflow, engine)}


def chain(name, prompt, output=10):
    """Two calls, the second reads the first."""
    calls = (
        Call("a", "agent", (Segment("system", prompt),), f"{name}-a"),
        Call("b", "agent", (Segment("system", prompt), Segment(f"{name}-a", output)), f"{name}-b"),
    )
    return Workflow(name, "chains", "", calls, (Edge("a", "b", "visible"),), Tape({"a": output, "b": output}, {}))


def test_no_queue_by_hand_what_others_write_is_cached():
    step = FLAT.model_copy(update={"prefill_token_s": 0.001})
    engine = profile(roomy(block_size=10), step)
    # First calls: of 100 tokens 90 are cached, as the last is always computed. Second ones: 100 of 110.
    both = no_queue_s([chain("v", 100), chain("w", 100)], engine)
    assert both["v"] == both["w"] == pytest.approx(2 * 10 * 0.01 + (10 + 10) * 0.001)
    assert no_queue_s([chain("v", 100)], engine)["v"] == pytest.approx(2 * 10 * 0.01 + (100 + 10) * 0.001)


def test_capacity_by_hand_rows_fill_the_slots():
    engine = profile(roomy(max_num_seqs=4), FLAT)
    # 8 requests of 50 rows each, in steps of 4 rows and 10 ms.
    assert capacity_rate([request(f"r{i}", 100, 50) for i in range(8)], engine) == pytest.approx(
        8 / (8 * 50 / 4 * 0.01)
    )


def test_capacity_by_hand_tokens_fill_the_budget():
    engine = profile(roomy(max_num_batched_tokens=1000, max_num_seqs=100), FLAT)
    assert capacity_rate([request(f"r{i}", 4000, 1) for i in range(8)], engine) == pytest.approx(1 / (4 * 0.01))


def test_capacity_by_hand_blocks_hold_two_requests():
    engine = profile(roomy(num_gpu_blocks=21, block_size=10, max_num_seqs=50), FLAT)
    # 200 tokens of KV for requests that hold 91 to 100: two at a time, and a little more.
    assert capacity_rate([request(f"r{i}", 91, 10) for i in range(8)], engine) == pytest.approx(200 / 955 / 0.01)


def test_capacity_by_hand_seconds_of_tokens_pairs_kv_and_cpu():
    step = StepTime(
        const_s=0.01,
        prefill_token_s=0.002,
        decode_seq_s=0.001,
        kv_token_s=1e-5,
        distinct_kv_token_s=2e-5,
        attention_pair_s=1e-6,
        free_tokens=3,
        host_s=0.003,
        host_seq_s=0.0005,
    )
    engine = profile(roomy(max_num_seqs=1), step)
    # Three steps: of 9 tokens one has no cost in each but for what prefill costs more than decode.
    tokens_s = 7 * 0.002 + 2 * 0.001 - 3 * 3 * 0.001
    device_s = 3 * 0.01 + tokens_s + 28e-6 + (7 + 8 + 9) * 3e-5
    assert capacity_rate([request("r", 7, 3)], engine) == pytest.approx(1 / (device_s + 3 * 0.0035))
    ahead = engine.model_copy(update={"engine": roomy(max_num_seqs=1, async_scheduling=True)})
    assert capacity_rate([request("r", 7, 3)], ahead) == pytest.approx(1 / device_s)


def test_capacity_by_hand_one_thread_reads_the_requests():
    engine = profile(roomy(), FLAT, Overheads(input_gap_s=1.0))
    assert capacity_rate([request(f"r{i}", 10, 10) for i in range(5)], engine) == pytest.approx(5 / 4)


def test_capacity_allows_for_tokens_that_a_preemption_makes_cheaper():
    # Two requests of six blocks in a pool of eight: one is preempted, and its next token comes out of a prefill.
    step = FLAT.model_copy(update={"const_s": 1e-6, "decode_seq_s": 1.0})
    engine = profile(roomy(num_gpu_blocks=9, block_size=4), step)
    crowd = [request("v", 8, 16), request("w", 8, 16)]
    result = simulate(crowd, ASYNC, engine, ConcurrentSessions(2), seed=0)
    assert result.engine.num_preemptions > 0
    assert result.makespan_s < 2 * 15 * 1.0
    assert capacity_rate(crowd, engine) * result.makespan_s >= 2


def test_a_workflow_that_the_engine_refuses_does_not_count():
    engine = profile(roomy(max_model_len=100, max_num_seqs=1), FLAT)
    assert capacity_rate([request("fits", 50, 10), request("long", 100, 10)], engine) == pytest.approx(1 / 0.1)
    assert capacity_rate([request("long", 100, 10)], engine) == 0


def test_full_batches_of_equal_requests_reach_the_capacity():
    engine = profile(roomy(max_num_seqs=8))
    crowd = [request(f"r{i}", 100, 200) for i in range(80)]
    assert saturation(crowd, engine, seed=0) == pytest.approx(capacity_rate(crowd, engine), rel=1e-9)


def test_of_few_sessions_saturation_is_all_of_them_over_all_the_time():
    engine = profile(roomy(max_num_seqs=2), FLAT)
    # All at once: two, two and one, each with 10 tokens.
    assert saturation([request(f"r{i}", 100, 10) for i in range(5)], engine, seed=0) == pytest.approx(5 / 0.3)


def test_saturation_is_not_that_of_an_overrun_cache():
    # Each session's second call needs its first call's blocks; with many sessions they are gone by then.
    step = FLAT.model_copy(update={"prefill_token_s": 0.001})
    engine = profile(roomy(num_gpu_blocks=1000, max_num_seqs=8), step)
    crowd = [own_chain(f"w{i}") for i in range(64)]
    result = simulate(crowd, ASYNC, engine, ConcurrentSessions(64), seed=0)
    assert saturation(crowd, engine, seed=0) > 1.5 * len(crowd) / result.makespan_s


def own_chain(name):
    """Five calls with one prompt of their own."""
    calls = tuple(Call(f"c{i}", "agent", (Segment(f"{name}-prompt", 1600),), f"{name}-{i}") for i in range(5))
    edges = tuple(Edge(f"c{i}", f"c{i + 1}", "control") for i in range(4))
    return Workflow(name, "chains", "", calls, edges, Tape({call.id: 8 for call in calls}, {}))


def ended(session, at):
    """A session of one call."""
    call = Record(session, f"w{session}", "call", "agent", 1, 0, 1, 0.0, 0.0, at, at, 0, "finished")
    return call, SessionRecord(session, f"w{session}", "f", 0.0, at, at, 1, "finished")


def test_the_drain_does_not_count():
    # Twenty sessions of equal work, one a second, but the last one comes very late.
    ends = [*map(float, range(1, 20)), 1000.0]
    calls, sessions = zip(*(ended(number, at) for number, at in enumerate(ends)), strict=True)
    result = RunResult(calls, sessions, EngineStats(), 1000.0)
    assert sustained(result, [{"call": 1.0}] * 20) == pytest.approx(18 / 18)
    assert sustained(RunResult(calls[1:], sessions[1:], EngineStats(), 1000.0), [{"call": 1.0}] * 20) == 19 / 1000
    # Where the last session is half of the work, the server does not run empty before it ends.
    assert sustained(result, [{"call": 1.0}] * 19 + [{"call": 19.0}]) == pytest.approx(20 / 1000)


LIMITS = {"work_span": 1.0, "no_queue": 1.4, "offered_rate": 1.0, "saturation_rate": 2.0, "capacity_rate": 3.0}


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({}, "queueing-bound"),
        ({"no_queue": 1.04}, "chain-bound"),
        ({"offered_rate": 2.0}, "beyond saturation"),
        ({"offered_rate": 2.5, "saturation_rate": None}, "queueing-bound"),
        ({"offered_rate": 3.0}, "beyond capacity"),
        ({"offered_rate": None, "saturation_rate": 0.1}, "queueing-bound"),
        ({"no_queue": None}, "unknown"),
    ],
)
def test_the_tightest_limit_binds(changes, begins):
    limits = Ceilings(**{**LIMITS, **changes})
    assert limits.binds().startswith(begins)
    assert limits.to_json() == {**LIMITS, **changes, "binds": limits.binds()}


def test_replicas_that_take_turns_sustain_less_than_each_by_itself_as_sessions_find_less_cached():
    step = FLAT.model_copy(update={"prefill_token_s": 0.001})
    engine = profile(roomy(block_size=10, max_num_seqs=4), step)
    # An odd number, so that they change places.
    crowd = [own_chain(f"w{i}") for i in range(25)]
    assert saturation(crowd, fleet_of(engine, 2), 0) < 0.95 * 2 * saturation(crowd, engine, 0)
    apart = profile(roomy(max_num_seqs=4, enable_prefix_caching=False), FLAT)
    crowd = [request(f"r{i}", 10, 10) for i in range(64)]
    assert saturation(crowd, fleet_of(apart, 2), 0) == pytest.approx(2 * saturation(crowd, apart, 0))


def test_no_more_than_all_workflows_allow_is_said_to_be_possible_however_many_they_are():
    # Every second one is long: a sample of every second would see only those, or none.
    crowd = [request(f"r{i}", 10, 1000 if i % 2 == 0 else 1) for i in range(1500)]
    engine = profile(roomy(max_num_seqs=256), FLAT)
    found = compare(crowd, {"async": ASYNC}, "async", engine, ConcurrentSessions(1500), 0).ceilings
    assert found.capacity_rate == pytest.approx(capacity_rate(crowd, engine))
