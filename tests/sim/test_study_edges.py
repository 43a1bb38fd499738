"""Studies at their edges: what has no effect or cannot be is refused, and what a plan no longer has is in no table."""

import json
from pathlib import Path

import numpy as np
import pytest
from commandline import WORKFLOW, jsonl
from pydantic import ValidationError

from sim.errors import StudyError
from sim.study import Study, open_results
from sim.study.answer import answer
from sim.study.drive import Run, Shard
from sim.study.plan import Plan, read_corpus
from sim.study.points import Files
from sim.study.report import print_report
from sim.study.store import Store, read_manifest
from sim.study.studyfile import load_study
from sim.study.table import written

STUDY = {
    "policies": ["sequential", "async"],
    "server": {"profile": "rtx4090-llama-3.1-8b"},
    "load": {"session_rate": 1.0},
    "seeds": 2,
}


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    workflows = [{**WORKFLOW, "id": f"w{number}"} for number in range(4)]
    return str(jsonl(tmp_path_factory.mktemp("traces") / "few.jsonl", *workflows))


def run(folder, traces, shard=Shard(), **changed):  # noqa: B008
    study, files = Study(**{**STUDY, "traces": {"sources": [traces]}, **changed}), Files()
    Run(Plan.of(study, read_corpus(study, files)[0], files), Store(Path(folder)), files, shard=shard).run()
    return open_results(folder)


@pytest.fixture(scope="module")
def results(traces, tmp_path_factory):
    return run(tmp_path_factory.mktemp("results") / "study", traces)


# What is refused


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"points": [{"load.session_rate": 2}, {"load.session_rate": 2.0}]}, "load.session_rate=2.0"),
        ({"zip": {"load.session_rate": [2, 2], "server.max_num_seqs": [4, 4]}}, "server.max_num_seqs=4"),
        ({"points": [{}, {"load.session_rate": 1}]}, "points {} and load.session_rate=1.0 are the same"),
    ],
)
def test_no_question_is_asked_twice(grid, says):
    with pytest.raises(ValidationError, match="are the same") as error:
        Study(**STUDY, grid=grid)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"server": {"num_gpu_blocks": 10**20}}, ("server", "num_gpu_blocks")),
        ({"server": {"max_num_seqs": 10**20}}, ("server", "max_num_seqs")),
        ({"server": {"fleet": ""}}, ("server", "fleet")),
        ({"load": {"concurrent_sessions": 10**20}}, ("load", "concurrent_sessions")),
        ({"load": {"arrivals": ""}}, ("load", "arrivals")),
        ({"traces": {"resample": 10**12}}, ("traces", "resample")),
        ({"stop": {"ci_width": 0.1, "max_runs": 10**12}}, ("stop", "max_runs")),
        ({"tool_time": []}, ("tool_time",)),
        ({"name": ""}, ("name",)),
    ],
)
def test_numbers_that_no_table_holds_and_empty_names_are_refused_where_they_stand(changed, place):
    with pytest.raises(ValidationError) as error:
        Study(**{**STUDY, **changed})
    assert [problem["loc"] for problem in error.value.errors()] == [place]


@pytest.mark.parametrize("text", ["load.session_rate=5", "load.burstiness=0.5", "server.replicas=2"])
def test_what_is_set_for_one_run_is_not_hidden_by_the_grid(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(
        "policies: [async]\ngrid: {product: {load: [{session_rate: 1}], load.burstiness: [1, 2]},"
        " points: [{server.replicas: 1}, {server.replicas: 3}]}\n"
    )
    with pytest.raises(StudyError, match=f"--set {text}: has no effect") as error:
        load_study(path, [text])
    assert "\n" not in str(error.value)
    assert load_study(path, ["server.max_num_seqs=4", "seeds=3"]).server.max_num_seqs == 4
    only = load_study(path, ["server.replicas=2", "grid={}"])
    assert [settings.server.replicas for _, settings in only.points()] == [2]


# Queries


@pytest.mark.parametrize("sql", ["", " ; ", "-- nothing"])
def test_a_query_without_a_statement_is_one_line(results, sql):
    with pytest.raises(StudyError, match="there is no statement"):
        results.query(sql)


@pytest.mark.parametrize("sql", ["SELECT error('mine')", "SELECT $1", "INSERT INTO plan VALUES (1)", "SELECT 'a'::INT"])
def test_a_mistake_in_a_query_is_not_blamed_on_the_folder(results, sql):
    with pytest.raises(StudyError, match=r"^query: "):
        results.query(sql)


def test_tables_have_what_the_study_has_now(traces, tmp_path):
    folder = tmp_path / "study"
    counts = "SELECT (SELECT count(*) FROM sessions) AS sessions, (SELECT count(*) FROM finished) AS cells"

    def rows(**changed):
        found = run(folder, traces, **changed).query(counts)
        return int(found["sessions"][0]), int(found["cells"][0])

    assert rows() == (4 * 6, 6)  # two policies and the A/A cell, two seeds
    assert rows(window={"warm_up": 0, "drain": 0}) == (4 * 6, 6)
    assert rows(seeds=1) == (4 * 3, 3)
    assert rows(policies=["sequential"]) == (4 * 4, 4)
    assert len(list((folder / "sessions").iterdir())) > 6  # the others are kept


def test_what_was_said_of_another_study_does_not_stay_while_this_one_is_unfinished(traces, tmp_path):
    folder = tmp_path / "study"
    assert list(run(folder, traces).query("SELECT policy FROM comparisons")["policy"]) == ["async", "sequential"]
    (folder / "report.html").write_text("of then")
    run(folder, traces, policies=["sequential", "plas"], shard=Shard(1, 2))
    assert not {"comparisons.csv", "summary.csv", "summary.json", "report.html"} & {
        one.name for one in folder.iterdir()
    }
    found = run(folder, traces, policies=["sequential", "plas"])
    assert list(found.query("SELECT policy FROM comparisons")["policy"]) == ["plas", "sequential"]


# Folders and reports


@pytest.mark.parametrize("key", ["study", "traces", "policies", "baseline", "points", "seeds", "stop"])
def test_a_manifest_from_which_something_was_taken_is_one_line(results, tmp_path, key):
    path = tmp_path / "manifest.json"
    told = {name: value for name, value in results.manifest.items() if name != key}
    path.write_text(json.dumps(told))
    with pytest.raises(StudyError, match=f"{key} missing"):
        read_manifest(path)


def test_a_study_of_the_baseline_alone_does_not_wait_for_more(traces, tmp_path, capsys):
    found = run(tmp_path / "study", traces, policies=["srpt_oracle"])
    assert found.status.done == found.status.planned == 4
    print_report(found)
    said = capsys.readouterr().out
    assert answer([], found.manifest) in said
    assert "yet" not in said


def test_tables_are_written_where_the_temporary_folder_has_a_quote(monkeypatch, tmp_path):
    folder = tmp_path / "it's"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert written({"x": np.array([1, 2])}, "csv").decode().split() == ["x", "1", "2"]


def test_the_error_of_a_fleet_is_that_of_its_worst_profile(traces, tmp_path):
    (tmp_path / "fleet.yaml").write_text(
        "pools: {large: {profile: rtx4090-llama-3.1-8b}, small: {profile: rtxpro6000-llama-3.1-8b}}\n"
    )

    def error_pct(**server):
        study = Study(**{**STUDY, "traces": {"sources": [traces]}, "server": server})
        files = Files(tmp_path)
        return Plan.of(study, read_corpus(study, files)[0], files).points[0].columns()["held_out_error_pct"]

    errors = [error_pct(profile=name) for name in ("rtx4090-llama-3.1-8b", "rtxpro6000-llama-3.1-8b")]
    assert error_pct(fleet="fleet.yaml") == max(errors) > min(errors)


def test_a_manifest_has_the_digests_of_all_profiles_even_of_one_name(traces):
    files, grid = Files(), {"product": {"server.num_gpu_blocks": [900, 901]}}
    study = Study(**STUDY, traces={"sources": [traces]}, grid=grid)
    plan = Plan.of(study, read_corpus(study, files)[0], files)
    digests = [point.fleet.pools[0].profile.digest for point in plan.points]
    assert len(set(digests)) == 2
    assert plan.manifest()["profiles"] == {"rtx4090-llama-3.1-8b": digests}
