from dataclasses import replace
from pathlib import Path

import pytest

from sim.appworld import SYSTEM_TOKENS
from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, Skipped, appworld_text, load_document, read
from sim.workflow import Call, Workflow

WORDS = LoadOptions(Tokenizer("words", lambda text: len(text.split())))
EXAMPLE = (Path(__file__).parent / "examples" / "appworld_text.txt").read_text(encoding="utf-8")
HEADER = "*** Task 1/1 (t_1)  ***\n"


def load(text):
    return list(load_document(Document("folder/log.txt", text), WORDS))


def task(text):
    (workflow,) = load(HEADER + text)
    return workflow


def test_every_task_of_a_file_is_a_workflow_of_its_own():
    first, second = load(EXAMPLE)
    assert [(workflow.id, workflow.task, workflow.success) for workflow in (first, second)] == [
        ("appworld/abc1234_1", "abc1234_1", True),
        ("appworld/abc1234_2", "abc1234_2", False),
    ]
    assert [len(workflow.calls) for workflow in (first, second)] == [4, 1]


def test_code_that_ran_is_a_tool_and_a_message_to_an_app_is_none():
    first, _ = load(EXAMPLE)
    assert [node.agent if isinstance(node, Call) else "tool" for node in first.nodes] == [
        "Supervisor",
        "Notes",
        "tool",
        "Notes",
        "Supervisor",
        "tool",
    ]
    assert first.parallelism() == 1
    assert [(edge.kind, edge.used) for edge in first.edges] == [("visible", True)] * 5


def test_a_prompt_has_the_unknown_system_prompt_and_what_its_agent_was_told_and_said():
    first, _ = load(EXAMPLE)
    system = 4 + SYSTEM_TOKENS
    assert [call.num_prompt_tokens for call in first.calls] == [
        system + (3 + 4) + 3,
        system + (3 + 4) + 3,
        system + (3 + 4) + (1 + 4) + (1 + 4) + 3,
        system + (3 + 4) + (8 + 4) + (3 + 4) + 3,
    ]
    assert list(first.tape.output_tokens.values()) == [8, 1, 3, 1]


def test_a_second_loop_of_the_same_app_starts_afresh():
    loop = EXAMPLE[EXAMPLE.index("Entering") : EXAMPLE.index("Response from send_message")]
    calls = task(loop + loop).calls
    assert [call.prompt for call in calls[2:]] == [call.prompt for call in calls[:2]]


def test_a_line_that_a_text_quotes_begins_no_block():
    quoted = "Response from Supervisor Agent\n    Response from Supervisor Agent\n    print(1)\n"
    assert len(task(quoted).calls) == 1
    inside = "Entering a Agent message loop\nResponse from A Agent\n        Response from A Agent\n"
    assert len(task(inside).calls) == 1


def test_a_task_without_calls_or_with_no_name_is_skipped_and_the_next_one_read():
    empty, unnamed, good = load(HEADER + "text\n*** Task 2/2 ()  ***\n" + EXAMPLE.split("\n\n\n")[-2].lstrip())
    assert empty == Skipped("folder/log.txt, task 1", "workflow appworld/t_1: no LLM call; leave it out, or add one")
    assert unnamed.where == "folder/log.txt, task 2"
    assert "the task has no usable name" in unnamed.reason
    assert isinstance(good, Workflow)


def test_what_stands_before_the_first_task_is_reported():
    lost, *read = load("Response from Supervisor Agent\n    print(1)" + EXAMPLE)
    assert lost.reason == "the task that ends at line 3 has no header; give it one"
    assert read == load(EXAMPLE)
    assert len(load("a greeting\n" + EXAMPLE)) == 2


def test_a_task_without_end_is_an_error():
    (lost,) = load(HEADER + "Response from Supervisor Agent\n" * 2001)
    assert "more than" in lost.reason


@pytest.mark.parametrize("text", ["x" * 3000 + "\n" + HEADER, '"\\n*** Task 1/1 (t_1)  ***\\n"', "Task 1/1 (t_1)"])
def test_only_a_header_in_the_first_lines_makes_it_this_format(text):
    assert not appworld_text.looks_like(Document("log.txt", text))


def test_the_real_text_gives_the_workflow_that_its_dag_gives(mast):
    folder = mast / "appworld"
    (text,), report = read([folder / "aa8502b_1_trace.reconstructed.txt"])
    (dag,), _ = read([folder / "aa8502b_1_dag.json"])
    assert report.skipped == []
    assert text == dag
    # FORMATS.md, section 7: 7 answers of the Supervisor and 4 of Spotify's agent.
    assert [call.agent for call in text.calls].count("Supervisor") == 7
    assert (len(text.calls), len(text.tools), text.success) == (11, 7, False)


def test_two_real_tasks_in_one_file_are_two_workflows(mast):
    original = (mast / "appworld" / "aa8502b_1_trace.reconstructed.txt").read_text(encoding="utf-8")
    one, other = load(original + original.replace("(aa8502b_1)", "(aa8502b_2)"))
    assert other == replace(one, id="appworld/aa8502b_2", task="aa8502b_2")


def test_a_header_that_is_broken_across_lines_is_reported():
    text = "******************** Task 1/2 (abc1\n234_1)  ********************\nhi\n"
    (item,) = load_document(Document("t.txt", text), LoadOptions())
    assert "no task's header stands whole on its line" in item.reason
