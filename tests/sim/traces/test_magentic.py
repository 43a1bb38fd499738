"""Magentic-One: hand-written logs only, as no original was at hand."""

from pathlib import Path

import pytest

from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, Skipped, load_document, magentic
from sim.traces.magentic import ACTION_TOKENS, IMAGE_TOKENS, SYSTEM_TOKENS
from sim.workflow import Call

WORDS = LoadOptions(Tokenizer("words", lambda text: len(text.split())))
EXAMPLE = (Path(__file__).parent / "examples" / "magentic.log").read_text(encoding="utf-8")


def load(text):
    return list(load_document(Document("folder/log.txt", text), WORDS))


def run(*turns, end="SCENARIO.PY COMPLETE !#!#\n"):
    """The workflow of (speaker, text) turns."""
    blocks = "".join(f"---------- {agent} ----------\n{text}\n" for agent, text in turns)
    (item,) = load(f"SCENARIO.PY STARTING !#!#\n{blocks}{end}")
    return item


def names(workflow):
    return [node.agent if isinstance(node, Call) else f"({node.name})" for node in workflow.nodes]


def test_what_an_agent_said_is_a_call_and_what_a_surfer_or_the_terminal_did_is_a_tool():
    (workflow,) = load(EXAMPLE)
    orchestrator = "MagenticOneOrchestrator"
    assert names(workflow) == [
        *(orchestrator, orchestrator, "WebSurfer", "(WebSurfer)"),
        *(orchestrator, "Assistant", "(ComputerTerminal)", "FileSurfer", "(FileSurfer)"),
        *("WebSurfer", orchestrator),
    ]
    assert workflow.id == "magentic-one/folder/log"
    assert list(workflow.tape.tool_s.values()) == [None] * 3
    # A surfer's choice was not printed; what it says without a screenshot is its own words.
    assert list(workflow.tape.output_tokens.values()) == [7, 3, ACTION_TOKENS, 2, 3, ACTION_TOKENS, 5, 3]


def test_the_run_is_a_chain_that_only_the_framework_vouches_for():
    (workflow,) = load(EXAMPLE)
    assert workflow.parallelism() == 1
    assert len(workflow.edges) == len(workflow.nodes) - 1
    assert {edge.kind for edge in workflow.edges} == {"assumed"}


def test_a_prompt_is_the_conversation_so_far_with_guesses_for_the_system_prompt_and_screenshots():
    workflow = run(("user", "a b"), ("Boss", "c"), ("WebSurfer", "d e f\n<image>"), ("Boss", "g"), ("Helper", "h"))
    system = 4 + SYSTEM_TOKENS
    assert [call.num_prompt_tokens for call in workflow.calls] == [
        system + (2 + 4) + 3,
        system + (2 + 4) + (1 + 4) + 3,
        system + (2 + 4) + (1 + 4) + (3 + 4) + IMAGE_TOKENS + 3,
        system + (2 + 4) + (1 + 4) + (3 + 4) + IMAGE_TOKENS + (1 + 4) + 3,
    ]
    first, _, again, _ = workflow.calls
    assert again.prompt[: len(first.prompt)] == first.prompt
    assert again.prompt[len(first.prompt)].segment_id == first.answer_id
    recorded = [sum(segment.num_tokens for segment in call.prompt if not segment.is_unknown) for call in workflow.calls]
    assert recorded == [13, 18, 25, 30]


def test_all_later_prompts_have_the_same_screenshot_and_other_runs_another():
    turns = (("user", "a"), ("WebSurfer", "d\n<image>\n<image>"), ("Boss", "c"), ("Helper", "c"))
    images = [[item for item in call.prompt if item.num_tokens == IMAGE_TOKENS] for call in run(*turns).calls]
    assert [len(found) for found in images] == [0, 2, 2]
    assert images[1] == images[2]
    assert images[1][0] != images[1][1]
    (other,) = load_document(
        Document("folder/other.txt", EXAMPLE.replace("We look it up", "a")), LoadOptions(WORDS.tokenizer)
    )
    assert not {item.segment_id for item in images[1]} & {
        item.segment_id for call in other.calls for item in call.prompt
    }


def test_a_log_that_ends_early_says_so_and_one_that_is_complete_does_not():
    turns = (("user", "a"), ("Boss", "b"))
    cut = "Magentic-One: the log ends before the run did"
    assert cut in run(*turns, end="").notes
    assert cut not in run(*turns).notes


def test_what_is_printed_outside_the_scenario_is_not_read():
    more = "---------- Boss ----------\nc\n"
    assert len(run(("user", "a"), ("Boss", "b"), end=f"SCENARIO.PY COMPLETE !#!#\n{more}").calls) == 1
    (workflow,) = load(f"{more}SCENARIO.PY STARTING !#!#\n{more}")
    assert len(workflow.calls) == 1


def test_a_log_without_end_is_an_error():
    assert "more than 2,000 messages" in run(*[("Boss", "b")] * 2001).reason


def test_statistics_at_the_end_are_nobodys_words():
    assert len(run(("user", "a"), ("Boss", "b"), ("Summary", "Number of messages: 2")).calls) == 1


def test_a_speaker_may_stand_after_the_type_of_the_message():
    assert names(run(("TextMessage (user)", "a"), ("TextMessage (Boss)", "b"))) == ["Boss"]


def test_the_task_is_known_by_the_hash_of_its_text():
    turns = (("user", "a"), ("Boss", "b"))
    assert run(*turns).task == run(*turns, ("Boss", "c")).task
    assert run(*turns).task != run(("user", "b"), *turns[1:]).task
    assert run(("Boss", "c")).task == ""


def test_two_scenarios_in_one_log_are_two_workflows_and_an_empty_one_is_reported():
    one = EXAMPLE.partition("\n")[2]
    assert [item.id for item in load(one + one)] == ["magentic-one/folder/log-1", "magentic-one/folder/log-2"]
    empty, good = load("SCENARIO.PY STARTING !#!#\n" + one)
    assert isinstance(empty, Skipped)
    assert empty.where == "folder/log.txt, run 1"
    assert "no LLM call" in empty.reason
    assert good.id == "magentic-one/folder/log-2"


@pytest.mark.parametrize(
    "text",
    ['"\\nSCENARIO.PY STARTING !#!#\\n"', "a SCENARIO.PY STARTING !#!#", "x" * 300_000 + "\nSCENARIO.PY STARTING !#!#"],
)
def test_only_a_start_at_a_lines_begin_makes_it_this_format(text):
    assert not magentic.looks_like(Document("log.txt", text))
