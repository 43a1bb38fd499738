"""Our rows are what vLLM's own benchmark would have written of the same calls, and its plots draw a summary of them.

Real vLLM, in an environment of its own, and beside it what its plots need: ``make test-vllm`` makes both.
"""

import json
import os
import subprocess
from functools import partial
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from strategies import profile, request, roomy

from sim.bench_row import Slo, bench_row
from sim.load import SessionRate
from sim.policies import parse_policy
from sim.record import EngineStats, RunResult
from sim.simulate import simulate
from sim.synthetic import generate, parse_pattern

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"
#: Of these the records know nothing, or `sim.bench_row` says why they would mislead.
LEFT_OUT = {
    *(f"{what}_itl_ms" for what in ("mean", "median", "std", "p50", "p90", "p95", "p99")),
    *("max_output_tokens_per_s", "max_concurrent_requests", "rtfx"),
}
#: Of the usual colours, those of the first two curves.
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)

debates = partial(generate, parse_pattern("debate:agents=3,rounds=2"), 12)


@pytest.fixture
def vllm():
    """Runs a command in vLLM's environment, with what its plots need, and gives what it printed."""
    if not (VENV / "installed").exists() or not (VENV / "plot").is_dir():
        pytest.skip("no vLLM in .venv-vllm, or nothing to plot with in .venv-vllm/plot; make test-vllm installs both")
    told = {"PYTHONPATH": str(VENV / "plot"), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}

    def run(*command, given=""):
        done = subprocess.run(
            [VENV / "bin/python", *command], input=given, capture_output=True, text=True, env=os.environ | told
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_a_row_has_the_keys_and_the_numbers_of_vllms_benchmark(vllm):
    # Some are too long for the engine, and some answer with a single token.
    requests = [request(f"r{number}", 40 * number, (1, 30, 200)[number % 3]) for number in range(1, 81)]
    engine = profile(roomy(max_model_len=3000, max_num_seqs=4))
    ran = simulate(requests, parse_policy("async"), engine, SessionRate(2.0), seed=1)
    slo = Slo(ttft_s=2.0, tpot_s=0.02, e2el_s=10.0)
    calls = [
        {
            "success": record.status == "finished",
            "output_tokens": record.num_output_tokens,
            "prompt_len": record.num_prompt_tokens,
            "start_time": record.sent_s,
            "ttft": (record.first_token_s or 0.0) - record.sent_s,
            "latency": (record.finished_s or 0.0) - record.sent_s,
        }
        for record in ran.records
    ]
    goodput = {name.removesuffix("_s"): limit * 1000 for name, limit in slo.of_calls.items()}
    given = json.dumps({"calls": calls, "goodput": goodput})
    theirs = json.loads(vllm("tests/vllm/bench_result.py", given=given).splitlines()[-1])
    ours = bench_row(RunResult(ran.records, ran.sessions, EngineStats(), theirs["duration"]), slo=slo)
    assert theirs.keys() - ours.keys() == LEFT_OUT
    assert 0 < theirs["failed"] < theirs["completed"]
    assert 0 < theirs["request_goodput"] < theirs["request_throughput"]
    same = [key for key in ours if key in theirs]
    assert {key: ours[key] for key in same} == pytest.approx({key: theirs[key] for key in same})


def test_vllms_own_plot_draws_a_summary_of_rows(vllm, tmp_path):
    rows = [
        {
            "policy": policy,
            "session_rate": rate,
            "seed": seed,
            "run_number": seed,
            **bench_row(simulate(debates(seed=seed), parse_policy(policy), profile(), SessionRate(rate), seed)),
        }
        for policy, rate, seed in product(("sequential", "async"), (0.5, 1.0, 2.0), (0, 1))
    ]
    (tmp_path / "summary.json").write_text(json.dumps(rows, allow_nan=False))
    vllm(
        *("-m", "vllm.benchmarks.sweep.plot", tmp_path),
        *("--var-x", "session_rate", "--var-y", "mean_session_latency_ms", "--curve-by", "policy"),
    )
    drawn = plt.imread(tmp_path / "FIGURE.png")[..., :3] * 255
    for colour in (BLUE, ORANGE):
        of_it = np.isclose(drawn, colour, atol=1).all(axis=2).any(axis=0)
        assert of_it.mean() > 0.5, "the curve does not go across the figure"
