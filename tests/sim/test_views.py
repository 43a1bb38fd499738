from hypothesis import given
from hypothesis import strategies as st
from strategies import workflows

from sim.views import VIEWS, view
from sim.workflow import Call, Edge, Segment, Tape, Workflow


def build(edges, times=None, calls="abcd"):
    """Calls named by letters; edges like "ab", or "ab-" where the parent's text is not in the prompt."""
    nodes = tuple(Call(name, "agent", (Segment("s", 5),), f"answer-{name}") for name in calls)
    made = tuple(Edge(edge[0], edge[1], "visible", not edge.endswith("-")) for edge in edges)
    return Workflow("w", "test", "", nodes, made, Tape(dict.fromkeys(calls, 3), {}, times or {}))


def pairs(workflow):
    return {edge.parent + edge.child for edge in workflow.edges}


FAN = build(["ab", "ac", "bd", "cd-"])


def test_the_default_view_is_the_formats_own_edges():
    assert view(FAN, "visible") is FAN


def test_flow_is_without_the_edges_whose_text_is_not_in_the_prompt():
    assert pairs(view(FAN, "flow")) == {"ab", "ac", "bd"}


def test_recorded_is_the_logs_order_where_no_times_are_known():
    recorded = view(FAN, "recorded")
    assert pairs(recorded) == {"ab", "bc", "cd"}
    assert {edge.kind for edge in recorded.edges} == {"recorded"}
    some = build(["ab"], times={"a": (0.0, 1.0), "b": (0.0, 1.0)})
    assert pairs(view(some, "recorded")) == {"ab", "bc", "cd"}


def test_with_times_a_node_waits_for_what_had_ended_last_when_it_began():
    overlapping = build([], times={"a": (0.0, 1.0), "b": (1.0, 3.0), "c": (1.0, 2.0), "d": (3.0, 4.0)})
    assert pairs(view(overlapping, "recorded")) == {"ab", "ac", "bd", "cd"}
    late = build([], times={"a": (0.0, 5.0), "b": (1.0, 2.0), "c": (2.0, 3.0), "d": (3.5, 4.0)})
    assert pairs(view(late, "recorded")) == {"bc", "cd"}


def test_the_clock_decides_and_not_the_place_in_the_log():
    shuffled = build([], times={"a": (10.0, 20.0), "b": (0.0, 5.0), "c": (5.0, 6.0), "d": (30.0, 31.0)})
    assert pairs(view(shuffled, "recorded")) == {"bc", "ca", "ad"}


def test_nodes_of_no_duration_wait_for_each_other_in_the_logs_order():
    instant = build([], times=dict.fromkeys("abcd", (1.0, 1.0)))
    assert pairs(view(instant, "recorded")) == {"ab", "bc", "cd"}


@st.composite
def timed(draw):
    times = {name: sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6)))) for name in "abcdef"}
    names = draw(st.permutations(list(times)))
    return build([], times={name: tuple(map(float, times[name])) for name in names}, calls=names)


@given(timed())
def test_what_had_ended_before_a_node_began_is_before_it_in_the_recorded_view(workflow):
    recorded, times = view(workflow, "recorded"), workflow.tape.times
    before = {}
    for node in recorded.order:
        before[node] = set().union(*({parent} | before[parent] for parent in recorded.parents[node]))
    place = recorded.position
    for node in times:
        ended = {
            other
            for other in times
            if times[other][1] <= times[node][0] and (*times[other], place[other]) < (*times[node], place[node])
        }
        assert before[node] == ended


@given(workflows())
def test_no_view_adds_work_and_flow_is_no_longer_than_visible(workflow):
    spans = {name: view(workflow, name).span() for name in VIEWS}
    assert spans["flow"] <= spans["visible"] <= workflow.work()
    assert spans["recorded"] <= workflow.work()
