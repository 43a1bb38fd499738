"""When workflows arrive: drawn gaps, recorded instants, and the order that goes with them."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from statistics import mean, variance

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import profile, request, roomy, workflows

from sim.choices import Choices
from sim.compare import compare
from sim.errors import RunError
from sim.load import Alone, ConcurrentSessions, Recorded, SessionRate, generator, in_order
from sim.policies import parse_policy
from sim.resample import resample
from sim.simulate import simulate
from sim.tool_time import parse_tool_times

seeds = st.integers(0, 1000)
rates = st.floats(1e-3, 1e3)
burstiness = st.sampled_from([1.0, 100.0, 0.01]) | st.floats(0.01, 100)
ONE_PLACE = profile(roomy(max_num_seqs=1))


def began(*instants):
    """A workflow for each instant, the first of which is called w0."""
    return [replace(request(f"w{number}", 40, 5), began_s=at) for number, at in enumerate(instants)]


def arrived(run):
    """Session -> when it arrived, in that order."""
    return {one.session: one.arrived_s for one in sorted(run.sessions, key=lambda one: one.arrived_s)}


@given(rates, burstiness, seeds, st.integers(1, 50))
def test_instants_ascend_and_the_first_ones_are_the_same_however_many_follow(rate, burstiness, seed, sessions):
    instants = SessionRate(rate, burstiness).instants(sessions, seed)
    assert len(instants) == sessions
    assert instants == sorted(instants)
    assert 0 <= instants[0] <= instants[-1] < float("inf")
    assert SessionRate(rate, burstiness).instants(sessions + 9, seed)[:sessions] == instants


@given(rates, seeds)
def test_a_burstiness_of_1_is_poisson_to_the_last_bit(rate, seed):
    poisson = generator(seed, "arrivals").exponential(1 / rate, 40).cumsum().tolist()
    assert SessionRate(rate).instants(40, seed) == SessionRate(rate, 1.0).instants(40, seed) == poisson


@given(rates, burstiness, seeds)
def test_another_rate_stretches_the_same_instants_and_another_seed_draws_others(rate, burstiness, seed):
    instants = SessionRate(rate, burstiness).instants(20, seed)
    assert SessionRate(rate * 3, burstiness).instants(20, seed) == pytest.approx([one / 3 for one in instants])
    assert SessionRate(rate, burstiness).instants(20, seed + 1) != instants


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0, 50.0])
def test_gaps_have_the_mean_of_the_rate_and_the_variance_of_the_burstiness(burstiness):
    gaps = np.diff(SessionRate(4.0, burstiness).instants(40_000, 1)).tolist()
    # Five standard errors of each, the second's from the gamma's kurtosis of 3 + 6 / burstiness.
    assert mean(gaps) == pytest.approx(0.25, rel=5 / (burstiness * 40_000) ** 0.5)
    error = 5 * ((2 + 6 / burstiness) / 40_000) ** 0.5
    assert variance(gaps) / mean(gaps) ** 2 == pytest.approx(1 / burstiness, rel=error)


def test_every_process_draws_the_same_arrivals():
    code = (
        "import hashlib; from sim.load import SessionRate;"
        "print(hashlib.sha256(str(SessionRate(2.0, 0.3).instants(99, 7)).encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = hashlib.sha256(str(SessionRate(2.0, 0.3).instants(99, 7)).encode()).hexdigest()
    assert other.stdout.strip() == expected


@pytest.mark.parametrize("burstiness", [0.0, -1.0, 0.001, 1000.0, float("nan"), float("inf")])
def test_a_burstiness_out_of_range_is_refused_with_the_range(burstiness):
    with pytest.raises(RunError, match=r"burstiness .*: give 0\.01 to 100; 1 is Poisson"):
        SessionRate(1.0, burstiness)


def test_a_rate_that_cannot_be_simulated_is_refused():
    for rate in (0.0, 1e-9, float("nan")):
        with pytest.raises(RunError, match=r"--session-rate .*: give 0\.0001 to 1e"):
            SessionRate(rate)


def test_loads_say_what_they_are():
    assert str(SessionRate(2.0)) == "2 sessions/s (Poisson)"
    assert str(SessionRate(2.0, 0.5)) == "2 sessions/s (gamma, burstiness 0.5)"
    assert str(Recorded()) == "recorded arrivals"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), seeds)
def test_every_load_lets_each_workflow_arrive_once(instants, seed):
    flows = began(*instants)
    for load in (Alone(), ConcurrentSessions(2), SessionRate(2.0), Recorded()):
        found = in_order(flows, load, seed)
        assert sorted(found) == list(range(len(flows)))
        assert all(flows[number] is workflow for number, workflow in found.items())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), seeds)
def test_recorded_workflows_come_in_their_order_whatever_the_seed_and_ties_by_id(instants, seed):
    flows = began(*instants)
    shuffled = [flows[number] for number in generator(seed, "test").permutation(len(flows))]
    found = list(in_order(shuffled, Recorded(), seed).values())
    assert [(one.began_s, one.id) for one in found] == sorted((one.began_s, one.id) for one in flows)
    assert Recorded().arrivals(shuffled, seed) == [one.began_s - found[0].began_s for one in found]


@pytest.mark.parametrize("policy", ["sequential", "async", "srpt_oracle"])
def test_simulated_sessions_arrive_as_recorded_under_every_policy(policy):
    flows = began(1003.0, 1000.0, 1000.5, 1003.0)
    run = simulate(flows, parse_policy(policy), ONE_PLACE, Recorded(), seed=5)
    assert arrived(run) == {1: 0.0, 2: 0.5, 0: 3.0, 3: 3.0}
    assert {one.session: one.workflow_id for one in run.sessions} == {n: flow.id for n, flow in enumerate(flows)}


def test_simulated_sessions_arrive_in_bursts():
    load, flows = SessionRate(5.0, 0.2), began(*[None] * 30)
    run = simulate(flows, parse_policy("async"), ONE_PLACE, load, seed=5)
    assert list(arrived(run).values()) == pytest.approx(load.instants(30, 5))
    assert list(arrived(run)) == list(in_order(flows, SessionRate(1.0), 5))


def test_the_offered_rate_is_the_loads_or_that_of_the_arrivals():
    flows = began(10.0, 14.0, 11.0)
    assert SessionRate(7.0, 0.1).offered_rate(flows, 0) == 7.0
    assert Recorded().offered_rate(flows, 0) == 0.5
    assert Recorded().offered_rate(began(10.0, 10.0), 0) is None
    policies = {name: parse_policy(name) for name in ("async", "sequential")}
    found = compare(flows, policies, "sequential", ONE_PLACE, Recorded(), 0)
    assert found.ceilings.offered_rate == 0.5


def test_workflows_without_a_recorded_arrival_are_counted_with_the_mend():
    flows = began(3.0, None, None)
    for ask in (Recorded().order, Recorded().arrivals):
        with pytest.raises(RunError, match=r"2 of 3 workflows have none \(the first is w1\); leave them out, or let"):
            ask(flows, 0)


def test_workflows_of_two_clocks_are_refused():
    with pytest.raises(RunError, match="up to 19,676 days apart; give workflows of one recording"):
        Recorded().arrivals(began(0.0, 1.7e9, 60.0), 0)


@given(workflows(), st.floats(-1e10, 1e10))
def test_choices_keep_the_recorded_arrival_and_copies_have_none(workflow, began_s):
    workflow = replace(workflow, began_s=began_s)
    for choices in (Choices("recorded", False), Choices("flow", True, parse_tool_times(["constant:1"]))):
        (chosen,) = choices.apply([workflow], seed=0)
        assert chosen.began_s == began_s
    assert [copy.began_s for copy in resample([workflow], 2, seed=0)] == [None, None]
    assert workflow.began_s == began_s
