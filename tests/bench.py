"""How much CPU the simulator takes: ``make bench``. CPU seconds after import, median of several runs."""

from __future__ import annotations

import statistics
import time

from sim.data import embedded_path
from sim.engine import simulate
from sim.latency import load_profile
from sim.load import Alone, SessionRate
from sim.policies import parse_policy
from sim.traces import read
from sim.workflow import Call, Segment, Tape, Workflow

RUNS = 3


def requests(count):
    """Independent requests of 1,000 prompt and 200 output tokens."""
    return [
        Workflow(
            f"r{i}",
            "requests",
            "",
            (Call("call", "user", (Segment(f"prompt-{i}", 1000),), f"answer-{i}"),),
            (),
            Tape({"call": 200}, {}),
        )
        for i in range(count)
    ]


def main():
    profile = load_profile("rtxpro6000-llama-3.1-8b")
    embedded, _ = read([embedded_path()])
    work = {
        "1,000 requests, 1,000 / 200 tokens, Poisson 10/s": (requests(1000), "async", SessionRate(10.0)),
        "embedded workflows alone, sequential": (embedded, "sequential", Alone()),
        "embedded workflows alone, async": (embedded, "async", Alone()),
    }
    print(f"{'work':52} {'CPU s':>8} {'steps':>10}")
    for name, (workflows, policy, load) in work.items():
        times = []
        for _ in range(RUNS):
            began = time.process_time()
            result = simulate(workflows, parse_policy(policy), profile, load, seed=0)
            times.append(time.process_time() - began)
        print(f"{name:52} {statistics.median(times):8.2f} {result.engine.num_steps:10,}")


if __name__ == "__main__":
    main()
