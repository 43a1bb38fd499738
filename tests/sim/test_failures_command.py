"""`workspan failures`, as a user meets it."""

import json

import pytest
from commandline import WORKFLOW, assert_one_line, jsonl, workspan


@pytest.fixture
def traces(tmp_path):
    again = [{**node, "answer": "A"} for node in WORKFLOW["nodes"] if node["agent"] == "x"]
    repeats = {**WORKFLOW, "nodes": again, "edges": [["a", "b", "visible"]]}
    return jsonl(
        tmp_path / "some.jsonl",
        {**WORKFLOW, "id": "good", "success": True},
        {**repeats, "id": "bad", "success": False, "labels": {"1.3": True, "2.2": True}},
        {**WORKFLOW, "id": "other", "framework": "Bare"},
    )


def test_the_tables_say_what_failed_and_what_nobody_knows(traces):
    done = workspan("failures", traces)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "Bare 1 0 - - - - 0" in lines
    assert any(line.startswith("Test 2 2 1 (50.0%) 160 (39.0%) 40 (40.0%)") for line in lines)
    assert any(line.startswith("Test 1.3 step repetition 1 of 1 160 (100.0%) 40 (100.0%)") for line in lines)
    assert "Test 2 1 of 2 1 / 0 / 0 100.0% (1 of 1) 100.0% (1 of 1) - 100.0% (1 of 1) 0.0% 0.0%" in lines
    assert "No outcome is known: Bare." in lines
    assert "No labels: Bare." in lines
    assert any("they overlap" in line for line in lines)


def test_where_nothing_is_known_it_says_so_instead_of_tables(tmp_path):
    done = workspan("failures", jsonl(tmp_path / "bare.jsonl", WORKFLOW))
    assert "No labels: Test." in done.stdout
    assert "in no run does an agent give the same answer 2 times" in done.stdout
    assert "label 1.3" not in done.stdout


def test_json_has_the_numbers_and_what_they_were_made_from(traces):
    done = workspan("failures", traces, "--json", "--profile", "h100-llama-3.1-8b")
    result = json.loads(done.stdout)
    assert result["profile"].startswith("h100-llama-3.1-8b")
    assert result["outcomes"]["Test"]["cost_of_failed"]["output_tokens"] == 40
    assert list(result["modes"]["Test"]["modes"]) == ["1.3", "2.2"]
    assert result["step_repetition"]["Test"]["2"]["warned"] == 1


def test_an_unknown_profile_is_one_line_and_exit_2(traces):
    assert_one_line(workspan("failures", traces, "--profile", "nope"), "no profile 'nope'")
