"""What calls wait for, with the tools between them as seconds."""

from __future__ import annotations

from collections.abc import Mapping

from sim.workflow import Call, Tool, Workflow

#: Stands for the session's begin where only tools come before a call.
BEGIN = ""


def waits(workflow: Workflow) -> dict[str, dict[str, float]]:
    """Call -> each call that it waits for directly or through tools only -> seconds of the tools between them.

    A call can start when the last of these has ended and its seconds have passed: as its parents are done then.
    A tool of unknown duration takes no time.
    """
    before: dict[str, dict[str, float]] = {}
    nodes = {node.id: node for node in workflow.nodes}
    for name in workflow.order:
        sources: dict[str, float] = {}
        for parent in workflow.parents[name]:
            for source, seconds in _through(nodes[parent], workflow, before).items():
                sources[source] = max(sources.get(source, 0.0), seconds)
        before[name] = sources
    return {call.id: before[call.id] for call in workflow.calls}


def _through(parent: Call | Tool, workflow: Workflow, before: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    if isinstance(parent, Call):
        return {parent.id: 0.0}
    seconds = workflow.tape.tool_s[parent.id] or 0.0
    return {source: passed + seconds for source, passed in (before[parent.id] or {BEGIN: 0.0}).items()}
