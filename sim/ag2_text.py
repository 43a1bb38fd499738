"""AG2's runs as MAST's release writes them, as text in two forms, turned into the JSON that sim.traces.ag2 reads.

Neither form was at hand: this follows a description of them.

(a) A header with ``instance_id:``, ``problem_statement:`` and ``other_data:``, then ``trajectory:`` and for each
message ``content:``, ``role:`` and ``name:``, indented by six columns, their text by twelve.

(b) One Python dictionary {content, role, name} after the other, and nothing about them. The problem stands in the first
message, after "Problem:" or "Problem Statement:" where there are instructions before it. A run's id is the UUID (of
version 5, in the name space of DNS) of its problem: so it is in all 1,512 JSON files that are known.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

from sim.errors import TraceError

#: Characters. The header of form (a) begins within the first lines.
_BEGINNING = 2000

_HEADER = re.compile(r"^instance_id:", re.MULTILINE)
_REPR = re.compile(r"""\s*\{\s*['"](?:content|role|name)['"]\s*:""")
_TOP = re.compile(r"(instance_id|problem_statement|other_data|note|trajectory):(.*)", re.DOTALL)
_PART = re.compile(r" {1,8}(?:- )?(content|role|name):(.*)", re.DOTALL)
_INDENT = re.compile(r" {0,12}")
_CORRECT = re.compile(r"""^[ \t]*['"]?correct['"]?:[ \t]*(true|false)\b""", re.MULTILINE | re.IGNORECASE)
_TOKEN = re.compile(
    r"""\s*+(?:(?P<text>'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<mark>[][{}:,])|(?P<word>[\w.+-]++))""",
    re.DOTALL,
)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_PROBLEM = re.compile(r"(?:^|\n)Problem(?: Statement)?:[ \t]*\n")


def as_json(text: str) -> str | None:
    """The run as JSON text, or None if the text has neither form. Raises TraceError where it breaks off."""
    if _REPR.match(text[:_BEGINNING]):
        return json.dumps(_from_reprs(text))
    if _HEADER.search(text[:_BEGINNING]) and "\ntrajectory:" in text:
        return json.dumps(_from_listing(text.rstrip().split("\n")))
    return None


def _from_listing(lines: list[str]) -> dict[str, Any]:
    """Form (a)."""
    parts: dict[str, list[str]] = {}
    part: list[str] = []
    for line in lines:
        if found := _TOP.fullmatch(line):
            part = parts.setdefault(found[1], [found[2].strip()])
        else:
            part.append(line)
    data = {name: textwrap.dedent("\n".join(part)).strip() for name, part in parts.items() if name != "trajectory"}
    correct = _CORRECT.search(data.get("other_data", ""))
    return {
        "instance_id": data.get("instance_id"),
        "problem_statement": data.get("problem_statement"),
        "other_data": {"correct": correct[1].lower() == "true"} if correct else {},
        "trajectory": list(_messages(parts.get("trajectory", []))),
    }


def _messages(lines: list[str]) -> Iterator[dict[str, Any]]:
    """The messages of form (a). A key that the message has already begins the next one."""
    message: dict[str, list[str]] = {}
    part: list[str] = []
    for line in lines:
        found = _PART.fullmatch(line)
        if found is None:
            part.append(_INDENT.sub("", line, count=1))
            continue
        if found[1] in message:
            yield _message(message)
            message = {}
        part = message[found[1]] = [found[2].strip()] if found[2].strip() else []
    if message:
        yield _message(message)


def _message(parts: dict[str, list[str]]) -> dict[str, Any]:
    """A role or name is one line, whatever follows the last message."""
    names = {key: next(filter(None, map(str.strip, lines)), "") for key, lines in parts.items() if key != "content"}
    return {**names, "content": parts.get("content")}


def _from_reprs(text: str) -> dict[str, Any]:
    """Form (b)."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            turns = json.loads(f"[{''.join(_json_tokens(text))}]")
    except (ValueError, SyntaxError, RecursionError) as error:
        raise TraceError("the messages are no Python dictionaries, or were cut off; copy the record again") from error
    problem = _problem(turns[0])
    plain = problem.encode("utf-8", "replace").decode()  # half a surrogate pair has no UUID
    return {
        "instance_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, plain)),
        "problem_statement": problem,
        "other_data": {},
        "trajectory": turns,
    }


def _json_tokens(text: str) -> Iterator[str]:
    """The same in JSON's words, with a comma between dictionaries. Raises ValueError or SyntaxError."""
    place, before, end = 0, "", len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError
        token = found[found.lastgroup or 0]
        if before == "}" and token == "{":
            yield ","
        yield json.dumps(_string(token)) if found["text"] else _WORDS.get(token, token)
        place, before = found.end(), token


def _string(token: str) -> str:
    # Only what is one string comes here, so that no nesting can exhaust the parser. A line feed may have been left raw.
    value = ast.literal_eval(token.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\x00"))
    assert isinstance(value, str)
    return value


def _problem(turn: Any) -> str:
    content = turn.get("content") if isinstance(turn, dict) else None
    lines: list[Any] = content if isinstance(content, list) else [content]
    return _PROBLEM.split("\n".join(line for line in lines if isinstance(line, str)))[-1]
