"""BLIS TraceV2 (inference-sim): a YAML header and, beside it, a CSV file of requests. Instants in microseconds.

Written from its description, never seen: a file that differs from what stands here is refused, not guessed at. The
header has ``trace_version: 2``, ``time_unit: microseconds`` and ``mode: real``. Instants are the client's. A request is
one with status ``ok``. Requests of one ``prefix_group`` begin with the same ``prefix_length`` tokens; whether
``input_tokens`` counts these is not known, so such a request needs the server's count, ``server_input_tokens``.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from calibration.recorded import RecordedRun, Request, read_text, recorded, timed
from sim import yamlfile
from sim.errors import TraceError, nearest, quoted
from sim.settings import from_vllm
from sim.workflow import Segment

_US = 1e-6
_DIGITS = 19
_NUMBERS = ("input_tokens", "output_tokens", "send_time_us", "first_chunk_time_us", "last_chunk_time_us")
_PREFIX = ("prefix_length", "server_input_tokens")
_NEEDED = ("request_id", "status", "prefix_group", *_NUMBERS, *_PREFIX)
_OTHERS = (
    *("client_id", "tenant_id", "slo_class", "session_id", "round_index", "streaming", "text_tokens", "image_tokens"),
    *("audio_tokens", "video_tokens", "reason_ratio", "model", "deadline_us", "arrival_time_us", "num_chunks"),
    *("error_message", "finish_reason"),
)
_ASSUMED = (
    "Only lengths and prefix groups are recorded: that prompts share nothing but the prefix of their group was assumed."
)
_WARM_UP = "{} warm-up requests came before the recorded ones: an empty cache and an idle engine were assumed."


class _Server(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    model: str = "unknown"


class _Header(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    trace_version: int
    time_unit: str
    mode: str
    warm_up_requests: int = Field(default=0, ge=0)
    server: _Server = _Server()


def looks_like(path: Path) -> bool:
    """A YAML file with a ``trace_version``, or a folder with one."""
    return _header_file(path) is not None


def load(path: Path, workload: Path | None) -> RecordedRun:
    """The run. It takes no workload."""
    if workload:
        raise TraceError(f"{path}: TraceV2 tells the prompts itself; leave {workload} out")
    file = _header_file(path)
    assert file is not None
    header = _header(file)
    data = _data_file(file)
    requests: list[Request] = []
    skipped: Counter[str] = Counter()
    groups: dict[str, int] = {}
    for number, (where, row) in enumerate(_rows(data)):
        if row["status"] == "ok":
            requests.append(_request(where, number, row, groups))
        else:
            skipped[row["status"] or "without status"] += 1
    engine = {key: value for key, value in header.server.model_dump().items() if value or value is False}
    warm_up = [_WARM_UP.format(header.warm_up_requests)] if header.warm_up_requests else []
    return recorded(
        data,
        "tracev2",
        requests,
        "microseconds",
        engine=from_vllm(engine),
        facts={"model": header.server.model, "instants": "client"},
        assumptions=(_ASSUMED, *warm_up),
        skipped=skipped,
    )


def _header_file(path: Path) -> Path | None:
    files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    return next((file for file in files if file.suffix in (".yaml", ".yml") and _is_header(file)), None)


def _is_header(file: Path) -> bool:
    return any(line.startswith("trace_version:") for line in read_text(file).split("\n"))


def _header(file: Path) -> _Header:
    header = yamlfile.load(file, _Header, TraceError)
    for key, value, known in (
        ("trace_version", header.trace_version, (2,)),
        ("time_unit", header.time_unit, ("microseconds", "us")),
        ("mode", header.mode, ("real",)),
    ):
        if value not in known:
            raise TraceError(f"{file}: {key} is {quoted(value)}, not {known[0]}; record a real server with TraceV2")
    return header


def _data_file(header: Path) -> Path:
    """The CSV file of the header's name, or the only one in its folder."""
    files = sorted(header.parent.glob("*.csv"))
    same = [file for file in files if file.stem == header.stem]
    if len(same or files) != 1:
        raise TraceError(f"{header}: {len(files)} CSV files beside it, none of its name; put {header.stem}.csv there")
    return (same or files)[0]


def _rows(file: Path) -> list[tuple[str, dict[str, str]]]:
    reader = csv.reader(io.StringIO(read_text(file)), strict=True)
    try:
        columns = next(reader, [])
        if missing := [name for name in _NEEDED if name not in columns]:
            raise TraceError(f"{file}: no column {', '.join(missing)}; TraceV2 has {', '.join(_NEEDED)}")
        for name in columns:
            if name not in _NEEDED and name not in _OTHERS:
                raise TraceError(f"{file}: unknown column {quoted(name)}{nearest(name, (*_NEEDED, *_OTHERS))}")
        rows = [(f"{file}, line {reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        raise TraceError(f"{file}, line {reader.line_num}: no CSV ({error}); copy it again") from error
    for where, row in rows:
        if len(row) != len(columns):
            raise TraceError(f"{where}: {len(row)} values, the header has {len(columns)}; copy the file again")
    return [(where, dict(zip(columns, row, strict=True))) for where, row in rows]


def _request(where: str, number: int, row: dict[str, str], groups: dict[str, int]) -> Request:
    length, output, *instants = (_whole(where, row, name) for name in _NUMBERS)
    prefix, told = (_whole(where, row, name) for name in _PREFIX)
    group, length = row["prefix_group"], told or length
    if group and not told:
        raise TraceError(f"{where}: a prefix_group without server_input_tokens; record it with the server's usage")
    if group and not (0 < prefix <= told and groups.setdefault(group, prefix) == prefix):
        problem = f"a prefix of {prefix} in a prompt of {told} tokens, where its group has {groups.get(group, 'none')}"
        raise TraceError(f"{where}: {problem}; correct prefix_length")
    parts = ((f"prefix {group}", prefix), (f"request {number}", length - prefix)) if group else ((str(number), length),)
    prompt = tuple(Segment(name, tokens) for name, tokens in parts if tokens or not group)
    sent_s, first_s, last_s = (instant * _US for instant in instants)
    return timed(where, Request(row["request_id"], prompt, output, sent_s, first_s, last_s), "microseconds")


def _whole(where: str, row: dict[str, str], name: str) -> int:
    """The whole number in this column; an empty one is 0."""
    text = row[name] or "0"
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS):
        raise TraceError(f"{where}: {name} is {quoted(text)}, not a whole number from 0; correct it")
    return int(text)
