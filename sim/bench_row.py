"""One flat row of numbers about a run, under the keys that ``vllm bench serve`` writes: vLLM's plots draw it as it is.

Left out is what needs the instant of every token (``itl``, ``max_output_tokens_per_s``), as no record has it, and
``max_concurrent_requests``, as a result may be of runs one after the other, each from 0 s. None stands where there is
nothing to measure; vLLM writes 0 there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.metrics import count, distribution, ratio
from sim.record import EngineStats, Record, RunResult, SessionRecord
from sim.regimes import REGIMES
from sim.settings import Strict

Row = dict[str, float | int | None]
Column = NDArray[np.float64]
Columns = Mapping[str, Column]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

#: vLLM's word -> the status of a session.
_ENDS = {"completed": "finished", "failed": "failed", "aborted": "aborted", "unfinished": "unfinished"}
#: Seconds that the engines tell, under the names of `EngineStats`.
_TOLD = ("busy_s", *(f"{regime}_s" for regime in REGIMES), "outside_s")


class Slo(Strict):
    """The most seconds that good service takes: of a call ``ttft``, ``tpot`` and ``e2el``, of a session its latency."""

    session_latency_s: Seconds | None = None
    ttft_s: Seconds | None = None
    tpot_s: Seconds | None = None
    e2el_s: Seconds | None = None

    @property
    def of_calls(self) -> dict[str, float]:
        """Those that are given for calls, by name."""
        limits = {"ttft_s": self.ttft_s, "tpot_s": self.tpot_s, "e2el_s": self.e2el_s}
        return {name: limit for name, limit in limits.items() if limit is not None}


def bench_row(result: RunResult, counted: Collection[int] | None = None, slo: Slo | None = None) -> Row:
    """The numbers of a run; the same keys in the same order for every run.

    Latencies and ``parallelism`` are of the ``counted`` sessions (None: of all), everything else is of the whole run.
    ``request_goodput`` are the calls per second that keep to the SLO, ``session_goodput`` the sessions that do and
    whose calls all do; None where it says nothing about them.
    """
    calls, sessions, slo = _calls(result.records), _sessions(result.sessions), slo or Slo()
    some, some_sessions = _only(calls, counted), _only(sessions, counted)
    return {
        **_about_calls(result, calls, slo),
        **_milliseconds("ttft", some["ttft_s"]),
        **_milliseconds("tpot", some["tpot_s"][some["output"] > 1]),
        **_milliseconds("e2el", some["e2el_s"]),
        **_about_sessions(result, calls, sessions, slo),
        **_milliseconds("session_latency", some_sessions["latency_s"]),
        "parallelism": ratio(float(some_sessions["busy_s"].sum()), float(some_sessions["latency_s"].sum())),
        **_about_engine(result.engine, result.makespan_s * result.replicas),
        "prefix_cache_hit_rate": _hit_rate(calls),
        **asdict(result.extras),
    }


def _calls(records: Sequence[Record]) -> Columns:
    """Finished calls. ``tpot_s`` is 0 where there is one token, ``cached`` nan where it is not known."""
    rows = [record for record in records if record.status == "finished"]
    output, sent_s = _column(rows, "num_output_tokens"), _column(rows, "sent_s")
    first_s, finished_s = _column(rows, "first_token_s"), _column(rows, "finished_s")
    return {
        "session": _column(rows, "session"),
        "prompt": _column(rows, "num_prompt_tokens"),
        "cached": _column(rows, "num_cached_tokens"),
        "output": output,
        "ttft_s": first_s - sent_s,
        # vLLM, too, takes that of a single token for 0 when it asks whether a call is good.
        "tpot_s": np.where(output > 1, (finished_s - first_s) / np.maximum(output - 1, 1), 0.0),
        "e2el_s": finished_s - sent_s,
    }


def _sessions(sessions: Sequence[SessionRecord]) -> Columns:
    """Finished sessions."""
    rows = [session for session in sessions if session.status == "finished"]
    return {name: _column(rows, name) for name in ("session", "latency_s", "busy_s")}


def _column(rows: Sequence[Record] | Sequence[SessionRecord], name: str) -> Column:
    """A field of every row; nan for None."""
    return np.array([getattr(row, name) for row in rows], float)


def _only(columns: Columns, counted: Collection[int] | None) -> Columns:
    if counted is None:
        return columns
    kept = np.isin(columns["session"], list(counted))
    return {name: column[kept] for name, column in columns.items()}


def _about_calls(result: RunResult, calls: Columns, slo: Slo) -> Row:
    duration, ended = result.makespan_s, count(record.status for record in result.records)
    completed, unfinished = ended.get("finished", 0), ended.get("unfinished", 0)
    prompt, output = int(calls["prompt"].sum()), int(calls["output"].sum())
    good = int(_good(calls, slo).sum()) if slo.of_calls else None
    return {
        "duration": duration,
        "completed": completed,
        "failed": len(result.records) - completed - unfinished,
        "unfinished": unfinished,
        "total_input_tokens": prompt,
        "total_output_tokens": output,
        "request_throughput": ratio(completed, duration),
        "request_goodput": ratio(good, duration),
        "output_throughput": ratio(output, duration),
        "total_token_throughput": ratio(prompt + output, duration),
    }


def _about_sessions(result: RunResult, calls: Columns, sessions: Columns, slo: Slo) -> Row:
    duration, ended = result.makespan_s, count(session.status for session in result.sessions)
    good = _good_sessions(calls, sessions, slo) if slo != Slo() else None
    return {
        **{f"{what}_sessions": ended.get(status, 0) for what, status in _ENDS.items()},
        "session_throughput": ratio(ended.get("finished", 0), duration),
        "session_goodput": ratio(good, duration),
    }


def _good(calls: Columns, slo: Slo) -> NDArray[np.bool_]:
    """Which calls keep to what is given for calls."""
    good = np.ones(calls["session"].size, bool)
    for name, limit in slo.of_calls.items():
        good &= calls[name] <= limit
    return good


def _good_sessions(calls: Columns, sessions: Columns, slo: Slo) -> int:
    good = ~np.isin(sessions["session"], calls["session"][~_good(calls, slo)])
    if slo.session_latency_s is not None:
        good &= sessions["latency_s"] <= slo.session_latency_s
    return int(good.sum())


def _milliseconds(name: str, values_s: Column) -> Row:
    """A distribution under vLLM's keys; the standard deviation is that of a population."""
    found = distribution(values_s)
    std_s = float(values_s.std()) if values_s.size else None
    named = {"mean": found.pop("mean"), "median": found["p50"], "std": std_s, **found}
    return {f"{what}_{name}_ms": None if value is None else value * 1000 for what, value in named.items()}


def _about_engine(engine: EngineStats, gpu_s: float) -> Row:
    """What the engines did in so many seconds of their GPUs."""
    return {
        "steps": engine.num_steps,
        "mean_batch_size": ratio(engine.num_rows, engine.num_steps),
        "gpu_busy_share": ratio(engine.busy_s, gpu_s),
        "preemptions": engine.num_preemptions,
        **{name: getattr(engine, name) for name in _TOLD},
    }


def _hit_rate(calls: Columns) -> float | None:
    """Share of the prompt tokens that were cached, of calls of which that is known."""
    known = ~np.isnan(calls["cached"])
    return ratio(float(calls["cached"][known].sum()), float(calls["prompt"][known].sum()))
