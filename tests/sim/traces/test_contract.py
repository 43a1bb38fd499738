"""What every format promises: it knows its own, survives damage, and loses nothing on the way to our own form."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import workflows

from sim.traces import Document, LoadOptions, Skipped, formats, jsonl, load_document
from sim.workflow import Workflow

MESSAGES = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
WORKFLOW = {
    "id": "w",
    "framework": "Test",
    "task": "t",
    "nodes": [
        {"call": "a", "agent": "x", "prompt": [["s", 5]], "answer": "A", "output_tokens": 2},
        {"tool": "t", "name": "python", "duration_s": 1.5},
    ],
    "edges": [["a", "t", "visible"]],
}
#: One document per format, as data; a new format adds its own.
EXAMPLES = {
    "ag2": {
        "instance_id": "id",
        "other_data": {"correct": False},
        "trajectory": [
            {"role": "assistant", "name": "mathproxyagent", "content": ["a problem"]},
            {"role": "user", "name": "assistant", "content": ["an answer"]},
        ],
    },
    "appworld_dag": {
        "metadata": {"task_id": "t_1", "task_description": "do it"},
        "nodes": [{"type": "agent_response", "agent": "Supervisor", "content": "Response\n    print(1)"}],
        "edges": [],
    },
    "jsonl": [{"format": "workspan-workflows", "version": 1, "origin": "test"}, WORKFLOW],
    "peer_review": {"instance_id": "id", "trajectory": {"0": MESSAGES, "1": MESSAGES}},
}
FORMATS = sorted(formats())


def text_of(name, data):
    lines = data if name == "jsonl" and isinstance(data, list) else [data]
    return "\n".join(json.dumps(line) for line in lines)


def load(text):
    return list(load_document(Document("file.json", text), LoadOptions()))


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_knows_its_own_example_and_no_other(name):
    documents = {other: Document("file", text_of(other, example)) for other, example in EXAMPLES.items()}
    assert [other for other, document in documents.items() if formats()[name].looks_like(document)] == [name]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "3", '"text"', "no JSON", '{"trajectory": []}', "\x00"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_does_not_claim_what_it_cannot_read(name, text):
    assert not formats()[name].looks_like(Document("file", text))


@pytest.mark.parametrize("name", FORMATS)
def test_loading_twice_gives_the_same_and_our_own_form_gives_it_back(name):
    text = text_of(name, EXAMPLES[name])
    (workflow,) = load(text)
    assert [workflow] == load(text)
    assert isinstance(workflow, Workflow)
    assert load("".join(jsonl.dump([workflow], {"origin": "test"}))) == [workflow]


@given(workflows())
def test_our_own_form_is_lossless(workflow):
    assert load("".join(jsonl.dump([workflow], {}))) == [workflow]


# Half a surrogate pair is JSON but no UTF-8; nothing may choke on it.
strings = st.text(max_size=5) | st.just("\ud800") | st.just("\ud800" * 200)
junk = st.none() | st.booleans() | st.integers() | st.floats() | strings | st.just([]) | st.just({})


@st.composite
def damaged(draw, data):
    """The data with a value somewhere in it replaced or removed."""
    data = copy.deepcopy(data)
    place = data
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return data
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            del place[key]
        else:
            place[key] = draw(junk)
        return data


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_document_gives_workflows_or_reasons_and_never_an_error(name, data):
    text = text_of(name, data.draw(damaged(EXAMPLES[name])))
    items = load(text)
    assert items
    assert all(isinstance(item, Workflow | Skipped) for item in items)
    read = [item for item in items if isinstance(item, Workflow)]
    assert not read or load("".join(jsonl.dump(read, {})).encode().decode()) == read


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_document_cut_anywhere_gives_reasons(name, data):
    text = text_of(name, EXAMPLES[name])
    items = load(text[: data.draw(st.integers(0, len(text) - 1))])
    assert items
    assert all(isinstance(item, Skipped) and item.reason for item in items)
