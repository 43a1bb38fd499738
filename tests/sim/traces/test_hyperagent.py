"""HyperAgent: rules on small logs, documents that only describe runs, damage, and counts on every real file."""

import gzip
import json
import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.masft import labels
from sim.tokens import Tokenizer
from sim.traces import About, Document, LoadOptions, Skipped, formats, hyperagent, load_document, read
from sim.workflow import Tool

WORDS = Tokenizer("words", lambda text: len(text.split()))
INSTANCE = "proj__proj-1"

LOOK = "Inner-Navigator-Assistant's Response: ```\nfind._run()\n```"
FOUND = "Inner-Navigator-Assistant's Response: found it"
RUN = (
    "Planner's Response: look there",
    LOOK,
    FOUND,
    "Navigator->Planner: it is there",
    "Planner's Response: fix",
    "Inner-Editor-Assistant's Response: all done here",
    "Editor->Planner: all done here",
    "Planner's Response: finished",
)

NOTE = {"text": "a remark", "options": {"Step repetition": "yes", "Invented content": "no"}}
RECORD = {"instance_id": INSTANCE, "problem_statement": ["the", "bug"], "other_data": {}, "note": NOTE}
LABELS = {"1.3": True, "Invented content": False}
TABLE = (
    '"","instance_id","link","text","Step repetition","Invented content"\n'
    f'"0","{INSTANCE}","https://x/HyperAgent/y.json","a remark\nof two lines","yes","no"\n'
)


def log(*events, copies=1, started=1, instance=INSTANCE):
    """The text of one run."""
    records = [f"Initialized HyperAgent instance {instance}"] * started + ["Initialized tools"] * copies
    records += [event for event in events for _ in range(copies)]
    return "".join(f"HyperAgent_{instance} - INFO - {record}\n" for record in records)


def meta(*records):
    return "\n".join(json.dumps({**record, "trajectory_equals_raw_log": True}) for record in records)


def load(text, options=None):
    return list(load_document(Document("folder/file.log", text), options or LoadOptions(WORDS)))


def one(*events, problem="the bug", **known):
    (workflow,) = load(log(*events), told(problem, **known))
    return workflow


def told(problem="", **known):
    return LoadOptions(WORDS, about={("HyperAgent", INSTANCE): About("HyperAgent", INSTANCE, problem, **known)})


def agents(workflow):
    return [node.name if isinstance(node, Tool) else node.agent for node in workflow.nodes]


def recorded(call):
    """The prompt without what was not recorded."""
    return [segment for segment in call.prompt if not segment.is_unknown]


def test_plans_inner_answers_and_summaries_are_calls_and_the_editors_return_is_none():
    workflow = one(*RUN)
    assert agents(workflow) == [
        "Planner",
        "Navigator",
        "code",
        "Navigator",
        "Navigator-Summarizer",
        "Planner",
        "Editor",
        "Planner",
    ]
    assert list(workflow.tape.output_tokens.values()) == [2, 3, 2, 3, 1, 3, 1]
    assert workflow.tape.tool_s == {"tool-0": None}
    assert (workflow.id, workflow.task, workflow.success) == (f"hyperagent/{INSTANCE}/1", INSTANCE, None)


def test_everything_waits_for_what_came_before_it_and_only_a_tools_edge_is_proven():
    workflow = one(*RUN)
    nodes = [node.id for node in workflow.nodes]
    assert [(edge.parent, edge.child) for edge in workflow.edges] == list(pairwise(nodes))
    assert {edge.child: edge.kind for edge in workflow.edges if edge.kind != "assumed"} == {"tool-0": "visible"}
    assert workflow.parallelism() == 1


def test_prompts_hold_what_each_agent_has_seen():
    issue, look_there, look, output, found = 2 + 4, 2 + 4, 3 + 4, 450, 2 + 4
    system, planner, end = 4 + 1853, 4 + 747, 3
    it_is_there, fix, all_done_here = 3 + 4, 1 + 4, 3 + 4
    assert [call.num_prompt_tokens for call in one(*RUN).calls] == [
        planner + issue + end,
        system + issue + look_there + end,
        system + issue + look_there + look + output + end,
        4 + look_there + look + output + found + end,
        planner + issue + look_there + it_is_there + end,
        system + issue + look_there + it_is_there + fix + end,
        planner + issue + look_there + it_is_there + fix + all_done_here + end,
    ]


def test_a_prompt_begins_with_its_agents_last_prompt_and_answer_as_far_as_the_rule_says():
    plan, look, found, summary, fix, _, _ = one(*RUN).calls
    for before, after in ((plan, fix), (look, found)):
        assert after.prompt[: len(before.prompt)] == before.prompt
        assert after.prompt[len(before.prompt)].segment_id == before.answer_id
    heads = {call.prompt[0] for call in (plan, look, summary)}
    assert len(heads) == 3


def test_a_new_delegation_restarts_the_inner_loop():
    _, first, *_, again = one(*RUN[:4], "Planner's Response: more", FOUND).calls
    assert [segment.num_tokens for segment in again.prompt[2:]] == [2 + 4, 2 + 4, 3 + 4, 1 + 4, 3]
    assert again.prompt[: len(first.prompt) - 1] == first.prompt[:-1]


def test_an_output_is_unknown_and_each_is_another_one_and_reads_the_same_in_the_summary():
    _, _, second, third, summary = one(RUN[0], LOOK, LOOK, FOUND, RUN[3]).calls
    outputs = [[s.segment_id for s in call.prompt if s.num_tokens == 450] for call in (second, third, summary)]
    assert [len(ids) for ids in outputs] == [1, 2, 2]
    assert outputs[1] == outputs[2]
    assert outputs[1][0] == outputs[0][0] != outputs[1][1]


@pytest.mark.parametrize(
    ("intern", "text", "is_tool"),
    [
        ("Navigator", "```\nfind._run()\n```", True),
        ("Navigator", "```\nx = 1\n```", False),
        ("Navigator", "find._run()", False),
        ("Editor", "```\nedit._run()\n```", True),
        ("Executor", "```\nls\n```", True),
        ("Executor", "ls", False),
        ("Executor", "", False),
    ],
)
def test_a_tool_ran_where_code_is_followed_by_another_inner_answer(intern, text, is_tool):
    inner = f"Inner-{intern}-Assistant's Response: {text}"
    assert len(one(RUN[0], inner, inner, f"{intern}->Planner: x").tools) == is_tool
    assert not one(RUN[0], inner, f"{intern}->Planner: x").tools
    assert not one(RUN[0], inner).tools


def test_without_what_was_not_recorded_the_prompt_holds_what_was():
    call = one(*RUN, problem="").calls[2]
    assert [segment.num_tokens for segment in recorded(call)] == [4, 2 + 4, 3, 3, 1, 3]
    assert [segment.num_tokens for segment in call.prompt if segment.is_unknown] == [1853, 295, 450]


def test_an_issue_that_is_not_known_is_the_same_in_all_runs_of_the_instance_and_noted():
    one_run, other_run = load(log(*RUN) + log(RUN[0]))
    assert one_run.calls[0].prompt == other_run.calls[0].prompt
    assert any("issue's text is not recorded" in note for note in one_run.notes)
    assert not any("issue" in note for note in one(*RUN).notes)


def test_records_that_are_written_several_times_count_once():
    (once,), (thrice,) = load(log(*RUN)), load(log(*RUN, copies=3, started=4))
    assert once == thrice


def test_an_answer_keeps_its_lines_and_a_line_that_only_looks_like_a_record_is_part_of_it():
    (workflow,) = load(log("Planner's Response: one\n\ntwo\u2028\rthree\n HyperAgent_x - INFO - four"))
    assert list(workflow.tape.output_tokens.values()) == [8]


def test_runs_are_numbered_and_empty_ones_and_repetitions_are_reported():
    items = load(log() + log(*RUN) + log(RUN[0]) + log(*RUN, copies=2))
    assert [getattr(item, "id", None) for item in items] == [
        None,
        f"hyperagent/{INSTANCE}/2",
        f"hyperagent/{INSTANCE}/3",
        None,
    ]
    assert [(item.where, item.reason) for item in items if isinstance(item, Skipped)] == [
        ("folder/file.log, run 1", "no record after the run was initialized; nothing to read in it"),
        ("folder/file.log, run 4", "the same, record for record, as run 2"),
    ]


def test_a_log_without_any_event_is_one_reason():
    (item,) = load(log() + log(copies=0))
    assert item.reason.startswith("no run in this log has any record")


def test_a_run_that_does_not_end_with_the_planner_is_noted():
    assert any("cut off or failed" in note for note in one(*RUN[:3]).notes)
    assert not any("cut off or failed" in note for note in one(*RUN).notes)


def test_labels_are_of_a_whole_log_and_go_to_its_only_run():
    options = told(labels={"1.3": True})
    (empty, only) = load(log() + log(*RUN), options)
    assert isinstance(empty, Skipped)
    assert only.labels == {"1.3": True}
    runs = load(log(*RUN) + log(RUN[0]), options)
    assert [run.labels for run in runs] == [{}, {}]
    assert all(any("labelled as a whole" in note for note in run.notes) for run in runs)
    same, again = load(log(*RUN) * 2, options)
    assert same.labels == {"1.3": True}
    assert isinstance(again, Skipped)


def test_the_json_of_a_run_gives_the_workflow_of_its_log_with_issue_and_labels():
    text = json.dumps({**RECORD, "trajectory": log(*RUN).split("\n")[:-1]})
    (workflow,) = load(text)
    assert workflow == one(*RUN, problem="the\nbug", labels=LABELS)
    assert list(hyperagent.about(Document("", text))) == [About("HyperAgent", INSTANCE, "the\nbug", LABELS)]


def test_lines_of_records_and_a_table_describe_runs_and_give_none(tmp_path):
    (tmp_path / "a.jsonl").write_text(meta({**RECORD, "note": {}}, {**RECORD, "instance_id": "other"}))
    (tmp_path / "b.csv").write_text(TABLE)
    (tmp_path / "c.log").write_text(log(*RUN))
    (workflow,), report = read([tmp_path], LoadOptions(WORDS))
    assert workflow == one(*RUN, problem="the\nbug", labels=LABELS)
    assert (report.documents, report.about, report.skipped) == (3, 2, [])


def test_the_table_of_ag2_says_nothing_new_and_is_not_reported():
    document = Document("annotations.csv", TABLE.replace("/HyperAgent/", "/AG2/"))
    assert list(hyperagent.about(document)) == []
    assert list(load_document(document, LoadOptions())) == []


@pytest.mark.parametrize("text", [meta(RECORD), TABLE, json.dumps({**RECORD, "trajectory": [log(*RUN)]})])
def test_no_other_format_claims_its_documents(text):
    document = Document("file", text)
    assert [name for name, module in formats().items() if module.looks_like(document)] == ["hyperagent"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (log(RUN[0], RUN[0]), "record 2 (each counted once) cannot follow"),
        (log(LOOK), "record 1 (each counted once) cannot follow"),
        (log(RUN[0], LOOK, "Inner-Editor-Assistant's Response: x"), "record 3 (each counted once) cannot follow"),
        (log(RUN[0], LOOK, "Editor->Planner: x"), "record 3 (each counted once) cannot follow"),
        (log(RUN[0], "Something else: x"), "record 2 (each counted once) cannot follow"),
        (log(RUN[0]) + f"HyperAgent_other - INFO - {LOOK}\n", "record 2 (each counted once) cannot follow"),
        (log(RUN[0], copies=0) + "HyperAgent_a - INFO - Planner's Response: x\n", 'no line "Initialized tools"'),
        (log(RUN[0]).partition("\n")[2].partition("\n")[2], 'no line "Initialized tools"'),
        (log(copies=2) + log(*RUN, copies=1).partition("tools\n")[2], "record 2 is not written 2 times"),
        (json.dumps({**RECORD, "trajectory": ["HyperAgent_a - INFO - x", 3]}), "must be the log's lines"),
    ],
)
def test_a_run_that_cannot_be_read_is_named(text, reason):
    (item,) = load(text)
    assert reason in item.reason


def test_a_log_cut_off_in_the_middle_gives_what_is_there():
    text = log(*RUN, copies=2)
    (workflow,) = load(text[: -len("ished\n")])
    assert workflow == load(text)[0]


def test_a_description_that_cannot_be_read_is_named_and_the_others_are_kept():
    document = Document("m", meta(RECORD) + "\n{broken\n3\n" + json.dumps({"instance_id": "a\nb"}))
    assert [item.run for item in hyperagent.about(document)] == [INSTANCE]
    assert [item.where for item in load_document(document, LoadOptions())] == ["m, line 2", "m, line 3", "m, line 4"]
    table = Document("t", TABLE + '"1","x","elsewhere","","no","no"\n"2","y"\n"3","z","/HyperAgent/","cut')
    assert [item.run for item in hyperagent.about(Document("t", TABLE + '"1","x","elsewhere"\n'))] == [INSTANCE]
    where = [(item.where, item.reason.split(";")[0]) for item in load_document(table, LoadOptions())]
    assert where == [
        ("t, line 4", "no record of a run of HyperAgent"),
        ("t, line 5", "no record of a run of HyperAgent"),
        ("t", "the table cannot be read after line 5"),
    ]


@pytest.mark.parametrize(
    "text", [meta(RECORD, RECORD), TABLE, json.dumps({**RECORD, "trajectory": log(*RUN).split("\n")})]
)
@given(data=st.data())
def test_damaged_descriptions_give_reasons_and_never_an_error(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    piece = data.draw(st.sampled_from(["", "\x00", "\ud800", "\r", '"', ",", "\n", "x" * 200_000, text[start:end] * 2]))
    document = Document("file", text[:start] + piece + text[end:])
    if hyperagent.looks_like(document):
        assert all(
            isinstance(item.reason, str) for item in load_document(document, LoadOptions()) if hasattr(item, "where")
        )


@pytest.fixture(scope="module")
def originals(mast):
    with gzip.open(mast / "hyperagent_logs.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def loaded(mast):
    return read([mast / f"hyperagent_{name}.jsonl.gz" for name in ("logs", "meta", "annotations")])


def runs_of(text):
    """(number of the run, its real records) counted on the raw text."""
    parts = re.split(r"(?m)^(?:HyperAgent_\S+ - INFO - Initialized HyperAgent instance \S+\n)+", text)[1:]
    for number, part in enumerate(parts, start=1):
        records = re.split(r"(?m)^HyperAgent_\S+ - INFO - ", part)[1:]
        copies = sum(record == "Initialized tools\n" for record in records)
        yield number, records[copies:][:: max(1, copies)]


def count(runs):
    """What the rules of the format say, counted on the records of runs."""
    counts = Counter()
    for records in runs:
        labels_of = [record.partition(":")[0] for record in records]
        counts.update(labels_of)
        for label, after, text in zip(labels_of, labels_of[1:], records, strict=False):
            code = "```" in text and ("_run(" in text or "Executor" in label)
            counts["tools"] += label.startswith("Inner") and label == after and code
    return counts


def test_every_real_log_loads_with_the_calls_and_tools_of_its_records(originals, loaded):
    workflows, report = loaded
    real = {
        f"hyperagent/{row['path'].split('/')[-1][:-4]}/{number}": records
        for row in originals
        for number, records in runs_of(row["text"])
    }
    filled = {name: records for name, records in real.items() if records}
    assert (len(originals), len(filled), len(real) - len(filled)) == (150, 340, 59)
    reasons = Counter(skipped.reason.partition(" ")[0] for skipped in report.skipped if ".log" in skipped.where)
    # Empty runs, of which three are whole files; repetitions; nothing else.
    assert reasons == {"no": 56 + 3, "the": 3}
    assert [name for name in filled if name not in {workflow.id for workflow in workflows}] == [
        f"hyperagent/django__django-13925/{number}" for number in (2, 3, 4)
    ]
    counts = count(filled[workflow.id] for workflow in workflows)
    calls = Counter(call.agent for workflow in workflows for call in workflow.calls)
    assert calls == {
        "Planner": counts["Planner's Response"],
        **{name: counts[f"Inner-{name}-Assistant's Response"] for name in ("Navigator", "Editor", "Executor")},
        **{f"{name}-Summarizer": counts[f"{name}->Planner"] for name in ("Navigator", "Executor")},
    }
    assert sum(len(workflow.tools) for workflow in workflows) == counts["tools"] == 5131
    assert calls.total() == 11114
    assert {workflow.parallelism() for workflow in workflows} == {1.0}


def test_the_runs_are_as_long_as_those_of_the_full_release(loaded):
    workflows, _ = loaded
    # 676 runs of the full release: 22,121 calls (2,703 of summarisers), 10,113 tools.
    assert sum(len(workflow.calls) for workflow in workflows) / len(workflows) == pytest.approx(22121 / 676, rel=0.05)
    assert sum(len(workflow.tools) for workflow in workflows) / len(workflows) == pytest.approx(10113 / 676, rel=0.05)


def test_prompts_reuse_as_much_as_those_of_the_full_release(loaded):
    total = reused = 0
    for workflow in loaded[0]:
        known = {}
        for call in workflow.calls:
            place, is_known = known, True
            for segment in recorded(call):
                is_known = is_known and segment.segment_id in place
                reused += segment.num_tokens * is_known
                total += segment.num_tokens
                place = place.setdefault(segment.segment_id, {})
            place.setdefault(call.answer_id, {})
    assert reused / total == pytest.approx(0.826, abs=0.02)


def test_no_two_agents_share_a_prefix(loaded):
    for workflow in loaded[0]:
        heads = {(call.agent, call.prompt[0]) for call in workflow.calls}
        assert len(heads) == len({agent for agent, _ in heads}) == len({head for _, head in heads})


def test_17_of_30_annotated_logs_hold_one_run_and_keep_their_labels(mast, loaded):
    workflows, report = loaded
    with gzip.open(mast / "hyperagent_meta.jsonl.gz", "rt") as lines:
        told = {row["instance_id"]: labels(row) for row in map(json.loads, lines)}
    annotated = {instance for instance, found in told.items() if found}
    runs = Counter(workflow.task for workflow in workflows)
    assert len(annotated) == 30
    assert {workflow.task for workflow in workflows if workflow.labels} == {x for x in annotated if runs[x] == 1}
    assert sum(bool(workflow.labels) for workflow in workflows) == 17
    noted = {w.task for w in workflows if any("labelled as a whole" in note for note in w.notes)}
    assert noted == {x for x in annotated if runs[x] > 1}
    assert report.about == 2


def test_the_guess_of_an_unknown_issue_is_the_median_of_the_known_ones(mast):
    with gzip.open(mast / "hyperagent_meta.jsonl.gz", "rt") as lines:
        lengths = sorted(len("\n".join(json.loads(line)["problem_statement"])) for line in lines)
    assert len(lengths) == 117
    assert lengths[58] / 4 == pytest.approx(291, rel=0.05)
