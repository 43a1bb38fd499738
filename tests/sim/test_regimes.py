"""Where the engine's time goes, and how much of it is in steps that nobody measured."""

from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import profile, profiles, request, roomy, workflows

from sim.latency import Measured, StepTime
from sim.load import Alone, ConcurrentSessions
from sim.policies import parse_policy
from sim.record import EngineStats, joined
from sim.simulate import simulate

#: A step takes 10 s and, per KV token, one more.
SLOW_KV = StepTime(const_s=10.0, prefill_token_s=0, decode_seq_s=0, kv_token_s=1.0, attention_pair_s=0)


def stats(measured, *lengths, sessions=9, macro_steps=True, **settings):
    engine = profile(roomy(**settings), SLOW_KV).model_copy(update={"measured": measured})
    crowd = [request(str(number), *both) for number, both in enumerate(lengths)]
    load = ConcurrentSessions(sessions)
    return simulate(crowd, parse_policy("async"), engine, load, 0, macro_steps=macro_steps).engine


@pytest.mark.parametrize("macro_steps", [True, False])
def test_decode_steps_are_kv_bound_from_the_one_on_in_which_kv_takes_more_than_half(macro_steps):
    engine = stats(Measured(request_tokens=99), (5, 9), macro_steps=macro_steps)
    # The prefill reads 5 tokens; decodes read 6 to 13, of which 11, 12 and 13 take longer than the other 10 s.
    assert (engine.prefill_s, engine.mixed_s) == (15, 0)
    assert (engine.decode_s, engine.kv_s) == (16 + 17 + 18 + 19 + 20, 21 + 22 + 23)
    assert engine.outside_s is None


@pytest.mark.parametrize("macro_steps", [True, False])
def test_steps_with_more_kv_tokens_than_measured_are_outside(macro_steps):
    engine = stats(Measured(request_tokens=99, kv_tokens=8), (5, 9), macro_steps=macro_steps)
    assert engine.outside_s == sum(range(19, 24))


@pytest.mark.parametrize("macro_steps", [True, False])
def test_steps_with_more_requests_than_measured_are_outside(macro_steps):
    measured = Measured(request_tokens=99, batch_size=1)
    engine = stats(measured, (5, 4), (5, 4), macro_steps=macro_steps, max_num_batched_tokens=8, max_num_seqs=2)
    # Prefill of 5 and 3 tokens; a decode beside the other 2; both decode twice; the one that came second once more.
    assert (engine.prefill_s, engine.mixed_s, engine.kv_s, engine.decode_s) == (10 + 8, 10 + 6 + 5, 23 + 25, 18)
    assert engine.outside_s == engine.busy_s - 18


crowds = st.integers(1, 3).flatmap(lambda count: st.tuples(*(workflows(f"w{i}", max_nodes=4) for i in range(count))))


@settings(max_examples=100, deadline=None)
@given(crowds, profiles(), st.sampled_from([Alone(), ConcurrentSessions(2)]))
def test_the_regimes_add_up_to_the_busy_time_and_hold_all_that_is_outside(crowd, engine, load):
    result = simulate(crowd, parse_policy("async"), engine, load, 0).engine
    parts = (result.prefill_s, result.decode_s, result.kv_s, result.mixed_s)
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(result.busy_s, rel=1e-9)
    known = engine.measured.batch_size or engine.measured.kv_tokens
    assert 0 <= result.outside_s <= result.busy_s * (1 + 1e-9) if known else result.outside_s is None


def test_runs_joined_have_the_sum_of_their_seconds_and_none_where_one_does_not_tell():
    run = simulate([request("r", 5, 9)], parse_policy("async"), profile(), Alone(), 0)
    twice = joined([run, run]).engine
    assert astuple(twice)[:-1] == tuple(2 * value for value in astuple(run.engine)[:-1])
    assert (run.engine + EngineStats()).decode_s is None
