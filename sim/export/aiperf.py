"""AIPerf's per-record export ``profile_export.jsonl``: one run.

Checked with the models of aiperf 0.13.0, and read by `calibration.recorded.aiperf`. Of a record it has Unix times in
nanoseconds, from the year 2000 on, and those metrics that a result has. ``session_num`` is the session,
``conversation_id`` the workflow, ``turn_index`` the call's place in it by the instant of sending. What stands as a
server's usage is the engine's own count.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sim.export import BEGIN_S, Part, Result, Written
from sim.record import Record

USES_WORKFLOWS = False


def write(result: Result) -> Written:
    """A line per finished call."""
    part = result.only
    return Written({"profile_export.jsonl": _lines(part)}, part.left_out)


def _lines(part: Part) -> Iterator[str]:
    turns: Counter[int] = Counter()
    for record in part.finished:
        yield json.dumps({"metadata": _metadata(record, turns[record.session]), "metrics": _metrics(record)}) + "\n"
        turns[record.session] += 1


def _metadata(record: Record, turn: int) -> dict[str, Any]:
    return {
        "session_num": record.session,
        "x_request_id": f"{record.session}/{record.call_id}",
        "x_correlation_id": f"{record.session}",
        "conversation_id": record.workflow_id,
        "turn_index": turn,
        "request_start_ns": _ns(record.sent_s),
        "request_end_ns": _ns(record.finished_s),
        "worker_id": "workspan",
        "record_processor_id": "workspan",
        "benchmark_phase": "profiling",
        "was_cancelled": False,
    }


def _metrics(record: Record) -> dict[str, dict[str, Any]]:
    assert record.first_token_s is not None
    assert record.finished_s is not None
    ttft_s, latency_s = record.first_token_s - record.sent_s, record.finished_s - record.sent_s
    more, cached = record.num_output_tokens - 1, record.num_cached_tokens
    milliseconds = {"time_to_first_token": ttft_s, "request_latency": latency_s}
    if more:
        milliseconds["inter_token_latency"] = (latency_s - ttft_s) / more
    tokens = {
        "input_sequence_length": record.num_prompt_tokens,
        "output_sequence_length": record.num_output_tokens,
        "usage_prompt_tokens": record.num_prompt_tokens,
        "usage_completion_tokens": record.num_output_tokens,
        **({} if cached is None else {"usage_prompt_cache_read_tokens": cached}),
    }
    return {
        **{name: {"value": value * 1000, "unit": "ms"} for name, value in milliseconds.items()},
        **{name: {"value": value, "unit": "tokens"} for name, value in tokens.items()},
    }


def _ns(moment_s: float | None) -> int:
    assert moment_s is not None
    return BEGIN_S * 10**9 + round(moment_s * 1e9)
