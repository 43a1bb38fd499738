"""What every format promises: it knows its own, survives damage, and loses nothing on the way to our own form."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import workflows

from sim.traces import Document, LoadOptions, Skipped, formats, jsonl, load_document
from sim.workflow import Workflow

#: One document per format, named after it: a new format adds its own, with at least one workflow in it.
EXAMPLES = {path.stem: path for path in sorted((Path(__file__).parent / "examples").iterdir())}
FORMATS = sorted(formats())


def text_of(name):
    return EXAMPLES[name].read_text(encoding="utf-8")


def load(text):
    return list(load_document(Document("folder/file.json", text), LoadOptions()))


def test_every_format_has_an_example():
    assert sorted(EXAMPLES) == FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_knows_its_own_example_and_no_other(name):
    documents = {other: Document("file", text_of(other)) for other in EXAMPLES}
    assert [other for other, document in documents.items() if formats()[name].looks_like(document)] == [name]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "3", '"text"', "no JSON", '{"trajectory": []}', "\x00"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_does_not_claim_what_it_cannot_read(name, text):
    assert not formats()[name].looks_like(Document("file", text))


@pytest.mark.parametrize("name", FORMATS)
def test_loading_twice_gives_the_same_and_our_own_form_gives_it_back(name):
    read = load(text_of(name))
    assert read == load(text_of(name))
    assert read
    assert all(isinstance(item, Workflow) for item in read)
    assert load("".join(jsonl.dump(read, {"origin": "test"}))) == read


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


@st.composite
def tattered(draw, text):
    """The text with pieces lost, doubled, moved, or turned into what no log has."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 80)))
        piece, lines = text[start:end], text.split("\n")
        text = draw(
            st.sampled_from(
                [
                    text[:start],
                    text[:start] + text[end:],
                    text[:end] + piece + text[end:],
                    text[:start] + "\x00\ufffd\u2028\r" + text[end:],
                    text[:start] + "x" * 20_000 + text[end:],
                    "\n".join(draw(st.permutations(lines))),
                    "\n".join(reversed(lines)),
                    text.replace("\n", "\r\n"),
                ]
            )
        )
    return text


def check(text):
    """A damaged document gives something, and no error; what it gives can be kept."""
    items = load(text)
    assert items
    assert all(isinstance(item, Workflow) or (isinstance(item, Skipped) and item.reason) for item in items)
    read = [item for item in items if isinstance(item, Workflow)]
    assert not read or load("".join(jsonl.dump(read, {})).encode().decode()) == read


@pytest.mark.parametrize("name", [name for name in FORMATS if EXAMPLES[name].suffix in (".json", ".jsonl")])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_json_gives_workflows_or_reasons_and_never_an_error(name, data):
    if EXAMPLES[name].suffix == ".json":
        check(json.dumps(data.draw(damaged(json.loads(text_of(name))))))
    else:
        lines = [json.loads(line) for line in text_of(name).splitlines()]
        check("\n".join(map(json.dumps, data.draw(damaged(lines)))))


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_tattered_text_gives_workflows_or_reasons_and_never_an_error(name, data):
    check(data.draw(tattered(text_of(name))))


@pytest.mark.parametrize("name", [name for name in FORMATS if EXAMPLES[name].suffix == ".json"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_json_cut_anywhere_gives_reasons(name, data):
    text = text_of(name).rstrip()
    items = load(text[: data.draw(st.integers(0, len(text) - 1))])
    assert items
    assert all(isinstance(item, Skipped) and item.reason for item in items)
