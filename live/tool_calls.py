"""Tools as a model calls them: put together from the pieces of a stream, parsed, and judged."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool as a model called it. ``text``: its arguments as they came; ``problem``: why they are of no use, if so."""

    id: str
    name: str
    text: str
    arguments: Mapping[str, Any] | None
    problem: str = ""


class Pieces:
    """Tool calls in the making, from the pieces in which a stream brings them."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, deltas: Iterable[Mapping[str, Any]]) -> None:
        """The ``tool_calls`` of one event: name and arguments may come in any number of parts, or as null."""
        for delta in deltas:
            call = self._calls.setdefault(delta.get("index") or 0, {"id": "", "name": "", "arguments": ""})
            function = delta.get("function") or {}
            call["id"] = call["id"] or delta.get("id") or ""
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""

    def calls(self, names: Collection[str], cut_off: bool) -> list[ToolCall]:
        """In order. ``names``: the tools that may be called; ``cut_off``: the answer ended because it got too long."""
        return [_parse(**call, names=names, cut_off=cut_off) for _, call in sorted(self._calls.items())]


def _parse(id: str, name: str, arguments: str, names: Collection[str], cut_off: bool) -> ToolCall:
    end = ", cut off at max_tokens" if cut_off else ""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return ToolCall(id, name, arguments, None, f"the arguments of {name!r} are no JSON{end}")
    if not isinstance(found, dict):
        return ToolCall(id, name, arguments, None, f"the arguments of {name!r} are no JSON object")
    problem = "" if name in names else f"a tool {name!r} was not offered"
    return ToolCall(id, name, arguments, found, problem)


def pick(calls: Sequence[ToolCall], name: str, number: int) -> ToolCall | None:
    """Of the calls of that tool the one with this number, if it can be carried out."""
    named = [call for call in calls if call.name == name]
    return named[number] if number < len(named) and not named[number].problem else None
