"""Our own form: what it writes, what it takes from people, and what it refuses."""

import json
from dataclasses import replace

import pytest

from sim.traces import Document, LoadOptions, jsonl, load_document
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

S, T = Segment("s", 10), Segment("t", 5)
CALLS = (Call("a", "x", (S, T), "A"), Call("b", "x", (S, T, Segment("A", 3)), "B"), Call("c", "y", (S,), "C"))
EDGES = (Edge("a", "b", "visible"), Edge("b", "u", "assumed", used=False))
TAPE = Tape({"a": 3, "b": 4, "c": 1}, {"u": None}, {"a": (0.0, 1.5), "u": (2.0, 2.0)})
WORKFLOW = Workflow("w", "Test", "task", (*CALLS, Tool("u", "python")), EDGES, TAPE)


def lines(workflow):
    return [json.loads(line) for line in jsonl.dump([workflow], {})]


def read(workflow, version=2):
    text = "\n".join(map(json.dumps, [{"format": "workspan-workflows", "version": version}, workflow]))
    (item,) = load_document(Document("f.jsonl", text), LoadOptions())
    return item


def test_a_prompt_is_written_as_what_is_new_in_it_and_a_length_once():
    nodes = lines(WORKFLOW)[1]["nodes"]
    assert [node.get("continues") for node in nodes] == [None, ["a", 2], ["a", 1], None]
    assert [node.get("prompt") for node in nodes] == [[["s", 10], ["t", 5]], ["A"], [], None]


def test_times_and_unused_edges_are_written_where_there_are_any():
    data = lines(WORKFLOW)[1]
    assert [node.get("at") for node in data["nodes"]] == [[0.0, 1.5], None, None, [2.0, 2.0]]
    assert data["edges"] == [["a", "b", "visible"], ["b", "u", "assumed", False]]
    assert read(data) == WORKFLOW


@pytest.mark.parametrize("began_s", [0, 1700000000.6805902, -3.5])
def test_when_a_workflow_began_is_written_where_it_is_known(began_s):
    data = lines(replace(WORKFLOW, began_s=began_s))[1]
    assert data.pop("began_s") == began_s
    assert data == lines(WORKFLOW)[1]
    assert read(data).began_s is None
    assert read({**data, "began_s": began_s}) == replace(WORKFLOW, began_s=began_s)


@pytest.mark.parametrize("began_s", [float("nan"), float("inf"), -1e12, "1", True])
def test_when_a_workflow_began_must_be_a_time(began_s):
    assert "began" in read({**lines(WORKFLOW)[1], "began_s": began_s}).reason


def test_every_segment_of_a_workflow_is_one_object():
    calls = read(lines(WORKFLOW)[1]).calls
    assert calls[0].prompt[0] is calls[2].prompt[0]


def call(**changes):
    return {"call": "a", "agent": "x", "prompt": [["s", 5]], "answer": "A", "output_tokens": 2, **changes}


def workflow(*nodes, **changes):
    return {"id": "w", "framework": "f", "task": "t", "nodes": list(nodes), "edges": [], **changes}


def test_version_1_is_still_read():
    assert read(workflow(call()), version=1).calls[0].prompt == (Segment("s", 5),)
    for version in (3, True, 2.0, None):
        assert f"version {version}" in read(workflow(call()), version=version).reason


def test_a_key_that_occurs_twice_is_an_error():
    text = json.dumps(workflow(call())).replace('"output_tokens": 2', '"output_tokens": 2, "output_tokens": 99')
    header = json.dumps({"format": "workspan-workflows", "version": 2})
    (item,) = load_document(Document("f.jsonl", f"{header}\n{text}"), LoadOptions())
    assert "the key 'output_tokens' occurs twice" in item.reason


def test_a_message_shows_only_the_beginning_of_what_stands_in_the_file():
    secret = "the patient " * 100
    for data in (
        workflow(call(), edges=[["a", "a", secret]]),
        workflow(call(), edges=[[secret, "a", "visible"]]),
        workflow(call(prompt=[secret])),
        workflow(call(prompt=[[secret, secret]])),
        workflow(call(**{secret: 1})),
        workflow(call(continues=[secret, 2])),
    ):
        assert len(read(data).reason) < 300


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (workflow(call(prompt=["s"])), "segment 's' has no length before; give it as"),
        (workflow(call(prompt=[["s", 5, 1]])), "should be of the form ['str', 'int']"),
        (workflow(call(prompt=[["s", True]])), "should be of the form"),
        (workflow(call(continues=["z", 1])), "continues 1 segments of 'z'"),
        (workflow(call(), call(call="b", answer="B", continues=["a", 2])), "continues 2 segments of 'a'"),
        (workflow(call(), call(call="b", answer="B", continues=["a", -1])), "continues -1 segments of 'a'"),
        (workflow(call(continues=["a"])), "continues"),
        (workflow(call(continues=["z", 0])), "continues 0 segments of 'z'"),
        (workflow(call(), edges=[["a", "a", "visible"], ["a", "a", "control"]]), "2 edges a -> a; give one"),
        (workflow(call(prompt=[["s", 10**12]])), "more than 100,000,000 tokens"),
        (workflow(call(output_tokens=10**9)), "more than 100,000,000 tokens"),
        (workflow(call(at=[1])), "at: [1] should be of the form"),
        (workflow(call(at=[2, 1])), "the recorded time of 'a' must be"),
        (workflow(call(at=[-1, 1])), "the recorded time of 'a' must be"),
        (workflow(call(), edges=[["a", "a", "visible", 1]]), "edges"),
        (workflow(call(when=3)), "unknown key 'when'"),
        (workflow({"tool": "t", "name": "n", "duration_s": 1, "continues": ["a", 1]}), "unknown key 'continues'"),
    ],
)
def test_what_is_wrong_is_named(data, problem):
    assert problem in read(data).reason
