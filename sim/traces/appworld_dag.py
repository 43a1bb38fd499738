"""AppWorld as a DAG JSON: ``metadata`` with a task, ``nodes`` one per block of the log, edges from each to the next.

The edges only say in which order the log was written; they are checked and not used. What happened is a stack: the
Supervisor's answer is code. It runs (a tool), or it sends a message to an app's agent, which starts with a fresh
context, answers with code that runs (tools) and ends with a reply; the result goes into the Supervisor's next prompt.
So of the 36 nodes of the known file 11 are calls (``agent_response``) and 7 are tools: all 11 answers are code, but 2
of them only call the other agent and 2 only reply.

A Supervisor's tool result occurs twice, as ``code_execution`` and as the next ``agent_message``; a sub-agent's only as
the next message to it. The last ``code_execution`` has the evaluation at its end. Every prompt contains the event
before it: a chain of visible edges. Not recorded: times, token counts, system prompts.

The log indents a block as a whole, the prompt did not; what the text itself indents (code, JSON) is kept. Hence more
prompt tokens than in a count of lines stripped one by one: 4,359 instead of 4,080 with cl100k_base in the known file,
and four more per call for the header of the missing system prompt.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from sim.chat import Message, Recorder, prompt, unknown_system
from sim.errors import TraceError
from sim.traces import Document, LoadOptions, Skipped, identifier
from sim.workflow import Workflow

FRAMEWORK = "AppWorld"

_SUPERVISOR = "Supervisor"
_DELEGATES = "# CallExtension"
_SILENT = ("agent_reply", "agent_exit", "api_response")
_NOTES = ("AppWorld: system prompts are not recorded, prompt tokens are lower bounds",)
_SUCCESS = re.compile(r'^Evaluation\n\{.*?"success": (true|false)', re.MULTILINE | re.DOTALL)


def looks_like(document: Document) -> bool:
    """Typed nodes, and a task in the metadata."""
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("metadata"), dict):
        return False
    return "task_id" in data["metadata"] and isinstance(data.get("nodes"), list)


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflow of one task."""
    data = document.data
    name = identifier(data["metadata"]["task_id"], "the task")
    _check_edges(data)
    recorder = Recorder(options.tokenizer)
    task = Message("user", str(data["metadata"].get("task_description", "")))
    contexts = {_SUPERVISOR: [task]}
    for number, node in enumerate(data["nodes"]):
        kind, agent, text = _node(number, node)
        _step(kind, agent, text, contexts, recorder)
    yield recorder.workflow(f"appworld/{name}", FRAMEWORK, name, success=_success(data["nodes"]), notes=_NOTES)


def _check_edges(data: dict[str, Any]) -> None:
    """Raise TraceError unless every edge leads from a node to a later one: then nodes are missing or out of order."""
    place = {str(node.get("id")): index for index, node in enumerate(data["nodes"]) if isinstance(node, dict)}
    edges = data.get("edges")
    for number, edge in enumerate(edges if isinstance(edges, list) else [edges]):
        ends = [str(edge.get(end)) for end in ("source", "target")] if isinstance(edge, dict) else []
        if len(ends) < 2 or not all(end in place for end in ends):
            raise TraceError(f'edge {number} needs the ids of two nodes as "source" and "target"')
        if place[ends[0]] >= place[ends[1]]:
            raise TraceError(f"edge {number} leads back, from {ends[0]} to {ends[1]}; put the nodes in the log's order")


def _node(number: int, node: Any) -> tuple[str, str, str]:
    """Type, agent (where the type has one) and content without its header line."""
    kind, text = (node.get("type"), node.get("content")) if isinstance(node, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(text, str):
        raise TraceError(f'node {number} needs a "type" and a text "content"')
    agent = node.get("agent")
    if kind in ("agent_response", "agent_message", "agent_entry"):
        if not isinstance(agent, str):
            raise TraceError(f'node {number} is an {kind} of nobody; give it an "agent"')
        identifier(agent, f"the agent of node {number}")
    return kind, str(agent), textwrap.dedent(text.partition("\n")[2]).strip()


def _step(kind: str, agent: str, text: str, contexts: dict[str, list[Message]], recorder: Recorder) -> None:
    history = contexts.setdefault(agent, []) if kind in ("agent_response", "agent_message") else []
    if kind == "agent_response":
        segments = (*unknown_system(FRAMEWORK, agent), *prompt(history, recorder.tokenizer))
        recorder.chain(recorder.call(agent, segments, text))
        history.append(Message("assistant", text))
    elif kind == "agent_entry":
        contexts[agent] = []
    elif kind == "agent_message":
        # The first message to a sub-agent is its task, every later one what its code printed.
        if history and agent != _SUPERVISOR:
            recorder.chain(recorder.tool("code"))
        history.append(Message("user", text))
    elif kind == "code_execution":
        if not text.startswith(_DELEGATES):
            recorder.chain(recorder.tool("code"))
    elif kind not in _SILENT:
        raise TraceError(f"a node of type {kind!r} is not known; leave the file out")


def _success(nodes: list[dict[str, Any]]) -> bool | None:
    found = _SUCCESS.search(nodes[-1]["content"]) if nodes else None
    return found and found[1] == "true"
