"""workspan's own form: JSON lines, the first a header, then one workflow each. Lossless both ways.

Header ``{"format": "workspan-workflows", "version": 1, "origin": ..}``. A workflow::

    {"id": .., "framework": .., "task": .., "nodes": [NODE, ..], "edges": [[parent, child, kind], ..],
     "tokenizer": .., "labels": {name: bool}, "success": bool or null, "notes": [..]}

NODE in log order is ``{"call": id, "agent": .., "prompt": [[segment id, tokens], ..], "answer": segment id,
"output_tokens": n}`` or ``{"tool": id, "name": .., "duration_s": seconds or null}``. The last four keys of
a workflow may be missing; any other key that is unknown or missing is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sim.errors import TraceError, WorkflowError, nearest
from sim.traces import BROKEN_JSON, Document, LoadOptions, Skipped
from sim.workflow import Call, Edge, Node, Segment, Tape, Tool, Workflow

FORMAT = "workspan-workflows"
VERSION = 1

_CALL = {"call": str, "agent": str, "prompt": list, "answer": str, "output_tokens": int}
_TOOL = {"tool": str, "name": str, "duration_s": (int, float, type(None))}
_WORKFLOW = {"id": str, "framework": str, "task": str, "nodes": list, "edges": list}
_OPTIONAL = {"tokenizer": str, "labels": dict, "success": (bool, type(None)), "notes": list}


def looks_like(document: Document) -> bool:
    """The first line is our header."""
    return _header(document) is not None


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """Every workflow of the file; a line that is none is skipped with its reason."""
    del options  # token counts are in the file already
    header = _header(document)
    assert header is not None
    if header.get("version") != VERSION:
        raise TraceError(
            f"version {header.get('version')!r} of {FORMAT}; this workspan reads version {VERSION}; import it again"
        )
    lines = enumerate(document.text.split("\n")[1:], start=2)
    empty = True
    for number, line in lines:
        if not line.strip():
            continue
        empty = False
        where = f"{document.where}, line {number}"
        try:
            yield parse(json.loads(line))
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
    _check("workflow", data, _WORKFLOW, _OPTIONAL)
    where = f"workflow {data['id']}"
    nodes, outputs, durations = [], {}, {}
    for number, item in enumerate(data["nodes"]):
        node: Node
        if isinstance(item, dict) and "tool" in item:
            _check(f"{where}, node {number}", item, _TOOL)
            node = Tool(item["tool"], item["name"])
            durations[node.id] = item["duration_s"]
        else:
            _check(f"{where}, node {number}", item, _CALL)
            node = Call(item["call"], item["agent"], _segments(where, item), item["answer"])
            outputs[node.id] = item["output_tokens"]
        nodes.append(node)
    _check_items(f"{where}, labels", data.get("labels", {}).items(), (str, bool))
    _check_items(f"{where}, notes", ((note,) for note in data.get("notes", [])), (str,))
    _check_items(f"{where}, edges", data["edges"], (str, str, str))
    return Workflow(
        id=data["id"],
        framework=data["framework"],
        task=data["task"],
        nodes=tuple(nodes),
        edges=tuple(Edge(*edge) for edge in data["edges"]),
        tape=Tape(outputs, durations),
        tokenizer=data.get("tokenizer", "unknown"),
        labels=data.get("labels", {}),
        success=data.get("success"),
        notes=tuple(data.get("notes", [])),
    )


def _header(document: Document) -> dict[str, Any] | None:
    first = document.text.partition("\n")[0]
    try:
        header = json.loads(first)
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) and header.get("format") == FORMAT else None


def _segments(where: str, item: dict[str, Any]) -> tuple[Segment, ...]:
    _check_items(f"{where}, prompt of {item['call']!r}", item["prompt"], (str, int))
    return tuple(Segment(*pair) for pair in item["prompt"])


def _check(where: str, data: Any, required: Mapping[str, Any], optional: Mapping[str, Any] = {}) -> None:
    if not isinstance(data, dict):
        raise TraceError(f"{where}: not a JSON object")
    for key in required:
        if key not in data:
            raise TraceError(f"{where}: no {key!r}; add it")
    for key, value in data.items():
        kind = required.get(key, optional.get(key))
        if kind is None:
            raise TraceError(f"{where}: unknown key {key!r}{nearest(key, {**required, **optional})}")
        if not _is(value, kind):
            raise TraceError(f"{where}: {key!r} is of the wrong type ({type(value).__name__})")


def _check_items(where: str, items: Iterable[Any], kinds: tuple[type, ...]) -> None:
    for item in items:
        if not (isinstance(item, list | tuple) and len(item) == len(kinds) and all(map(_is, item, kinds))):
            raise TraceError(f"{where}: {item!r} should be of the form {[kind.__name__ for kind in kinds]}")


def _is(value: Any, kind: Any) -> bool:
    """``isinstance``, but true and false are no numbers."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _plain(workflow: Workflow) -> dict[str, Any]:
    return {
        "id": workflow.id,
        "framework": workflow.framework,
        "task": workflow.task,
        "nodes": [_plain_node(workflow, node) for node in workflow.nodes],
        "edges": [[edge.parent, edge.child, edge.kind] for edge in workflow.edges],
        "tokenizer": workflow.tokenizer,
        "labels": dict(workflow.labels),
        "success": workflow.success,
        "notes": list(workflow.notes),
    }


def _plain_node(workflow: Workflow, node: Node) -> dict[str, Any]:
    if isinstance(node, Tool):
        return {"tool": node.id, "name": node.name, "duration_s": workflow.tape.tool_s[node.id]}
    return {
        "call": node.id,
        "agent": node.agent,
        "prompt": [[segment.segment_id, segment.num_tokens] for segment in node.prompt],
        "answer": node.answer_id,
        "output_tokens": workflow.tape.output_tokens[node.id],
    }


def _line(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")) + "\n"
