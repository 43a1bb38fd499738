from hypothesis import given
from strategies import workflows

from sim.choices import Choices, unknown_tokens, without_unknown
from sim.tool_time import parse_tool_times
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

SYSTEM = Segment("unknown:system:x", 100)
TASK = Segment("task", 7)
VOTE = Segment("unknown:vote", 40)


def run():
    nodes = (
        Call("a", "x", (Segment("system:x", 4), SYSTEM, TASK), VOTE.segment_id),
        Tool("t", "python"),
        Call("b", "x", (SYSTEM, VOTE, TASK), "answer"),
    )
    edges = (Edge("a", "t", "control"), Edge("t", "b", "visible", used=False))
    return Workflow("w", "test", "", nodes, edges, Tape({"a": 40, "b": 5}, {"t": None}))


def test_without_unknown_parts_a_prompt_holds_what_was_recorded_and_an_unknown_answer_one_token():
    known = without_unknown(run())
    assert [call.prompt for call in known.calls] == [(Segment("system:x", 4), TASK), (TASK,)]
    assert known.tape.output_tokens == {"a": 1, "b": 5}


def test_unknown_tokens_are_counted_apart():
    assert unknown_tokens(run()) == (100 + 100 + 40, 40)
    assert unknown_tokens(without_unknown(run())) == (0, 1)


def test_a_prompt_of_which_nothing_was_recorded_keeps_a_token():
    call = Call("a", "x", (SYSTEM,), "answer")
    (only,) = without_unknown(Workflow("w", "test", "", (call,), (), Tape({"a": 1}, {}))).calls
    assert only.num_prompt_tokens == 1


def test_all_choices_are_applied_and_said():
    choices = Choices("flow", False, parse_tool_times(["python=constant:2"]))
    (workflow,) = choices.apply([run()], seed=0)
    assert [edge.parent for edge in workflow.edges] == ["a"]
    assert workflow.calls[0].num_prompt_tokens == 11
    assert workflow.tape.tool_s == {"t": 2.0}
    assert choices.to_json() == {"view": "flow", "unknown_parts": "none", "tool_time": "python=constant:2"}
    assert str(choices) == "dependencies: flow; parts not recorded: none; tool time: python=constant:2"


@given(workflows())
def test_the_default_choices_change_nothing(workflow):
    assert Choices().apply([workflow], seed=0) == [workflow]
