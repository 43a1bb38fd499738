"""Texts for calls, given by the user: what a replay then sends as a chat, with tools, instead of token ids.

JSON lines, one per call; only the first three keys are needed::

    {"workflow": id, "call": id, "messages": [MESSAGE, ..],
     "tools": [{"type": "function", "function": {"name": .., "description": .., "parameters": {..}}}, ..],
     "tool_choice": "auto" | "required" | {"type": "function", "function": {"name": ..}},
     "parallel_tool_calls": true | false, "max_tokens": n}

MESSAGE is a message of OpenAI's chat form, or stands for what happens in the replay itself:

* ``{"role": "assistant", "answer_of": call id}``: what that earlier call really answered, text and tool calls;
* ``{"role": "tool", "result_of": tool id, "tool_call_id": ..}``: the result of that earlier tool. Without the last key
  it refers to the model's call that asked for it: the n-th of the tool's name in the answer that led to it.

A call without tools gets an answer of exactly the recorded length; one with tools ends where the model ends it, and
after ``max_tokens`` (the recorded length, where that isn't given) at the latest. Two traps of vLLM's: ``required``
needs ``"parallel_tool_calls": false`` to make one call of it, and a model that rambles fills every string that neither
an ``enum`` nor a ``pattern`` bounds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sim.errors import TraceError, nearest, quoted
from sim.traces.jsonl import check
from sim.workflow import Workflow

_LINE = {"workflow": str, "call": str, "messages": list}
_LINE_OPTIONAL = {"tools": list, "tool_choice": (str, dict), "parallel_tool_calls": bool, "max_tokens": int}
_MESSAGE = {"content": (str, list, type(None)), "name": str, "tool_calls": list, "tool_call_id": str}
_REFERENCES: dict[str, tuple[str, dict[str, type]]] = {
    "answer_of": ("assistant", {}),
    "result_of": ("tool", {"tool_call_id": str}),
}
_ROLES = ("system", "developer", "user", "assistant", "tool")
_TYPED = {"type": str, "function": dict}
_FUNCTION_OPTIONAL = {"description": str, "parameters": dict, "strict": bool}


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A call's text, as the user gave it. ``where``: file and line; ``request``: keys that are sent as they are."""

    where: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    request: Mapping[str, Any]
    max_tokens: int | None

    @property
    def tool_names(self) -> list[str]:
        """The tools that the model may call."""
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def references(self) -> Iterator[tuple[str, str]]:
        """``answer_of`` or ``result_of``, and the id."""
        for message in self.messages:
            yield from ((key, message[key]) for key in _REFERENCES if key in message)


Texts = Mapping[tuple[str, str], ChatCall]


def load_texts(path: Path) -> dict[tuple[str, str], ChatCall]:
    """(workflow id, call id) -> its text. Raises TraceError with file, line and mend."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        raise TraceError(f"{path}: cannot be read ({reason}); name another file") from error
    texts: dict[tuple[str, str], ChatCall] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        key, chat = _line(where, line)
        if before := texts.get(key):
            raise TraceError(f"{where}: call {key[1]!r} of {key[0]!r} has a text already ({before.where}); remove one")
        texts[key] = chat
    if not texts:
        raise TraceError(f"{path}: no texts; add a line for each call that is to have one, or leave the file out")
    return texts


def check_texts(texts: Texts, workflows: Iterable[Workflow]) -> None:
    """Raise TraceError for a text whose call does not exist, or that refers to what isn't finished before it."""
    by_id = {workflow.id: workflow for workflow in workflows}
    for (workflow_id, call_id), chat in texts.items():
        workflow = by_id.get(workflow_id)
        if workflow is None:
            raise TraceError(f"{chat.where}: no workflow {quoted(workflow_id)} is replayed{_near(workflow_id, by_id)}")
        calls, tools = ({node.id for node in nodes} for nodes in (workflow.calls, workflow.tools))
        if call_id not in calls:
            raise TraceError(
                f"{chat.where}: {quoted(workflow_id)} has no call {quoted(call_id)}{_near(call_id, calls)}"
            )
        _check_references(chat, workflow, call_id, {"answer_of": calls, "result_of": tools})


def _check_references(chat: ChatCall, workflow: Workflow, call_id: str, known: Mapping[str, Collection[str]]) -> None:
    before = _ancestors(workflow, call_id) if any(chat.references) else set()
    for key, node in chat.references:
        if node not in known[key]:
            kind = "call" if key == "answer_of" else "tool"
            raise TraceError(
                f"{chat.where}: {key} names no {kind} of the workflow: {quoted(node)}{_near(node, known[key])}"
            )
        if node not in before:
            raise TraceError(
                f"{chat.where}: {key} {quoted(node)}, but {quoted(call_id)} does not wait for it; write its text out"
            )


def _ancestors(workflow: Workflow, node: str) -> set[str]:
    found: set[str] = set()
    to_visit = [node]
    while to_visit:
        new = set(workflow.parents[to_visit.pop()]) - found
        found |= new
        to_visit += new
    return found


def _near(word: str, known: Collection[str]) -> str:
    """There may be thousands: the nearest one."""
    close = get_close_matches(word, known, n=1, cutoff=0.0)
    return f"; the nearest is {close[0]!r}" if close else "; there is none"


def _line(where: str, line: str) -> tuple[tuple[str, str], ChatCall]:
    try:
        data = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where}: not a line of JSON; correct it, or take it out") from error
    check(where, data, _LINE, _LINE_OPTIONAL)
    messages, tools = data["messages"], data.get("tools", [])
    if not messages:
        raise TraceError(f"{where}: no messages; add one")
    for number, message in enumerate(messages):
        _check_message(f"{where}, message {number}", message)
    for number, tool in enumerate(tools):
        check(f"{where}, tool {number}", tool, _TYPED)
        check(f"{where}, function of tool {number}", tool["function"], {"name": str}, _FUNCTION_OPTIONAL)
    request = {key: data[key] for key in ("tool_choice", "parallel_tool_calls") if key in data}
    chat = ChatCall(where, messages, tools, request, data.get("max_tokens"))
    _check_tools(chat)
    return (data["workflow"], data["call"]), chat


def _check_message(where: str, message: Any) -> None:
    for key, (role, others) in _REFERENCES.items():
        if isinstance(message, dict) and key in message:
            check(where, message, {"role": str, key: str}, others)
            if message["role"] != role:
                raise TraceError(f"{where}: {key} is of role {quoted(message['role'])}; give it the role {role!r}")
            return
    check(where, message, {"role": str}, _MESSAGE | dict.fromkeys(_REFERENCES, str))
    if message["role"] not in _ROLES:
        raise TraceError(f"{where}: no role {quoted(message['role'])}{nearest(message['role'], _ROLES)}")
    if message.get("content") is None and not message.get("tool_calls"):
        raise TraceError(f"{where}: neither content nor tool_calls; add one, or answer_of or result_of")


def _check_tools(chat: ChatCall) -> None:
    where, names, choice = chat.where, chat.tool_names, chat.request.get("tool_choice")
    if len(set(names)) < len(names):
        raise TraceError(f"{where}: two tools of one name; remove one")
    if not names and (chat.request or chat.max_tokens is not None):
        key = next(iter(chat.request), "max_tokens")
        raise TraceError(f"{where}: {key} without tools; add tools, or take it out")
    if chat.max_tokens is not None and chat.max_tokens < 1:
        raise TraceError(f"{where}: max_tokens must be at least 1")
    if isinstance(choice, str) and choice not in ("auto", "required"):
        raise TraceError(f"{where}: tool_choice {quoted(choice)}; give auto, required, or the tool as an object")
    if isinstance(choice, dict):
        check(f"{where}, tool_choice", choice, _TYPED)
        check(f"{where}, function of tool_choice", choice["function"], {"name": str})
        if (name := choice["function"]["name"]) not in names:
            raise TraceError(
                f"{where}: tool_choice names {quoted(name)}, which is not among the tools{nearest(name, names)}"
            )


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
