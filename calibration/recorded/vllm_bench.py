"""What ``vllm bench serve --save-result --save-detailed`` writes: one JSON object with a list per column.

Read in the writer of vLLM 0.32.0 (``vllm/benchmarks/serve.py``). All times are in seconds: ``start_times`` of one
monotonic clock at which the HTTP requests were sent, ``ttfts`` and ``itls`` (the gaps between chunks) from there on. A
request that failed has an ``errors`` text or no output. Warm-up requests are not in the file.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from calibration.recorded import (
    ANSWERS_UNKNOWN,
    LARGEST,
    LENGTHS_ONLY,
    NUMBER,
    RecordedRun,
    Request,
    read_json,
    read_text,
    recorded,
    take,
    timed,
)
from calibration.recorded._prompts import of_ids, read_ids
from sim.errors import TraceError
from sim.workflow import Segment

_COLUMNS = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "errors")
_FACTS = {"model": "model_id", "tokenizer": "tokenizer_id", "load": "request_rate", "most at once": "max_concurrency"}
#: Of the run's duration; more is no rounding.
_SLACK = 1.001


def looks_like(path: Path) -> bool:
    """A JSON object with the benchmark's totals."""
    if not path.is_file():
        return False
    text = read_text(path)
    return text.lstrip().startswith("{") and '"request_throughput"' in text and '"total_input_tokens"' in text


def load(path: Path, workload: Path | None) -> RecordedRun:
    """The run; ``workload`` has the prompts' token ids in the order of the requests."""
    data = read_json(path)
    columns = _columns(path, data)
    count = len(columns["ttfts"])
    ids = read_ids(workload, path, count) if workload else None
    prompts = of_ids(ids) if ids else None
    requests: list[Request] = []
    skipped: Counter[str] = Counter()
    for number in range(count):
        where = f"{path}, request {number}"
        row = {name: values[number] for name, values in columns.items()}
        if row["errors"] or not take(where, row, "output_lens", kind=int):
            skipped["failed"] += 1
            continue
        length = take(where, row, "input_lens", kind=int)
        if ids and len(ids[number]) != length:
            raise TraceError(
                f"{where}: {length} prompt tokens, {len(ids[number])} in {workload}; give its own workload"
            )
        requests.append(_request(where, str(number), row, prompts[number] if prompts else None))
    _check_duration(path, data, requests)
    facts = {name: str(data[key]) for name, key in _FACTS.items() if data.get(key) is not None}
    return recorded(
        path,
        "vllm_bench",
        requests,
        facts={**facts, "instants": "client"},
        assumptions=(ANSWERS_UNKNOWN if prompts else LENGTHS_ONLY,),
        skipped=skipped,
    )


def _columns(path: Path, data: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists, all of one length."""
    if missing := [name for name in _COLUMNS if name not in data]:
        mend = (
            "take a vLLM whose bench writes them, such as 0.32.0"
            if missing == ["start_times"]
            else "record it with --save-detailed"
        )
        raise TraceError(f"{path}: no {', '.join(missing)}; {mend}")
    columns: dict[str, list[Any]] = {name: take(str(path), data, name, kind=list) for name in _COLUMNS}
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise TraceError(f"{path}: columns of different lengths ({lengths}); copy it again")
    return columns


def _request(where: str, name: str, row: dict[str, Any], prompt: tuple[Segment, ...] | None) -> Request:
    sent_s, ttft_s = take(where, row, "start_times"), take(where, row, "ttfts")
    gaps = take(where, row, "itls", kind=list)
    if not all(type(gap) in NUMBER and 0 <= gap < LARGEST for gap in gaps):
        raise TraceError(f"{where}: itls has what is no time; copy the file again")
    first_s = sent_s + ttft_s
    known = prompt or (Segment(f"request {name}", row["input_lens"]),)
    return timed(where, Request(name, known, row["output_lens"], sent_s, first_s, first_s + sum(gaps)))


def _check_duration(path: Path, data: dict[str, Any], requests: list[Request]) -> None:
    """Raise TraceError where requests take longer than the whole benchmark, which is timed in seconds."""
    duration_s = take(str(path), data, "duration")
    if not requests:
        return
    latest = max(requests, key=lambda one: one.last_token_s)
    span_s = latest.last_token_s - min(one.sent_s for one in requests)
    if not span_s <= duration_s * _SLACK:
        raise TraceError(
            f"{path}, request {latest.id}: ends {span_s:g} s after the first was sent, the benchmark took"
            f" {duration_s:g} s; start_times, ttfts or itls are probably milliseconds, this format has seconds"
        )
