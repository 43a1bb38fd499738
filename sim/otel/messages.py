"""Messages of chat APIs, in the forms in which traces hold them: what was said, which tools it calls or answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_WRAPPERS = ("message", "prompt", "completion", "message_content", "tool_call")
_TOOL_CALLS = ("tool_call", "tool_use", "function_call")
_TOOL_RESULTS = ("tool_call_response", "tool_result", "function_call_output")
#: What is generated and not sent again in the next prompt.
_HIDDEN = ("reasoning", "thinking", "redacted_thinking")
#: Digits. The numbers of parts are never longer.
_LONGEST = 9


class Said(NamedTuple):
    """One message. ``calls``: ids of the tool calls in it; ``answers``: id of the tool call whose result it is.

    ``passed``: the texts among the arguments of its tool calls.
    """

    role: str
    text: str
    calls: tuple[str, ...] = ()
    answers: str = ""
    passed: tuple[str, ...] = ()


class _Content:
    """What the parts of a message say, collected."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: list[str] = []
        self.passed: list[str] = []
        self.results: list[Said] = []

    def read(self, part: Any) -> None:
        """Add a part: text, a tool call, or the result of one."""
        if isinstance(part, str):
            self.texts += [part] if part else []
        if not isinstance(part, dict) or part.get("type") in _HIDDEN:
            return
        if part.get("type") in _TOOL_CALLS:
            self._call(part["call"] if isinstance(part.get("call"), dict) else part)
        elif part.get("type") in _TOOL_RESULTS:
            result = next((part[key] for key in ("response", "result", "output", "content") if key in part), "")
            identity = next((text for key in ("id", "tool_use_id", "call_id") if (text := _text(part.get(key)))), "")
            self.results.append(Said("tool", _result(result), answers=identity))
        else:
            self.texts += [text for key in ("content", "text") if (text := _text(part.get(key)))][:1]

    def _call(self, call: dict[str, Any]) -> None:
        function = call["function"] if isinstance(call.get("function"), dict) else call
        arguments = loaded(function.get("arguments", function.get("input")))
        self.texts.append(f"{_text(function.get('name'))}({plain(arguments)})")
        self.calls += [text for key in ("id", "call_id") if (text := _text(call.get(key)))]
        if isinstance(arguments, dict):
            self.passed += [text for text in map(_text, arguments.values()) if text]


def said(value: Any, role: str = "user") -> list[Said]:
    """The messages of a list, of a request that has one, of a single message, or of a text; ``role`` if none is named.

    Parts that are not text (images, ..) are left out, and so is reasoning, which later prompts do not repeat.
    """
    value = loaded(value)
    if isinstance(value, dict):
        value = value.get("messages", value)
    items = value if isinstance(value, list) else [value]
    return [one for item in items for one in _said(item, role)]


def loaded(value: Any) -> Any:
    """What a text that is a JSON object or list stands for; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def plain(value: Any) -> str:
    """The value as text: equal values give equal texts, whether they came as JSON or as its content."""
    value = loaded(value)
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":")) if value is not None else ""


def indexed(attributes: Mapping[str, Any], name: str) -> list[Any]:
    """The list that attributes like ``name.0.role`` spell out."""
    tree: dict[str, Any] = {}
    for key, value in attributes.items():
        first, *path = key[len(name) + 1 :].split(".") if key.startswith(f"{name}.") else [""]
        if _is_index(first):
            place: Any = tree
            for step in (first, *path)[:-1]:
                place = place.setdefault(step, {}) if isinstance(place, dict) else {}
            if isinstance(place, dict):
                place.setdefault((first, *path)[-1], value)
    listed = _listed(tree)
    return listed if isinstance(listed, list) else []


def _is_index(step: str) -> bool:
    return step.isascii() and step.isdecimal() and len(step) <= _LONGEST


def _listed(tree: Any) -> Any:
    """Dicts whose keys are all numbers as lists, in the numbers' order."""
    if not isinstance(tree, dict) or not tree:
        return tree
    if all(map(_is_index, tree)):
        return [_listed(tree[step]) for step in sorted(tree, key=int)]
    return {step: _listed(value) for step, value in tree.items()}


def _unwrapped(item: Any) -> Any:
    """Without the name that some forms put around each thing of a list, and without what stands beside a message."""
    while isinstance(item, dict) and len(item) == 1 and next(iter(item)) in _WRAPPERS:
        (item,) = item.values()
    inner = item.get("message") if isinstance(item, dict) and "role" not in item else None
    return inner if isinstance(inner, dict) else item


def _said(item: Any, role: str) -> Iterator[Said]:
    item = _unwrapped(item)
    if isinstance(item, str):
        yield Said(role, item)
    if not isinstance(item, dict):
        return
    name = item.get("role")
    role = name if isinstance(name, str) and name else role
    found = _Content()
    content = next((item[key] for key in ("parts", "content", "contents", "text") if item.get(key) is not None), "")
    for part in (*_parts(content), *_tool_calls(item)):
        found.read(part)
    answers = _text(item.get("tool_call_id") or (item.get("id") if role == "tool" else ""))
    if found.texts or found.calls or answers or not found.results:
        yield Said(role, "\n".join(found.texts), tuple(found.calls), answers, tuple(found.passed))
    yield from found.results


def _parts(content: Any) -> list[Any]:
    """The parts of a content, which is a text, a list, or a text that is a list of typed parts."""
    parts = loaded(content)
    if not isinstance(parts, list) or not all(isinstance(part, dict) and "type" in part for part in parts):
        parts = content if isinstance(content, list) else [content]
    return [_unwrapped(part) for part in parts]


def _tool_calls(message: dict[str, Any]) -> list[Any]:
    calls = message.get("tool_calls") or []
    alone = message.get("function_call")
    return [{"type": "tool_call", "call": _unwrapped(call)} for call in (*_list(calls), *_list(alone)) if call]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _result(value: Any) -> str:
    """A tool's result as text: the texts of its parts, or whatever it is."""
    texts = [_text(part.get("text")) for part in _list(value) if isinstance(part, dict)]
    return "\n".join(texts) if texts and all(texts) else plain(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
