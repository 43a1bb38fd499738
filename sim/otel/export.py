"""Spans as they are exported.

Three forms: OTLP as JSON (``resourceSpans`` > ``scopeSpans`` > ``spans``), lines of the same, and flat spans with ids,
an attribute dict and two times (in ``{"spans": [..]}``, in a list, or one a line), as OpenTelemetry's console exporter
prints them. A time is text in ISO 8601 (UTC if it names no zone) or a number, in the unit that its size shows: from
1e17 nanoseconds, from 1e14 microseconds, from 1e11 milliseconds, below that seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sim.errors import TraceError
from sim.traces import BROKEN_JSON, Document, Skipped, identifier

_TRACE_ID = ("traceId", "trace_id")
_SPAN_ID = ("spanId", "span_id")
_PARENT_ID = ("parentSpanId", "parent_span_id", "parent_id")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: A time number from this size on is in units of so many nanoseconds; smaller ones are seconds.
_UNITS = ((10**17, 1), (10**14, 10**3), (10**11, 10**6))


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Times in nanoseconds, None where they are missing. ``events``: name and attributes of each."""

    trace: str
    id: str
    parent: str
    name: str
    began: int | None
    ended: int | None
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    failed: bool

    def first(self, names: tuple[str, ...]) -> str:
        """The first of these attributes that is a text, or an empty one."""
        return next((value for name in names if isinstance(value := self.attributes.get(name), str) and value), "")


def spans(document: Document) -> Iterator[Span | Skipped]:
    """Every span of the document, in its order."""
    place = 0
    for where, data in _batches(document):
        if data is None:
            yield Skipped(where, BROKEN_JSON)
            continue
        for raw in _raw(data):
            place += 1
            try:
                yield _span(raw)
            except TraceError as error:
                yield Skipped(f"{where}, span {place}", str(error))
            except RecursionError:
                yield Skipped(f"{where}, span {place}", "its attributes are nested too deeply; leave the span out")


def is_export(document: Document) -> bool:
    """The document, or its first line, holds spans."""
    data = document.data if document.data is not None else _parsed(document.text.partition("\n")[0])
    first = data[0] if isinstance(data, list) and data else data
    if not isinstance(first, dict):
        return False
    inner = first.get("spans")
    return any((_batch(first) is not None, _has_ids(first), isinstance(inner, list) and any(map(_has_ids, inner[:1]))))


def _batches(document: Document) -> Iterator[tuple[str, Any]]:
    if document.data is not None:
        yield document.where, document.data
        return
    for number, line in enumerate(document.lines, start=1):
        if line.strip():
            yield f"{document.where}, line {number}", _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _batch(data: dict[str, Any]) -> Any:
    return data.get("resourceSpans", data.get("resource_spans"))


def _raw(data: Any) -> Iterator[Any]:
    """The spans as they stand there. What should be a span and is none comes out as it is."""
    for item in data if isinstance(data, list) else [data]:
        if not isinstance(item, dict):
            yield item
        elif (resources := _batch(item)) is not None:
            for resource in _list(resources):
                scopes = resource.get("scopeSpans", resource.get("scope_spans")) if isinstance(resource, dict) else None
                for scope in _list(scopes):
                    yield from _list(scope.get("spans") if isinstance(scope, dict) else None)
        elif "spans" in item:
            yield from _list(item["spans"])
        else:
            yield item


def _list(value: Any) -> list[Any]:
    """The list, or one thing that is no span."""
    return value if isinstance(value, list) else [None]


def _has_ids(data: Any) -> bool:
    return isinstance(data, dict) and all(_id(data, *names) is not None for names in (_TRACE_ID, _SPAN_ID))


def _id(data: dict[str, Any], *names: str) -> Any:
    context = data.get("context")
    places = (data, context) if isinstance(context, dict) else (data,)
    found = next((place[name] for place in places for name in names if place.get(name)), None)
    return found.removeprefix("0x") if isinstance(found, str) else found


def _span(raw: Any) -> Span:
    if not isinstance(raw, dict):
        raise TraceError("no span; give it a trace id, a span id and its times")
    status = raw.get("status")
    code = status.get("code", status.get("status_code")) if isinstance(status, dict) else status
    parent = _id(raw, *_PARENT_ID)
    events = (event for event in _list(raw.get("events")) if isinstance(event, dict))
    return Span(
        identifier(_id(raw, *_TRACE_ID), "the trace of a span"),
        identifier(_id(raw, *_SPAN_ID), "a span"),
        parent if isinstance(parent, str) else "",
        name if isinstance(name := raw.get("name"), str) else "",
        _time(raw, "startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime"),
        _time(raw, "endTimeUnixNano", "end_time_unix_nano", "end_time", "endTime"),
        _attributes(raw.get("attributes")),
        tuple((str(event.get("name")), _attributes(event.get("attributes"))) for event in events),
        code in (2, "2", "ERROR", "STATUS_CODE_ERROR"),
    )


def _time(raw: dict[str, Any], *names: str) -> int | None:
    """Nanoseconds since 1970, or since whatever the numbers count from."""
    name, value = next(((name, raw[name]) for name in names if raw.get(name) is not None), ("", None))
    found = number(value)
    if found is not None:
        is_nano = name.lower().endswith("nano")
        return int(found if is_nano else found * next((unit for least, unit in _UNITS if found >= least), 10**9))
    try:
        moment = datetime.fromisoformat(str(value))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    except (ValueError, OverflowError):
        return None


def number(value: Any) -> int | float | None:
    """A finite number, or a text that is one."""
    if isinstance(value, str) and len(value) <= 40:
        for read in (int, float):
            try:
                value = read(value)
                break
            except ValueError:
                continue
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        return None
    return value


def _attributes(data: Any) -> dict[str, Any]:
    """A dict as it is, or a list of keys with typed values; what is neither counts as none."""
    if isinstance(data, dict):
        return data
    pairs = (pair for pair in _list(data) if isinstance(pair, dict) and isinstance(pair.get("key"), str))
    return {pair["key"]: _value(pair.get("value")) for pair in pairs}


def _value(typed: Any) -> Any:
    """What ``{"stringValue": ..}`` and its like hold; whole numbers may be text."""
    if not isinstance(typed, dict) or not typed:
        return None
    name, value = next(iter(typed.items()))
    if name in ("arrayValue", "array_value"):
        return [_value(item) for item in _list(value.get("values", []) if isinstance(value, dict) else None)]
    if name in ("kvlistValue", "kvlist_value"):
        return _attributes(value.get("values", []) if isinstance(value, dict) else None)
    return value
