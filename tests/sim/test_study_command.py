"""`workspan study` as a user types it."""

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from commandline import WORKFLOW, assert_one_line, jsonl, workspan

from sim.commands.demo import STUDY, command
from sim.study.spec import Traces

FILE = """
name: small
traces: {sources: [traces.jsonl]}
policies: [sequential, async]
server: {profile: rtx4090-llama-3.1-8b}
grid: {product: {load.session_rate: [0.5, 1]}}
seeds: 2
"""


@pytest.fixture
def study(tmp_path):
    workflows = [{**WORKFLOW, "id": f"w{number}", "framework": f"F{number % 2}"} for number in range(6)]
    jsonl(tmp_path / "traces.jsonl", *workflows)
    (tmp_path / "study.yaml").write_text(FILE)
    return tmp_path / "study.yaml"


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_from_a_file_to_a_report(study, tmp_path):
    out = tmp_path / "results"
    plan = workspan("study", "plan", study)
    assert "2 points x 2 policies x 2 seeds, and an A/A cell for each seed: 10 cells of 6 workflows" in plan.stdout
    assert not out.exists()
    done = workspan("study", "run", study, "-o", out, "-j", 1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"10 cells done in \d+ s \(.* cells/s\), 0 were there", done.stderr)
    assert "faster than sequential" in done.stdout
    again = workspan("study", "run", study, "-o", out, "-j", 1)
    assert re.search(r"0 cells done in \d+ s, 10 were there", again.stderr)
    assert again.stdout == done.stdout == workspan("study", "report", out).stdout
    assert "10 of 10 cells done" in workspan("study", "status", out).stdout


def test_files_of_a_result_agree_with_each_other(study, tmp_path):
    out = tmp_path / "results"
    workspan("study", "run", study, "-o", out, "-j", 1)
    rows = table(out / "summary.csv")
    assert len(rows) == len(json.loads((out / "summary.json").read_text())) == 10
    for key in (
        "mean_ttft_ms",
        "p99_tpot_ms",
        "request_throughput",
        "mean_session_latency_ms",
        "session_rate",
        "policy",
    ):
        assert key in rows[0]
    compared = table(out / "comparisons.csv")
    means = {
        (row["policy"], row["point"]): [
            float(one["mean_session_latency_ms"]) / 1000
            for one in rows
            if (one["policy"], one["point"]) == (row["policy"], row["point"]) and one["seed"] == one["arrivals_seed"]
        ]
        for row in compared
        if row["kind"] == "policy" and row["framework"] == "all"
    }
    for row in compared:
        if row["kind"] == "policy" and row["framework"] == "all":
            found = means[row["policy"], row["point"]]
            assert float(row["session_latency_s"]) == pytest.approx(sum(found) / len(found))
    told = json.loads(workspan("study", "report", out, "--json").stdout)
    assert told["provenance"] == json.loads((out / "manifest.json").read_text())


def test_a_query(study, tmp_path):
    out = tmp_path / "results"
    workspan("study", "run", study, "-o", out, "-j", 1)
    sql = "SELECT policy, count(*) AS n FROM sessions JOIN cells USING (cell) GROUP BY ALL ORDER BY ALL"
    found = workspan("study", "query", out, sql, "--format", "csv")
    assert found.stdout.splitlines() == ["policy,n", "async,24", "sequential,36"]
    assert_one_line(workspan("study", "query", out, "SELECT nothing FROM cells"), "nothing")
    page = tmp_path / "no" / "y.html"
    assert_one_line(workspan("study", "report", out, "-o", page), "y.html")
    assert_one_line(workspan("study", "report", out, "-o", "y.svg"), f"workspan plot speedup {out} -o y.svg")


def test_the_template_runs_and_its_manifest_repeats_it(tmp_path):
    assert workspan("study", "init", tmp_path / "mine").returncode == 0
    settings = ("--set", "seeds=2", "--set", "traces.resample=10")
    done = workspan("study", "run", tmp_path / "mine" / "study.yaml", "-o", tmp_path / "one", *settings)
    assert done.returncode == 0, done.stderr
    again = workspan("study", "run", "--from", tmp_path / "one" / "manifest.json", "-o", tmp_path / "two")
    assert again.returncode == 0, again.stderr
    for path in sorted((tmp_path / "one").rglob("*")):
        if path.is_file():
            assert (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()


def test_a_study_moves_with_its_profile(study, tmp_path):
    profile = (Path(__file__).parents[2] / "sim" / "profiles" / "h100-llama-3.1-8b.yaml").read_text()
    (tmp_path / "own.yaml").write_text(profile)
    settings = ("--set", "server.profile=own.yaml", "-j", 1)
    assert workspan("study", "run", study, "-o", tmp_path / "one", *settings).returncode == 0
    (tmp_path / "own.yaml").unlink()
    (tmp_path / "traces.jsonl").unlink()
    again = workspan("study", "run", "--from", tmp_path / "one" / "manifest.json", "-o", tmp_path / "two", "-j", 1)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "one" / "summary.csv").read_bytes() == (tmp_path / "two" / "summary.csv").read_bytes()
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run"], "give a study's file, or --from"),
        (["run", "STUDY", "--shard", "3/2"], "--shard 3/2: give 1/2 to 2/2"),
        (["run", "STUDY", "--shard", "x"], "give I/N"),
        (["run", "STUDY", "--executor", "spark"], "give local, or dask:ADDRESS"),
        (["run", "STUDY", "--set", "sever.replicas=2"], "did you mean 'server'?"),
        (["run", "STUDY", "--set", "traces.sources=[gone.jsonl]"], "gone.jsonl: no such file"),
        (["run", "STUDY", "-o", "HERE"], "there is something in it that is no study"),
        (["plan", "gone.yaml"], "gone.yaml: cannot be read"),
        (["status", "HERE"], "name the folder of a study that has run"),
        (["report", "gone"], "name the folder of a study that has run"),
        (["init", "HERE"], "study.yaml"),
    ],
)
def test_a_mistake_is_one_line(study, arguments, problem):
    names = {"STUDY": study, "HERE": study.parent}
    done = workspan("study", *(names.get(argument, argument) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert problem in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_demo_writes_what_it_says_to_open(tmp_path, monkeypatch):
    less = {"traces": Traces(only=["ag2/*"], resample=8), "seeds": 2}
    monkeypatch.setattr("sim.commands.demo.STUDY", STUDY.model_copy(update=less))
    done = CliRunner().invoke(command, ["-o", str(tmp_path / "demo")], catch_exceptions=False)
    assert done.exit_code == 0
    assert re.search(r"MA-ToT +5 +693 +10.82x", done.output)
    assert "program_fcfs" in done.output
    (page,) = re.findall(r"Open (.*html) first", done.output)
    assert "<h1" in Path(page).read_text()
