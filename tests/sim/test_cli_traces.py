"""`workspan traces` and the options of what traces leave open, as a user meets them."""

import json
import re
from xml.etree import ElementTree

import pytest
from commandline import WORKFLOW, assert_one_line, jsonl, workspan

SYSTEM = ["unknown:system:x", 30]
TOOL = {"tool": "t", "name": "python", "duration_s": None}
OPEN = {
    **WORKFLOW,
    "nodes": [
        {"call": "a", "agent": "x", "prompt": [SYSTEM, ["s", 50]], "answer": "A", "output_tokens": 20},
        TOOL,
        {"call": "b", "agent": "y", "prompt": [["s", 50]], "answer": "B", "output_tokens": 20},
    ],
    "edges": [["a", "t", "visible"], ["t", "b", "assumed", False]],
    "labels": {"1.3": True},
    "notes": ["something was not recorded"],
}


@pytest.fixture
def traces(tmp_path):
    return jsonl(tmp_path / "open.jsonl", OPEN, {**WORKFLOW, "id": "v", "framework": "Other"})


def test_stats_count_every_framework_view_and_failure(traces):
    done = workspan("traces", "stats", traces, "--json")
    assert done.returncode == 0, done.stderr
    groups = json.loads(done.stdout)["frameworks"]
    assert list(groups) == ["Other", "Test", "all"]
    spans = {view: value["calls"] for view, value in groups["Test"]["work_span"].items()}
    assert spans == {"recorded": 1.0, "visible": 1.0, "flow": 2.0}
    assert groups["Test"]["unknown_prompt_share"] == 30 / 130
    assert groups["all"]["failure_modes"] == {"1.3": 1}
    table = workspan("traces", "stats", traces).stdout
    assert "1.3 step repetition" in table
    assert "Parts not recorded: estimated; tool time: recorded." in table


def test_stats_without_unknown_parts_are_a_lower_bound(traces):
    done = workspan("traces", "stats", traces, "--json", "--unknown-parts", "none")
    assert json.loads(done.stdout)["frameworks"]["Test"]["prompt_tokens"]["sum"] == 100


def result(*arguments):
    done = workspan("run", *arguments, "--policy", "sequential", "--policy", "async", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_was_chosen_decides_the_result_and_stands_in_it(traces):
    plain = result(traces)
    chosen = result(traces, "--view", "flow", "--unknown-parts", "none", "--tool-time", "python=constant:9")
    assert plain["provenance"]["view"] == "visible"
    assert plain["provenance"]["tools_of_unknown_duration_at_0_s"] == 1
    assert plain["policies"]["async"]["by_framework"]["Test"]["speedup"] == pytest.approx(1)
    made = {key: chosen["provenance"][key] for key in ("view", "unknown_parts", "tool_time")}
    assert made == {"view": "flow", "unknown_parts": "none", "tool_time": "python=constant:9"}
    assert chosen["provenance"]["tools_of_unknown_duration_at_0_s"] == 0
    assert chosen["policies"]["async"]["by_framework"]["Test"]["speedup"] > 1
    assert chosen["policies"]["sequential"]["makespan_s"] > 9 > plain["policies"]["sequential"]["makespan_s"]


def test_the_table_says_what_was_chosen_and_how_much_is_estimated(traces):
    table = workspan("run", traces, "--policy", "async", "--tool-time", "constant:1").stdout
    assert "Dependencies: visible; parts not recorded: estimated; tool time: constant:1." in table
    assert "Not recorded and estimated: 9.4% of the prompt tokens, 0.0% of the output tokens." in table


def test_only_workflows_with_such_ids_are_kept_and_the_others_counted(traces):
    done = workspan("traces", "ls", traces, "--only", "v*")
    assert "read 1 documents: 1 workflows (1 Other), 1 other workflows, 0 skipped" in done.stderr
    assert_one_line(workspan("traces", "ls", traces, "--only", "x*"), "--only x*: none of 2 workflows has such an id")


def test_links_are_reported_and_hidden_files_are_not_read(traces, tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    (folder / ".hidden").mkdir(parents=True)
    elsewhere.mkdir()
    jsonl(folder / "a.jsonl", WORKFLOW)
    jsonl(folder / ".hidden" / "b.jsonl", {**WORKFLOW, "id": "hidden"})
    (folder / "linked").symlink_to(elsewhere)
    (folder / "gone.json").symlink_to(tmp_path / "nothing")
    done = workspan("traces", "ls", folder)
    assert "read 3 documents: 1 workflows (1 Test), 2 skipped" in done.stderr
    assert done.stderr.count("a link to a folder or to nothing") == 2


def test_every_skipped_document_is_named_where_that_is_asked_for(traces, tmp_path):
    for number in range(9):
        (tmp_path / f"bad-{number}.json").write_text(f'{{"{number}": ')
    assert workspan("traces", "ls", tmp_path).stderr.count("bad-") == 5
    assert workspan("traces", "ls", tmp_path, "--all-skipped").stderr.count("bad-") == 9


def test_client_waits_are_no_tool_runs(tmp_path):
    wait = {"tool": "g", "name": "client", "duration_s": 1.0}
    done = workspan("run", jsonl(tmp_path / "c.jsonl", {**OPEN, "nodes": [*OPEN["nodes"], wait]}), "--policy", "async")
    assert "1 of 1 tool runs have no recorded duration" in done.stdout


def test_a_framework_whose_output_is_mostly_estimated_is_named(tmp_path):
    guess = {"call": "a", "agent": "x", "prompt": [["s", 5]], "answer": "unknown:a", "output_tokens": 20}
    other = {**WORKFLOW, "id": "v", "framework": "Guess", "nodes": [guess], "edges": []}
    done = workspan("run", jsonl(tmp_path / "g.jsonl", WORKFLOW, other), "--policy", "async")
    assert "  Guess: 100% of its output tokens." in done.stdout


def test_show_draws_a_picture_once(traces, tmp_path):
    picture = tmp_path / "w.svg"
    done = workspan("traces", "show", "w", traces, "--svg", picture)
    assert done.returncode == 0, done.stderr
    assert "labelled: 1.3 step repetition" in done.stdout
    assert "t (assumed, not in the prompt)" in done.stdout
    texts = " ".join(ElementTree.parse(picture).getroot().itertext())
    assert "tool: python" in texts
    assert "critical path" in texts
    again = workspan("traces", "show", "w", traces, "--svg", picture)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_generated_and_resampled_workflows_can_be_run(traces, tmp_path):
    drawn, more = tmp_path / "drawn.jsonl", tmp_path / "more.jsonl"
    assert workspan("traces", "generate", "debate:agents=2,rounds=2", "-n", 3, "-o", drawn).returncode == 0
    assert workspan("traces", "resample", drawn, traces, "-n", 9, "-o", more).returncode == 0
    again = workspan("traces", "generate", "debate", "-n", 3, "-o", drawn)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    table = workspan("run", more, "--compare").stdout
    assert re.search(r"9 workflows are copies of [2-5]; an interval counts the copies of one as one\.", table)
    assert "debate: ``agents`` answer" in workspan("traces", "patterns").stdout


def test_an_interval_counts_the_copies_of_a_workflow_as_one(tmp_path):
    copies = [{**WORKFLOW, "id": f"w#{number}"} for number in range(5)]
    policies = result(jsonl(tmp_path / "copies.jsonl", *copies))["policies"]
    assert policies["async"]["speedup"] > 1
    assert policies["async"]["speedup_ci95_workflows"] is None


def test_a_rule_for_a_tool_that_no_workflow_has_is_an_error(traces):
    done = workspan("run", traces, "--policy", "async", "--tool-time", "pyhton=none")
    assert done.returncode == 2
    assert "no workflow has such a tool; did you mean 'python'?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--tool-time", "later"), "--tool-time later: give recorded, none"),
        (("--view", "all"), "--view"),
        (("--unknown-parts", "some"), "--unknown-parts"),
        (("--tokenizer", "none.json"), "none.json"),
        (("--tokenizer", "http://127.0.0.1:9"), "no vLLM answers"),
    ],
)
def test_a_choice_that_is_none_is_one_line_and_exit_2(arguments, problem, traces):
    assert_one_line(workspan("run", traces, "--policy", "async", *arguments), problem)
