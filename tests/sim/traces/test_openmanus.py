"""OpenManus: hand-written logs only, as no original was at hand."""

from pathlib import Path

import pytest

from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, load_document, openmanus
from sim.traces.openmanus import NEXT_STEP_TOKENS, PLAN_TOKENS, REQUEST_TOKENS, SYSTEM_TOKENS
from sim.workflow import CLIENT, Call, Edge

WORDS = LoadOptions(Tokenizer("words", lambda text: len(text.split())))
EXAMPLE = (Path(__file__).parent / "examples" / "openmanus.log").read_text(encoding="utf-8")
PLACES = {
    "step": "app.agent.base:run:140 - Executing step ",
    "usage": "app.llm:update_token_count:250 - Token usage: ",
    "thoughts": "app.agent.toolcall:think:81 - ✨ Manus's thoughts: ",
    "chosen": "app.agent.toolcall:think:86 - 🧰 Tools being prepared: ",
    "arguments": "app.agent.toolcall:think:89 - 🔧 Tool arguments: ",
    "activating": "app.agent.toolcall:execute_tool:180 - 🔧 Activating tool: ",
    "completed": "app.agent.toolcall:act:150 - 🎯 Tool ",
    "plan": "app.flow.planning:_create_initial_plan:130 - ",
    "other": "__main__:main:15 - ",
}


def log(*records):
    """The text of (seconds, event, text) records."""
    return "\n".join(
        f"2025-01-02 10:00:{seconds:06.3f} | INFO     | {PLACES[event]}{text}" for seconds, event, text in records
    )


def load(text):
    (item,) = load_document(Document("folder/log.log", text), WORDS)
    return item


def run(*records):
    return load(log(*records))


def names(workflow):
    return [node.agent if isinstance(node, Call) else node.name for node in workflow.nodes]


def known(call):
    return sum(segment.num_tokens for segment in call.prompt if not segment.is_unknown)


def test_a_plan_and_the_thoughts_of_each_step_are_calls_and_what_they_chose_are_tools():
    workflow = load(EXAMPLE)
    assert names(workflow) == ["planner", "Manus", "python_execute", CLIENT, "Manus", "file_saver", "terminate"]
    assert workflow.id == "openmanus/folder/log"
    assert workflow.parallelism() == 1
    # "Plan: Sum [ ] add the numbers"; "I will add the numbers." and the tool with its 4 words of arguments.
    assert list(workflow.tape.output_tokens.values()) == [7, 5 + 1 + 4, 1 + 2 + 2]


def test_times_are_seconds_since_the_first_record_and_a_tool_takes_what_lies_between_its_two():
    workflow = load(EXAMPLE)
    assert workflow.tape.times == {
        "call-0": (0.1, 2.1),
        "call-1": (2.105, 4.005),
        "tool-0": (4.008, 4.758),
        "tool-1": (4.758, 5.258),
        "call-2": (5.258, 6.258),
        "tool-2": (6.259, 6.3),
    }
    assert workflow.tape.tool_s == {"tool-0": 0.75, "tool-1": 0.5, "tool-2": 0.041, "tool-3": None}


def test_a_tool_reads_its_call_and_everything_else_only_follows():
    edges = load(EXAMPLE).edges
    assert edges == (
        Edge("call-0", "call-1", "assumed"),
        Edge("call-1", "tool-0", "visible"),
        Edge("tool-0", "tool-1", "recorded"),
        Edge("tool-0", "call-2", "assumed"),
        Edge("tool-1", "call-2", "recorded"),
        Edge("call-2", "tool-2", "visible"),
        Edge("tool-2", "tool-3", "assumed"),
    )


def test_a_prompt_is_the_conversation_so_far_and_guesses_for_what_was_not_logged():
    planner, first, second = load(EXAMPLE).calls
    assert planner.num_prompt_tokens == 4 + SYSTEM_TOKENS + REQUEST_TOKENS + 3
    assert first.num_prompt_tokens == 4 + SYSTEM_TOKENS + (REQUEST_TOKENS + NEXT_STEP_TOKENS) + 3
    # Its own answer (10 words) and what the tool gave (3).
    more = (3 + 10 + 1) + (3 + 4) + NEXT_STEP_TOKENS
    assert second.num_prompt_tokens == first.num_prompt_tokens - 3 + more + 3
    assert second.prompt[: len(first.prompt)] == first.prompt
    assert second.prompt[len(first.prompt)].segment_id == first.answer_id
    assert [known(call) for call in (planner, first, second)] == [7, 7, 7 + 14 + 7]


def test_token_usage_tells_the_lengths_of_prompts_and_answers():
    workflow = run(
        (0, "step", "1/9"),
        (1, "usage", "Input=3000, Completion=40, Cumulative Input=3000"),
        (1, "thoughts", "a b"),
        (1, "chosen", "['x']"),
        (1.5, "usage", "Input=9, Completion=9"),  # of a call that the tool made
        (2, "completed", "'x' completed its mission! Result: c"),
        (3, "step", "2/9"),
        (4, "usage", "Input=3100, Completion=50"),
        (4, "thoughts", "d"),
    )
    assert [call.num_prompt_tokens for call in workflow.calls] == [3000, 3100]
    assert list(workflow.tape.output_tokens.values()) == [40, 50]
    assert [note for note in workflow.notes if "guessed" in note] == []
    assert [known(call) for call in workflow.calls] == [7, 7 + (3 + 40 + 1) + (1 + 4)]


def test_a_prompt_that_was_counted_as_shorter_than_the_guess_has_the_length_that_was_counted():
    workflow = run((0, "step", "1/9"), (1, "usage", "Input=300, Completion=40"), (1, "thoughts", "a b"))
    assert workflow.calls[0].num_prompt_tokens == 300


def test_a_tool_that_was_not_announced_begins_with_the_line_before_it():
    workflow = run(
        (0, "step", "1/9"),
        (1, "thoughts", "a"),
        (1.25, "chosen", "['x', 'y']"),
        (2, "completed", "'x' completed its mission! Result: b"),
        (4, "completed", "'y' completed its mission! Result: c"),
    )
    assert names(workflow) == ["Manus", CLIENT, "x", "y"]
    assert workflow.tape.tool_s == {"tool-0": 0.25, "tool-1": 0.75, "tool-2": 2}


def test_a_gap_of_less_than_ten_milliseconds_is_the_writing_of_the_log():
    gaps = [
        names(run((0, "step", "1/9"), (1, "thoughts", "a"), (1 + gap, "step", "2/9"), (3, "thoughts", "b")))
        for gap in (0.009, 0.011)
    ]
    assert gaps == [["Manus", "Manus"], ["Manus", CLIENT, "Manus"]]


def test_a_clock_that_was_set_back_gives_no_times():
    workflow = run(
        (5, "other", "Begin"), (9, "step", "1/9"), (7, "thoughts", "a"), (2, "step", "2/9"), (3, "thoughts", "b")
    )
    assert len(workflow.calls) == 2
    assert workflow.tape.times == {}


def test_a_plan_that_was_not_logged_has_a_guessed_length():
    workflow = run((0, "plan", "Creating initial plan with ID: 1"), (1, "step", "1/9"), (2, "thoughts", "a"))
    assert names(workflow) == ["planner", "Manus"]
    assert workflow.tape.output_tokens["call-0"] == PLAN_TOKENS
    assert workflow.calls[0].answer_id.startswith("unknown:")
    assert list(workflow.tape.times) == ["call-1"]


def test_a_plan_of_which_only_the_end_was_logged_has_no_time():
    workflow = run((0, "plan", "Plan creation result: b c"), (1, "step", "1/9"), (2, "thoughts", "a"))
    assert names(workflow) == ["planner", CLIENT, "Manus"]
    assert "call-0" not in workflow.tape.times
    assert workflow.tape.output_tokens["call-0"] == 2


def test_every_request_to_an_agent_is_a_guess_of_its_own():
    workflow = run(
        *((number, event, text) for number in range(2) for event, text in (("step", "1/9"), ("thoughts", "a")))
    )
    first, second = workflow.calls
    unknown = [segment for segment in second.prompt if segment.is_unknown]
    assert [segment.num_tokens for segment in unknown] == [SYSTEM_TOKENS, *[REQUEST_TOKENS + NEXT_STEP_TOKENS] * 2]
    assert len({segment.segment_id for segment in unknown}) == 3
    other = load_document(Document("folder/other.log", log((0, "step", "1/9"), (0, "thoughts", "a"))), WORDS)
    (other,) = other
    assert first.prompt[:2] == other.calls[0].prompt[:2]
    assert first.prompt[2] != other.calls[0].prompt[2]


def test_a_run_whose_time_was_up_says_so_and_a_step_without_thoughts_is_no_call():
    workflow = run(
        (0, "step", "1/9"),
        (1, "thoughts", "a"),
        (2, "step", "2/9"),
        (9, "other", "Request processing timed out after 1 hour"),
    )
    assert len(workflow.calls) == 1
    assert "OpenManus: the run was stopped by its time limit" in workflow.notes
    assert "no LLM call" in run((0, "step", "1/9")).reason


def test_a_log_without_end_is_an_error():
    assert "more than 2,000 steps" in run(*[(0, "step", "1/9"), (0, "thoughts", "a")] * 2001).reason


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ((1, "chosen", "['x\u200b']"), "a tool has no usable name"),
        ((1, "completed", "'\x00' completed its mission! Result: b"), "a tool has no usable name"),
    ],
)
def test_a_name_that_cannot_be_kept_is_an_error(record, problem):
    assert problem in run((0, "step", "1/9"), (0, "thoughts", "a"), record).reason


def test_a_line_with_an_impossible_date_is_a_line_of_the_text_before_it():
    text = log((0, "step", "1/9"), (1, "thoughts", "a")) + "\n" + log((0, "step", "2/9")).replace("-01-02", "-13-02")
    assert load(text).tape.output_tokens["call-0"] == 1 + 10


@pytest.mark.parametrize(
    "text",
    [
        "2025-01-02 10:00:00.000 | INFO     | metagpt.roles:run:1 - Alice(Coder): to do Write(Write)",
        '"2025-01-02 10:00:00.000 | INFO     | app.llm:ask:1 - x"',
        "x" * 30_000 + "\n" + log((0, "step", "1/9")),
    ],
)
def test_only_a_record_of_its_own_program_makes_it_this_format(text):
    assert not openmanus.looks_like(Document("log.log", text))
