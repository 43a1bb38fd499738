"""AG2: rules on small conversations, and counts on every real file."""

import gzip
import json
from collections import Counter

import pytest

from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, load_document, read
from sim.workflow import Tool

WORDS = LoadOptions(Tokenizer("words", lambda text: len(text.split())))


def run(*turns, hidden_calls=False, **keys):
    """The workflow of (speaker, text) turns."""
    data = {
        "instance_id": "id",
        "other_data": {"correct": True},
        "trajectory": [{"name": name, "role": "user", "content": text.split("\n")} for name, text in turns],
        **keys,
    }
    options = LoadOptions(WORDS.tokenizer, hidden_calls)
    (item,) = load_document(Document("some/folder/run.json", json.dumps(data)), options)
    return item


PAIR = (
    ("mathproxyagent", "one two three"),
    ("assistant", "a b"),
    ("mathproxyagent", "Continue. Please keep solving the problem until you need to query. (More.)"),
    ("assistant", "c d e"),
    ("mathproxyagent", "42"),
    ("assistant", "f"),
)

GROUP = (
    ("Agent_Verifier", "the problem"),
    ("chat_manager", "hello all"),
    ("Agent_Problem_Solver", "a plan"),
    ("Agent_Verifier", "exitcode: 0 fine"),
    ("Agent_Problem_Solver", "SOLUTION_FOUND 42"),
)


def test_two_agents_answers_are_calls_code_results_are_tools_and_continue_is_neither():
    workflow = run(*PAIR)
    assert [node.id for node in workflow.nodes] == ["call-0", "call-1", "tool-0", "call-2"]
    assert list(workflow.tape.output_tokens.values()) == [2, 3, 1]
    assert workflow.tape.tool_s == {"tool-0": None}
    assert [(edge.parent, edge.child) for edge in workflow.edges] == [
        ("call-0", "call-1"),
        ("call-1", "tool-0"),
        ("tool-0", "call-2"),
    ]
    assert workflow.parallelism() == 1
    assert workflow.success is True
    assert workflow.id == "ag2/folder/run"


def test_a_prompt_holds_every_message_with_four_tokens_more_each_and_three_at_the_end():
    first, second, _ = run(*PAIR).calls
    system = 5
    assert first.num_prompt_tokens == (system + 4) + (3 + 4) + 3
    assert second.num_prompt_tokens == (system + 4) + (3 + 4) + (2 + 4) + (12 + 4) + 3


def test_the_next_prompt_begins_with_the_last_prompt_and_its_answer():
    first, second, _ = run(*PAIR).calls
    length = len(first.prompt)
    assert second.prompt[:length] == first.prompt
    assert second.prompt[length].segment_id == first.answer_id


def test_in_a_group_chat_results_under_an_agents_name_are_tools():
    workflow = run(*GROUP)
    assert [(type(node) is Tool, getattr(node, "agent", "")) for node in workflow.nodes] == [
        (False, "Agent_Problem_Solver"),
        (True, ""),
        (False, "Agent_Problem_Solver"),
    ]
    first, second = workflow.calls
    assert second.prompt[: len(first.prompt)] == first.prompt
    assert any("left out" in note for note in workflow.notes)


def test_hidden_selections_come_before_each_message_and_after_a_solution():
    workflow = run(*GROUP, hidden_calls=True)
    agents = [getattr(node, "agent", "tool") for node in workflow.nodes]
    assert agents == [
        "chat_manager",
        "Agent_Problem_Solver",
        "chat_manager",
        "tool",
        "chat_manager",
        "Agent_Problem_Solver",
        "chat_manager",
    ]
    assert workflow.parallelism() == 1
    assert {edge.kind for edge in workflow.edges} == {"control", "visible"}


def test_the_instructions_before_the_problem_are_a_segment_that_runs_share():
    prompts = [
        run(("mathproxyagent", f"Use Python. {problem}"), *PAIR[1:], problem_statement=[problem]).calls[0].prompt
        for problem in ("one two three", "four five")
    ]
    one, other = prompts
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert sum(segment.num_tokens for segment in one) == (5 + 4) + (5 + 4) + 3


def test_the_introductions_come_before_the_problem_except_for_the_one_who_posed_it():
    turns = (*GROUP[:2], ("Agent_Verifier", "a doubt"), ("Agent_Problem_Solver", "a plan"))
    verifier, solver = run(*turns).calls
    assert [segment.num_tokens for segment in verifier.prompt] == [4, 150, 3, 2, 1, 6, 3]
    assert [segment.num_tokens for segment in solver.prompt] == [4, 150, 6, 6, 6, 3]
    other_problem = run(("Agent_Verifier", "another one"), *turns[1:]).calls[1]
    assert solver.prompt[:3] == other_problem.prompt[:3]
    assert [segment.is_unknown for segment in solver.prompt] == [False, True, False, False, False, False]


def test_the_managers_selection_does_not_read_its_introductions():
    select = run(*GROUP, hidden_calls=True).calls[0]
    assert select.num_prompt_tokens == 120 + (2 + 4) + 3


def test_the_manager_speaks_only_once():
    assert "nowhere else" in run(*GROUP, ("chat_manager", "more")).reason


def test_labels_are_kept():
    assert run(*PAIR, note={"options": {"Derailing from task objectives": "yes", "Other": "no"}}).labels == {
        "2.3": True,
        "Other": False,
    }


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([{"role": "user", "content": ["x"]}], 'turn 0 has no speaker; give it a "name"'),
        ([{"role": "user", "name": "assistant", "content": [3]}], "turn 0 has no text"),
        ([{"role": "user", "name": "assistant"}], "turn 0 has no text"),
        ([{"role": "user", "name": "nobody", "content": "x"}], "speakers nobody"),
        ([{"role": "user", "name": "mathproxyagent", "content": "x"}], "no LLM call"),
        ([{"role": "user", "name": "chat_manager", "content": "x"}], "introductions in turn 1"),
        ([{"role": "user", "name": "two\nlines", "content": "x"}], "the speaker of turn 0 has no usable name"),
        ([{"role": "user", "name": "assistant", "content": "x"}, "text"], "turn 1 has no speaker"),
    ],
)
def test_a_turn_that_cannot_be_read_is_named(turns, problem):
    assert problem in run(trajectory=turns).reason


@pytest.fixture(scope="module")
def originals(mast):
    with gzip.open(mast / "ag2_experiments.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["path"], json.loads(row["text"])["trajectory"]) for row in rows]


def count(originals):
    """What the rules of the format say, counted on the raw messages."""
    counts = Counter()
    for path, turns in originals:
        texts = [(turn["name"], "\n".join(turn["content"])) for turn in turns]
        if "orig_topology" in path:
            counts["calls"] += sum(name == "assistant" for name, _ in texts)
            proxy = [text for name, text in texts[1:] if name == "mathproxyagent"]
            counts["tools"] += sum(not text.startswith("Continue. Please keep") for text in proxy)
        else:
            results = sum(text.startswith("exitcode:") for _, text in texts[2:])
            counts["tools"] += results
            counts["calls"] += len(texts) - 2 - results
            counts["hidden"] += len(texts) - 2 + ("SOLUTION_FOUND" in texts[-1][1])
    return counts


def test_every_real_file_loads_with_the_calls_and_tools_of_its_messages(mast, originals):
    workflows, report = read([mast / "ag2_experiments.jsonl.gz"], WORDS)
    counts = count(originals)
    assert (len(workflows), report.skipped) == (len(originals), [])
    assert len(originals) == 1512
    assert sum(len(workflow.calls) for workflow in workflows) == counts["calls"]
    assert sum(len(workflow.tools) for workflow in workflows) == counts["tools"]
    assert {workflow.parallelism() for workflow in workflows} == {1.0}
    hidden, _ = read([mast / "ag2_experiments.jsonl.gz"], LoadOptions(WORDS.tokenizer, hidden_calls=True))
    assert sum(len(workflow.calls) for workflow in hidden) == counts["calls"] + counts["hidden"]
    assert counts == {"calls": 5162, "tools": 1763, "hidden": 3517}


def test_the_group_chats_are_as_long_as_those_of_the_full_release(originals):
    groups = [row for row in originals if "orig_topology" not in row[0]]
    counts = count(groups)
    # 2,379 group chats of the full release: 12,105 calls, 2,349 tool results, 16,743 selections.
    assert counts["calls"] / len(groups) == pytest.approx(12105 / 2379, rel=0.05)
    assert counts["tools"] / len(groups) == pytest.approx(2349 / 2379, rel=0.05)
    assert counts["hidden"] / len(groups) == pytest.approx(16743 / 2379, rel=0.05)


def test_a_run_without_end_is_an_error_and_not_a_full_memory():
    turns = [
        ("mathproxyagent", "go"),
        *((name, str(n)) for n in range(2500) for name in ("assistant", "mathproxyagent")),
    ]
    assert "cut the run" in run(*turns).reason
