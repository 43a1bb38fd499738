"""The JSON report of guidellm, as version 0.8.1 writes it (``--output kind=json``).

Each of its ``benchmarks`` has ``requests``: those that were ``successful``, ``errored`` and ``incomplete``. Instants
are Unix times in seconds, by the client's clock, so several benchmarks are one run. Token counts are the server's where
it told them. Texts in the file are not used.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from calibration.recorded import LENGTHS_ONLY, RecordedRun, Request, part, read_json, read_text, recorded, take, timed
from sim.errors import TraceError
from sim.workflow import Segment

_INSTANTS = ("request_start", "first_token_iteration", "last_token_iteration")
_LEFT_OUT = ("errored", "incomplete")


def looks_like(path: Path) -> bool:
    """JSON that names guidellm's version."""
    return path.is_file() and (text := read_text(path)).lstrip().startswith("{") and '"guidellm_version"' in text


def load(path: Path, workload: Path | None) -> RecordedRun:
    """The run. It takes no workload: requests are in the order of their ends, and nothing else names them."""
    if workload:
        raise TraceError(f"{path}: guidellm records no order of its prompts; leave {workload} out")
    data = read_json(path)
    requests: list[Request] = []
    skipped: Counter[str] = Counter()
    cached = 0
    for number, benchmark in enumerate(take(str(path), data, "benchmarks", kind=list)):
        where = f"{path}, benchmark {number}"
        for row in _successful(where, benchmark):
            name = f"{number}/{len(requests)}"
            requests.append(_request(f"{path}, request {name}", name, row))
            if row.get("cached_tokens") is not None:
                cached += take(where, row, "cached_tokens", kind=int)
        for status in _LEFT_OUT:
            skipped[status] += len(take(where, benchmark, "requests", status, kind=list))
    return recorded(
        path,
        "guidellm",
        requests,
        facts=_facts(data),
        assumptions=(LENGTHS_ONLY, *([f"But the server found {cached} prompt tokens cached."] if cached else ())),
        skipped=+skipped,
    )


def _successful(where: str, benchmark: Any) -> list[Any]:
    """All requests that were answered. Raises TraceError where the file has only some of them."""
    rows: list[Any] = take(where, benchmark, "requests", "successful", kind=list)
    made = take(where, benchmark, "scheduler_state", "successful_requests", kind=int)
    if len(rows) != made:
        raise TraceError(
            f"{where}: {len(rows)} of {made} requests are in the file; record it without sample_size, warmup and"
            " cooldown, as the others were load too"
        )
    return rows


def _request(where: str, name: str, row: Any) -> Request:
    sent_s, first_s, last_s = (take(where, row, "info", "timings", key) for key in _INSTANTS)
    length, output = (take(where, row, key, kind=int) for key in ("prompt_tokens", "output_tokens"))
    return timed(where, Request(name, (Segment(f"request {name}", length),), output, sent_s, first_s, last_s))


def _facts(data: dict[str, Any]) -> dict[str, str]:
    models = {str(part(benchmark, "config", "backend").get("model", "")) for benchmark in data["benchmarks"]}
    told = {"model": ", ".join(sorted(models - {""})), "guidellm": part(data, "metadata").get("guidellm_version")}
    return {**{name: str(value) for name, value in told.items() if value}, "instants": "client"}
