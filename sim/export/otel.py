"""OpenTelemetry: spans as OTLP in JSON, with the GenAI conventions' attributes and vLLM's latencies. One run.

A session is a trace: a root span ``invoke_workflow``, under it a ``chat`` span per finished call with its agent and
token counts; there is no text. Where the workflows are known there are also ``execute_tool`` spans: no record has the
times of tools, so one begins when the last node that it waits for has ended, and is marked ``workspan.derived``.

What waits for what is told twice: as links, for any viewer, and in the attribute ``workspan.dependencies``, a list of
"KIND used SPAN-ID" (or "unused") that `sim.traces.otel` takes instead of guessing from times. Without the workflows
there are neither.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sim.export import BEGIN_S, Result, Written
from sim.otel.links import DEPENDENCIES, Dependency
from sim.record import Record, SessionRecord
from sim.workflow import Call, Node, Tool, Workflow

USES_WORKFLOWS = True

_INTERNAL, _CLIENT = 1, 3
_OPERATION = "gen_ai.operation.name"
#: vLLM's names (``vllm/tracing``), in seconds.
_LATENCY = "gen_ai.latency."
Span = dict[str, Any]


def write(result: Result) -> Written:
    """One line of OTLP per session."""
    part, notes = result.only, []
    calls: defaultdict[int, dict[str, Record]] = defaultdict(dict)
    for record in part.finished:
        calls[record.session][record.call_id] = record
    told = {"service.name": "workspan", "workspan.policy": part.policy, "workspan.repetition": part.repetition}
    told |= {f"workspan.{name}": value for name, value in result.origin.items()}
    if not result.workflows:
        notes = ["the workflows are not known (--traces): no tools, and no links between the spans"]
    elif any(workflow.tools for workflow in result.workflows.values()):
        notes = ["no record has the times of tools: their spans begin as soon as they could (workspan.derived)"]
    run = json.dumps([part.policy, part.repetition, told])
    sessions = (
        _Session(run, session, calls[session.session], result.workflows.get(session.workflow_id), result.model)
        for session in sorted(part.timeline.sessions, key=lambda session: session.session)
        if calls[session.session]
    )
    return Written({"spans.jsonl": (_line(told, session.spans()) for session in sessions)}, (*part.left_out, *notes))


def _line(resource: Mapping[str, Any], spans: Sequence[Span]) -> str:
    scope = {"scope": {"name": "workspan"}, "spans": spans}
    batch = {"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope]}
    return json.dumps({"resourceSpans": [batch]}, separators=(",", ":")) + "\n"


class _Session:
    """The spans of one session."""

    def __init__(
        self, run: str, session: SessionRecord, calls: Mapping[str, Record], workflow: Workflow | None, model: str
    ) -> None:
        self._session, self._calls, self._workflow, self._model = session, calls, workflow, model
        self._key = f"{run} {session.session} {session.workflow_id}"
        self._trace = _hex(self._key, 32)
        self._ends = {name: record.finished_s or 0.0 for name, record in calls.items()}
        self._parents: defaultdict[str, list[Dependency]] = defaultdict(list)

    def spans(self) -> list[Span]:
        """The root first, then calls and tools in the order in which they began."""
        known = self._tools_and_parents(self._workflow) if self._workflow else []
        nodes = sorted(
            [*map(self._call, self._calls.values()), *known], key=lambda span: int(span["startTimeUnixNano"])
        )
        last_s = max(self._ends.values())
        root = self._span(
            *("", f"invoke_workflow {self._session.workflow_id}", _INTERNAL),
            *(self._session.arrived_s, max(last_s, self._session.finished_s or 0.0)),
            {
                _OPERATION: "invoke_workflow",
                "gen_ai.workflow.name": self._session.workflow_id,
                "workspan.framework": self._session.framework,
                "workspan.session": self._session.session,
                "workspan.status": self._session.status,
            },
        )
        return [root, *nodes]

    def _call(self, record: Record) -> Span:
        assert record.first_token_s is not None
        assert record.finished_s is not None
        waited = {} if record.scheduled_s is None else {_LATENCY + "time_in_queue": record.scheduled_s - record.sent_s}
        cached = record.num_cached_tokens
        attributes = {
            _OPERATION: "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": self._model,
            "gen_ai.agent.name": record.agent,
            "gen_ai.usage.input_tokens": record.num_prompt_tokens,
            "gen_ai.usage.output_tokens": record.num_output_tokens,
            **({} if cached is None else {"gen_ai.usage.cache_read.input_tokens": cached}),
            **waited,
            _LATENCY + "time_to_first_token": record.first_token_s - record.sent_s,
            _LATENCY + "e2e": record.finished_s - record.sent_s,
            "workspan.call": record.call_id,
        }
        name = f"chat {self._model}"
        return self._span(record.call_id, name, _CLIENT, record.sent_s, record.finished_s, attributes)

    def _tools_and_parents(self, workflow: Workflow) -> list[Span]:
        """The spans of tools; also notes for every node that has a span which ones it waits for."""
        nodes, spans = {node.id: node for node in workflow.nodes}, []
        waits: defaultdict[str, list[tuple[str, Dependency]]] = defaultdict(list)
        for edge in workflow.edges:
            waits[edge.child].append((edge.parent, Dependency(edge.kind, edge.used, self._id(edge.parent))))
        for name in workflow.order:
            parents = [parent for parent, _ in waits[name]]
            if self._has_span(nodes[name], parents):
                self._parents[name] = [told for parent, told in waits[name] if parent in self._ends]
                if isinstance(tool := nodes[name], Tool):
                    spans.append(self._tool(tool, workflow.tape.tool_s[name] or 0.0, parents))
        return spans

    def _has_span(self, node: Node, parents: Sequence[str]) -> bool:
        """A finished call, or a tool for which everything was ready."""
        return node.id in self._calls if isinstance(node, Call) else all(parent in self._ends for parent in parents)

    def _tool(self, tool: Tool, seconds: float, parents: Sequence[str]) -> Span:
        began_s = max((self._ends[parent] for parent in parents), default=self._session.arrived_s)
        ended_s = self._ends[tool.id] = began_s + seconds
        attributes = {_OPERATION: "execute_tool", "gen_ai.tool.name": tool.name, "workspan.derived": True}
        return self._span(tool.id, f"execute_tool {tool.name}", _INTERNAL, began_s, ended_s, attributes)

    def _span(self, node: str, name: str, kind: int, began_s: float, ended_s: float, told: Mapping[str, Any]) -> Span:
        parents = self._parents[node] if self._workflow and node else None
        known = {} if parents is None else {DEPENDENCIES: [str(parent) for parent in parents]}
        above = {"parentSpanId": self._id("")} if node else {}
        return {
            "traceId": self._trace,
            "spanId": self._id(node),
            **above,
            "name": name,
            "kind": kind,
            "startTimeUnixNano": _nanoseconds(began_s),
            "endTimeUnixNano": _nanoseconds(ended_s),
            "attributes": _attributes({**told, **known}),
            "links": [{"traceId": self._trace, "spanId": parent.span} for parent in parents or ()],
            "status": {},
        }

    def _id(self, node: str) -> str:
        return _hex(f"{self._key} {node}", 16)


def _hex(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _nanoseconds(moment_s: float) -> str:
    return str(BEGIN_S * 10**9 + round(moment_s * 1e9))


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _typed(value)} for name, value in values.items()]


def _typed(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_typed(item) for item in value]}}
    return {"stringValue": str(value)}
