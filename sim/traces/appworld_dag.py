"""AppWorld as a DAG JSON: ``metadata`` with a task, ``nodes`` one per block of the log, edges from each to the next.

The edges only say in which order the log was written; they are checked and not used. What happened is a stack of agents
(sim.appworld). So of the 36 nodes of the known file 11 are calls (``agent_response``) and 7 are tools: all 11 answers
are code, but 2 of them only call the other agent and 2 only reply. The last ``code_execution`` has the evaluation at
its end.

The log indents a block as a whole, the prompt did not; what the text itself indents (code, JSON) is kept. Hence more
prompt tokens than in a count of lines stripped one by one: 4,359 instead of 4,080 with cl100k_base in the known file,
four more per call for the header of the missing system prompt, and what that prompt's text is guessed at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.appworld import FRAMEWORK, NOTES, Stack, agent_name, body, success
from sim.chat import Recorder
from sim.errors import TraceError
from sim.traces import Document, LoadOptions, Skipped, identifier
from sim.workflow import Workflow


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
    stack = Stack(str(data["metadata"].get("task_description", "")), recorder)
    for number, node in enumerate(data["nodes"]):
        stack.step(*_node(number, node))
    verdict = success(data["nodes"][-1]["content"]) if data["nodes"] else None
    yield recorder.workflow(f"appworld/{name}", FRAMEWORK, name, success=verdict, notes=NOTES)


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
    return kind, agent_name(str(agent)), body(text.partition("\n")[2])
