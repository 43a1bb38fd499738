from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import profile, request, workflows

from sim.bounds import least_times_s
from sim.errors import PolicyError
from sim.foresight import INFORMATION, Estimate, foresight
from sim.resample import resample
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

laws = settings(max_examples=100, deadline=None)
ENGINE = profile()


def seconds(workflow):
    return least_times_s(workflow, ENGINE)


def by_length(workflow):
    """A second for each output token, and tools as long as they take."""
    return {**workflow.tape.output_tokens, **workflow.tape.tool_s}


def of(information, workflow, others=(), error=0.0, seed=0, times=seconds):
    return foresight(information, error, [workflow, *others], times, seed).of(workflow)


def told(forecast, workflow):
    """The estimates for all calls, each asked for when every node before it in the order has finished."""
    estimates = []
    for node in workflow.order:
        if node in workflow.tape.output_tokens:
            estimates.append(forecast.estimate(node))
        forecast.finished(node)
    return estimates


def fan():
    """A plan of 3 tokens, a call of 5, a tool of 4 s whose result a call of 2 reads, and a join of 1."""
    names = {"plan": 3, "long": 5, "short": 2, "join": 1}
    calls = {name: Call(name, "agent", (Segment(f"prompt-{name}", 10),), f"answer-{name}") for name in names}
    nodes = (calls["plan"], calls["long"], Tool("tool", "search"), calls["short"], calls["join"])
    pairs = ("plan", "long"), ("plan", "tool"), ("tool", "short"), ("long", "join"), ("short", "join")
    return Workflow(
        "fan", "fans", "t", nodes, tuple(Edge(*pair, "visible") for pair in pairs), Tape(names, {"tool": 4.0})
    )


def test_the_oracle_by_hand():
    forecast = of("oracle", fan(), times=by_length)
    cost = 10 * (3 + 5 + 2 + 1) + (9 + 25 + 4 + 1) / 2
    assert forecast.estimate("plan") == Estimate(work_s=15, path_s=3 + 4 + 2 + 1, depth=4, cost=cost)
    forecast.finished("plan")
    assert forecast.estimate("long") == Estimate(work_s=12, path_s=6, depth=2, cost=cost)
    forecast.finished("tool")
    assert forecast.estimate("short") == Estimate(work_s=8, path_s=3, depth=2, cost=cost)


@laws
@given(workflows())
def test_the_oracle_tells_the_truth(workflow):
    times = seconds(workflow)
    for index, estimate in enumerate(told(of("oracle", workflow), workflow)):
        call = [node for node in workflow.order if node in workflow.tape.output_tokens][index]
        left = workflow.order[workflow.order.index(call) :]
        assert estimate.work_s == pytest.approx(sum(times[node] for node in left), rel=1e-9)
        assert (estimate.path_s, estimate.depth) == (longest(workflow, call, times), longest(workflow, call))
        assert times[call] <= estimate.path_s <= estimate.work_s * (1 + 1e-9)


def longest(workflow, node, times=None):
    """The longest path from the node on, by trying all."""
    further = [longest(workflow, child, times) for child in workflow.children[node]]
    return (times[node] if times else 1) + max(further, default=0)


def test_a_forecast_is_fresh_for_every_session():
    source = foresight("oracle", 0.0, [fan()], by_length, 0)
    source.of(fan()).finished("plan")
    assert source.of(fan()).estimate("plan").work_s == 15


@laws
@given(workflows(), st.floats(0, 1), st.integers(0, 5))
def test_noise_is_one_factor_per_workflow_within_the_error(workflow, error, seed):
    exact = told(of("oracle", workflow), workflow)
    noisy = told(of("noisy", workflow, error=error, seed=seed), workflow)
    factor = noisy[0].cost / exact[0].cost
    assert 1 - error - 1e-12 <= factor <= 1 + error + 1e-12
    for one, other in zip(exact, noisy, strict=True):
        assert other == pytest.approx(tuple(factor * value for value in one), rel=1e-9)
    assert noisy == told(of("noisy", workflow, error=error, seed=seed), workflow)


def test_factors_differ_between_workflows_and_seeds_and_spread_evenly():
    crowd = [request(f"r{i}", 10, 10) for i in range(400)]
    exact = foresight("oracle", 0.0, crowd, seconds, 0).of(crowd[0]).estimate("call").cost

    def factors(seed):
        source = foresight("noisy", 0.5, crowd, seconds, seed)
        return [source.of(one).estimate("call").cost / exact for one in crowd]

    assert len({*factors(0), *factors(1)}) == 800
    assert min(factors(0)) < 0.51
    assert max(factors(0)) > 1.49
    assert sum(factors(0)) / 400 == pytest.approx(1, abs=0.05)


def chain(name, task, *outputs, framework="chains"):
    """Calls of so many tokens, one after the other."""
    calls = tuple(Call(f"c{i}", "agent", (Segment(f"p{i}", 10),), f"{name}-{i}") for i in range(len(outputs)))
    edges = tuple(Edge(f"c{i}", f"c{i + 1}", "recorded") for i in range(len(outputs) - 1))
    return Workflow(name, framework, task, calls, edges, Tape({f"c{i}": n for i, n in enumerate(outputs)}, {}))


def test_means_by_hand():
    crowd = [chain("me", "mine", 7, 7, 7, 7, 7), chain("a", "one", 4, 2), chain("b", "two", 1, 1, 6)]
    forecast = foresight("mean", 0.0, crowd, by_length, 0).of(crowd[0])
    cost = (10 * 6 + (16 + 4) / 2 + 10 * 8 + (1 + 1 + 36) / 2) / 2
    # Left after 0, 1, 2 nodes: 6, 2 of the one, 8, 7, 6 of the other; then the longest one's last again.
    left = [(7, 2.5), (4.5, 1.5), (6, 1), (6, 1), (6, 1)]
    assert told(forecast, crowd[0]) == [Estimate(work, work, depth, cost) for work, depth in left]


def test_means_count_what_has_finished_and_not_what_is_asked_about():
    crowd = [fan(), replace(fan(), id="other", task="u")]
    forecast = foresight("mean", 0.0, crowd, by_length, 0).of(crowd[0])
    assert forecast.estimate("join") == forecast.estimate("plan") == Estimate(15, 10, 4, 129.5)
    for node in ("plan", "long", "tool"):
        forecast.finished(node)
    # The tool and what reads it make the longest path of what is left after two nodes, but not after three.
    assert forecast.estimate("short") == Estimate(3, 3, 2, 129.5)


TASKS = st.sampled_from(["", "one", "two", "three"])
crowds = st.tuples(*(st.tuples(workflows(name=f"w{i}", max_nodes=5), TASKS) for i in range(6)))


@laws
@given(crowds, workflows(name="w0"), TASKS)
def test_means_of_a_workflow_never_change_with_its_own_future(drawn, other, task):
    crowd = [replace(one, task=name, framework="AB"[i % 2]) for i, (one, name) in enumerate(drawn)]
    me = replace(crowd[0], task="three")
    changed = replace(other, task="three", framework="A")
    one, two = (foresight("mean", 0.0, [mine, *crowd[1:]], seconds, 0).of(mine) for mine in (me, changed))
    for count in range(8):
        assert one.estimate("n0") == two.estimate("n0")
        one.finished(f"n{count}")
        two.finished(f"n{count}")


def first(crowd, workflow):
    """What the means say when the workflow begins."""
    return foresight("mean", 0.0, crowd, by_length, 0).of(workflow).estimate("c0")


def test_nothing_is_learned_from_copies_or_repetitions_of_the_same_task():
    me, again, other = chain("me", "mine", 7), chain("again", "mine", 9, 9), chain("other", "another", 5)
    copies = resample([me], 3, seed=0)
    assert first([me, again, *copies, other], me) == first([other, me], me) == first([other, me], copies[0])
    assert first([me, again, *copies, other], me).work_s == 5
    # Repetitions are histories of their own, copies are not.
    assert first([me, again, *copies, other], other).work_s == (7 + 18) / 2


def test_workflows_without_a_task_are_each_their_own():
    crowd = [chain("me", "", 7), chain("other", "", 5)]
    assert first(crowd, crowd[0]).work_s == 5


def test_a_framework_with_one_task_learns_from_all_others():
    me, same = chain("me", "mine", 7), chain("same", "mine", 8)
    others = [chain("b", "b", 3, framework="other"), chain("c", "c", 5, framework="third")]
    assert first([me, same, *others], me).work_s == 4
    more = chain("more", "more", 100)
    assert first([me, same, more, *others], me).work_s == 100


@pytest.mark.parametrize("number", range(2, 13))
def test_with_two_tasks_or_more_everyone_learns_from_the_own_framework_only(number):
    crowd = [chain(f"w{i}", f"task {i}", 1, framework="A") for i in range(number)]
    crowd += [chain(f"b{i}", f"task {i}", 100, framework="B") for i in range(number)]
    source = foresight("mean", 0.0, crowd, by_length, 0)
    assert {source.of(one).estimate("c0").work_s for one in crowd[:number]} == {1}
    assert {source.of(one).estimate("c0").work_s for one in crowd[number:]} == {100}


def test_nothing_is_computed_before_it_is_needed_and_nothing_twice():
    asked = []
    crowd = [chain(f"w{i}", f"task {i}", 1) for i in range(20)]

    def times(workflow):
        asked.append(workflow.id)
        return by_length(workflow)

    for information in INFORMATION:
        source = foresight(information, 0.5, crowd, times, 0)
        assert not asked
        for one in crowd * 2:
            source.of(one).estimate("c0")
        assert sorted(asked) == sorted(one.id for one in crowd)
        asked.clear()


def test_what_makes_no_sense_is_refused_with_the_mend():
    with pytest.raises(PolicyError, match="at least two workflows of different tasks"):
        foresight("mean", 0.0, [chain("a", "one", 1), chain("b", "one", 1)], by_length, 0)
    with pytest.raises(PolicyError, match=r"error 1\.5 .* give 0 to 1"):
        foresight("noisy", 1.5, [fan()], by_length, 0)
    with pytest.raises(PolicyError, match="did you mean 'oracle'"):
        foresight("oracel", 0.0, [fan()], by_length, 0)
