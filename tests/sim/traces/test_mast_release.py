"""MAST's release, which is not at hand: records made of small runs, and of the original files of its frameworks."""

import gzip
import json
from pathlib import Path

import pytest
from release_texts import listing, reprs

from sim.failures import MODES
from sim.traces import Document, LoadOptions, Skipped, load_document, mast_release, read
from sim.workflow import Workflow

EXAMPLES = Path(__file__).parent / "examples"
EXAMPLE = json.loads((EXAMPLES / "mast_release.json").read_text(encoding="utf-8"))
APPWORLD = (EXAMPLES / "appworld_text.txt").read_text(encoding="utf-8")
NONE = dict.fromkeys(MODES, 0)


def record(trajectory, **keys):
    """A record of the full release."""
    number = keys.pop("trace_id", 0)
    return {
        "mas_name": "AG2",
        "llm_name": "GPT4o",
        "benchmark_name": "GSM",
        "trace_id": number,
        "trace": {"key": "AG2_GSM_GPT4o", "index": number, "trajectory": trajectory},
        "mast_annotation": NONE,
        **keys,
    }


def human(trajectory, annotations, **keys):
    """A record of the human-labelled part."""
    trace = {"mas_name": "AG2", "benchmark_name": "GSM", "trace_id": 0, "trace": trajectory, "round": "Round 1"}
    return {**trace, "annotations": annotations, **keys}


def mode(title, *votes):
    return {"failure mode": title, **{f"annotator_{number}": vote for number, vote in enumerate(votes, start=1)}}


def ag2(answer):
    """The text of a small run."""
    turns = (("mathproxyagent", "a problem"), ("assistant", answer))
    return " ".join(repr({"content": text, "role": "user", "name": name}) for name, text in turns)


def load(*records):
    return list(load_document(Document("folder/MAD.json", json.dumps(records)), LoadOptions()))


def test_every_record_is_read_by_the_loader_that_knows_its_text():
    items = load(*EXAMPLE)
    assert [(item.id, item.framework) for item in items] == [
        ("mast/AG2/GSM-Plus/GPT4o/0-0", "AG2"),
        ("mast/AppWorld/Test-C/GPT-4o/0-1", "AppWorld"),
        ("mast/MagenticOne/GAIA/GPT4o/1-2", "Magentic-One"),
    ]
    assert [sorted(code for code, present in item.labels.items() if present) for item in items] == [["3.2"], [], []]
    assert all(list(item.labels) == list(MODES) for item in items)
    assert not [note for item in items for note in item.notes if note.startswith("MAST")]


METAGPT = f"""=== MetaGPT Agent Communication Log - Started at 2025-01-02 10:20:00 ===

[2025-01-02 10:20:00] FROM: Human TO: {{'<all>'}}
ACTION: x.UserRequirement
CONTENT:
the task
{"-" * 80}

[2025-01-02 10:20:05] NEW MESSAGES:

SimpleCoder:
the code
{"-" * 80}

=== Communication Log Ended at 2025-01-02 10:21:00 ===
"""


def test_openmanus_metagpt_and_both_forms_of_ag2_are_read_too():
    openmanus = (EXAMPLES / "openmanus.log").read_text(encoding="utf-8")
    data = json.loads((EXAMPLES / "ag2.json").read_text(encoding="utf-8")) | {"problem_statement": ["a problem"]}
    texts = (openmanus, METAGPT, listing(data), reprs(data), json.dumps(data))
    assert [item.framework for item in load(*map(record, texts))] == ["OpenManus", "MetaGPT", "AG2", "AG2", "AG2"]


def test_runs_are_named_after_their_place_as_no_three_names_are_unique():
    first, second = load(record(ag2("b")), record(ag2("c")))
    assert (first.id, second.id) == ("mast/AG2/GSM/GPT4o/0-0", "mast/AG2/GSM/GPT4o/0-1")


def test_what_is_unknown_of_one_run_is_not_what_is_unknown_of_another():
    logs = [EXAMPLE[2]["trace"]["trajectory"].replace("FINAL ANSWER: 42", f"FINAL ANSWER: {end}") for end in "ab"]
    one, other = load(*map(record, logs))
    unknown = [
        {segment.segment_id for call in run.calls for segment in call.prompt if segment.is_unknown}
        for run in (one, other)
    ]
    assert all(name.startswith("unknown:system:") for name in unknown[0] & unknown[1])
    assert unknown[0] - unknown[1]


def test_a_record_with_several_runs_gives_each_a_name_and_none_the_labels():
    first, second = load(record(APPWORLD, mas_name="AppWorld", mast_annotation=NONE | {"1.1": 1}))
    assert (first.id, second.id) == ("mast/AppWorld/GSM/GPT4o/0-0/1", "mast/AppWorld/GSM/GPT4o/0-0/2")
    assert (first.labels, second.labels) == ({}, {})
    assert any("annotated as a whole" in note for note in first.notes)


def test_a_run_that_cannot_be_read_leaves_the_other_one_of_its_record_its_labels():
    task = APPWORLD[APPWORLD.rindex("\n***") :]
    lost, good = load(record("*** Task 1/2 (abc1234_1)  ***\nCount." + task, mas_name="AppWorld"))
    assert lost.where == "folder/MAD.json, record 0, task 1"
    assert (good.id, dict(good.labels)) == ("mast/AppWorld/GSM/GPT4o/0-0", dict.fromkeys(MODES, False))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (3, "no trajectory; a record needs"),
        ({"mas_name": "AG2"}, "no trajectory; a record needs"),
        (record(None), "no trajectory; a record needs"),
        (record(" \n"), "no trajectory; a record needs"),
        (record("what no loader knows"), "no format that workspan reads"),
        (record("{'content': ['a"), "no Python dictionaries, or were cut off"),
        (record(ag2("b"), mas_name="two\nlines"), '"mas_name" has no usable name'),
        (record(ag2("b"), trace_id=["0"]), '"trace_id" has no usable name'),
        (record(json.dumps([record(ag2("b"))])), "a release itself"),
        (record(ag2("z")), "the same, byte for byte, as that of record 0"),
        (
            record('{"instance_id": "i", "trajectory_equals_raw_log": true, "problem_statement": "p"}'),
            "describes runs and records none",
        ),
    ],
)
def test_a_record_that_gives_nothing_is_named_with_its_reason(broken, problem):
    first, lost, last = load(record(ag2("z")), broken, record(ag2("y")))
    assert isinstance(first, Workflow)
    assert isinstance(last, Workflow)
    assert lost.where == "folder/MAD.json, record 1"
    assert problem in lost.reason


def test_names_that_are_missing_are_unknown():
    (item,) = load(record(ag2("b"), mas_name=None, llm_name="", benchmark_name=None, trace_id=None))
    assert item.id == "mast/unknown/unknown/unknown/unknown-0"
    assert not [note for note in item.notes if "the record names" in note]


def test_a_log_of_another_system_than_the_record_names_says_so():
    (item,) = load(record(ag2("b"), mas_name="ChatDev"))
    assert "MAST: the record names ChatDev, its log is one of AG2" in item.notes


@pytest.mark.parametrize("annotation", [None, {}, {"1.1": 2}, {"9.9": 1}, ["1.1"], {"1.1 Disobey": 0}])
def test_an_annotation_that_cannot_be_read_leaves_the_run_without_labels(annotation):
    (item,) = load(record(ag2("b"), mast_annotation=annotation))
    assert item.labels == {}
    assert any("no labels" in note for note in item.notes)


def test_labels_of_the_copy_that_repeated_them_are_not_to_be_trusted():
    old = load(record(ag2("b")), *[None] * 1241)
    new = load(record(ag2("b")), *[None] * 1242)
    assert [any("repeats labels" in note for note in items[0].notes) for items in (old, new)] == [True, False]


def test_of_human_annotations_the_majority_counts():
    titles = [f"{code} {name}\nWhat it means." for code, name in MODES.items()]
    votes = [(1, 1, 0), (True, False, False), ("yes", "Yes", "no"), (0, 0, 0), (1.0, 1.0, 1.0)]
    votes += [(1, 0)] + [(0, 0, 0)] * 8
    (item,) = load(human(ag2("b"), [mode(title, *cast) for title, cast in zip(titles, votes, strict=True)]))
    assert item.id == "mast/AG2/GSM/human-labelled/0-0"
    assert [code for code, present in item.labels.items() if present] == ["1.1", "1.3", "1.5"]
    assert len(item.labels) == 14
    assert not [note for note in item.notes if note.startswith("MAST")]


def test_of_a_rounds_own_list_only_codes_of_mast_are_kept_and_notes_say_so():
    annotations = [
        mode("1.1 One", 1, 1, 1),
        mode("4.1 Other", 1, 1, 1),
        mode("3.3 Three", None, "?", 1),
        mode("no code", 1),
    ]
    (item,) = load(human(ag2("b"), annotations))
    assert item.labels == {"1.1": True, "3.3": True}
    notes = " ".join(item.notes)
    assert "none of the 14 are left out" in notes
    assert "may mean other modes" in notes
    assert "votes of annotators" in notes


@pytest.mark.parametrize("annotations", [None, 3, [], [3], [{}], [mode("1.1 One")], [mode("1.1 One", "maybe")]])
def test_human_annotations_that_cannot_be_read_leave_the_run_without_labels(annotations):
    (item,) = load(human(ag2("b"), annotations))
    assert item.labels == {}
    assert any("no labels" in note for note in item.notes)


def test_a_list_without_a_record_is_not_this_format():
    assert not mast_release.looks_like(Document("f.json", '[{"mas_name": "AG2"}, {"trace": "x"}, 3]'))


def originals(mast, name, number):
    with gzip.open(mast / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line)["text"] for _, line in zip(range(number), lines, strict=False)]


def accounted(items, records):
    """Every record is there, with workflows or a reason; returns the workflows."""
    workflows = [item for item in items if isinstance(item, Workflow)]
    places = {int(item.id.split("/")[4].rpartition("-")[2]) for item in workflows}
    lost = {int(item.where.split(", record ")[1].split(",")[0]) for item in items if isinstance(item, Skipped)}
    assert places | lost == set(range(len(records)))
    return workflows


def test_real_ag2_runs_in_both_forms_have_the_calls_and_tools_of_their_files(mast):
    texts = originals(mast, "ag2_experiments", 200)
    records = [record((listing, reprs)[n % 2](json.loads(text)), trace_id=n) for n, text in enumerate(texts)]
    workflows = accounted(load(*records), records)
    assert len(workflows) == 200
    expected = [load_document(Document("f.json", text), LoadOptions()) for text in texts]
    for workflow, (original,) in zip(workflows, expected, strict=True):
        assert (workflow.nodes, workflow.edges, workflow.task) == (original.nodes, original.edges, original.task)


def test_the_real_appworld_text_is_the_workflow_of_its_file(mast):
    path = mast / "appworld" / "aa8502b_1_trace.reconstructed.txt"
    (workflow,) = load(record(path.read_text(encoding="utf-8"), mas_name="AppWorld", trace_id="aa8502b_1"))
    (original,), _ = read([path])
    assert (workflow.nodes, workflow.edges) == (original.nodes, original.edges)
    assert (workflow.id, workflow.success) == ("mast/AppWorld/GSM/GPT4o/aa8502b_1-0", False)


@pytest.mark.parametrize(("framework", "name"), [("HyperAgent", "hyperagent_logs"), ("ChatDev", "chatdev_logs")])
def test_real_logs_have_the_calls_that_they_have_as_files(mast, framework, name):
    texts = list(dict.fromkeys(originals(mast, name, 12)))
    records = [record(text, mas_name=framework, trace_id=number) for number, text in enumerate(texts)]
    workflows = accounted(load(*records), records)
    files = [item for text in texts for item in load_document(Document("f.log", text), LoadOptions())]
    expected = [item for item in files if isinstance(item, Workflow)]
    assert len(expected) >= 10
    assert {workflow.framework for workflow in workflows} == {framework}
    assert [len(workflow.calls) for workflow in workflows] == [len(workflow.calls) for workflow in expected]
    assert [len(workflow.tools) for workflow in workflows] == [len(workflow.tools) for workflow in expected]
