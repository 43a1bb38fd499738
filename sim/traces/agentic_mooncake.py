"""Dynamo's ``agentic_mooncake``, version 2, and the Mooncake rows it grew from: JSON lines, one request each.

The first line of version 2 is ``{"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": n, "hash_id_scope":
"local", "source": {..}}``, every other a request: ``request_id``, ``play_id``, ``session_id``, ``model``,
``input_length``, ``output_length``, ``hash_ids``, ``not_before_ms`` and ``dependencies``, each of which has the
``request_id`` it is on, a ``trigger`` (completion or dispatch), ``delay_ms`` and a ``relation`` (sequence, spawn, join,
replay_barrier). Rows without a header are Mooncake's, as AIPerf and Dynamo read them: ``input_length``,
``output_length``, and where they have them ``hash_ids`` (of 512 tokens), ``session_id``, ``delay``, ``timestamp`` (ms).

A play is a workflow, and so is a session of plain rows; a request is a call, and its agent is the session. A hash id
is a segment of one block, the same in all of the file's prompts; what no id covers is a segment of its own. Texts do
not exist. Answers have no ids, so a prompt that repeats one shares only earlier prompts' blocks.

Dependencies are what the file says, with no text to prove them: ``control``, but ``visible`` where the child's prompt
begins with all full blocks of its parent's and has room for the rest of it and its answer, and ``recorded`` for a
replay barrier. A delay is a tool of the client. "dispatch" lets a request start when its parent does, so it waits for
what the parent waits for. ``not_before_ms``, counted from the play's first root, is a delay from the beginning.
Sessions of plain rows are chains; with hash ids a row's prompt is whole, without them it continues the session's, as
AIPerf sends it. Dynamo's ``mooncake-delta`` is like the former and meant like the latter: the file does not say.

Checked: the example that Dynamo 1.6.1 ships, and its own loader's reading of triggers, relations, delays, block
counts and ids shared between plays. Not seen: an export of a real agent's run; what a replay barrier stands for.
Rows of the version before the header (``wait_for``, ``tool_wait_ms``) are refused: nobody describes their rules.
A session of plain rows began at the timestamp of its first; what of the others' was the client's time they hide.
Not recorded: other times, and when a play began.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sim.chat import Recorder
from sim.errors import TraceError, WorkflowError
from sim.tokens import Tokenizer
from sim.traces import BROKEN_JSON, Document, LoadOptions, Skipped, identifier, segment_id
from sim.workflow import CLIENT, MAX_CLOCK_S, MAX_TOOL_S, Edge, EdgeKind, Segment, Workflow

FRAMEWORK = "Agentic-Mooncake"
PLAIN = "Mooncake"

_SCHEMA = "dynamo.agentic_mooncake"
_VERSION = 2
#: Tokens a hash id of plain rows stands for: Mooncake's blocks, and the default of those who replay them.
_BLOCK = 512
_RECORDED = Tokenizer("the trace's own", len)
_MOST = 10**9  # tokens; a larger number is a mistake
_RELATIONS = ("sequence", "spawn", "join", "replay_barrier")
_FIRST_VERSION = ("wait_for", "tool_wait_ms")
_NO_ANSWERS = "Mooncake: answers have no hash ids, so the prefix reuse of prompts that repeat them is a lower bound"
_WHOLE = "Mooncake: each row of a session is read as a whole prompt, because it has hash ids"
_CONTINUED = "Mooncake: rows without hash ids are read as what is added to the session's prompt"


class _Dependency(NamedTuple):
    request: str
    relation: str
    on_dispatch: bool
    delay_s: float


class _Row(NamedTuple):
    request: str
    group: str
    session: str
    prompt_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...]
    not_before_s: float = 0.0
    dependencies: tuple[_Dependency, ...] = ()
    came_s: float | None = None


def looks_like(document: Document) -> bool:
    """The first line is the header, or a request with its lengths."""
    first = _first(document)
    if first.get("schema") == _SCHEMA:
        return True
    return any(_is_number(first.get(name)) for name in ("input_length", "input_tokens")) and any(
        name in first for name in ("output_length", "output_tokens", "hash_ids", "session_id")
    )


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """One workflow for each play, or for each session of plain rows; a line that is no request is skipped."""
    del options  # the file gives the lengths
    first = _first(document)
    agentic = first.get("schema") == _SCHEMA
    block = _block_size(first) if agentic else _BLOCK
    groups: defaultdict[str, list[_Row]] = defaultdict(list)
    for number, line in enumerate(document.lines, start=1):
        if not line.strip() or (agentic and number == 1):
            continue
        try:
            row = _agentic(_parsed(line), block) if agentic else _plain(_parsed(line), number, groups)
            groups[row.group].append(row)
        except TraceError as error:
            yield Skipped(f"{document.where}, line {number}", str(error))
    if not groups:
        raise TraceError("no request that can be read; add rows, or leave the file out")
    for name, rows in groups.items():
        try:
            play = _Play(document, name, rows, block)
            yield play.agentic() if agentic else play.plain()
        except (TraceError, WorkflowError) as error:
            yield Skipped(f"{document.where}, {name}", str(error))


def _first(document: Document) -> dict[str, Any]:
    try:
        first = json.loads(document.text.partition("\n")[0])
    except (ValueError, RecursionError):
        return {}
    return first if isinstance(first, dict) else {}


def _block_size(header: dict[str, Any]) -> int:
    if header.get("version") != _VERSION:
        raise TraceError(f"another version of {_SCHEMA} than {_VERSION}; convert it to version {_VERSION}")
    return _count(header.get("block_size"), 'the header\'s "block_size"', 1)


def _parsed(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise TraceError(BROKEN_JSON) from None
    if not isinstance(data, dict):
        raise TraceError("not a JSON object; give it the keys of a request")
    return data


def _agentic(data: dict[str, Any], block: int) -> _Row:
    dependencies = data.get("dependencies", [])
    if not isinstance(dependencies, list):
        raise TraceError('"dependencies" is no list; give it one, or leave it out')
    return _Row(
        identifier(data.get("request_id"), "the request"),
        identifier(data.get("play_id"), "the play"),
        identifier(data.get("session_id"), "the session"),
        *_lengths(data, block),
        not_before_s=_seconds(data.get("not_before_ms"), '"not_before_ms"'),
        dependencies=tuple(map(_dependency, dependencies)),
    )


def _dependency(data: Any) -> _Dependency:
    if not isinstance(data, dict) or data.get("relation") not in _RELATIONS:
        raise TraceError(f'a dependency needs a "relation", one of {", ".join(_RELATIONS)}')
    relation, trigger = data["relation"], data.get("trigger")
    if trigger not in ("completion", "dispatch") or (trigger == "dispatch" and relation != "spawn"):
        raise TraceError('the "trigger" of a dependency must be completion, or dispatch for a spawn')
    request = identifier(data.get("request_id"), "the request that another depends on")
    return _Dependency(request, relation, trigger == "dispatch", _seconds(data.get("delay_ms"), '"delay_ms"'))


def _plain(data: dict[str, Any], number: int, sessions: dict[str, list[_Row]]) -> _Row:
    """A row without a header: after the one before it in its session; without a session it stands alone."""
    if any(name in data for name in _FIRST_VERSION):
        raise TraceError(f"an agentic row without the header of version {_VERSION}; convert the file to that version")
    request = f"line-{number}"
    session, agent = request, "request"
    if data.get("session_id") is not None:
        session = agent = identifier(data["session_id"], "the session")
    delay = data.get("delay", data.get("delay_ms"))
    delay_s = 0.0 if delay is None else _seconds(delay, '"delay"')
    before = sessions[session][-1:] if session in sessions else []
    dependencies = tuple(_Dependency(row.request, "sequence", False, delay_s) for row in before)
    not_before_s = 0.0 if before else delay_s
    came = data.get("timestamp")
    came_s = None if came is None else _seconds(came, '"timestamp"', MAX_CLOCK_S)
    return _Row(request, session, agent, *_lengths(data, _BLOCK), not_before_s, dependencies, came_s)


def _lengths(data: dict[str, Any], block: int) -> tuple[int, int, tuple[int, ...]]:
    """Tokens of the prompt and of the answer, of which an empty one is an end-of-sequence token, and the blocks."""
    prompt = _count(data.get("input_length", data.get("input_tokens")), '"input_length"', 1)
    output = _count(data.get("output_length", data.get("output_tokens")), '"output_length"', 0)
    ids = data.get("hash_ids") or []
    if not isinstance(ids, list) or not all(_is_number(one) and isinstance(one, int) for one in ids):
        raise TraceError('"hash_ids" must be a list of whole numbers')
    if len(ids) > -(-prompt // block):
        raise TraceError(f"{len(ids)} hash ids for {prompt} tokens in blocks of {block}; give one for each block")
    return prompt, max(1, output), tuple(ids)


def _count(value: Any, what: str, least: int) -> int:
    if not (_is_number(value) and value == int(value) and least <= value <= _MOST):
        raise TraceError(f"{what} must be a whole number from {least} to {_MOST}")
    return int(value)


def _seconds(value: Any, what: str, most_s: float = MAX_TOOL_S) -> float:
    if not (_is_number(value) and 0 <= value <= most_s * 1000):
        raise TraceError(f"{what} must be a number of milliseconds from 0 to {most_s * 1000:g}")
    return float(value) / 1000


def _is_number(value: Any) -> bool:
    """A finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


class _Play:
    """Builds one workflow from its requests."""

    def __init__(self, document: Document, name: str, rows: Sequence[_Row], block: int) -> None:
        self._where, self._scope = f"{document.name}/{name}", segment_id(document.name)
        self._block = block
        self._rows = {row.request: row for row in rows}
        if len(self._rows) < len(rows):
            raise TraceError("a request id occurs twice; give each request its own")
        self._recorder = Recorder(_RECORDED, self._where)
        self._calls: dict[str, str] = {}
        self._waits: dict[str, dict[str, EdgeKind]] = {}
        self._start_s = 0.0

    def agentic(self) -> Workflow:
        """The play, each request after those that it depends on."""
        order = self._order()
        self._start_s = min(row.not_before_s for row in order if not row.dependencies)
        for row in order:
            self._add(row, self._blocks(row))
        return self._recorder.workflow(f"agentic-mooncake/{self._where}", FRAMEWORK, "", notes=(_NO_ANSWERS,))

    def plain(self) -> Workflow:
        """The session in the file's order, with whole prompts or with prompts that grow."""
        rows = list(self._rows.values())
        whole = any(row.hash_ids for row in rows)
        history: tuple[Segment, ...] = ()
        for row in rows:
            prompt = (*history, *self._blocks(row))
            self._add(row, prompt, continues=not whole)
            history = () if whole else (*prompt, self._answer(row))
        several = (_WHOLE, _NO_ANSWERS) if whole else (_CONTINUED,)
        notes = several if len(rows) > 1 else ()
        return self._recorder.workflow(f"mooncake/{self._where}", PLAIN, "", notes=notes, began_s=rows[0].came_s)

    def _order(self) -> list[_Row]:
        """Kahn's order; among requests that are free the file's."""
        rows = list(self._rows.values())
        waits = [len({one.request for one in row.dependencies}) for row in rows]
        children: defaultdict[str, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            for request in {one.request for one in row.dependencies}:
                if request not in self._rows:
                    raise TraceError(f"request {row.request!r} depends on {request!r}, which its play does not have")
                children[request].append(index)
        free = [index for index, count in enumerate(waits) if not count]
        order: list[_Row] = []
        while free:
            row = rows[heapq.heappop(free)]
            order.append(row)
            for index in children[row.request]:
                waits[index] -= 1
                if not waits[index]:
                    heapq.heappush(free, index)
        if len(order) < len(rows):
            blocked = next(row.request for row, count in zip(rows, waits, strict=True) if count)
            raise TraceError(f"request {blocked!r} waits for itself, or for one that does; remove a dependency")
        return order

    def _add(self, row: _Row, prompt: tuple[Segment, ...], continues: bool = False) -> None:
        waits = self._after({}, row.not_before_s - self._start_s, "control")
        for dependency in row.dependencies:
            kind: EdgeKind = "visible" if continues else self._kind(self._rows[dependency.request], row, dependency)
            if dependency.on_dispatch:
                sources = dict.fromkeys(self._waits[dependency.request], kind)
            else:
                sources = {self._calls[dependency.request]: kind}
            waits.update(self._after(sources, dependency.delay_s, kind) or sources)
        call = self._recorder.call_of(row.session, prompt, self._answer(row))
        self._recorder.edges += [Edge(node, call, kind) for node, kind in waits.items()]
        self._calls[row.request], self._waits[row.request] = call, waits

    def _after(self, sources: dict[str, EdgeKind], delay_s: float, kind: EdgeKind) -> dict[str, EdgeKind]:
        """The client's time after these nodes, as what to wait for; nothing where there is none."""
        if delay_s <= 0:
            return {}
        client = self._recorder.tool(CLIENT, delay_s)
        self._recorder.edges += [Edge(source, client, one) for source, one in sources.items()]
        return {client: kind}

    def _kind(self, parent: _Row, child: _Row, dependency: _Dependency) -> EdgeKind:
        """Hash ids cannot show an answer, but that a prompt goes on where the parent's prompt ended."""
        if dependency.relation == "replay_barrier":
            return "recorded"
        full = parent.prompt_tokens // self._block
        room = child.prompt_tokens >= parent.prompt_tokens + parent.output_tokens
        goes_on = full > 0 and len(parent.hash_ids) >= full and child.hash_ids[:full] == parent.hash_ids[:full]
        return "visible" if goes_on and room and not dependency.on_dispatch else "control"

    def _blocks(self, row: _Row) -> tuple[Segment, ...]:
        """A segment for each hash id, and one for the tokens that no id covers. A block cut short is another text."""
        segments, left = [], row.prompt_tokens
        for one in row.hash_ids:
            tokens = min(self._block, left)
            cut = "" if tokens == self._block else f"-{tokens}"
            segments.append(Segment(f"block:{self._scope}:{one}{cut}", tokens))
            left -= tokens
        if left:
            segments.append(Segment(f"prompt:{self._scope}:{row.request}", left))
        return tuple(segments)

    def _answer(self, row: _Row) -> Segment:
        return Segment(f"answer:{self._scope}:{row.request}", row.output_tokens)
