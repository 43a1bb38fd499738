"""aiperf's ``profile_export.jsonl``, as version 0.13.0 writes it: one JSON object per request; or its folder.

``metadata`` has Unix times in nanoseconds by the client's clock, every value of ``metrics`` its own unit. aiperf counts
tokens with a tokenizer of its own; what the server counted is in ``usage_..`` and is taken where it is there. Requests
of the warm-up ended before the measured ones began and are left out.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from calibration.recorded import LENGTHS_ONLY, RecordedRun, Request, read_lines, read_text, recorded, take, timed
from sim.errors import TraceError, nearest
from sim.workflow import Segment

_NAME = "profile_export.jsonl"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}
#: Length -> the server's count, aiperf's count.
_COUNTS = {
    "prompt": ("usage_prompt_tokens", "input_sequence_length"),
    "answer": ("usage_completion_tokens", "output_sequence_length"),
}
_ITS_COUNT = "The server told no token counts: those of aiperf's tokenizer were taken."


def looks_like(path: Path) -> bool:
    """A first line with the request's begin in ``metadata``."""
    file = _file(path)
    if not file.is_file():
        return False
    first = read_text(file).lstrip().partition("\n")[0]
    return first.startswith("{") and '"metadata"' in first and '"request_start_ns"' in first


def load(path: Path, workload: Path | None) -> RecordedRun:
    """The run. It takes no workload: requests are in the order of their ends, and their prompts are not named."""
    if workload:
        raise TraceError(f"{path}: aiperf records no order of its prompts; leave {workload} out")
    file = _file(path)
    requests: list[Request] = []
    skipped: Counter[str] = Counter()
    cached, counted = 0.0, True
    for where, row in read_lines(file):
        if reason := _left_out(where, row):
            skipped[reason] += 1
            continue
        metrics = take(where, row, "metrics", kind=dict)
        requests.append(_request(where, str(len(requests)), row, metrics))
        counted &= all(server in metrics for server, _ in _COUNTS.values())
        if "usage_prompt_cache_read_tokens" in metrics:
            cached += take(where, metrics, "usage_prompt_cache_read_tokens", "value")
    told = [f"But the server found {cached:.0f} prompt tokens cached."] if cached else []
    return recorded(
        file,
        "aiperf",
        requests,
        "nanoseconds",
        facts={"instants": "client"},
        assumptions=(LENGTHS_ONLY, *told, *([] if counted else [_ITS_COUNT])),
        skipped=skipped,
    )


def _file(path: Path) -> Path:
    return path / _NAME if path.is_dir() else path


def _left_out(where: str, row: dict[str, Any]) -> str:
    """Why the request does not count; empty where it does."""
    if take(where, row, "metadata", "benchmark_phase", kind=str) != "profiling":
        return "warm-up"
    if row.get("error"):
        return "failed"
    return "cancelled" if take(where, row, "metadata", "was_cancelled", kind=bool) else ""


def _request(where: str, name: str, row: dict[str, Any], metrics: dict[str, Any]) -> Request:
    if "time_to_first_token" not in metrics:
        raise TraceError(f"{where}: no time_to_first_token; record it with --streaming")
    sent_ns = take(where, row, "metadata", "request_start_ns", kind=int)
    ttft_s, latency_s = (_seconds(where, metrics, key) for key in ("time_to_first_token", "request_latency"))
    lengths = {what: _count(where, metrics, names) for what, names in _COUNTS.items()}
    prompt = (Segment(f"request {name}", lengths["prompt"]),)
    sent_s = sent_ns * 1e-9
    return timed(
        where, Request(name, prompt, lengths["answer"], sent_s, sent_s + ttft_s, sent_s + latency_s), "nanoseconds"
    )


def _seconds(where: str, metrics: dict[str, Any], key: str) -> float:
    unit = take(where, metrics, key, "unit", kind=str)
    if unit not in _SECONDS:
        raise TraceError(f"{where}: {key} is in {unit!r}{nearest(unit, _SECONDS)}")
    return float(take(where, metrics, key, "value") * _SECONDS[unit])


def _count(where: str, metrics: dict[str, Any], names: tuple[str, str]) -> int:
    name = next((name for name in names if name in metrics), names[-1])
    return int(take(where, metrics, name, "value", kind=int))
