"""Recorded runs for tests: made by the simulator, and those of the two GPUs."""

import random

import numpy as np

from calibration.recorded import RecordedRun, Request, read_run
from calibration.rerun import Recorded, rerun
from sim.workflow import Segment

WORKLOAD = "sharegpt-llama-3.1-8b-300-sps10.jsonl.gz"


def simulated(engine, requests, noise=0.0, **known):
    """The record of a run of (sent_s, prompt tokens, output tokens); instants are off by that share of the latency."""
    asked = [
        Request(f"r{number}", (Segment(f"prompt {number}", prompt),), output, sent, sent + 1.0, sent + 2.0)
        for number, (sent, prompt, output) in enumerate(requests)
    ]
    assert asked[0].sent_s == 0  # as in `Recorded`
    run = RecordedRun("test", tuple(asked), **known)
    again, rng = rerun(Recorded.of(run), engine), np.random.default_rng(3)
    answered = []
    for one, first, last in zip(asked, again.first_token, again.last_token, strict=True):
        first_s = one.sent_s + (first - one.sent_s) * (1 + noise * rng.standard_normal())
        last_s = max(first_s, one.sent_s + (last - one.sent_s) * (1 + noise * rng.standard_normal()))
        answered.append(Request(one.id, one.prompt, one.num_output_tokens, one.sent_s, first_s, last_s))
    return RecordedRun("test", tuple(answered), **known)


def varied(count, seed=1):
    """Requests of many lengths, some alone and some many at a time."""
    rng, now, requests = random.Random(seed), 0.0, []
    for number in range(count):
        if number:
            now += rng.expovariate(20.0) if number % 20 else 4.0
        requests.append((now, rng.choice([50, 400, 1500, 3000]), rng.choice([30, 60, 150])))
    return requests


def of_gpu(folder):
    """The run of a GPU."""
    return read_run(folder, folder.parent / WORKLOAD)
