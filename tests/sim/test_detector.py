import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.detector import Achieved, LabelDetector, RepetitionDetector, achieved, fails
from sim.errors import PolicyError
from sim.workflow import UNKNOWN, Call, Segment, Tape, Workflow


def call(number, answer="", agent="x"):
    return Call(f"c{number}", agent, (Segment("s", 5),), answer or f"a{number}")


def run(name, calls=4, **known):
    nodes = tuple(call(number) for number in range(calls))
    return Workflow(name, "Test", "", nodes, (), Tape(dict.fromkeys((node.id for node in nodes), 3), {}), **known)


def runs(*outcomes, calls=4):
    return {number: run(f"w{number}", calls, success=success) for number, success in enumerate(outcomes)}


def warns(watch, *calls):
    return [watch.finished(call) for call in calls]


outcomes = st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=40)
shares = st.floats(0.05, 1)
seeds = st.integers(0, 5)


def test_a_run_fails_by_its_outcome_and_else_by_what_annotators_saw():
    assert fails(run("w", success=False)) is True
    assert fails(run("w", success=True, labels={"1.3": True})) is False
    assert fails(run("w", labels={"1.3": False, "2.2": True})) is True
    assert fails(run("w", labels={"1.3": False})) is None
    assert fails(run("w")) is None


@given(outcomes, shares, st.floats(0, 1), seeds)
def test_precision_and_recall_are_as_asked_up_to_rounding(known, precision, recall, seed):
    workflows = runs(*known)
    warned = LabelDetector(precision, recall).warnings(workflows, seed)
    got = achieved(warned, workflows)
    failing, others = known.count(False), known.count(True)
    assert got.unknown == 0
    assert abs(got.right - recall * failing) <= 0.5
    wanted = got.right * (1 - precision) / precision
    assert got.wrong == others < wanted or abs(got.wrong - wanted) <= 0.5
    assert (got.missed, got.spared) == (failing - got.right, others - got.wrong)


@given(outcomes, shares, shares, seeds, st.integers(1, 9), st.floats(0, 1))
def test_a_warning_comes_after_a_call_and_before_the_last(known, precision, recall, seed, calls, at):
    workflows = runs(*known, calls=calls)
    warned = LabelDetector(precision, recall, at).warnings(workflows, seed)
    assert all(1 <= after < calls for after in warned.values())
    assert calls > 1 or not warned


@given(outcomes, shares, shares, seeds, st.randoms(use_true_random=False))
def test_who_is_warned_of_depends_on_no_order_and_no_session_number(known, precision, recall, seed, random):
    workflows = runs(*known)
    order = list(workflows)
    random.shuffle(order)
    detector = LabelDetector(precision, recall)
    warned = detector.warnings(workflows, seed)
    assert detector.warnings({session: workflows[session] for session in order}, seed) == warned
    numbered = detector.warnings({100 - session: workflow for session, workflow in workflows.items()}, seed)
    assert numbered == {100 - session: after for session, after in warned.items()}


def test_another_seed_warns_of_others_and_copies_of_a_run_are_not_all_the_same():
    workflows = {number: run(f"w#{number}", success=False) for number in range(40)}
    detector = LabelDetector(1, 0.5)
    one, other = (set(detector.warnings(workflows, seed)) for seed in (1, 2))
    assert len(one) == len(other) == 20
    assert one != other


def test_more_recall_warns_of_some_more_and_of_all_before():
    workflows = runs(*[False] * 20)
    some, more = (LabelDetector(1, recall).warnings(workflows, 0).keys() for recall in (0.3, 0.6))
    assert some < more


@pytest.mark.parametrize(("at", "calls", "after"), [(0.5, 4, 2), (0.5, 5, 3), (0.7, 10, 7), (0, 4, 1), (1, 4, 3)])
def test_a_run_is_warned_of_when_a_share_of_its_calls_is_done(at, calls, after):
    workflows = runs(False, calls=calls)
    assert LabelDetector(1, 1, at).warnings(workflows, 0) == {0: after}
    watch = LabelDetector(1, 1, at).over(workflows, 0).watch(0, workflows[0])
    assert warns(watch, *workflows[0].calls) == [number >= after for number in range(1, calls + 1)]


def test_who_is_not_warned_of_never_is():
    workflows = runs(False, True, None)
    watcher = LabelDetector(1, 1).over(workflows, 0)
    for session in (1, 2):
        assert not any(warns(watcher.watch(session, workflows[session]), *workflows[session].calls))


def test_false_alarms_end_where_there_is_nobody_left_to_suspect():
    workflows = runs(False, False, True, None)
    got = achieved(LabelDetector(0.1, 1).warnings(workflows, 0), workflows)
    assert got == Achieved(right=2, wrong=1, unknown=0, missed=0, spared=0)
    assert (got.precision, got.recall) == (2 / 3, 1)


def test_precision_is_unknown_where_no_run_could_be_a_false_alarm():
    got = achieved([0, 1], runs(False, None, False))
    assert got == Achieved(right=1, wrong=0, unknown=1, missed=1, spared=0)
    assert (got.precision, got.recall) == (None, 0.5)
    assert achieved([], runs(True)).recall is None


def test_repetition_warns_when_one_agent_has_said_one_thing_often_enough():
    watch = RepetitionDetector(2).over({}, 0).watch(0, run("w"))
    said = [call(0, "A"), call(1, "A", agent="y"), call(2, "B"), call(3, "A"), call(4, "C")]
    assert warns(watch, *said) == [False, False, False, True, True]
    assert warns(RepetitionDetector(3).watch(0, run("w")), *said) == [False] * 5


def test_what_was_not_recorded_is_no_repetition():
    watch = RepetitionDetector(2).watch(0, run("w"))
    assert warns(watch, call(0, f"{UNKNOWN}a"), call(1, f"{UNKNOWN}a")) == [False, False]


@given(st.lists(st.sampled_from("AB"), max_size=9), st.integers(2, 4))
def test_repetition_counts_the_calls_of_its_own_session_in_the_order_of_their_ends(said, times):
    one, other = (RepetitionDetector(times).watch(session, run("w")) for session in (0, 1))
    warned = warns(one, *(call(number, answer) for number, answer in enumerate(said)))
    most = [max(said[:end].count("A"), said[:end].count("B")) for end in range(1, len(said) + 1)]
    assert warned == [number >= times for number in most]
    assert not other.finished(call(0, "A"))


@pytest.mark.parametrize(
    ("detector", "problem"),
    [
        (lambda: LabelDetector(0, 1), "precision=0; give more than 0, and at most 1"),
        (lambda: LabelDetector(1, float("nan")), "recall=nan; give 0 to 1"),
        (lambda: LabelDetector(1, 1, at=2), "at=2; give 0 to 1"),
        (lambda: RepetitionDetector(1), "times=1; give 2 or more"),
    ],
)
def test_a_detector_that_cannot_be_names_the_mend(detector, problem):
    with pytest.raises(PolicyError) as error:
        detector()
    assert problem in str(error.value)
