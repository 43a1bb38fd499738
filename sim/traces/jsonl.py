"""workspan's own form: JSON lines, the first a header, then one workflow each. Lossless both ways.

Header ``{"format": "workspan-workflows", "version": 2, "origin": ..}``. A workflow::

    {"id": .., "framework": .., "task": .., "nodes": [NODE, ..], "edges": [[parent, child, kind], ..],
     "tokenizer": .., "labels": {name: bool}, "success": bool or null, "notes": [..]}

NODE in log order is ``{"call": id, "agent": .., "prompt": [SEGMENT, ..], "answer": segment id, "output_tokens": n}`` or
``{"tool": id, "name": .., "duration_s": seconds or null}``. SEGMENT is ``[segment id, tokens]``, or only the id where
the workflow gave its length before. What may also be there, and is written where it says something:

* ``"continues": [call id, n]`` of a call: its prompt begins with the first n segments of that earlier call's prompt;
* ``"at": [began, ended]`` of a node: seconds of the recorded run;
* a fourth item ``false`` of an edge: the parent's text is not in the child's prompt;
* ``"began_s": seconds`` of a workflow: when it began, on a clock that the workflows of its recording share.

The last four keys of a workflow may be missing; any other key that is unknown or missing is an error. Version 1 had
none of the first three, and every segment with its length.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sim.errors import TraceError, WorkflowError, nearest, quoted
from sim.traces import BROKEN_JSON, Document, LoadOptions, Skipped
from sim.workflow import Call, Edge, Node, Segment, Tape, Tool, Workflow

FORMAT = "workspan-workflows"
VERSION = 2

_CALL = {"call": str, "agent": str, "prompt": list, "answer": str, "output_tokens": int}
_TOOL = {"tool": str, "name": str, "duration_s": (int, float, type(None))}
_NODE_OPTIONAL = {"at": list}
_CALL_OPTIONAL = {"continues": list, **_NODE_OPTIONAL}
_SECONDS = (int, float)
_WORKFLOW = {"id": str, "framework": str, "task": str, "nodes": list, "edges": list}
_OPTIONAL = {"tokenizer": str, "labels": dict, "success": (bool, type(None)), "notes": list, "began_s": _SECONDS}


def looks_like(document: Document) -> bool:
    """The first line is our header."""
    return _header(document) is not None


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """Every workflow of the file; a line that is none is skipped with its reason."""
    del options  # token counts are in the file already
    header = _header(document)
    assert header is not None
    if header.get("version") not in (1, VERSION) or type(header["version"]) is not int:
        raise TraceError(
            f"version {quoted(header.get('version'))} of {FORMAT}; this workspan reads 1 and {VERSION}; import it again"
        )
    lines = enumerate(document.text.split("\n")[1:], start=2)
    empty = True
    for number, line in lines:
        if not line.strip():
            continue
        empty = False
        where = f"{document.where}, line {number}"
        try:
            yield parse(json.loads(line, object_pairs_hook=_object))
        except (TraceError, WorkflowError) as error:
            yield Skipped(where, str(error))
        except (ValueError, RecursionError):
            yield Skipped(where, BROKEN_JSON)
    if empty:
        raise TraceError("a header and no workflow; add one on the next line, or leave the file out")


def dump(workflows: Iterable[Workflow], header: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a file, each with its line feed."""
    yield _line({"format": FORMAT, "version": VERSION, **header})
    for workflow in workflows:
        yield _line(_plain(workflow))


def parse(data: Any) -> Workflow:
    """A workflow from its JSON form. Raises TraceError or WorkflowError with the node's name."""
    check("workflow", data, _WORKFLOW, _OPTIONAL)
    where = f"workflow {data['id'][:100]}"
    reader = _Reader(where)
    nodes = tuple(reader.node(number, item) for number, item in enumerate(data["nodes"]))
    _check_items(f"{where}, labels", data.get("labels", {}).items(), (str, bool))
    _check_items(f"{where}, notes", ((note,) for note in data.get("notes", [])), (str,))
    return Workflow(
        id=data["id"],
        framework=data["framework"],
        task=data["task"],
        nodes=nodes,
        edges=tuple(_edge(where, edge) for edge in data["edges"]),
        tape=Tape(reader.outputs, reader.durations, reader.times),
        tokenizer=data.get("tokenizer", "unknown"),
        labels=data.get("labels", {}),
        success=data.get("success"),
        notes=tuple(data.get("notes", [])),
        began_s=data.get("began_s"),
    )


class _Reader:
    """Reads the nodes of one workflow; every segment is one object, however often it occurs."""

    def __init__(self, where: str) -> None:
        self.outputs: dict[str, int] = {}
        self.durations: dict[str, float | None] = {}
        self.times: dict[str, tuple[float, float]] = {}
        self._where = where
        self._prompts: dict[str, tuple[Segment, ...]] = {}
        self._segments: dict[str, Segment] = {}

    def node(self, number: int, item: Any) -> Node:
        where = f"{self._where}, node {number}"
        node: Node
        if isinstance(item, dict) and "tool" in item:
            check(where, item, _TOOL, _NODE_OPTIONAL)
            node = Tool(item["tool"], item["name"])
            self.durations[node.id] = item["duration_s"]
        else:
            check(where, item, _CALL, _CALL_OPTIONAL)
            node = Call(item["call"], item["agent"], self._prompt(item), item["answer"])
            self.outputs[node.id] = item["output_tokens"]
            self._prompts[node.id] = node.prompt
            self._segments.setdefault(node.answer_id, Segment(node.answer_id, item["output_tokens"]))
        if "at" in item:
            _check_items(f"{where}, at", [item["at"]], (_SECONDS, _SECONDS))
            self.times[node.id] = item["at"][0], item["at"][1]
        return node

    def _prompt(self, item: dict[str, Any]) -> tuple[Segment, ...]:
        where = f"{self._where}, prompt of {quoted(item['call'])}"
        return (*self._continued(where, item), *(self._segment(where, part) for part in item["prompt"]))

    def _continued(self, where: str, item: dict[str, Any]) -> tuple[Segment, ...]:
        if "continues" not in item:
            return ()
        _check_items(f"{where}, continues", [item["continues"]], (str, int))
        call, number = item["continues"]
        before = self._prompts.get(call, ())
        if call not in self._prompts or not 0 <= number <= len(before):
            raise TraceError(f"{where} continues {number} segments of {quoted(call)}, an earlier call has no so many")
        return before[:number]

    def _segment(self, where: str, part: Any) -> Segment:
        if isinstance(part, str):
            if part not in self._segments:
                raise TraceError(f"{where}: segment {quoted(part)} has no length before; give it as [id, tokens]")
            return self._segments[part]
        _check_items(where, [part], (str, int))
        segment = Segment(*part)
        known = self._segments.setdefault(segment.segment_id, segment)
        return known if known == segment else segment


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys must differ: of two values one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise TraceError(f"the key {quoted(twice)} occurs twice in one object; give it once")
    return found


def _edge(where: str, edge: Any) -> Edge:
    if isinstance(edge, list) and len(edge) == 4:
        _check_items(f"{where}, edges", [edge], (str, str, str, bool))
        return Edge(*edge)
    _check_items(f"{where}, edges", [edge], (str, str, str))
    return Edge(*edge)


def _header(document: Document) -> dict[str, Any] | None:
    first = document.text.partition("\n")[0]
    try:
        header = json.loads(first)
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) and header.get("format") == FORMAT else None


def check(where: str, data: Any, required: Mapping[str, Any], optional: Mapping[str, Any] = {}) -> None:
    """The keys are known, those that must be there are there, and each is of its type; true is no number."""
    if not isinstance(data, dict):
        raise TraceError(f"{where}: not a JSON object; write one")
    for key in required:
        if key not in data:
            raise TraceError(f"{where}: no {key!r}; add it")
    for key, value in data.items():
        kind = required.get(key, optional.get(key))
        if kind is None:
            raise TraceError(f"{where}: unknown key {quoted(key)}{nearest(key, {**required, **optional})}")
        if not _is(value, kind):
            raise TraceError(f"{where}: {key!r} is of the wrong type ({type(value).__name__}); correct it")


def _check_items(where: str, items: Iterable[Any], kinds: tuple[Any, ...]) -> None:
    for item in items:
        if not (isinstance(item, list | tuple) and len(item) == len(kinds) and all(map(_is, item, kinds))):
            form = [getattr(kind, "__name__", "number") for kind in kinds]
            raise TraceError(f"{where}: {quoted(item)} should be of the form {form}")


def _is(value: Any, kind: Any) -> bool:
    """``isinstance``, but true and false are no numbers."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _plain(workflow: Workflow) -> dict[str, Any]:
    prompts = _Prompts()
    return {
        "id": workflow.id,
        "framework": workflow.framework,
        "task": workflow.task,
        "nodes": [_plain_node(workflow, node, prompts) for node in workflow.nodes],
        "edges": [_plain_edge(edge) for edge in workflow.edges],
        "tokenizer": workflow.tokenizer,
        "labels": dict(workflow.labels),
        "success": workflow.success,
        "notes": list(workflow.notes),
        **({} if workflow.began_s is None else {"began_s": workflow.began_s}),
    }


def _plain_edge(edge: Edge) -> list[Any]:
    return [edge.parent, edge.child, edge.kind, *([] if edge.used else [False])]


def _plain_node(workflow: Workflow, node: Node, prompts: _Prompts) -> dict[str, Any]:
    times = workflow.tape.times.get(node.id)
    at = {"at": list(times)} if times else {}
    if isinstance(node, Tool):
        return {"tool": node.id, "name": node.name, "duration_s": workflow.tape.tool_s[node.id], **at}
    tokens = workflow.tape.output_tokens[node.id]
    return {"call": node.id, "agent": node.agent, **prompts.plain(node), "output_tokens": tokens, **at}


class _Prompts:
    """Prompts of one workflow, each written as what is new after the longest beginning that an earlier one had.

    ``_tree``: a path of segments from the begin, numbered, -> its number and the first call whose prompt has it.
    """

    def __init__(self) -> None:
        self._tree: dict[tuple[int, Segment], tuple[int, str]] = {}
        self._known: set[str] = set()

    def plain(self, call: Call) -> dict[str, Any]:
        before, number = self._longest(call)
        new = [self._segment(segment) for segment in islice(call.prompt, number, None)]
        self._known.add(call.answer_id)
        continues = {"continues": [before, number]} if number else {}
        return {**continues, "prompt": new, "answer": call.answer_id}

    def _longest(self, call: Call) -> tuple[str, int]:
        path, before, number = 0, call.id, 0
        for depth, segment in enumerate(call.prompt, start=1):
            path, first = self._tree.setdefault((path, segment), (len(self._tree) + 1, call.id))
            if first != call.id:
                before, number = first, depth
        return before, number

    def _segment(self, segment: Segment) -> Any:
        if segment.segment_id in self._known:
            return segment.segment_id
        self._known.add(segment.segment_id)
        return [segment.segment_id, segment.num_tokens]


def _line(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")) + "\n"
