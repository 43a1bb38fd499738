"""When things happen on the simulated engine."""

from dataclasses import asdict

import pytest
import simpy
from hypothesis import event, given, settings
from hypothesis import strategies as st
from strategies import profile, profiles, roomy

from sim import simulate
from sim.engine import Sent, SimulatedServer
from sim.latency import Overheads, StepTime
from sim.policies import parse_policy
from sim.request import Request
from sim.workflow import Call, Segment, Tape, Workflow

ONE_SECOND = StepTime(const_s=1.0, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0)


def sent(number, at, prompt, output, priority=0):
    """A call that is sent at that instant; the prompt as (segment id, tokens). Equal calls get equal answers."""
    segments = tuple(Segment(f"{name}-{tokens}", tokens) for name, tokens in prompt)
    answer = Segment(f"answer to {prompt[-1][0]}-{output}", output)
    request = Request(segments, answer, priority=priority, arrival_s=at, number=number)
    return Sent(0, Call(f"c{number}", "agent", segments, answer.segment_id), request, at)


def serve(engine, calls, macro_steps=True):
    """The calls in the order in which they ended, and what the engine did."""
    env, done = simpy.Environment(), []
    server = SimulatedServer(env, engine, done.append, macro_steps)
    begin(env, server, calls)
    env.run()
    assert len(done) == len(calls)
    return done, server.stats


def begin(env, server, calls):
    """Let each call be sent at its instant."""

    def send_at(call):
        yield env.timeout(call.sent_s)
        server.send(call)

    for call in calls:
        env.process(send_at(call))


def times(call):
    return call.scheduled_s, call.first_token_s, call.finished_s


def alone(prompt, output, engine):
    """The times of one call that arrives at 0."""
    ((call,), _) = serve(engine, [sent(0, 0, [("p", prompt)], output)])
    return times(call)


def test_without_async_scheduling_a_call_that_comes_during_a_step_joins_the_next():
    engine = profile(roomy(), ONE_SECOND)
    done, stats = serve(engine, [sent(0, 0, [("a", 10)], 5), sent(1, 1.5, [("b", 10)], 1)])
    assert {call.call.id: times(call) for call in done} == {"c0": (0, 1, 5), "c1": (2, 3, 3)}
    assert stats.num_steps == 5


def test_with_async_scheduling_it_joins_the_one_after_that():
    engine = profile(roomy(async_scheduling=True), ONE_SECOND)
    done, stats = serve(engine, [sent(0, 0, [("a", 10)], 5), sent(1, 1.5, [("b", 10)], 1)])
    assert {call.call.id: times(call) for call in done} == {"c0": (0, 1, 5), "c1": (3, 4, 4)}
    assert stats.num_steps == 5


@pytest.mark.parametrize("macro_steps", [True, False])
def test_a_call_that_comes_at_the_instant_a_step_is_scheduled_is_in_time(macro_steps):
    engine = profile(roomy(), ONE_SECOND)
    calls = [sent(0, 0, [("a", 10)], 5), sent(1, 0, [("b", 10)], 5), sent(2, 2, [("c", 10)], 1)]
    done, stats = serve(engine, calls, macro_steps)
    assert {call.call.id: times(call) for call in done} == {"c0": (0, 1, 5), "c1": (0, 1, 5), "c2": (2, 3, 3)}
    assert stats.num_steps == 5


def test_the_first_token_comes_with_the_last_chunk_of_the_prompt():
    assert alone(25, 3, profile(roomy(max_num_batched_tokens=10, max_num_seqs=4), ONE_SECOND)) == (0, 3, 5)


def test_calls_reach_the_scheduler_one_after_the_other_and_answers_take_their_way_back():
    overheads = Overheads(input_s=0.25, input_gap_s=0.5, output_s=0.125)
    engine = profile(roomy(), ONE_SECOND, overheads)
    done, stats = serve(engine, [sent(number, 0, [(f"p{number}", 10)], 1) for number in range(4)])
    # They get there at 0.25, 0.75, 1.25 and 1.75: the first is prefilled alone, two more wait for its step to end.
    assert [times(call) for call in done] == [
        (0.25, 1.375, 1.375),
        (1.25, 2.375, 2.375),
        (1.25, 2.375, 2.375),
        (2.25, 3.375, 3.375),
    ]
    assert stats.busy_s == stats.num_steps == 3


def test_the_cpu_adds_to_a_step_or_hides_behind_it():
    step = ONE_SECOND.model_copy(update={"host_s": 0.25, "host_seq_s": 0.25})
    assert alone(10, 3, profile(roomy(), step)) == (0, 1.5, 4.5)
    assert alone(10, 3, profile(roomy(async_scheduling=True), step)) == (0, 1, 3)
    slow = step.model_copy(update={"host_s": 1.75})
    assert alone(10, 3, profile(roomy(async_scheduling=True), slow)) == (0, 2, 6)


def test_a_run_of_steps_changes_from_the_cpus_pace_to_the_gpus_when_it_reads_more_than_that():
    step = ONE_SECOND.model_copy(update={"host_s": 13.5, "kv_token_s": 1.0})
    engine = profile(roomy(async_scheduling=True), step)
    # The GPU's steps read 10, 11, 12, .. tokens: 11, 12, 13, 14, 15 s.
    assert alone(10, 5, engine) == (0, 13.5, 3 * 13.5 + 14 + 15)


def test_a_batch_is_padded_to_the_next_graph_and_a_large_one_is_not():
    step = ONE_SECOND.model_copy(update={"prefill_token_s": 0.5, "decode_seq_s": 0.25})
    engine = profile(roomy(cudagraph_capture_sizes=[4, 16]), step)
    # 10 tokens and 6 of padding at the price of the cheaper kind; then decodes of 1 and 3 of padding.
    assert alone(10, 3, engine) == (0, 1 + 5 + 1.5, 7.5 + 2 * (1 + 4 * 0.25))
    assert alone(20, 1, engine)[2] == 1 + 10


def test_a_prefix_that_several_read_is_in_memory_once():
    step = ONE_SECOND.model_copy(update={"distinct_kv_token_s": 1.0})
    calls = [sent(number, 0, [("shared", 32), (f"own{number}", 4)], 2) for number in range(3)]
    _, stats = serve(profile(roomy(), step), calls)
    # Both steps read 32 tokens and each call's own: 4 of the prompt, then the token it generates as well.
    assert stats.busy_s == 2 + (32 + 3 * 4) + (32 + 3 * 5)


def test_instants_that_are_the_same_but_for_rounding_do_not_run_backwards():
    instants = [0.001, 0.009, 0.009]
    assert 0.001 + (0.009 - 0.001) > 0.009
    call = Call("call", "agent", (Segment("p", 5),), "answer")
    workflows = {n: Workflow(f"w{n}", "drawn", "", (call,), (), Tape({"call": 3}, {})) for n in range(3)}
    result = simulate.serve(workflows, parse_policy("async"), profile(), instants)
    assert all(session.status == "finished" for session in result.sessions)


def test_a_block_that_holds_a_billion_tokens_costs_nothing():
    assert alone(10, 5, profile(roomy(block_size=10**9, num_gpu_blocks=3), ONE_SECOND)) == (0, 1, 5)


@pytest.mark.parametrize("macro_steps", [True, False])
def test_a_call_that_lacks_blocks_gets_in_when_another_has_generated_its_prompt(macro_steps):
    engine = profile(roomy(num_gpu_blocks=7, block_size=4), ONE_SECOND)
    one = sent(0, 0, [("a", 5)], 16)
    # Six blocks for 24 tokens; four are free while the first call holds two, but only one of those is full.
    other = sent(1, 0, [("a", 5), ("answer to a", 16), ("more", 3)], 1)
    serve(engine, [one, other], macro_steps)
    # Three steps later its second block is full too: 5 tokens of prompt and 3 of the answer.
    assert (one.finished_s, times(other), other.request.num_cached_tokens) == (16, (3, 4, 4), 8)


def test_a_call_that_can_never_run_fails_with_its_reason_and_others_go_on():
    engine = profile(roomy(num_gpu_blocks=4), ONE_SECOND)
    done, _ = serve(engine, [sent(0, 0, [("a", 100)], 1), sent(1, 0, [("b", 10)], 1)])
    assert [(call.call.id, call.reason, call.finished_s) for call in done] == [
        ("c0", "needs 7 KV blocks, the pool has 3", None),
        ("c1", "", 1.0),
    ]


@st.composite
def crowds(draw):
    """Calls that share prefixes, repeat or go on from each other, arrive while others run, and differ in urgency."""
    calls = []
    for number in range(draw(st.integers(1, 12))):
        at = draw(st.sampled_from([0.0, 0.0, 1.0, 7.0]) | st.floats(0, 3))
        prompt = draw(st.lists(st.sampled_from([("s", 16), ("t", 30), ("u", 7)]), max_size=3))
        prompt, output = [*prompt, (f"own{number}", draw(st.integers(1, 90)))], draw(st.integers(1, 120))
        if calls and draw(st.booleans()):
            _, _, prompt, output, _ = draw(st.sampled_from(calls))
            if draw(st.booleans()):
                prompt = [*prompt, (f"answer to {prompt[-1][0]}", output), (f"more{number}", draw(st.integers(1, 20)))]
        calls.append((number, at, prompt, output, draw(st.integers(0, 2))))
    return calls


#: Every step takes a second, so that calls arrive at the very instants at which steps end.
whole_seconds = profiles(min_blocks=12).map(lambda drawn: profile(drawn.engine, ONE_SECOND))


@settings(max_examples=600, deadline=None)
@given(crowds(), profiles(min_blocks=12) | whole_seconds)
def test_8_macro_steps_change_nothing_at_all(crowd, engine):
    (macro, macro_stats), (step, step_stats) = (
        serve(engine, [sent(*call) for call in crowd], macro_steps) for macro_steps in (True, False)
    )
    assert [call.call.id for call in macro] == [call.call.id for call in step]
    for one, other in zip(macro, step, strict=True):
        assert one.reason == other.reason
        assert facts(one.request) == facts(other.request)
        if not one.reason:
            assert times(one) == pytest.approx(times(other), rel=1e-9)
    one, other = ({k: v for k, v in asdict(stats).items() if v is not None} for stats in (macro_stats, step_stats))
    assert one == pytest.approx(other, rel=1e-9)
    event(f"outside what was measured: {bool(macro_stats.outside_s)}, KV-bound: {bool(macro_stats.kv_s)}")
    event(f"preemptions: {macro_stats.num_preemptions > 0}, hits: {any(c.request.num_cached_tokens for c in macro)}")


def facts(request):
    return request.num_output_tokens, request.num_cached_tokens, request.num_preemptions


@settings(max_examples=300, deadline=None)
@given(crowds(), profiles(min_blocks=12) | whole_seconds)
def test_every_token_is_told_once_from_the_first_to_the_last(crowd, engine):
    env, told, done = simpy.Environment(), {}, []

    def tokens(calls):
        for call in calls:
            told.setdefault(call.call.id, []).append(env.now)

    server = SimulatedServer(env, engine, done.append, macro_steps=False, on_tokens=tokens)
    begin(env, server, [sent(*call) for call in crowd])
    env.run()
    for call in done:
        instants = told.get(call.call.id, [])
        assert len(instants) == call.request.num_output_tokens
        if not call.reason:
            assert (instants[0], instants[-1]) == pytest.approx((call.first_token_s, call.finished_s))
            assert instants == sorted(instants)
            assert call.sent_s <= call.queued_s <= call.scheduled_s


@settings(max_examples=300, deadline=None)
@given(crowds(), profiles(min_blocks=12) | whole_seconds, st.data())
def test_a_call_whose_client_has_gone_leaves_nothing_behind(crowd, engine, data):
    env, done = simpy.Environment(), []
    server = SimulatedServer(env, engine, done.append, macro_steps=False)
    calls = [sent(*call) for call in crowd]
    begin(env, server, calls)
    going = {call: call.sent_s + data.draw(st.floats(0, 30)) for call in calls if data.draw(st.booleans())}

    def go(call, at):
        yield env.timeout(at)
        server.abort(call)

    for call, at in going.items():
        env.process(go(call, at))
    env.run()
    assert all(call in done for call in calls if call not in going)
    assert all(call.request.num_output_tokens == call.request.answer.num_tokens for call in done if not call.reason)
    scheduler = server._scheduler
    assert (len(scheduler.running), len(scheduler.waiting), len(server._sent)) == (0, 0, 0)
    assert scheduler.pool.num_free_blocks == engine.engine.num_gpu_blocks - 1
    event(f"gone before the end: {any(call not in done for call in going)}")


def test_a_call_that_was_sent_a_while_ago_has_come_part_of_its_way():
    engine = profile(roomy(), ONE_SECOND, Overheads(input_s=2.0))
    env, done = simpy.Environment(1.5), []
    server = SimulatedServer(env, engine, done.append)
    server.send(sent(0, 0, [("a", 10)], 1))
    env.run()
    assert times(done[0]) == (2, 3, 3)
