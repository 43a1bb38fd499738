import gzip
import json
from dataclasses import replace

import pytest
from release_texts import listing, reprs

from sim.ag2_text import as_json
from sim.errors import TraceError
from sim.traces import Document, LoadOptions, load_document

RUN = {
    "instance_id": "id",
    "problem_statement": ["one two"],
    "other_data": {"correct": False, "answer": "3"},
    "trajectory": [
        {"content": ["Use Python.", "", "Problem:", "one two"], "role": "assistant", "name": "mathproxyagent"},
        {"content": ["    it's", 'a "quoted" \\ line', "role: none"], "role": "user", "name": "assistant"},
    ],
}


def workflow(text):
    (item,) = load_document(Document("folder/file.json", text), LoadOptions())
    return item


def test_the_listing_says_what_the_json_says():
    data = json.loads(as_json(listing(RUN)))
    assert data["trajectory"] == RUN["trajectory"]
    assert (data["instance_id"], data["problem_statement"]) == ("id", "one two")
    assert data["other_data"] == {"correct": False}
    assert workflow(as_json(listing(RUN))) == workflow(json.dumps(RUN))


def test_what_follows_the_trajectory_is_no_part_of_it():
    assert as_json(listing(RUN) + "note:\n      text: x\n      options:\n") == as_json(listing(RUN))


def test_a_listing_may_have_its_values_in_the_keys_lines_and_its_keys_in_another_order():
    message = "      role: user\n      name: assistant\n      content: a\n"
    data = json.loads(as_json(f"\n\ninstance_id: id\nproblem_statement: p\n\ntrajectory:\n{message}{message}"))
    assert data["trajectory"] == [{"role": "user", "name": "assistant", "content": ["a"]}] * 2
    assert data["other_data"] == {}


def test_dictionaries_say_what_the_json_says_but_the_result():
    data = json.loads(as_json(reprs(RUN)))
    assert data["trajectory"] == RUN["trajectory"]
    assert data["problem_statement"] == "one two"
    assert replace(workflow(as_json(reprs(RUN))), task="id", success=False) == workflow(json.dumps(RUN))


def test_dictionaries_may_begin_with_any_of_their_keys():
    turned = {**RUN, "trajectory": [dict(sorted(turn.items(), reverse=True)) for turn in RUN["trajectory"]]}
    assert reprs(turned).startswith("{'role'")
    assert workflow(as_json(reprs(turned))) == workflow(as_json(reprs(RUN)))


def test_dictionaries_may_have_their_texts_whole_and_line_feeds_in_them():
    text = """{'content': 'a } {\\'content\\': b\nc', 'role': None, 'name': "assistant"}"""
    (turn,) = json.loads(as_json(text))["trajectory"]
    assert turn == {"content": "a } {'content': b\nc", "role": None, "name": "assistant"}


@pytest.mark.parametrize(
    "text",
    [
        "{'content': ['a'], 'role': 'user'",
        "{'content': ['a",
        "{'content': 'a'} ?",
        "{'content': 'a'} {'content': (1)}",
        "{'content': '\\N{nothing}'}",
        "{'content': " + "[" * 100_000,
        "{'content': '\ud800'}",
    ],
)
def test_dictionaries_that_break_off_are_an_error(text):
    with pytest.raises(TraceError, match="no Python dictionaries, or were cut off"):
        as_json(text)


def test_a_problem_with_half_a_surrogate_pair_has_an_id():
    assert json.loads(as_json("{'content': '\\ud800'}"))["instance_id"]


@pytest.mark.parametrize(
    "text", ["", "a text", '{"instance_id": "id", "trajectory": []}', "instance_id: id\n", "[{'content': 1}]"]
)
def test_any_other_text_has_neither_form(text):
    assert as_json(text) is None


def test_a_long_text_without_end_takes_no_longer_than_it_is_long():
    assert len(json.loads(as_json("instance_id:\ntrajectory:" + "\n      content:" * 100_000))["trajectory"]) == 100_000
    with pytest.raises(TraceError):
        as_json("{'content': 'a'} " + "{'content':" * 100_000 + "'" + "\\" * 100_001)


def test_real_runs_in_both_forms_are_the_workflows_of_their_json(mast):
    with gzip.open(mast / "ag2_experiments.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    for text in texts[::9]:
        expected = workflow(text)
        data = json.loads(text)
        assert workflow(as_json(listing(data))) == expected
        # Without a header nothing says whether the answer was right; the id of the problem follows from it.
        assert workflow(as_json(reprs(data))) == replace(expected, success=None)
