"""Effects of a policy: by hand, as laws, and against studies in which the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.load import generator
from sim.metrics import speedup
from sim.paired import backlog_grows, counted, effect, holm


def columns(*sessions):
    """(workflow, seed, s under the baseline, s under the policy) of each session as arrays."""
    return tuple(map(np.array, zip(*sessions, strict=True)))


seconds = st.floats(0.5, 2)
session = st.tuples(st.integers(0, 3), st.integers(0, 2), seconds, seconds)
studies = st.lists(session, min_size=1, max_size=12).map(lambda sessions: columns(*sessions))


def numbers(found):
    """All numbers of an effect, with NaN for what is not known."""
    low, high = found.ci95 or (math.nan, math.nan)
    p = math.nan if found.p is None else found.p
    return [found.speedup, low, high, p, found.workflows, found.seeds, found.without_gain]


def same(one, other):
    return numbers(one) == pytest.approx(numbers(other), nan_ok=True, abs=1e-6)


def test_an_effect_over_two_workflows_by_hand():
    # Twice and eight times as fast, mean latency 10 / 2. The logarithms are log 2 and 3 log 2, so the standard error is
    # log 2; Student's t with one degree of freedom is Cauchy.
    found = effect(*map(np.array, ((0, 1), (0, 0), (2.0, 8.0), (1.0, 1.0))))
    assert found.speedup == 5
    assert found.ci95 == pytest.approx((5 * 2**-12.70620474, 5 * 2**12.70620474))
    assert found.p == pytest.approx(1 - 2 * math.atan(math.log(5) / math.log(2)) / math.pi)
    assert (found.workflows, found.seeds) == (2, 1)


def test_the_variances_over_workflows_and_over_seeds_add_up_by_hand():
    found = effect(*columns((0, 0, 2.0, 1.0), (1, 1, 8.0, 1.0)))
    # Twice the variance with twice the degrees of freedom; t with two has a distribution in closed form.
    t = math.log(5) / (math.sqrt(2) * math.log(2))
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert found.ci95[1] == pytest.approx(5 * math.exp(4.30265273 * math.sqrt(2) * math.log(2)))


@pytest.mark.parametrize("seeds", [(7, 7), (7, 8)])
def test_of_one_workflow_only_the_speedup_is_known_however_often_it_ran(seeds):
    found = effect(*columns((3, seeds[0], 2.0, 1.0), (3, seeds[1], 2.0, 3.0)))
    assert (found.speedup, found.ci95, found.p, found.workflows, found.seeds) == (1, None, None, 1, len({*seeds}))
    assert effect(*(np.array([], kind) for kind in (int, int, float, float))) is None


def test_a_workflow_gains_if_all_its_sessions_together_get_one_percent_faster():
    # In sum 4 to 3.95, 4 to 3.97, and slower.
    sessions = (0, 0, 2.0, 1.95), (0, 1, 2.0, 2.0), (1, 0, 2.0, 1.97), (1, 1, 2.0, 2.0), (2, 0, 2.0, 2.5)
    assert effect(*columns(*sessions)).without_gain == pytest.approx(2 / 3)


@given(studies)
def test_a_policy_against_itself_gains_nothing_for_sure(study):
    workflows, seeds, base, _ = study
    found = effect(workflows, seeds, base, base)
    assert (found.speedup, found.without_gain) == (1, 1)
    assert (found.ci95, found.p) in [((1, 1), 1), (None, None)]


@given(studies)
def test_the_interval_excludes_1_where_p_is_small(study):
    found = effect(*study)
    if found.ci95:
        low, high = found.ci95
        assert low <= found.speedup <= high
        if not (low == pytest.approx(1) or high == pytest.approx(1)):
            assert (low <= 1 <= high) == (found.p >= 0.05)


@given(studies)
def test_the_baseline_over_the_policy_is_the_inverse(study):
    workflows, seeds, base, other = study
    found, inverse = effect(workflows, seeds, base, other), effect(workflows, seeds, other, base)
    assert inverse.speedup == pytest.approx(1 / found.speedup)
    if found.ci95:
        assert inverse.ci95 == pytest.approx((1 / found.ci95[1], 1 / found.ci95[0]))
        assert inverse.p == pytest.approx(found.p, abs=1e-6)


@given(studies, st.randoms(use_true_random=False))
def test_neither_order_nor_codes_nor_copies_matter(study, random):
    workflows, seeds, base, other = study
    order = random.sample(range(base.size), base.size)
    assert same(effect(*(column[order] for column in study)), effect(*study))
    assert same(effect(9 - 2 * workflows, 5 + seeds, base, other), effect(*study))
    halves = [np.tile(column, 2) for column in (workflows, seeds, base / 2, other / 2)]
    assert same(effect(*halves), effect(*study))


def study_of(rng, workflows, seeds, *, tail, of_workflows, of_seeds, of_sessions, gain=1.0):
    """Sessions of every workflow with every seed; mean latencies are ``gain`` apart.

    ``tail``: standard deviation of the logarithm of latencies over workflows. The others are those of the ratio's
    logarithm over workflows and over sessions, both Student's with 4 degrees of freedom, and over seeds, normal.
    """
    codes, arrivals = np.tile(np.arange(workflows), seeds), np.repeat(np.arange(seeds), workflows)
    ratios = (of_workflows * rng.standard_t(4, workflows) / math.sqrt(2))[codes]
    ratios += rng.normal(0, of_seeds, seeds)[arrivals] + of_sessions * rng.standard_t(4, codes.size) / math.sqrt(2)
    latencies = rng.lognormal(0, tail, workflows)[codes] * rng.lognormal(0, 0.5, seeds)[arrivals]
    latencies *= rng.lognormal(0, 0.7, codes.size)
    return codes, arrivals, gain * latencies * np.exp(ratios / 2), latencies * np.exp(-ratios / 2)


NULL = {"tail": 1.2, "of_workflows": 0.2, "of_seeds": 0.05, "of_sessions": 0.4}
BY_WORKFLOW = {"tail": 1.2, "of_workflows": 0.3, "of_seeds": 0.0, "of_sessions": 0.05}
LONG_TAIL = {"tail": 1.8, "of_workflows": 0.3, "of_seeds": 0.0, "of_sessions": 0.3}


@pytest.mark.parametrize("truth", [NULL, BY_WORKFLOW, LONG_TAIL], ids=["null", "by_workflow", "long_tail"])
@pytest.mark.parametrize(("workflows", "seeds"), [(50, 5), (300, 5), (50, 1), (5, 5)])
def test_of_studies_in_which_nothing_is_gained_one_in_twenty_says_so(truth, workflows, seeds):
    # With one seed, the effect is of these arrivals: nothing tells of others.
    truth = truth if seeds > 1 else {**truth, "of_seeds": 0.0}
    rng = np.random.default_rng(1)
    found = [effect(*study_of(rng, workflows, seeds, **truth)) for _ in range(600)]
    covered = [low <= 1 <= high for low, high in (one.ci95 for one in found)]
    # Three standard deviations below 95 %, which an interval from a bootstrap misses: 85 to 90 % of few workflows.
    assert np.mean(covered) >= 0.923
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(1 - np.mean(covered))


def test_what_is_gained_is_found():
    rng = np.random.default_rng(2)
    found = [effect(*study_of(rng, 50, 5, **NULL, gain=1.4)) for _ in range(200)]
    assert np.mean([one.p < 0.05 and one.speedup > 1 for one in found]) > 0.9


@pytest.mark.parametrize("workflows", [2, 131, 200])
def test_a_bootstrap_in_blocks_is_the_one_that_draws_one_resample_after_the_other(workflows):
    base, other = np.random.default_rng(3).lognormal(0, 1, (2, workflows))
    rng, ratios = generator(5, "bootstrap"), []
    for _ in range(1000):
        drawn = rng.integers(workflows, size=workflows)
        ratios.append(base[drawn].sum() / other[drawn].sum())
    _, interval = speedup(base.tolist(), other.tolist(), generator(5, "bootstrap"))
    assert interval == tuple(np.percentile(ratios, (2.5, 97.5)))


def test_holm_by_hand():
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04, which is not below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, 0.02, 0.7]) == pytest.approx([0.06, 0.06, 0.7])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_makes_no_value_smaller_or_larger_than_bonferroni(values):
    adjusted = holm(values)
    for value, other in zip(values, adjusted, strict=True):
        assert value <= other <= min(1, len(values) * value)
    ranked = [other for _, other in sorted(zip(values, adjusted, strict=True))]
    assert ranked == sorted(ranked)
    for value in set(values):
        assert len({other for one, other in zip(values, adjusted, strict=True) if one == value}) == 1


def queue(rng, rho, sessions, seeds, deterministic):
    """Instants in which sessions arrive at a single server and leave it, in units of its mean service time; seeds."""
    size = seeds, sessions
    arrived = rng.exponential(1 / rho, size).cumsum(axis=1)
    service = np.ones(size) if deterministic else rng.exponential(1, size)
    done = service.cumsum(axis=1)
    finished = np.maximum.accumulate(arrived - done + service, axis=1) + done
    return arrived.ravel(), finished.ravel(), np.repeat(np.arange(seeds), sessions)


def marks(rho, sessions, seeds, deterministic):
    """Share of such queues that are said to grow."""
    rng = np.random.default_rng(4)
    return np.mean([backlog_grows(*queue(rng, rho, sessions, seeds, deterministic)) for _ in range(200)])


@pytest.mark.parametrize("deterministic", [False, True], ids=["MM1", "MD1"])
def test_a_queue_grows_beyond_saturation_and_not_far_below(deterministic):
    for sessions in (20, 200, 1000):
        for seeds in (1, 5):
            assert marks(0.5, sessions, seeds, deterministic) <= 0.05
    assert marks(0.8, 1000, 5, deterministic) <= 0.05
    assert marks(1.3, 200, 5, deterministic) >= 0.95
    assert marks(1.1, 1000, 5, deterministic) >= 0.95
    assert marks(1.3, 1000, 1, deterministic) >= 0.95


def test_growth_by_hand():
    # One a second for 60 s, all still there in the end: 30 under way on average in the middle third, 50 in the last.
    arrived = np.arange(61.0)
    one = np.zeros(61, int)
    assert backlog_grows(arrived, np.full(61, np.nan), one)
    assert backlog_grows(arrived, np.full(61, 60.0), one)
    # Each stays for 10 s: 10 in both.
    assert not backlog_grows(arrived, arrived + 10, one)
    # Those of the first 20 s are gone as they come, in the rest one in ten stays: too few to be more than chance.
    few = np.where(arrived % 10 == 5, np.nan, arrived)
    assert not backlog_grows(arrived, few, one)
    # Such growth with ten seeds is none of chance.
    assert backlog_grows(*(np.tile(column, 10) for column in (arrived, few)), np.repeat(np.arange(10), 61))


def test_growth_of_less_than_a_tenth_is_none_however_sure():
    # A thousand seeds, and ten sessions under way at any time, a few more in the last third.
    arrived, seeds = np.tile(np.arange(301.0), 1000), np.repeat(np.arange(1000), 301)
    for longer, grows in ((0.5, False), (1.5, True)):
        assert backlog_grows(arrived, arrived + np.where(arrived < 200, 10, 10 + longer), seeds) == grows


def test_of_no_session_or_sessions_that_arrive_at_once_nothing_grows():
    nothing = np.array([])
    assert not backlog_grows(nothing, nothing, nothing.astype(int))
    assert not backlog_grows(np.zeros(9), np.full(9, np.nan), np.zeros(9, int))


@given(st.integers(0, 50), st.sampled_from([0.5, 2.0, 1024.0]), st.sampled_from([0.7, 1.2]))
def test_neither_order_nor_the_unit_of_time_matters_to_growth(seed, unit, rho):
    rng = np.random.default_rng(seed)
    arrived, finished, seeds = queue(rng, rho, 40, 3, deterministic=False)
    order = rng.permutation(arrived.size)
    found = backlog_grows(arrived, finished, seeds)
    assert backlog_grows(arrived[order], finished[order], 7 - seeds[order]) == found
    assert backlog_grows(unit * arrived, unit * finished, seeds) == found


def test_the_first_and_the_last_sessions_do_not_count():
    assert np.flatnonzero(counted(np.arange(10), 10, 0.2, 0.1)).tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert counted(np.array([9, 0, 5]), 10, 0.1, 0.1).tolist() == [False, False, True]
    # Shares are rounded down, but 0.29 * 100 is 29.
    assert counted(np.arange(10), 10, 0.19, 0.0).argmax() == 1
    assert counted(np.arange(100), 100, 0.29, 0.0).argmax() == 29
    assert counted(np.arange(3), 3, 0.0, 0.0).all()
    # Nothing is left: the first after the warm-up, or the last of all.
    assert counted(np.arange(4), 4, 0.5, 0.5).tolist() == [False, False, True, False]
    assert counted(np.arange(4), 4, 1.0, 0.0).tolist() == [False, False, False, True]


@given(st.integers(1, 40), st.floats(0, 1), st.floats(0, 1))
def test_one_session_counts_in_any_case_and_those_that_do_are_neighbours(sessions, warm_up, drain):
    found = np.flatnonzero(counted(np.arange(sessions), sessions, warm_up, drain))
    assert found.size
    assert np.all(np.diff(found) == 1)
    if warm_up + drain <= 1:
        assert found.size >= math.floor((1 - warm_up - drain) * sessions)
