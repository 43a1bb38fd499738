"""Numbers about one run, under the names and definitions of ``vllm bench``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sim.record import Extras, Record, RunResult

Distribution = dict[str, float | None]

#: Workflows that a bootstrap draws at once, over all its resamples.
_BLOCK = 2**16


def summary(result: RunResult) -> dict[str, Any]:
    """Everything the result table shows of one policy; None where there is nothing to measure.

    Seconds; ``ttft`` is sent to first token, ``tpot`` (e2el - ttft) / (output tokens - 1) of calls with two or
    more, ``parallelism`` the calls and tools under way of a session averaged over its time.
    """
    sessions = [session for session in result.sessions if session.status == "finished"]
    records = [record for record in result.records if record.status == "finished"]
    latency = [session.latency_s for session in sessions]
    engine, makespan = result.engine, result.makespan_s
    return {
        "makespan_s": makespan,
        "session_latency_s": distribution(latency),
        "ttft_s": distribution(map(ttft_s, records)),
        "tpot_s": distribution(tpot_s(record) for record in records if record.num_output_tokens > 1),
        "output_tokens_per_s": ratio(sum(record.num_output_tokens for record in records), makespan),
        "sessions_per_s": ratio(len(sessions), makespan),
        "steps": engine.num_steps,
        "mean_batch_size": ratio(engine.num_rows, engine.num_steps),
        "parallelism": ratio(sum(session.busy_s for session in sessions), sum(latency)),
        "gpu_busy_share": ratio(engine.busy_s, makespan * result.replicas),
        "prefix_cache_hit_share": ratio(
            sum(record.num_cached_tokens for record in records if record.num_cached_tokens is not None),
            sum(record.num_prompt_tokens for record in records if record.num_cached_tokens is not None),
        ),
        "preemptions": engine.num_preemptions,
        **extras(result.extras),
        "sessions": count(session.status for session in result.sessions),
        "calls": count(record.status for record in result.records),
        "failures": count(record.reason for record in result.records if record.reason),
    }


def extras(found: Extras) -> dict[str, Any]:
    """What the policy did beyond the recorded work, if anything."""
    return {"extras": asdict(found)} if found != Extras() else {}


def ttft_s(record: Record) -> float:
    """Seconds from sending the call to its first token."""
    assert record.first_token_s is not None
    return record.first_token_s - record.sent_s


def tpot_s(record: Record) -> float:
    """Seconds per output token after the first."""
    assert record.first_token_s is not None
    assert record.finished_s is not None
    return (record.finished_s - record.first_token_s) / (record.num_output_tokens - 1)


def distribution(values: Iterable[float]) -> Distribution:
    """Mean and percentiles by linear interpolation."""
    array = np.fromiter(values, float)
    names = ("mean", "p50", "p90", "p95", "p99")
    if not array.size:
        return dict.fromkeys(names)
    percentiles = np.percentile(array, (50, 90, 95, 99)).tolist()
    return dict(zip(names, (float(array.mean()), *percentiles), strict=True))


def speedup(
    baseline: ArrayLike, other: ArrayLike, rng: np.random.Generator, resamples: int = 1000
) -> tuple[float, tuple[float, float] | None]:
    """Ratio of mean session latencies of the same workflows, and its 95 % interval.

    Percentile bootstrap (Efron 1979) over workflows, both latencies of a workflow drawn together; no
    interval for a single workflow.
    """
    base, new = np.asarray(baseline, float), np.asarray(other, float)
    if base.size < 2:
        return float(base.sum() / new.sum()), None
    # In blocks that fit into a cache; the numbers drawn are the same in blocks of any size.
    block = max(1, _BLOCK // base.size)
    ratios = np.empty(resamples)
    for start in range(0, resamples, block):
        index = rng.integers(base.size, size=(min(block, resamples - start), base.size))
        ratios[start : start + block] = base[index].sum(axis=1) / new[index].sum(axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5)).tolist()
    return float(base.sum() / new.sum()), (low, high)


def ratio(part: float | None, whole: float | None) -> float | None:
    """``part / whole``, or None where there is no whole or one is not known."""
    return part / whole if whole and part is not None else None


def percent(share: float | None) -> str:
    """A share for people."""
    return "-" if share is None else f"{share:.1%}"


def count(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, by name."""
    found = list(names)
    return {name: found.count(name) for name in sorted(set(found))}
