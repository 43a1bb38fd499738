"""How much CPU the simulator takes: ``make bench``. CPU seconds after import, median of several runs."""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from itertools import cycle, islice

from sim.data import embedded_path
from sim.latency import load_profile
from sim.load import Alone, ConcurrentSessions, SessionRate
from sim.policies import parse_policy
from sim.simulate import simulate
from sim.traces import read
from sim.workflow import Call, Edge, Segment, Tape, Workflow

PROFILE = "rtxpro6000-llama-3.1-8b"


def call(name, number, prompt):
    """A call whose prompt nobody shares."""
    return Call(name, "agent", (Segment(f"{name}-{number}", prompt),), f"{name}-answer-{number}")


def requests(count, prompt=1000, output=200):
    """Independent requests."""
    return [
        Workflow(f"r{i}", "requests", "", (call("call", i, prompt),), (), Tape({"call": output}, {}))
        for i in range(count)
    ]


def fans(count, prompt=1008, output=200):
    """Workflows of six calls: plan, four in parallel, join."""
    names = ("plan", "a", "b", "c", "d", "join")
    edges = [Edge("plan", name, "control") for name in "abcd"] + [Edge(name, "join", "control") for name in "abcd"]
    tape = Tape(dict.fromkeys(names, output), {})
    return [
        Workflow(f"f{i}", "fans", "", tuple(call(name, i, prompt) for name in names), tuple(edges), tape)
        for i in range(count)
    ]


def cpu_s(workflows, policy, load, macro_steps=True):
    """CPU seconds of one simulation, and its result."""
    profile = load_profile(PROFILE)
    began = time.process_time()
    result = simulate(workflows, parse_policy(policy), profile, load, seed=0, macro_steps=macro_steps)
    return time.process_time() - began, result


def report(name, runs, *arguments):
    """One line: the median over the runs."""
    times, results = zip(*(cpu_s(*arguments) for _ in range(runs)), strict=True)
    median = statistics.median(times)
    print(f"{name:58} {median:8.3f} {min(times):8.3f} {max(times):8.3f} {results[0].engine.num_steps:10,}", flush=True)
    return median


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peak-memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_memory:
        cpu_s(requests(options.peak_memory), "async", SessionRate(10.0))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    head = f"CPU seconds: median, least and most of {options.runs} runs"
    print(f"{head:58} {'median':>8} {'min':>8} {'max':>8} {'steps':>10}")
    rate = SessionRate(10.0)
    thousand = report("1,000 requests, 1,000 / 200 tokens, Poisson 10/s", options.runs, requests(1000), "async", rate)
    fan = "1,000 workflows of 6 calls, 1,008 / 200, Poisson 1.5/s"
    report(fan, options.runs, fans(1000), "async", SessionRate(1.5))
    embedded, _ = read([embedded_path()])
    ag2 = list(islice(cycle([w for w in embedded if w.framework == "AG2"]), 1500))
    for policy in ("sequential", "level_barrier", "async"):
        report(f"1,500 AG2 workflows, each alone, {policy}", options.runs, ag2, policy, Alone())
    decoding = requests(256, prompt=256, output=2000), "async", ConcurrentSessions(64)
    macro = report("256 requests, 256 / 2,000, 64 at a time", options.runs, *decoding)
    step = report("  the same, every step an event", options.runs, *decoding, False)
    print(f"step engine / macro-step engine: {step / macro:.1f}x")
    small = report("10,000 requests, 1,000 / 200, Poisson 10/s", options.runs, requests(10_000), "async", rate)
    large = report("100,000 requests, 1,000 / 200, Poisson 10/s", 1, requests(100_000), "async", rate)
    per_request = (1e6 * seconds / count for seconds, count in ((thousand, 1e3), (small, 1e4), (large, 1e5)))
    print("CPU per request at 1,000, 10,000, 100,000:", ", ".join(f"{us:.0f} us" for us in per_request))
    again = [sys.executable, __file__, "--peak-memory", "100000"]
    peak = subprocess.run(again, check=True, capture_output=True, text=True).stdout.strip()
    print(f"peak memory at 100,000 requests: {peak} MiB")


if __name__ == "__main__":
    main()
