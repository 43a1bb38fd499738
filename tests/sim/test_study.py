"""A study from its plan to its folder: nothing is done twice, nothing is lost, nothing depends on who did it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.data import embedded_path
from sim.errors import StudyError, WorkspanError
from sim.study import Study, open_results
from sim.study.again import Again
from sim.study.drive import Run, Shard, run_study
from sim.study.plan import Plan, read_corpus
from sim.study.points import Files
from sim.study.store import Store
from sim.study.version import engine_sources
from sim.traces import LoadOptions, jsonl, read

#: Five workflows, quick to simulate.
STUDY = {
    "traces": {"sources": ["set by the fixture"], "only": ["peer-review/*"]},
    "policies": ["sequential", "async"],
    "server": {"profile": "rtx4090-llama-3.1-8b", "max_num_seqs": 8},
    "load": {"session_rate": 0.2},
    "grid": {"product": {"load.session_rate": [0.1, 0.3]}},
    "seeds": 2,
}


@pytest.fixture(scope="module", autouse=True)
def few_workflows(tmp_path_factory):
    """A file of its own, as reading all that is embedded takes longer than most of these studies."""
    path = tmp_path_factory.mktemp("traces") / "few.jsonl"
    few = read([embedded_path()], LoadOptions(only=("peer-review/*", "ag2/*_42/0*")))[0]
    path.write_text("".join(jsonl.dump(few, {})))
    STUDY["traces"]["sources"] = [str(path)]


def planned(study):
    files = Files()
    return Plan.of(study, read_corpus(study, files)[0], files)


def run(folder, study=None, **options):
    study = Study(**(study or STUDY))
    return Run(planned(study), Store(Path(folder)), Files(), **options).run()


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


def test_same_bytes_whoever_does_the_work(tmp_path):
    run(tmp_path / "one")
    run(tmp_path / "two", jobs=2)
    for number in (2, 1):
        run(tmp_path / "shards", shard=Shard(number, 2))
    one = content(tmp_path / "one")
    assert content(tmp_path / "two") == one
    outcome = {"summary.csv", "summary.json", "comparisons.csv", "manifest.json", "plan.parquet"}
    shards = content(tmp_path / "shards")
    assert {name: shards[name] for name in outcome} == {name: one[name] for name in outcome}


def test_every_cell_is_there_once_with_its_rows(tmp_path):
    done = run(tmp_path)
    results = open_results(tmp_path)
    # Two points, two policies, two seeds, and the baseline once more for each seed.
    assert (done.cells, done.kept, done.complete) == (10, 0, True)
    assert results.status.planned == results.status.done == len(set(results.cells["cell"])) == 10
    sessions = results.query("SELECT count(*) AS number, count(DISTINCT cell) AS cells FROM sessions")
    assert (sessions["number"][0], sessions["cells"][0]) == (50, 10)


def test_a_finished_cell_is_never_done_again(tmp_path):
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for kind in ("cells", "sessions") for path in (tmp_path / kind).iterdir()}
    done = run(tmp_path)
    assert (done.cells, done.kept, done.complete) == (0, 10, True)
    more = run(tmp_path, {**STUDY, "seeds": 3, "policies": ["sequential", "async", "plas"]})
    # A third seed of five cells, and the new policy at two points with two seeds.
    assert (more.cells, more.kept) == (11, 10)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_a_cell_depends_on_names_it(tmp_path):
    def keys(**changed):
        return {cell.key for cell in planned(Study(**{**STUDY, **changed})).cells()}

    known = keys()
    assert len(known) == 10
    assert keys(name="another", grid=STUDY["grid"]) == known
    for changed in (
        {"traces": {**STUDY["traces"], "view": "recorded"}},
        {"traces": {**STUDY["traces"], "resample": 5}},
        {"server": {"profile": "rtx4090-llama-3.1-8b", "max_num_seqs": 9}},
        {"server": {"profile": "h100-llama-3.1-8b", "max_num_seqs": 8}},
        {"tool_time": "constant:1"},
        {"window": {"warm_up": 0.2}},
        {"slo": {"ttft_s": 1.0}},
        {"grid": {"product": {"load.session_rate": [0.1000001, 0.3000001]}}},
    ):
        assert not keys(**changed) & known, changed


def test_points_that_differ_in_nothing_share_their_cells(tmp_path):
    study = {**STUDY, "policies": ["async", "srpt_noisy"], "grid": {"product": {"information_error": [0.0, 0.5]}}}
    done = run(tmp_path, study)
    # async is the same with any error of information: 2 seeds; srpt_noisy is not: 4; A/A: 2.
    assert done.cells == 8
    assert len(open_results(tmp_path).cells["cell"]) == 10


def test_a_killed_run_leaves_what_it_finished(tmp_path):
    run(tmp_path / "whole")
    plan = planned(Study(**STUDY))

    class KilledError(Exception):
        pass

    def after_one(more, total):
        if more:
            raise KilledError

    with pytest.raises(KilledError):
        many_chunks(Run(plan, Store(tmp_path / "cut"), Files(), progress=after_one)).run()
    assert 0 < open_results(tmp_path / "cut").status.done < 10
    many_chunks(Run(plan, Store(tmp_path / "cut"), Files())).run()
    whole, cut = content(tmp_path / "whole"), content(tmp_path / "cut")
    for name in ("summary.csv", "comparisons.csv", "manifest.json"):
        assert cut[name] == whole[name]


def many_chunks(run):
    """The same run with a cell in each chunk."""
    chunks = run.plan.chunks
    object.__setattr__(run.plan, "chunks", lambda cells: [[cell] for chunk in chunks(cells) for cell in chunk])
    return run


OWN = """
from dataclasses import dataclass
from sim.rules import Order
import os, time

@dataclass(frozen=True)
class Bad(Order):
    name = "bad"
    def key(self, *args):
        {what}
"""


@pytest.fixture
def own_rule(tmp_path, monkeypatch):
    def write(name, what):
        (tmp_path / f"{name}.py").write_text(OWN.format(what=what))
        return f"{name}:Bad"

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return write


def test_a_cell_that_fails_is_named_and_the_others_are_kept(tmp_path, own_rule):
    study = {**STUDY, "policies": ["async", own_rule("raises", "raise KeyError('oops')")]}
    with pytest.raises(StudyError, match=r"policy raises:Bad, load.session_rate 0.1, seed 0: KeyError: 'oops'"):
        run(tmp_path / "stops", study)
    assert open_results(tmp_path / "stops").status.done == 1
    done = run(tmp_path / "goes-on", study, continue_on_error=True)
    assert (done.cells, len(done.failed), done.complete) == (6, 4, False)


def test_a_worker_that_dies_costs_its_chunk_only(tmp_path, own_rule):
    study = {**STUDY, "policies": ["async", own_rule("dies", "os._exit(1)")]}
    bad = Run(planned(Study(**study)), Store(tmp_path / "out"), Files(), jobs=2, continue_on_error=True)
    done = many_chunks(bad).run()
    assert (done.cells, len(done.failed), done.complete) == (6, 4, False)
    assert all("its worker died, and so did the one that tried again" in line for line in done.failed)


def test_a_worker_that_dies_once_is_replaced(tmp_path, own_rule):
    marker = tmp_path / "died"
    what = f"os.path.exists({str(marker)!r}) or (open({str(marker)!r}, 'w').close(), os._exit(1)); return 0.0"
    study = {**STUDY, "policies": ["async", own_rule("dies_once", what)]}
    done = many_chunks(Run(planned(Study(**study)), Store(tmp_path / "out"), Files(), jobs=2)).run()
    assert marker.exists()
    assert (done.cells, done.failed, done.complete) == (10, [], True)


def test_seeds_are_added_until_the_intervals_are_narrow(tmp_path):
    study = {**STUDY, "traces": {**STUDY["traces"], "resample": 6}, "stop": {"ci_width": 0.2, "max_runs": 6}}
    run(tmp_path / "one", study)
    found = open_results(tmp_path / "one").comparisons
    policies = found["kind"] == "policy"
    width = (found["ci95_high"] - found["ci95_low"]) / found["speedup"]
    for seeds, share in zip(found["seeds"][policies], width[policies], strict=True):
        assert share <= 0.2 or seeds == 6
    assert max(found["seeds"]) > 2
    again = run(tmp_path / "one", study)
    assert (again.cells, again.complete) == (0, True)
    for number in (1, 2):
        run(tmp_path / "shards", study, shard=Shard(number, 2))
    assert content(tmp_path / "shards")["comparisons.csv"] == content(tmp_path / "one")["comparisons.csv"]


def test_a_stopping_rule_finds_the_same_seeds_where_there_are_more(tmp_path):
    study = {**STUDY, "traces": {**STUDY["traces"], "resample": 6}}
    run(tmp_path / "more", {**study, "stop": {"ci_width": 0.01, "max_runs": 4}})
    for folder in ("more", "fresh"):
        run(tmp_path / folder, {**study, "stop": {"ci_width": 50.0, "max_runs": 4}})
    more, fresh = content(tmp_path / "more"), content(tmp_path / "fresh")
    assert len(open_results(tmp_path / "more").query("SELECT cell FROM finished")["cell"]) > 10
    for name in ("comparisons.csv", "summary.csv", "manifest.json"):
        assert more[name] == fresh[name]


def test_the_baseline_differs_from_itself_by_noise_only(tmp_path):
    run(tmp_path, {**STUDY, "traces": {**STUDY["traces"], "only": ["ag2/*"], "resample": 40}, "seeds": 4})
    found = open_results(tmp_path).comparisons
    aa = {name: values[found["kind"] == "A/A"] for name, values in found.items()}
    assert list(aa["policy"]) == ["sequential"]
    assert aa["ci95_low"][0] < 1 < aa["ci95_high"][0]
    assert aa["speedup"][0] != 1
    assert aa["verdict"][0] == "within noise"


def test_alone_no_policy_gains_more_than_its_ceiling(tmp_path):
    run(tmp_path, {**STUDY, "load": {}, "grid": {}, "policies": ["sequential", "level_barrier", "async"], "seeds": 1})
    found = open_results(tmp_path).comparisons
    assert len(found["speedup"]) == 3
    assert all(found["speedup"] <= found["ceiling"] * (1 + 1e-9))
    assert max(found["speedup"]) > 2


def test_a_manifest_repeats_its_study_byte_for_byte(tmp_path):
    run(tmp_path / "first")
    again = Again.of(tmp_path / "first" / "manifest.json")
    plan = Plan.of(again.study, again.corpus(), again.files)
    again.check(plan)
    Run(plan, Store(tmp_path / "second"), again.files).run()
    assert content(tmp_path / "first") == content(tmp_path / "second")


def test_a_manifest_of_other_things_is_refused(tmp_path):
    run(tmp_path)
    path = tmp_path / "manifest.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "engine": "0" * 12, "policies": {}}))
    again = Again.of(path)
    with pytest.raises(StudyError, match="engine, policies not as then"):
        again.check(Plan.of(again.study, again.corpus(), again.files))


def test_a_cell_that_two_processes_did_counts_once(tmp_path):
    run(tmp_path)
    before = content(tmp_path)
    for kind in ("cells", "sessions"):
        path = next((tmp_path / kind).iterdir())
        path.with_name("zz.parquet").write_bytes(path.read_bytes())
    run(tmp_path)
    after = content(tmp_path)
    for name in ("summary.csv", "comparisons.csv"):
        assert after[name] == before[name]


def test_detailed_rows_come_on_request(tmp_path):
    run(tmp_path)
    assert not len(open_results(tmp_path).query("SELECT * FROM calls")["cell"])
    done = run(tmp_path, save_detailed=True)
    assert done.complete
    results = open_results(tmp_path)
    calls = results.query("SELECT cell, count(*) AS number FROM calls GROUP BY cell ORDER BY cell")
    sessions = results.query("SELECT cell, sum(num_calls) AS number FROM sessions GROUP BY cell ORDER BY cell")
    assert list(calls["number"]) == list(sessions["number"])
    assert len(calls["cell"]) == 10


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"policies": ["async", "sticky"]}, "a router needs several replicas"),
        ({"tool_time": "Nothing=constant:1"}, "no workflow has such a tool"),
        ({"information_error": 0.5}, "no policy is _noisy"),
        ({"load": {"arrivals": "recorded"}, "grid": {}}, "arriv"),
        ({"server": {"max_num_seqs": 9000}}, "max_num_batched_tokens must be at least max_num_seqs"),
        ({"server": {"num_gpu_blocks": 2}}, "no workflow can finish"),
    ],
)
def test_what_cannot_run_is_said_before_anything_does(changed, problem):
    with pytest.raises(WorkspanError, match=problem):
        planned(Study(**{**STUDY, **changed}))


def test_workers_load_neither_scipy_nor_matplotlib():
    code = "import sys, sim.study.worker; print([m for m in sys.modules if m.split('.')[0] in ('scipy', 'matplotlib')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StudyError, match="there is something in it that is no study; name another folder"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_from_python(tmp_path):
    results = run_study(Study(**STUDY), tmp_path, jobs=1)
    assert list(results.comparisons["policy"]) == ["async", "async", "sequential"]
    assert results.comparisons["speedup"].min() > 0


def test_the_engine_digest_covers_what_a_worker_runs_and_nothing_that_only_shows():
    code = "import sys, sim.simulate, sim.bench_row, sim.resample; print(*[m.__file__ for n, m in sys.modules.items()"
    code += " if n.startswith('sim.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    covered = set(map(str, engine_sources()))
    assert set(done.stdout.split()) <= covered
    assert not any(Path(path).stem in ("plots", "report", "cli") for path in covered)
