"""The laws of the design, over drawn workflows and engines."""

from collections import deque
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import POLICIES, policies, profile, profiles, roomy, workflows

from sim.bounds import Bound, least_s, span_s
from sim.engine import SimulatedServer
from sim.latency import Overheads, StepClock, StepTime
from sim.load import Alone, ConcurrentSessions, SessionRate
from sim.policies import parse_policy
from sim.request import Request
from sim.scheduler import Scheduler
from sim.simulate import simulate
from sim.workflow import Call, Segment, Tape, Workflow

loads = st.sampled_from([Alone(), ConcurrentSessions(1), ConcurrentSessions(3), SessionRate(2.0), SessionRate(100.0)])
crowds = st.integers(1, 5).flatmap(lambda n: st.tuples(*(workflows(name=f"w{i}") for i in range(n))))
laws = settings(max_examples=150, deadline=None)


@laws
@given(crowds, policies, profiles(), loads)
def test_1_every_call_sent_is_finished_or_failed_and_no_workflow_disappears(crowd, policy, engine, load):
    result = simulate(crowd, policy, engine, load, seed=1)
    assert {record.status for record in result.records} <= {"finished", "failed"}
    assert sorted(session.workflow_id for session in result.sessions) == sorted(w.id for w in crowd)
    sent = {(record.workflow_id, record.call_id) for record in result.records}
    assert len(sent) == len(result.records)
    for session in result.sessions:
        mine = [record for record in result.records if record.workflow_id == session.workflow_id]
        calls = {w.id: w.calls for w in crowd}[session.workflow_id]
        assert session.num_calls == len(mine)
        if session.status == "finished":
            assert len(mine) == len(calls)
            assert all(record.status == "finished" for record in mine)
        else:
            assert any(record.reason for record in mine)


@laws
@given(crowds, policies, profiles(), loads)
def test_2_time_runs_forward_and_no_call_starts_before_its_parents_have_finished(crowd, policy, engine, load):
    result = simulate(crowd, policy, engine, load, seed=1)
    tapes = {workflow.id: workflow for workflow in crowd}
    arrived = {session.workflow_id: session.arrived_s for session in result.sessions}
    ended = {(record.workflow_id, record.call_id): record.finished_s for record in result.records}
    for record in result.records:
        workflow = tapes[record.workflow_id]
        assert record.sent_s >= arrived[record.workflow_id]
        for parent in workflow.parents[record.call_id]:
            if parent in workflow.tape.output_tokens:
                assert ended[record.workflow_id, parent] <= record.sent_s
        if record.status == "finished":
            assert record.sent_s <= record.scheduled_s < record.first_token_s <= record.finished_s
            assert record.num_output_tokens == workflow.tape.output_tokens[record.call_id]


def drawn_requests(draw_lengths):
    """Requests with shared beginnings: (shared, own, output) tokens each."""
    return [
        Request((Segment("shared", shared), Segment(f"own-{i}", own)), Segment(f"answer-{i}", output), number=i)
        for i, (shared, own, output) in enumerate(draw_lengths)
    ]


def blocks(request):
    """A name for every block of the request, in their order; shared blocks have the same name."""
    found = [(extent, index) for extent in request.blocks.extents for index in range(extent.first, extent.stop)]
    assert [index for _, index in found] == list(range(request.blocks.num_registered))
    return found + [(request, index) for index in range(len(found), request.blocks.num_blocks)]


def distinct_kv_tokens(rows, block_size):
    """Tokens in the blocks that the rows read, each block counted once."""
    tokens = {}
    for request, num_new, computed in rows:
        for index, block in enumerate(blocks(request)):
            there = min(num_new + computed - index * block_size, block_size)
            tokens[block] = max(there, tokens.get(block, 0))
    return sum(tokens.values())


lengths = st.lists(st.tuples(st.sampled_from([8, 40]), st.integers(1, 60), st.integers(1, 30)), max_size=12)


@laws
@given(lengths, profiles(min_blocks=6))
def test_3_blocks_are_free_or_held_after_every_step_and_no_step_is_idle(drawn, engine):
    scheduler = Scheduler(engine.engine)
    requests = [request for request in drawn_requests(drawn) if not engine.engine.refusal(request.max_num_tokens)]
    for request in requests:
        scheduler.add(request)
    left, under_way = set(requests), deque()
    while left:
        batch = scheduler.schedule()
        under_way.append(batch)
        rows = scheduler.all_rows(batch)
        assert batch.num_rows == len(rows)
        assert rows or len(under_way) > 1
        assert batch.num_tokens == sum(num_new for _, num_new, _ in rows) <= engine.engine.max_num_batched_tokens
        assert batch.kv_tokens == sum(num_new + computed for _, num_new, computed in rows)
        assert batch.distinct_kv_tokens == distinct_kv_tokens(rows, engine.engine.block_size)
        assert len(rows) <= len(scheduler.running) <= engine.engine.max_num_seqs
        if len(under_way) > engine.engine.async_scheduling:
            left -= set(scheduler.update(under_way.popleft())[1])
        held = {block for request in scheduler.running for block in blocks(request)}
        assert scheduler.pool.num_free_blocks + len(held) == scheduler.pool.num_usable_blocks
    assert scheduler.pool.num_free_blocks == scheduler.pool.num_usable_blocks


@laws
@given(crowds, policies, profiles())
def test_3_the_gpu_is_busy_exactly_while_a_call_is_under_way(crowd, policy, drawn):
    engine = drawn.model_copy(update={"overheads": Overheads()})
    result = simulate(crowd, policy, engine, ConcurrentSessions(2), seed=1)
    under_way = sorted((r.sent_s, r.finished_s) for r in result.records if r.status == "finished")
    covered = end = 0.0
    for sent, finished in under_way:
        covered += max(0.0, finished - max(sent, end))
        end = max(end, finished)
    assert result.engine.busy_s == pytest.approx(covered, rel=1e-9, abs=1e-9)


sums = st.tuples(*[st.integers(0, 600)] * 2, *[st.integers(0, 5000)] * 3)


@laws
@given(profiles(), sums, sums, st.integers(1, 5), st.integers(0, 5), st.integers(1, 9), st.integers(0, 9))
def test_4_steps_take_time_and_no_less_for_more_work(engine, one, more, rows, more_rows, count, more_steps):
    clock = StepClock(engine)
    least, most = clock.device_s(*one), clock.device_s(*(a + b for a, b in zip(one, more, strict=True)))
    assert 0 < least <= most * (1 + 1e-9)
    seconds = clock.steps_s(least, rows, count)
    assert 0 < seconds <= clock.steps_s(most, rows + more_rows, count + more_steps) * (1 + 1e-9)


@settings(max_examples=1000, deadline=None)
@given(workflows(), profiles(), st.sampled_from(POLICIES))
def test_5_no_policy_gains_more_over_sequential_than_work_over_span(workflow, engine, name):
    one = simulate([workflow], parse_policy("sequential"), engine, Alone(), 0).sessions[0]
    other = simulate([workflow], parse_policy(name), engine, Alone(), 0).sessions[0]
    if one.status == "finished":
        bound = Bound(one.latency_s, span_s(workflow, engine))
        assert one.latency_s / other.latency_s <= bound.speedup * (1 + 1e-9)
        assert bound.speedup >= 1 - 1e-9


def alone_s(engine, prompt, output):
    """Seconds of one call on an idle engine: its chunks, a decode for every further token, and the way in and out."""
    step, settings, total = engine.step_time, engine.engine, engine.overheads.input_s + engine.overheads.output_s
    starts = range(0, prompt, settings.max_num_batched_tokens)
    prefills = [(min(settings.max_num_batched_tokens, prompt - start), start) for start in starts]
    for number, (new, before) in enumerate(prefills + [(1, prompt + token) for token in range(output - 1)]):
        is_prefill = number < len(prefills)
        token_s = step.prefill_token_s if is_prefill else step.decode_seq_s
        pairs = new * before + new * (new + 1) // 2 if is_prefill else 0
        padded = min((size for size in settings.graph_sizes if size >= new), default=new)
        charged = max(padded, step.free_tokens) - step.free_tokens - new
        device_s = step.const_s + token_s * new + min(step.prefill_token_s, step.decode_seq_s) * charged
        device_s += (step.kv_token_s + step.distinct_kv_token_s) * (before + new) + step.attention_pair_s * pairs
        host_s = step.host_s + step.host_seq_s
        total += max(device_s, host_s) if settings.async_scheduling else device_s + host_s
    return total


@laws
@given(st.integers(1, 3000), st.integers(1, 200), st.integers(1, 4096), profiles())
def test_6_one_call_alone_takes_exactly_the_sum_of_its_steps(prompt, output, budget, drawn):
    changes = {name: getattr(drawn.engine, name) for name in ("async_scheduling", "cudagraph_capture_sizes")}
    engine = profile(roomy(max_num_batched_tokens=budget, max_num_seqs=1, **changes), drawn.step_time, drawn.overheads)
    call = Call("only", "agent", (Segment("prompt", prompt),), "answer")
    workflow = Workflow("w", "drawn", "task", (call,), (), Tape({"only": output}, {}))
    result = simulate([workflow], parse_policy("async"), engine, Alone(), 0)
    assert result.makespan_s == pytest.approx(alone_s(engine, prompt, output), rel=1e-9)
    assert result.engine.num_steps == -(-prompt // budget) + output - 1
    assert least_s(StepClock(engine), prompt, 0, output) <= result.makespan_s * (1 + 1e-9)


@laws
@given(st.integers(1, 4096), st.integers(1, 200), st.booleans(), st.sampled_from([0.0, 1e-2, 2e-2]))
def test_6_a_prompt_that_fits_into_one_step_takes_the_least_time(prompt, output, ahead, host_s):
    settings = roomy(async_scheduling=ahead, cudagraph_capture_sizes="default")
    step = profile().step_time.model_copy(update={"host_s": host_s})
    engine = profile(settings, step, Overheads(input_s=0.003, output_s=0.005))
    assert least_s(StepClock(engine), prompt, 0, output) == pytest.approx(alone_s(engine, prompt, output), rel=1e-12)


def test_6_by_hand_two_chunks_and_two_decodes():
    step = StepTime(const_s=1.0, prefill_token_s=0.1, decode_seq_s=0.01, kv_token_s=0.001, attention_pair_s=0.0001)
    engine = profile(roomy(max_num_batched_tokens=6, max_num_seqs=1), step)
    chunks = (1 + 0.6 + 6 * 0.001 + 21 * 0.0001) + (1 + 0.4 + 10 * 0.001 + (4 * 6 + 10) * 0.0001)
    decodes = 2 * (1 + 0.01) + (11 + 12) * 0.001
    assert alone_s(engine, 10, 3) == pytest.approx(chunks + decodes)
    short_first = (1 + 0.4 + 4 * 0.001 + 10 * 0.0001) + (1 + 0.6 + 10 * 0.001 + (6 * 4 + 21) * 0.0001)
    assert least_s(StepClock(engine), 10, 0, 3) == pytest.approx(short_first + decodes)


@laws
@given(crowds, policies, profiles(), loads)
def test_7_the_same_inputs_give_the_same_result(crowd, policy, engine, load):
    assert simulate(crowd, policy, engine, load, 3) == simulate(crowd, policy, engine, load, 3)


@settings(max_examples=400, deadline=None)
@given(crowds, policies, profiles(), loads, st.integers(0, 100))
def test_8_macro_steps_change_nothing(crowd, policy, drawn, load, seed):
    # Where all steps are equally long, what is sent a constant time after a step comes at the end of a later one, but
    # for rounding, and may be in time or late (docs/engine.md). Reading KV makes every step another.
    engine = drawn.with_coefficients({"kv_token_s": drawn.step_time.kv_token_s + 2**0.5 * 1e-6})
    macro, step = (simulate(crowd, policy, engine, load, seed, macro_steps=macro) for macro in (True, False))
    assert len(macro.records) == len(step.records)
    for one, other in zip((*macro.records, *macro.sessions), (*step.records, *step.sessions), strict=True):
        assert_same(one._asdict(), other._asdict())
    assert_same(asdict(macro.engine), asdict(step.engine))


def assert_same(one, other):
    """Equal, times to a relative 1e-9."""
    for name, value in one.items():
        same = pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value
        assert other[name] == same, name


@settings(max_examples=50, deadline=None)
@given(crowds, profiles(), st.sampled_from([Alone(), SessionRate(2.0)]), st.integers(0, 5))
def test_12_every_policy_meets_the_same_arrivals(crowd, engine, load, seed):
    results = [simulate(crowd, parse_policy(name), engine, load, seed) for name in POLICIES]
    arrivals = [[(s.session, s.workflow_id, s.arrived_s) for s in result.sessions] for result in results]
    assert all(arrival == arrivals[0] for arrival in arrivals)


def test_a_server_is_only_woken_by_work():
    import simpy

    env = simpy.Environment()
    server = SimulatedServer(env, profile(), lambda sent: None)
    env.run()
    assert env.now == 0
    assert server.stats.num_steps == 0
