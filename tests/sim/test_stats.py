from hypothesis import given
from hypothesis import strategies as st
from strategies import profile, workflows

from sim.stats import prefix_reuse, stats
from sim.workflow import CLIENT, Call, Edge, Segment, Tape, Tool, Workflow


def segments(text, lengths):
    return tuple(Segment(name, lengths[name]) for name in text)


LENGTHS = {"s": 10, "t": 5, "A": 3, "B": 4, "u": 2}


def talk(*prompts, **known):
    nodes = tuple(
        Call(f"c{n}", "x", segments(text, LENGTHS), name)
        for n, (text, name) in enumerate(zip(prompts, "AB", strict=False))
    )
    return Workflow("w", "Talk", "", nodes, (), Tape({"c0": 3, "c1": 4}, {}), **known)


def test_reuse_is_what_an_earlier_prompt_with_its_answer_begins_with():
    assert prefix_reuse(talk("st", "stAu")) == 10 + 5 + 3
    assert prefix_reuse(talk("st", "su")) == 10
    assert prefix_reuse(talk("st", "us")) == 0
    assert prefix_reuse(talk("st", "st")) == 15


@given(workflows())
def test_reuse_equals_the_longest_common_beginning_with_any_earlier_call(workflow):
    def tokens(call, answer=False):
        end = [Segment(call.answer_id, workflow.tape.output_tokens[call.id])] if answer else []
        return [(segment.segment_id, i) for segment in (*call.prompt, *end) for i in range(segment.num_tokens)]

    def common(one, other):
        return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

    total = 0
    for number, call in enumerate(workflow.calls):
        earlier = (tokens(other, answer=True) for other in workflow.calls[:number])
        total += max((common(tokens(call), other) for other in earlier), default=0)
    assert prefix_reuse(workflow) == total


def test_numbers_are_per_framework_and_for_all():
    one = talk("st", "stAu", success=True, labels={"1.3": True, "2.2": False})
    nodes = (Call("c0", "x", segments("s", LENGTHS), "A"), Tool("t", "python"), Tool("g", CLIENT))
    edges = (Edge("c0", "t", "visible"), Edge("t", "g", "control"))
    other = Workflow("v", "Other", "", nodes, edges, Tape({"c0": 3}, {"t": 2.5, "g": 1.0}))
    result = stats([one, other], profile())
    assert list(result) == ["Other", "Talk", "all"]
    assert result["Talk"]["calls"] == {"sum": 2, "p50": 2.0, "p95": 2.0, "max": 2}
    assert result["Talk"]["prefix_reuse"] == 18 / 35
    assert result["Talk"]["work_span"]["visible"]["calls"] == 2
    assert result["Talk"]["work_span"]["recorded"] == {"calls": 1.0, "seconds": 1.0}
    assert result["Talk"]["failure_modes"] == {"1.3": 1}
    assert (result["Other"]["tools"]["sum"], result["Other"]["tool_s"], result["Other"]["client_s"]) == (1, 2.5, 1.0)
    assert (result["all"]["workflows"], result["all"]["labelled"], result["all"]["success"]["none"]) == (2, 1, 1)


@given(st.lists(workflows(), min_size=1, max_size=1))
def test_work_is_at_least_span_in_every_view(drawn):
    for spans in stats(drawn, profile())["drawn"]["work_span"].values():
        assert spans["calls"] >= 1
        assert spans["seconds"] >= 1 - 1e-9
