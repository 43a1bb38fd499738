"""How each claim of docs/artifact.md is checked that a CPU can check; tests/artifact.py runs these.

Each takes an empty folder and gives whether what was found is what is claimed, and what was found.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import bench
import numpy as np
import yaml

from calibration.recorded import read_run
from calibration.rerun import Recorded, accuracy, rerun
from sim.data import embedded_path
from sim.latency import load_profile
from sim.load import SessionRate
from sim.policies import parse_policy
from sim.simulate import simulate
from sim.traces import read

TESTS = Path(__file__).parent
GROUNDTRUTH = TESTS.parents[1] / "shared/groundtruth"
BOUNDS = {
    "AG2": 1.0,
    "AppWorld": 1.0,
    "ChatDev": 1.0,
    "HyperAgent": 1.0,
    "MA-ToT": 10.82,
    "MetaGPT": 1.0,
    "Peer-Review": 2.39,
}
#: Held out, of the two recorded runs: errors in percent of each request, and of the means.
HELD_OUT = {
    "rtx4090-llama-3.1-8b": {"e2el_mape": 0.43, "e2el_mean": 0.39, "ttft_mean": 0.49, "tpot_mean": -0.14},
    "rtxpro6000-llama-3.1-8b": {"e2el_mape": 1.02, "e2el_mean": -1.03, "ttft_mean": -0.07, "tpot_mean": -1.60},
}
#: So many sessions arrive that 500 workflows on 16 slots wait for each other.
RATE = 2.0


class Missing(Exception):
    """What a claim needs is not here."""


def workspan(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own. Raises CalledProcessError."""
    command = [sys.executable, "-m", "sim", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS.parent)}


@cache
def demo(folder: Path) -> str:
    """What the demo prints; its results are in ``folder``."""
    return workspan("demo", "-o", folder).stdout


def bounds(folder: Path) -> tuple[bool, str]:
    rows = re.findall(r"^(\S+) +[\d,]+ +[\d,]+ +([\d.]+)x$", demo(folder.parent / "demo"), re.MULTILINE)
    found = {name: float(bound) for name, bound in rows}
    return found == BOUNDS, ", ".join(f"{name} {bound:.2f}" for name, bound in found.items())


def answer(folder: Path) -> tuple[bool, str]:
    demo(folder.parent / "demo")
    rows = list(csv.DictReader((folder.parent / "demo/comparisons.csv").read_text().splitlines()))
    rows = [row for row in rows if (row["kind"], row["framework"]) == ("policy", "all")]
    at_two = next(row for row in rows if row["policy"] == "program_fcfs" and float(row["session_rate"]) == 2)
    speedup = "{:.2f}x [{:.2f}, {:.2f}]".format(*(float(at_two[k]) for k in ("speedup", "ci95_low", "ci95_high")))
    below = sorted({row["verdict"] for row in rows if float(row["session_rate"]) <= 1.5})
    found = f"program_fcfs {speedup}, {at_two['verdict']} at 2/s; at most 1.5/s: {', '.join(below)}"
    return found == "program_fcfs 1.32x [1.27, 1.36], faster at 2/s; at most 1.5/s: within noise", found


def no_gain_above_the_bound(folder: Path) -> tuple[bool, str]:
    # The command checks each workflow, and ends with 1 where one gains more than its work / span.
    policies = json.loads(workspan("run", "--compare", "--draws", 0, "--json").stdout)["policies"]
    barrier, plain = policies["level_barrier"], policies["async"]
    found = f"level_barrier {barrier['speedup']:.3f}x, async {plain['speedup']:.3f}x, bound {plain['bound']:.3f}x"
    return (plain["workflows"], found) == (2072, "level_barrier 1.031x, async 1.031x, bound 1.032x"), found


def macro_steps(folder: Path) -> tuple[bool, str]:
    workflows = [workflow for workflow in read([embedded_path()])[0] if workflow.framework == "AG2"][:500]
    engine = load_profile("rtxpro6000-llama-3.1-8b")
    engine = engine.model_copy(update={"engine": engine.engine.model_copy(update={"max_num_seqs": 16})})
    arguments = workflows, parse_policy("plas"), engine, SessionRate(RATE)
    macro, step = (simulate(*arguments, seed=0, macro_steps=macro) for macro in (True, False))
    ends, others = (np.array([record.finished_s for record in result.records]) for result in (macro, step))
    order = [one[:3] for one in macro.records] == [one[:3] for one in step.records]
    apart = float(np.max(np.abs(ends / others - 1)))
    found = f"{len(ends):,} calls in {step.engine.num_steps:,} steps end at most {apart:.0e} (relative) apart"
    return order and macro.engine.num_steps == step.engine.num_steps and apart <= 1e-9, found


def any_number_of_workers(folder: Path) -> tuple[bool, str]:
    study = template(folder)
    small = ("--set", "seeds=2", "--set", "traces.resample=20")
    for jobs in (1, 2):
        workspan("study", "run", study, "-o", folder / f"{jobs}", "-j", jobs, *small)
    for shard in ("1/2", "2/2"):
        workspan("study", "run", study, "-o", folder / "shards", "-j", 1, "--shard", shard, *small)
    return same(folder / "1", folder / "2", folder / "shards")


def killed(folder: Path) -> tuple[bool, str]:
    study, result = template(folder), folder / "killed"
    workspan("study", "run", study, "-o", folder / "whole", "-j", 2)
    command = [sys.executable, "-m", "sim", "study", "run", str(study), "-o", str(result), "-j", "2"]
    pipe = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True, env=environment())
    while process.poll() is None and not list(result.glob("cells/*.parquet")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = workspan("study", "run", study, "-o", result, "-j", 2)
    kept = int(re.search(r"([\d,]+) were there", again.stderr)[1])
    equal, found = same(folder / "whole", result)
    return equal and kept > 0, f"{kept} of 50 cells were there after kill -9; {found}"


def template(folder: Path) -> Path:
    workspan("study", "init", folder)
    return folder / "study.yaml"


def same(*folders: Path) -> tuple[bool, str]:
    digests = [digests_of(folder) for folder in folders]
    different = {name for one in digests for name in one if any(other.get(name) != one[name] for other in digests)}
    return not different, f"{len(digests[0])} files, {len(different)} differ"


def digests_of(folder: Path) -> Mapping[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def coverage(folder: Path) -> tuple[bool, str]:
    paired = module_of("sim/test_paired.py")
    least = 1.0
    for truth in (paired.NULL, paired.BY_WORKFLOW, paired.LONG_TAIL):
        for workflows, seeds in ((50, 5), (300, 5), (5, 5)):
            rng = np.random.default_rng(1)
            studies = (paired.effect(*paired.study_of(rng, workflows, seeds, **truth)) for _ in range(600))
            least = min(least, statistics.mean(low <= 1 <= high for low, high in (one.ci95 for one in studies)))
    return least >= 0.923, f"{least:.3f} of the intervals hold 1 where they do so least"


def module_of(path: str) -> ModuleType:
    spec = spec_from_file_location(Path(path).stem, TESTS / path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_requests(folder: Path) -> tuple[bool, str]:
    record = TESTS / "calibration/examples/cpu-random-requests"
    run = Recorded.of(read_run(record, record / "workload.jsonl.gz"))
    all_of_them = np.ones(len(run.sent), dtype=bool)
    errors = accuracy(run, rerun(run, load_profile("cpu-tiny-llama")), all_of_them)
    names = ("e2el_mean_error", "ttft_mean_error", "tpot_mean_error", "e2el_mape")
    found = ", ".join(f"{name} {errors[f'{name}_pct']:+.1f} %" for name in names)
    return found == "e2el_mean_error -1.0 %, ttft_mean_error +0.5 %, tpot_mean_error -0.3 %, e2el_mape +5.6 %", found


def held_out(folder: Path) -> tuple[bool, str]:
    if not GROUNDTRUTH.is_dir():
        raise Missing("no recorded runs of GPUs in ../shared/groundtruth")
    good, found = True, []
    for name, expected in HELD_OUT.items():
        path = folder / f"{name}.yaml"
        run, (prompts,) = GROUNDTRUTH / name.replace("-", "_", 1), GROUNDTRUTH.glob("*.jsonl.gz")
        workspan("calibrate", "--from", run, "--workload", prompts, "--profile", name, "-o", path)
        told = yaml.safe_load(path.read_text())["accuracy"]
        keys = {"e2el_mape": "held_out_e2el_mape_pct"} | {
            f"{metric}_mean": f"held_out_{metric}_mean_error_pct" for metric in ("e2el", "ttft", "tpot")
        }
        errors = {short: told[key] for short, key in keys.items()}
        good &= all(abs(errors[short] - value) <= 0.02 for short, value in expected.items())
        found.append(f"{name}: " + ", ".join(f"{short} {value:+.2f} %" for short, value in errors.items()))
    return good, "; ".join(found)


def same_decisions(folder: Path) -> tuple[bool, str]:
    command = [sys.executable, "-m", "pytest", "-q", "tests/live/test_policies.py", "-k", "test_10"]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False, env=environment())
    return done.returncode == 0, done.stdout.strip().splitlines()[-1]


def speed(folder: Path) -> tuple[bool, str]:
    rows = ((bench.requests(1000), 10.0, 0.094), (bench.fans(1000), 1.5, 0.54))
    medians = [
        statistics.median(bench.cpu_s(workflows, "async", SessionRate(rate))[0] for _ in range(7))
        for workflows, rate, _ in rows
    ]
    good = all(median <= 2 * claimed for median, (_, _, claimed) in zip(medians, rows, strict=True))
    return good, f"{medians[0]:.3f} and {medians[1]:.2f} CPU s"


def corpus(folder: Path) -> tuple[bool, str]:
    study = {
        "name": "corpus",
        "policies": ["async", "program_fcfs", "plas", "srpt_mean"],
        "grid": {"product": {"load.session_rate": [0.1, 0.2, 0.3, 0.4]}},
        "seeds": 5,
    }
    (folder / "corpus.yaml").write_text(yaml.safe_dump(study))
    began = time.monotonic()
    workspan("study", "run", folder / "corpus.yaml", "-o", folder / "corpus")
    spent_s = time.monotonic() - began
    done = workspan("study", "status", folder / "corpus").stdout
    rows = "SELECT count(*) AS n FROM sessions JOIN cells USING (cell) WHERE status = 'finished'"
    (row,) = json.loads(workspan("study", "query", folder / "corpus", rows, "--format", "json").stdout)
    return (
        done.startswith("85 of 85 cells done") and row["n"] >= 160_000 and spent_s <= 300,
        f"{row['n']:,} workflows in {spent_s:.0f} s",
    )


def status(folder: Path) -> tuple[bool, str]:
    workspan("traces", "generate", "fan_out:branches=2", "--seed", 1, "-n", 20, "-o", folder / "tiny.jsonl")
    study = {
        "traces": {"sources": ["tiny.jsonl"]},
        "policies": ["async", "program_fcfs", "plas", "srpt_mean"],
        "grid": {"product": {"load.session_rate": [round(0.5 + number / 100, 2) for number in range(1000)]}},
        "seeds": 25,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study))
    workspan("study", "run", folder / "tiny.yaml", "-o", folder / "tiny")
    began = time.monotonic()
    said = workspan("study", "status", folder / "tiny").stdout.splitlines()[0]
    spent_s = time.monotonic() - began
    return said.startswith("100,025 of 100,025 cells done") and spent_s < 2, f"{said}: {spent_s:.1f} s"
