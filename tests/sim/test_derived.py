"""Derived profiles: the rule, and what it is worth."""

import gzip
import json

import numpy as np
import pytest
from strategies import profile, roomy

from sim.derived import (
    BASE,
    LLAMA_8B,
    RTX_4090,
    RTX_PRO_6000,
    RULE_ERROR_PCT,
    SHIPPED,
    Hardware,
    Shape,
    derive,
)
from sim.errors import ProfileError
from sim.latency import Overheads, StepTime, load_profile
from sim.policies import parse_policy
from sim.simulate import serve
from sim.workflow import Call, Segment, Tape, Workflow

OLD = Hardware("old", 1000, 100, 24 * 2**30, "sheet of the old")
NEW = Hardware("new", 2000, 400, 80 * 2**30, "sheet of the new")
STEP = StepTime(
    const_s=0.01,
    prefill_token_s=1e-4,
    decode_seq_s=2e-4,
    kv_token_s=1e-7,
    distinct_kv_token_s=2e-7,
    attention_pair_s=1e-9,
    free_tokens=90,
    host_s=1e-3,
    host_seq_s=1e-5,
)


def test_memory_and_arithmetic_are_scaled_and_the_rest_stays():
    base = profile(roomy(), STEP, Overheads(input_s=0.002))
    found = derive(base, OLD, NEW, LLAMA_8B, "guess")
    assert found.step_time == StepTime(
        const_s=0.005,
        prefill_token_s=2.5e-5,
        decode_seq_s=5e-5,
        kv_token_s=5e-8,
        distinct_kv_token_s=1e-7,
        attention_pair_s=2.5e-10,
        free_tokens=180,
        host_s=1e-3,
        host_seq_s=1e-5,
    )
    assert found.overheads == base.overheads
    assert found.engine.model_copy(update={"num_gpu_blocks": 100_000}) == base.engine
    assert (found.accuracy, found.draws) == ({}, None)
    assert "sheet of the new" in found.source


def test_the_kv_blocks_are_what_the_weights_leave():
    sizes = [
        derive(profile(), OLD, RTX_4090, shape, "x").engine.num_gpu_blocks for shape in (LLAMA_8B, Shape(0, 2**17))
    ]
    # vLLM had 2,588 blocks on that GPU; the weights of 16.06 GB take 7,658 of 2 MiB.
    assert sizes[0] == pytest.approx(2588, rel=0.01)
    assert sizes[1] - sizes[0] == pytest.approx(7658, abs=1)
    with pytest.raises(ProfileError, match="no room for KV"):
        derive(profile(), OLD, RTX_4090, Shape(30 * 10**9, 2**17), "x")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_derived_profile_is_what_the_rule_makes_of_its_base_now(name):
    """Where it is not: ``python -m sim.derived``."""
    there, made = load_profile(name), derive(load_profile(BASE), RTX_PRO_6000, SHIPPED[name], LLAMA_8B, name)
    assert there.step_time.model_dump() == pytest.approx(made.step_time.model_dump(), rel=1e-5)
    same = {"step_time": made.step_time}
    assert there.model_copy(update=same) == made


def test_the_error_that_every_derived_profile_tells_is_that_on_the_recorded_run(groundtruth):
    guess = derive(load_profile(BASE), RTX_PRO_6000, RTX_4090, LLAMA_8B, "guess")
    with gzip.open(groundtruth / "sharegpt-llama-3.1-8b-300-sps10.jsonl.gz", "rt") as lines:
        prompts = [json.loads(line)["input_tok_ids"] for line in lines]
    rows = map(json.loads, (groundtruth / "rtx4090_llama-3.1-8b" / "requests.jsonl").read_text().splitlines())
    requests = sorted(zip(rows, prompts, strict=True), key=lambda pair: pair[0]["queued_ts"])
    crowd = {
        number: recorded(number, ids, row["output_toks"], guess.engine.block_size)
        for number, (row, ids) in enumerate(requests)
    }
    began = requests[0][0]["queued_ts"]
    done = serve(crowd, parse_policy("async"), guess, [row["queued_ts"] - began for row, _ in requests]).records
    measured = np.mean([row["last_token_ts"] - row["queued_ts"] for row, _ in requests])
    error = np.mean([record.finished_s - record.sent_s for record in done]) / measured - 1
    assert 100 * error == pytest.approx(RULE_ERROR_PCT, abs=5)


def recorded(number, ids, output, size):
    """A request; equal beginnings of its token ids are equal segments."""
    starts = range(0, len(ids), size)
    prompt = tuple(Segment(str(ids[start : start + size]), len(ids[start : start + size])) for start in starts)
    call = Call("call", "user", prompt, f"answer-{number}")
    return Workflow(f"request-{number}", "requests", "", (call,), (), Tape({"call": output}, {}))
