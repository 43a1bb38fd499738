"""A folder with ``requests.jsonl``: LLMServingSim's record of a real vLLM.

Per request ``queued_ts``, ``first_token_ts`` and ``last_token_ts``, seconds of the engine's monotonic
clock, ``arrival_time`` of the day's clock, ``input_toks`` and ``output_toks``. The engine sees a request between two
steps, so ``queued_ts`` is later than the sending, by up to two steps: where the arrivals are told they are taken, moved
by the least difference of the two clocks. ``meta.json`` beside it has the engine's arguments and, in newer versions,
its resolved configuration and its KV blocks. The workload is JSON lines with ``input_tok_ids``, in the order of the
requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.recorded import (
    ANSWERS_UNKNOWN,
    LENGTHS_ONLY,
    NUMBER,
    RecordedRun,
    Request,
    part,
    read_json,
    read_lines,
    recorded,
    take,
    timed,
)
from calibration.recorded._prompts import of_ids, read_ids
from sim.errors import TraceError
from sim.settings import from_vllm
from sim.workflow import Segment

_INSTANTS = ("queued_ts", "first_token_ts", "last_token_ts")
_ENGINES = "The instants are the engine's: what a request takes from the client to it, and back, is not in them."
_QUEUED = "When requests were sent is not recorded: that it was when the engine saw them was assumed."


def looks_like(path: Path) -> bool:
    """A folder with the requests."""
    return (path / "requests.jsonl").is_file()


def load(path: Path, workload: Path | None) -> RecordedRun:
    """The run; a workload gives the token ids of LLMServingSim's prompts."""
    meta = path / "meta.json"
    about = read_json(meta) if meta.is_file() else {}
    requests, of_arrival = _requests(path / "requests.jsonl", workload)
    facts = _meta_facts(about) | {"model": about.get("model"), "vllm": about.get("vllm_version")}
    return recorded(
        path,
        "llmservingsim",
        requests,
        engine=_meta_settings(about),
        facts={
            **{name: str(value) for name, value in facts.items() if value},
            "instants": "engine",
        },
        assumptions=(ANSWERS_UNKNOWN if workload else LENGTHS_ONLY, _ENGINES, *([] if of_arrival else [_QUEUED])),
    )


def _requests(path: Path, workload: Path | None) -> tuple[list[Request], bool]:
    """The requests, and whether they were sent at the instants of their arrival."""
    rows = read_lines(path)
    ahead = _ahead_s(rows)
    ids = read_ids(workload, path, len(rows)) if workload else None
    prompts = of_ids(ids) if ids else None
    requests = []
    for number, (where, row) in enumerate(rows):
        if ids is None or "input_toks" in row:
            length = take(where, row, "input_toks", kind=int)
            if ids and len(ids[number]) != length:
                problem = f"{length} prompt tokens, {len(ids[number])} in {workload}"
                raise TraceError(f"{where}: {problem}; give this run's workload")
        name = str(row.get("request_id", number))
        prompt = prompts[number] if prompts else (Segment(f"request {number}", length),)
        sent_s, first_s, last_s = (take(where, row, key, kind=NUMBER) for key in _INSTANTS)
        sent_s = sent_s if ahead is None else take(where, row, "arrival_time") + ahead
        output = take(where, row, "output_toks", kind=int)
        requests.append(timed(where, Request(name, prompt, output, sent_s, first_s, last_s)))
    return requests, ahead is not None


def _ahead_s(rows: Sequence[tuple[str, dict[str, Any]]]) -> float | None:
    """Seconds by which the engine's clock is ahead of the day's; None where a request does not tell its arrival.

    The request that was seen soonest after its arrival is taken to have been seen at once.
    """
    if not all("arrival_time" in row for _, row in rows):
        return None
    return min(float(take(where, row, "queued_ts") - take(where, row, "arrival_time")) for where, row in rows)


def _meta_settings(meta: dict[str, Any]) -> dict[str, Any]:
    """Arguments first, then what vLLM made of them, then the measured KV cache: the later knows better."""
    resolved = part(meta, "resolved_config")
    parts = (
        meta,
        part(meta, "engine_kwargs"),
        part(resolved, "model_config"),
        part(resolved, "scheduler_config"),
        part(resolved, "cache_config"),
        part(resolved, "compilation_config"),
        part(meta, "kv_cache"),
    )
    return from_vllm({key: value for part in parts for key, value in part.items() if value is not None})


def _meta_facts(meta: dict[str, Any]) -> dict[str, Any]:
    hardware = part(meta, "hardware")
    return {
        "hardware": hardware.get("device_name"),
        "torch": hardware.get("torch_version"),
        "cuda": hardware.get("cuda_version"),
        "recorded": meta.get("started_at"),
    }
