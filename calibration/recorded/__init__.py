"""Runs of a server that somebody recorded, in any of several formats: one file per format, found by its content.

A format is a module with ``looks_like(path) -> bool`` and ``load(path, workload) -> RecordedRun``. Both take a file or
a folder; ``workload``, if there is one, tells what the prompts were. `load` raises TraceError with file, record, mend.
"""

from __future__ import annotations

import json
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from sim.errors import TraceError, quoted
from sim.settings import EngineSettings
from sim.traces import text_of
from sim.workflow import MAX_TOKENS, Segment

NUMBER: tuple[type, ...] = (int, float)
LENGTHS_ONLY = "Only the lengths of the prompts are recorded: that no two of them begin alike was assumed."
ANSWERS_UNKNOWN = "The tokens of the answers are not recorded: that no prompt goes on after an answer was assumed."

#: No count and no instant, in whatever unit, is beyond it.
LARGEST = 2**63
#: Seconds. Beyond these bounds a number is in another unit than its format's.
_LONGEST_RUN_S = 1e7
_LONGEST_TOKEN_S = 1e3
#: Seconds per output token in the median request: from the first to the last token, and from sending to the last.
_SLOWEST_S = 5.0
_FASTEST_S = 5e-5
_UNITS = ("nanoseconds", "microseconds", "milliseconds", "seconds")


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was answered. Instants in seconds of one clock that starts with the run.

    ``prompt``: equal segments are equal tokens, so two requests share a prefix as far as their segments agree.
    ``answer_id``: the segment that its answer is in later prompts; empty where no prompt is known to contain it.
    """

    id: str
    prompt: tuple[Segment, ...]
    num_output_tokens: int
    sent_s: float
    first_token_s: float
    last_token_s: float
    answer_id: str = ""

    @property
    def answer(self) -> Segment:
        """What it generated."""
        return Segment(self.answer_id or f"answer to {self.id}", self.num_output_tokens)


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run: its requests by the instant of sending, and what its record tells of the engine.

    ``engine``: fields of `sim.settings.EngineSettings` that the record names. ``facts``: model, hardware and the like,
    for people; ``instants`` says whose clock it was, ``client`` or ``engine``. ``assumptions``: sentences about what
    the record does not tell and was assumed. ``skipped``: reason -> number of requests that were left out, such as
    those that failed.
    """

    format: str
    requests: tuple[Request, ...]
    engine: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


def formats() -> dict[str, ModuleType]:
    """Format name -> module, in alphabetical order."""
    names = (info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return {name: import_module(f"{__name__}.{name}") for name in names}


def read_run(path: Path, workload: Path | None = None) -> RecordedRun:
    """The run recorded in a file or folder; ``workload`` is what its format takes to know the prompts.

    Raises TraceError, one line with file, record and mend, for whatever is no such record.
    """
    for place in filter(None, (path, workload)):
        if not place.exists():
            raise TraceError(f"{place}: no such file or folder; check its name")
    text = read_text(path) if path.is_file() else ""
    for module in formats().values():
        if module.looks_like(path):
            run: RecordedRun = module.load(path, workload)
            return run
    known = ", ".join(formats())
    if path.is_file() and not text.strip():
        raise TraceError(f"{path}: the file is empty; copy it again")
    raise TraceError(
        f"{path}: no recorded run that workspan reads ({known}); name its file, or the folder of its files"
    )


# What formats have in common.


def read_text(path: Path) -> str:
    """The text of a file, plain or gzip. Raises TraceError with the path."""
    try:
        return text_of(path)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that the file is."""
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: broken JSON, cut off, or more than one; copy it again") from error
    if not isinstance(data, dict):
        raise TraceError(f"{path}: no JSON object; name another file")
    return data


def read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file, one a line, each with its place for messages."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise TraceError(f"{where}: no JSON object, or one that is cut off; copy the file again")
        rows.append((where, row))
    if not rows:
        raise TraceError(f"{path}: nothing in it; copy it again")
    return rows


def take(where: str, item: Any, *keys: str, kind: type | tuple[type, ...] = NUMBER) -> Any:
    """The value at these nested keys. Raises TraceError where there is none of that type; a bool is no number."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for key in keys:
        item = item.get(key) if isinstance(item, dict) else None
    if type(item) not in kinds or (type(item) is int and abs(item) >= LARGEST):
        wanted = " or ".join(one.__name__ for one in kinds)
        raise TraceError(f"{where}: {'.'.join(keys)} is {quoted(item)}, not of type {wanted}; copy the record again")
    return item


def part(item: Any, *keys: str) -> dict[str, Any]:
    """The object at these nested keys, an empty one where there is none."""
    for key in keys:
        item = item.get(key) if isinstance(item, dict) else None
    return item if isinstance(item, dict) else {}


def timed(where: str, request: Request, unit: str = "seconds") -> Request:
    """The request, if its instants can be; ``unit`` is the one that the format gives them in."""
    counts = [segment.num_tokens for segment in (*request.prompt, request.answer)]
    if len(counts) < 2 or min(counts) < 1 or sum(counts) > MAX_TOKENS:
        raise TraceError(f"{where}: a prompt or an answer with no tokens or too many; leave the record out")
    if not -math.inf < request.sent_s < request.first_token_s <= request.last_token_s < math.inf:
        raise TraceError(
            f"{where}: the first token {request.first_token_s - request.sent_s:g} s after sending, the last"
            f" {request.last_token_s - request.first_token_s:g} s after it; give all instants in {unit}, of one clock"
        )
    gap_s = (request.last_token_s - request.first_token_s) / max(1, request.num_output_tokens - 1)
    if gap_s > _LONGEST_TOKEN_S:
        raise TraceError(f"{where}: {gap_s:g} s from token to token; {_other(unit, smaller=True)}")
    return request


def recorded(path: Path, name: str, requests: Sequence[Request], unit: str = "seconds", **told: Any) -> RecordedRun:
    """The run of these requests, on a clock that starts with the first; ``told`` are other fields of it."""
    if not requests:
        left_out = ", ".join(f"{count} {reason}" for reason, count in told.get("skipped", {}).items())
        raise TraceError(f"{path}: no request that was answered ({left_out or 'none at all'}); record the run again")
    _check_unit(path, requests, unit)
    _check_engine(path, told.get("engine", {}))
    start_s = min(request.sent_s for request in requests)
    moved = (
        replace(
            one,
            sent_s=one.sent_s - start_s,
            first_token_s=one.first_token_s - start_s,
            last_token_s=one.last_token_s - start_s,
        )
        for one in requests
    )
    return RecordedRun(name, tuple(sorted(moved, key=lambda one: one.sent_s)), **told)


def _check_unit(path: Path, requests: Sequence[Request], unit: str) -> None:
    """Raise TraceError where no server could be that slow, or that fast."""
    latest = max(requests, key=lambda one: one.last_token_s)
    span_s = latest.last_token_s - min(one.sent_s for one in requests)
    if span_s > _LONGEST_RUN_S:
        raise TraceError(
            f"{path}, request {latest.id}: ends {span_s:g} s after the first; {_other(unit, smaller=True)}"
        )
    slow = {
        one.id: (one.last_token_s - one.first_token_s) / (one.num_output_tokens - 1)
        for one in requests
        if one.num_output_tokens > 1
    }
    fast = {one.id: (one.last_token_s - one.sent_s) / one.num_output_tokens for one in requests}
    if slow and median(slow.values()) > _SLOWEST_S:
        worst = max(slow, key=slow.__getitem__)
        raise TraceError(f"{path}, request {worst}: {slow[worst]:g} s a token; {_other(unit, smaller=True)}")
    if median(fast.values()) < _FASTEST_S:
        best = min(fast, key=fast.__getitem__)
        raise TraceError(f"{path}, request {best}: {fast[best]:g} s a token; {_other(unit, smaller=False)}")


def _other(unit: str, smaller: bool) -> str:
    """Which unit it probably is."""
    index = _UNITS.index(unit)
    others = _UNITS[:index][::-1] if smaller else _UNITS[index + 1 :]
    return f"the numbers are probably {' or '.join(others) or 'damaged'}, this format has {unit}; convert them"


def _check_engine(path: Path, engine: Mapping[str, Any]) -> None:
    """Raise TraceError for a setting that no engine has; those that are not told are missing, which is no error."""
    try:
        EngineSettings.model_validate(dict(engine))
    except ValidationError as error:
        for problem in error.errors():
            if problem["type"] != "missing":
                name = ".".join(map(str, problem["loc"])) or "settings"
                raise TraceError(f"{path}: {name} of the engine: {problem['msg']}; copy the record again") from error
