"""Policies by hand, through `Run`: no engine, no clock."""

import pytest

from sim.errors import PolicyError
from sim.policies import parse_policy, policies
from sim.run import Run
from sim.session import Start
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow


def diamond(tool=False):
    """a before b, c and e; b, c before d; c or a tool t in its place."""
    middle = Tool("c", "python") if tool else call("c")
    nodes = (call("a"), call("b"), middle, call("d"), call("e"))
    edges = tuple(Edge(*pair, "visible") for pair in ("ab", "ac", "ae", "bd", "cd"))
    outputs = dict.fromkeys("abde" if tool else "abcde", 1)
    return Workflow("w", "test", "task", nodes, edges, Tape(outputs, {"c": None} if tool else {}))


def call(name):
    return Call(name, "agent", (Segment("s", 1),), f"answer-{name}")


def replay(policy, workflow, finishes):
    """What is started at arrival and after each finish, as strings of ids."""
    run = Run(parse_policy(policy))
    starts = {node.id: Start(0, node) for node in workflow.nodes}
    answers = [run.arrive(0, workflow), *(run.finish(starts[name]) for name in finishes)]
    assert run.over(0)
    return ["".join(start.node.id for start in answer) for answer in answers]


def test_sequential_follows_the_log_one_at_a_time():
    assert replay("sequential", diamond(), "abcde") == ["a", "b", "c", "d", "e", ""]


def test_sequential_waits_for_tools_too():
    assert replay("sequential", diamond(tool=True), "abcde") == ["a", "b", "c", "d", "e", ""]


def test_level_barrier_waits_for_the_whole_level():
    assert replay("level_barrier", diamond(), "acebd") == ["a", "bce", "", "", "d", ""]


def test_async_waits_for_parents_only():
    assert replay("async", diamond(), "abced") == ["a", "bce", "", "d", "", ""]


def test_max_parallel_limits_calls_in_log_order():
    assert replay("async:max_parallel=1", diamond(), "abcde") == ["a", "b", "c", "d", "e", ""]
    assert replay("async:max_parallel=2", diamond(), "acbed") == ["a", "bc", "e", "d", "", ""]


def test_max_parallel_does_not_limit_tools():
    assert replay("async:max_parallel=1", diamond(tool=True), "abced") == ["a", "bc", "e", "", "d", ""]


def test_the_aliases_of_the_prototype_are_the_same_policies():
    assert parse_policy("dependency_aware") == parse_policy("level_barrier")
    assert parse_policy("parallel:max_parallel=3") == parse_policy("async:max_parallel=3")


def test_replicas_of_each_pool_take_turns_when_calls_to_the_pools_alternate():
    calls = tuple(Call(f"c{n}", "even" if n % 2 == 0 else "odd", (Segment("s", 1),), f"a{n}") for n in range(8))
    flow = Workflow("w", "test", "task", calls, (), Tape({one.id: 1 for one in calls}, {}))
    run = Run(parse_policy("async"), replicas=lambda agent: (0, 1) if agent == "even" else (2, 3))
    assert [start.replica for start in run.arrive(0, flow)] == [0, 2, 1, 3, 0, 2, 1, 3]


@pytest.mark.parametrize("name", sorted(policies()))
def test_a_policy_reads_back_from_its_own_name(name):
    assert parse_policy(str(parse_policy(name))) == parse_policy(name)


def test_after_a_failure_nothing_more_is_started():
    workflow = diamond()
    run = Run(parse_policy("async"))
    (a,) = run.arrive(0, workflow)
    b, c, e = run.finish(a)
    assert run.fail(b) == []
    assert run.finish(c) == []
    assert not run.over(0)
    assert run.finish(e) == []
    assert run.over(0)
    assert run.failed(0)


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("asinc", "did you mean 'async'"),
        ("async:max_paralel=2", "did you mean 'max_parallel'"),
        ("async:max_parallel=two", "not a whole number"),
        ("async:max_parallel=0", "1 or more"),
        ("sequential:x=1", "no parameter 'x'"),
        ("program_gate:every_s=nan", "every_s 0.01 or more"),
        ("program_gate:least_hits=nan", "least_hits within 0 to 1"),
        ("pause:every_s=inf", "every_s 0.01 or more"),
        ("", "known"),
    ],
)
def test_a_policy_that_does_not_exist_is_named_with_a_mend(text, mend):
    with pytest.raises(PolicyError, match=mend):
        parse_policy(text)
