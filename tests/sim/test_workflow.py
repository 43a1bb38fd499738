from itertools import pairwise

import pytest
from hypothesis import given
from strategies import workflows

from sim.errors import WorkflowError
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow


def build(edges, calls="abcd", tools="", **changes):
    """Calls and tools named by letters; edges like "ab"."""
    nodes = [Call(name, "agent", (Segment("system", 5),), f"answer-{name}") for name in calls]
    nodes += [Tool(name, "python") for name in tools]
    parts = {
        "nodes": tuple(nodes),
        "edges": tuple(edge if isinstance(edge, Edge) else Edge(*edge, "visible") for edge in edges),
        "tape": Tape(dict.fromkeys(calls, 3), dict.fromkeys(tools)),
    }
    return Workflow("w", "test", "task", **{**parts, **changes})


def test_a_diamond_has_work_4_span_3_and_the_critical_path_of_the_slower_side():
    diamond = build(["ab", "ac", "bd", "cd"])
    assert (diamond.work(), diamond.span()) == (4, 3)
    assert diamond.parallelism() == pytest.approx(4 / 3)
    assert diamond.critical_path({"a": 1, "b": 1, "c": 5, "d": 1}) == ("a", "c", "d")
    assert diamond.span({"a": 1, "b": 1, "c": 5, "d": 1}) == 7
    assert diamond.levels == {"a": 0, "b": 1, "c": 1, "d": 2}


def test_tools_count_in_span_only_when_they_take_time():
    chain = build(["at", "tb"], calls="ab", tools="t")
    assert chain.span() == 2
    assert chain.span({"a": 1.0, "t": 2.5, "b": 1.0}) == 4.5


def test_order_follows_the_log_among_ready_nodes():
    assert build(["ca"]).order == ("b", "c", "a", "d")


@given(workflows())
def test_order_is_topological_and_span_is_a_path_no_longer_than_work(workflow):
    place = {node: index for index, node in enumerate(workflow.order)}
    assert all(place[edge.parent] < place[edge.child] for edge in workflow.edges)
    path = workflow.critical_path()
    pairs = {(edge.parent, edge.child) for edge in workflow.edges}
    assert all(pair in pairs for pair in pairwise(path))
    assert 1 <= workflow.span() <= workflow.work()


@pytest.mark.parametrize(
    ("edges", "names"),
    [
        (["ab", "bc", "cb"], "'[bc]' waits for itself .*; remove an edge"),
        (["aa"], "'a'"),
        (["ax"], "'x'"),
        (["xa"], "'x', which does not exist; add the node or remove the edge"),
    ],
    ids=["cycle", "loop", "no such child", "no such parent"],
)
def test_a_graph_that_is_none_names_the_node(edges, names):
    with pytest.raises(WorkflowError, match=names):
        build(edges)


def test_a_duplicate_id_names_the_node():
    with pytest.raises(WorkflowError, match="'a' occurs twice"):
        build([], calls="aab")


def call(*segments):
    return Call("a", "agent", tuple(Segment(*segment) for segment in segments), "answer-a")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"edges": (Edge("a", "b", "guessed"),)}, "guessed"),
        ({"tape": Tape({"a": 3}, {})}, "output_tokens"),
        ({"tape": Tape(dict.fromkeys("abcd", 3), {"t": 1.0})}, "tool_s"),
        ({"tape": Tape(dict.fromkeys("abcd", 0), {})}, "at least 1"),
        ({"nodes": (), "tape": Tape({}, {})}, "no LLM call; "),
        ({"nodes": (call(("s", 5), ("s", 6)),), "tape": Tape({"a": 3}, {})}, "segment 's' has 6 tokens, elsewhere 5;"),
        ({"nodes": (call(("answer-a", 4)),), "tape": Tape({"a": 3}, {})}, "segment 'answer-a'"),
        ({"nodes": (call(("s", 0)),), "tape": Tape({"a": 3}, {})}, "has 0 tokens; give it one length of at least 1"),
        ({"nodes": (call(),), "tape": Tape({"a": 3}, {})}, "empty prompt"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, problem):
    with pytest.raises(WorkflowError, match=problem):
        build(**{"edges": [], **changes})


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e308, 10**400])
def test_a_tool_time_that_is_no_time_is_refused(seconds):
    with pytest.raises(WorkflowError, match="'t'"):
        build([], tools="t", tape=Tape(dict.fromkeys("abcd", 3), {"t": seconds}))


NAMELESS = {
    "half a surrogate pair in the id": {"id": "\ud800"},
    "an empty framework": {"framework": ""},
    "two lines in a note": {"notes": ("two\nlines",)},
    "a task as long as a text": {"task": "x" * 1001},
    "an agent of no printable character": {"nodes": (Call("a", "\x1b[2J", (Segment("s", 1),), "A"),)},
    "an empty segment id": {"nodes": (Call("a", "agent", (Segment("", 1),), "A"),)},
}


@pytest.mark.parametrize("changes", NAMELESS.values(), ids=NAMELESS)
def test_a_name_that_cannot_be_shown_is_refused(changes):
    parts = {"id": "w", "framework": "test", "task": "", "nodes": (call(("s", 1)),), "edges": ()}
    assert Workflow(**parts, tape=Tape({"a": 3}, {})).task == ""
    with pytest.raises(WorkflowError, match="1 to 1000 printable characters"):
        Workflow(**{**parts, **changes}, tape=Tape({"a": 3}, {}))
