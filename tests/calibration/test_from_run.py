"""Inverse calibration: on a run with known coefficients, and on the recorded ones."""

import gzip
import json
import random

import numpy as np
import pytest
from strategies import profile, roomy

from calibration.from_run import accuracy, calibrate, fit, predict, read_run
from sim.latency import StepTime, load_profile, shipped

WORKLOAD = "sharegpt-llama-3.1-8b-300-sps10.jsonl.gz"
TRUTH = StepTime(const_s=8e-3, prefill_token_s=6e-5, decode_seq_s=1e-4, kv_token_s=3e-7, attention_pair_s=1e-8)


def write_run(folder, engine, count=24):
    """A run of the simulator itself in the form of a recorded one."""
    rng = random.Random(1)
    prompts = [[rng.randrange(1000) for _ in range(rng.choice([50, 1500, 6000]))] for _ in range(count)]
    outputs = [rng.choice([5, 40, 120]) for _ in range(count)]
    rows = [
        {"output_toks": output, "queued_ts": 100 + 0.05 * number, "first_token_ts": 101.0, "last_token_ts": 102.0}
        for number, output in enumerate(outputs)
    ]
    with gzip.open(folder / "workload.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps({"input_tok_ids": ids}) + "\n" for ids in prompts)
    write_requests(folder, rows)
    first, last = predict(read_run(folder, folder / "workload.jsonl.gz", 16), engine)
    for row, begun, ended in zip(rows, first, last, strict=True):
        row |= {"first_token_ts": 100 + begun, "last_token_ts": 100 + ended}
    write_requests(folder, rows)


def write_requests(folder, rows):
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_known_coefficients_are_found_again(tmp_path):
    engine = profile(roomy(max_num_seqs=8), TRUTH)
    write_run(tmp_path, engine)
    run = read_run(tmp_path, tmp_path / "workload.jsonl.gz", 16)
    found = fit(run, engine, slice(None))
    for name in ("const_s", "prefill_token_s", "decode_seq_s", "kv_token_s", "attention_pair_s"):
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=0.05), name
    errors = accuracy(run, engine.model_copy(update={"step_time": found}), slice(None))
    assert errors["e2el_mape_pct"] < 0.05


def test_requests_with_equal_beginnings_share_segments(tmp_path):
    with gzip.open(tmp_path / "w.gz", "wt") as lines:
        lines.writelines(json.dumps({"input_tok_ids": [*range(32), *tail]}) + "\n" for tail in ([1, 2], [3]))
    write_requests(
        tmp_path,
        [{"output_toks": 1, "queued_ts": at, "first_token_ts": 2.0, "last_token_ts": 2.0} for at in (1.0, 1.5)],
    )
    run = read_run(tmp_path, tmp_path / "w.gz", 16)
    one, other = (workflow.calls[0].prompt for workflow in run.workflows.values())
    assert one[:2] == other[:2]
    assert [segment.num_tokens for segment in one] == [16, 16, 2]
    assert one[2] != other[2]
    np.testing.assert_allclose(run.queued, [0, 0.5])


@pytest.mark.parametrize("name", shipped())
def test_the_accuracy_that_a_shipped_profile_states_is_reproduced(name, groundtruth):
    known = load_profile(name)
    folder = groundtruth / name.replace("-", "_", 1)
    measured = accuracy(read_run(folder, groundtruth / WORKLOAD, 16), known, slice(None))
    for key, value in measured.items():
        # The coefficients are stored with six digits.
        assert known.accuracy[key] == pytest.approx(value, abs=0.02), key
    assert measured["e2el_mape_pct"] < 0.5


def test_a_calibrated_profile_says_what_it_was_measured_with(tmp_path):
    engine = profile(roomy(max_num_seqs=8), TRUTH)
    write_run(tmp_path, engine, count=6)
    run = read_run(tmp_path, tmp_path / "workload.jsonl.gz", 16)
    found = calibrate(run, engine)
    longest = max(workflow.calls[0].num_prompt_tokens for workflow in run.workflows.values())
    assert longest + 5 <= found.max_measured_tokens <= longest + 120
    assert set(found.accuracy) == {
        f"{part}{name}"
        for part in ("", "held_out_")
        for name in ("e2el_mape_pct", "e2el_mean_error_pct", "ttft_mean_error_pct", "tpot_mean_error_pct")
    }
