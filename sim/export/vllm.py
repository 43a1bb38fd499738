"""The JSON that ``vllm bench serve --save-result --save-detailed`` writes, for one run.

Keys and units are those of vLLM 0.32 (``vllm/benchmarks/serve.py``): totals, throughputs, latencies in milliseconds,
and lists in seconds with a place per request, in the order of sending. Beside them stand, as that command's
``--metadata`` puts them, where the numbers come from, and what `sim.bench_row` has of sessions.

Left out, since no result has it: the date, what needs the instant of every token (``itls``, and
``max_output_tokens_per_s``), ``request_rate`` and ``burstiness``, as the load is of sessions and not of requests,
``max_concurrent_requests``, and texts. A request that did not finish has an ``errors`` text and zeros, as vLLM writes
it. There is no ``max_concurrency``: policies and workflows limit the calls under way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sim.bench_row import bench_row
from sim.export import Part, Result, Written
from sim.record import EngineStats, Extras, Record

USES_WORKFLOWS = False

#: What a run tells only while it is in memory.
_UNTOLD = {
    *("steps", "mean_batch_size", "gpu_busy_share", "preemptions"),
    *(field.name for kind in (EngineStats, Extras) for field in fields(kind)),
}


def write(result: Result) -> Written:
    """One JSON object."""
    part = result.only
    told = {f"workspan_{name}": value for name, value in result.origin.items()}
    data = {
        "endpoint_type": "vllm",
        "backend": "vllm",
        "label": part.policy,
        "model_id": result.model,
        "tokenizer_id": ", ".join(result.provenance.get("tokenizers", [])),
        "num_prompts": len(part.timeline.records),
        "workspan_policy": part.policy,
        "workspan_repetition": part.repetition,
        **told,
        "max_concurrency": None,
        **_numbers(part),
        **_columns(part.timeline.records),
    }
    return Written({"vllm_bench.json": [json.dumps(data, allow_nan=False) + "\n"]})


def _numbers(part: Part) -> dict[str, Any]:
    """Its numbers under vLLM's keys, and those of sessions; a latency of nothing is left out."""
    row = bench_row(part.timeline)
    return {
        name: value
        for name, value in row.items()
        if name not in _UNTOLD and (value is not None or name == "request_goodput")
    }


def _columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    rows = sorted(records, key=lambda record: (record.sent_s, record.session, record.call_id))
    return {
        "input_lens": [row.num_prompt_tokens for row in rows],
        "output_lens": [row.num_output_tokens if row.status == "finished" else 0 for row in rows],
        "ttfts": [_since(row, row.first_token_s) for row in rows],
        "latencies": [_since(row, row.finished_s) for row in rows],
        "start_times": [row.sent_s for row in rows],
        "errors": ["" if row.status == "finished" else row.reason or row.status for row in rows],
    }


def _since(row: Record, moment_s: float | None) -> float:
    return moment_s - row.sent_s if moment_s is not None and row.status == "finished" else 0.0
