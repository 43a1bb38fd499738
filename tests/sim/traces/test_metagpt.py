"""MetaGPT: both forms of a log on made-up runs, and counts on every real file."""

import gzip
import json
import re
from collections import Counter
from datetime import datetime
from statistics import median

import pytest

from sim.choices import without_unknown
from sim.stats import prefix_reuse
from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, Skipped, load_document, read
from sim.workflow import Edge, Workflow

WORDS = LoadOptions(Tokenizer("words", lambda text: len(text.split())))
ROLES = {"C": "SimpleCoder", "T": "SimpleTester", "R": "SimpleReviewer"}
CHAIN = ((0, "C", "a b c"), (2, "T", "d e"), (5, "R", ""), (8.6, "T", "f"), (10, "R", ""))


def load(text):
    (item,) = load_document(Document("some/runs/run_1.json", text), WORDS)
    return item


def content(*actions):
    """The log of (second, role, text) actions."""
    lines = []
    for second, role, text in actions:
        role = ROLES.get(role, role)
        lines.append(f"2025-01-02 10:20:{second:06.3f} | INFO     | a.b:_act:1 - Ann({role}): to do Some(Some)")
        lines += text.split("\n") if text else []
    return "\n".join(lines)


def run(*actions, **keys):
    """The workflow of a run in JSON."""
    data = {"run_id": 1, "prompt": "the task", "content": content(*actions), "log_file": "x", **keys}
    return load(json.dumps(data))


def log(*messages, end="=== Communication Log Ended at 2025-01-02 10:21:00 ===\n"):
    """The text of a communication log, of (second, role, text)."""
    rule = "-" * 80
    blocks = [
        "=== MetaGPT Agent Communication Log - Started at 2025-01-02 10:20:00 ===\n",
        f"[2025-01-02 10:20:00] FROM: Human TO: {{'<all>'}}\nACTION: x.UserRequirement\nCONTENT:\nthe task\n{rule}\n",
    ]
    for second, role, text in messages:
        blocks.append(f"[2025-01-02 10:20:{second:02}] NEW MESSAGES:\n\n{ROLES[role]}: \n{text}\n{rule}\n")
    return "\n".join([*blocks, end])


def edges(workflow):
    return {(edge.parent[-1], edge.child[-1]) for edge in workflow.edges}


def test_every_action_is_a_call_and_the_team_a_chain():
    workflow = run(*CHAIN)
    assert [call.agent for call in workflow.calls] == [ROLES[letter] for letter in "CTRTR"]
    assert (workflow.work(), workflow.span()) == (5, 5)
    assert edges(workflow) == {
        ("0", "1"),
        ("1", "2"),
        ("0", "3"),
        ("1", "3"),
        ("2", "3"),
        ("1", "4"),
        ("2", "4"),
        ("3", "4"),
    }
    assert {(edge.kind, edge.used) for edge in workflow.edges} == {("visible", True)}
    assert (workflow.id, workflow.tools, workflow.tape.times) == ("metagpt/runs/run_1", (), {})
    assert (workflow.success, workflow.labels) == (None, {})


def test_a_role_reads_what_it_watches_and_what_it_said_itself():
    first, second, third, fourth, fifth = without_unknown(run(*CHAIN)).calls
    # Each message has its speaker's name before it, each prompt 4 + 3 tokens of chat template.
    assert first.num_prompt_tokens == 7 + (1 + 2)
    assert second.num_prompt_tokens == 7 + (1 + 3)
    assert third.num_prompt_tokens == 7 + (1 + 2)
    assert fourth.num_prompt_tokens == 7 + (1 + 3) + (2 + 2) + 2
    assert fifth.num_prompt_tokens == 7 + (1 + 2) + 2 + (2 + 1)
    assert fourth.prompt[:2] == second.prompt[:2]
    assert fifth.prompt[:2] == third.prompt[:2]
    assert len({call.prompt[0] for call in (first, second, third)}) == 3


def test_a_missing_review_is_as_long_as_the_time_to_the_next_start_allows_and_else_as_usual():
    workflow = run(*CHAIN)
    reviews = [call for call in workflow.calls if call.agent == "SimpleReviewer"]
    assert [workflow.tape.output_tokens[call.id] for call in reviews] == [round((3.6 - 1.31) / 0.0229), 134]
    assert all(call.answer_is_unknown for call in reviews)
    assert reviews[0].answer_id in [segment.segment_id for segment in workflow.calls[3].prompt]
    assert any("reviewer" in note for note in workflow.notes)
    assert reviews[1].answer_id not in [call.answer_id for call in run(*CHAIN, prompt="else").calls[:3]]


@pytest.mark.parametrize("second", [1, 5, 5.5, 59.9])
def test_a_time_that_tells_no_length_gives_the_usual_one(second):
    """The clock goes back, stands still, or is too quick; a long time is one while an LLM may generate that long."""
    workflow = run((5, "R", ""), (second, "T", "a"))
    tokens = workflow.tape.output_tokens["call-0"]
    assert tokens == (round((54.9 - 1.31) / 0.0229) if second == 59.9 else 134)


def test_a_time_that_is_too_long_gives_the_usual_length():
    text = content((0, "R", "")) + "\n" + content((0, "T", "a")).replace("10:20", "12:20")
    assert run(content=text).tape.output_tokens["call-0"] == 134


def test_templates_are_estimated_and_follow_what_is_remembered():
    for call, tokens in zip(run(*CHAIN).calls, (30, 40, 15, 40, 15), strict=True):
        assert call.prompt[-2].is_unknown
        assert call.prompt[-2].num_tokens == tokens


def test_who_reads_nothing_of_the_call_before_waits_for_it_by_rule_only():
    workflow = run((0, "C", "a"), (1, "C", "b"), (2, "R", "c"))
    assert workflow.edges == (
        Edge("call-0", "call-1", "visible"),
        Edge("call-1", "call-2", "assumed", used=False),
    )


def test_the_text_form_gives_the_same_calls_with_the_reviews():
    messages = [(3, "C", "a b c"), (9, "T", "d e"), (12, "R", "so so"), (20, "T", "f"), (21, "R", "fine")]
    workflow = load(log(*messages))
    other = run(*((second, role, text) for second, role, text in messages))
    assert workflow.calls == other.calls
    assert workflow.edges == other.edges
    assert workflow.task == other.task
    assert list(workflow.tape.output_tokens.values()) == [3, 2, 2, 1, 1]
    assert not any("reviewer" in note or "no end" in note for note in workflow.notes)


def test_a_text_that_stops_says_so_and_an_empty_message_is_estimated():
    workflow = load(log((3, "C", "a"), (7, "T", ""), end=""))
    assert workflow.tape.output_tokens["call-1"] == round((4 - 1.31) / 0.0229)
    assert any("no end" in note for note in workflow.notes)


def test_the_text_on_the_line_of_the_name_counts_and_line_ends_of_windows_do_not_matter():
    text = log((3, "C", "b c"), (5, "T", "d")).replace("SimpleCoder: \n", "SimpleCoder: a\n")
    assert load(text).tape.output_tokens["call-0"] == 3
    assert load(text.replace("\n", "\r\n")).tape.output_tokens["call-0"] == 3


def test_a_copy_without_the_lines_of_actions_is_left_out():
    item = run(content="```python\nx\n```")
    assert isinstance(item, Skipped)
    assert "run_N.json" in item.reason


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (lambda: run(content=None), '"content" must be texts'),
        (lambda: run(prompt=3), '"prompt" and "content"'),
        (lambda: run((1, "Manager", "x")), "role Manager is none of SimpleCoder"),
        (lambda: run((1, "a\u2028b", "x")), "the role of call 0 has no usable name"),
        (lambda: run(content="lost\n" + content((1, "C", "x"))), "the log's begin is missing"),
        (lambda: run(content=content((1, "C", "x")).replace("01-02", "13-32")), "2025-13-32 10:20:01.000 is no time"),
        (
            lambda: run(content=content((1, "C", "x"), (2, "T", "y")).replace("(SimpleTester)", "")),
            "no start of an action",
        ),
        (lambda: run(*[(1, "C", "x")] * 501), "501 calls, at most 500"),
        (lambda: load(log((1, "C", "x")).replace("CONTENT:", "")), "block 0 has no text"),
        (lambda: load(log((1, "C", "x")).replace("SimpleCoder: ", "some words")), "block 1 has no speaker"),
        (lambda: load(log((1, "C", "x")).replace("FROM: Human", "FROM: Ann")), "the first block must be"),
        (lambda: load(log((1, "C", "x")).replace("NEW MESSAGES:", "FROM: Human TO: x\nCONTENT: y")), "role Human"),
        (lambda: load(log()), "no LLM call"),
        (lambda: load("=== MetaGPT Agent Communication Log"), "the first block must be"),
    ],
)
def test_what_cannot_be_read_is_named(item, problem):
    assert problem in item().reason


def test_a_log_cut_anywhere_gives_a_workflow_or_a_reason():
    text = log((3, "C", "a b"), (9, "T", "c"), (12, "R", "d"))
    for end in range(len("=== MetaGPT Agent Communication Log"), len(text)):
        item = load(text[:end])
        assert isinstance(item, Workflow) or item.reason


@pytest.fixture(scope="module")
def originals(mast):
    with gzip.open(mast / "metagpt.jsonl.gz", "rt") as lines:
        rows = map(json.loads, lines)
        return {row["path"].rpartition("/")[2]: json.loads(row["text"]) for row in rows}


def test_the_31_real_runs_are_chains_of_five(mast, originals):
    workflows, report = read([mast / "metagpt.jsonl.gz"], WORDS)
    assert len(workflows) == 31
    assert Counter(skipped.reason[:20] for skipped in report.skipped) == {
        "the same, byte for b": 31,
        "no line says which r": 31,
    }
    for workflow in workflows:
        assert [call.agent for call in workflow.calls] == [ROLES[letter] for letter in "CTRTR"]
        assert (workflow.span(), len(workflow.edges)) == (5, 8)
        text = originals[workflow.id.rpartition("/")[2] + ".json"]["content"]
        known = [workflow.tape.output_tokens[call.id] for call in workflow.calls if not call.answer_is_unknown]
        assert known == [len(part.split()) for part in re.split(r"^20.*\n?", text, flags=re.M) if part.strip()]


def test_the_files_without_lines_of_actions_are_the_same_runs(originals):
    same = 0
    for number in range(1, 32):
        full, copy = originals[f"run_{number}.json"], originals[f"run_{number}_new.json"]
        lines = [line for line in full["content"].split("\n") if not re.match(r"20\d\d-\d\d-\d\d ", line)]
        assert {key for key in full if full[key] != copy[key]} == {"content", "timestamp"}
        assert set(copy["content"].split("\n")) <= set(lines)
        same += copy["content"].split("\n") == lines
    assert same == 23


def test_the_usual_length_of_a_review_is_the_median_of_those_whose_time_is_known(originals):
    lengths = []
    for number in range(1, 32):
        starts = re.findall(r"^(\S+ \S+) \|.*\((\w+)\): to do", originals[f"run_{number}.json"]["content"], flags=re.M)
        times = [datetime.fromisoformat(time) for time, _ in starts]
        assert starts[2][1] == "SimpleReviewer"
        lengths.append(((times[3] - times[2]).total_seconds() - 1.31) / 0.0229)
    assert round(median(lengths)) == 134


def test_prompts_are_reused_as_measured(mast):
    workflows = [without_unknown(workflow) for workflow in read([mast / "metagpt.jsonl.gz"])[0]]
    prompts = sum(call.num_prompt_tokens for workflow in workflows for call in workflow.calls)
    assert sum(map(prefix_reuse, workflows)) / prompts == pytest.approx(0.296, abs=0.02)
