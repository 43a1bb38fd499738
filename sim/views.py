"""Which dependencies of a workflow count: the log's order, what the framework waits for, or what is really read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Literal, get_args

from sim.workflow import Edge, Workflow

View = Literal["recorded", "visible", "flow"]
VIEWS: tuple[View, ...] = get_args(View)


def view(workflow: Workflow, name: View) -> Workflow:
    """The workflow with the edges of that view.

    recorded: nothing starts before what had ended when it started in the recorded run; without times, one node after
    the other. visible: all edges that the format's rule gives, the conservative choice. flow: without those for which
    the child's prompt was seen and the parent's text is not in it.
    """
    if name == "visible":
        return workflow
    edges = recorded_edges(workflow) if name == "recorded" else [edge for edge in workflow.edges if edge.used]
    return replace(workflow, edges=tuple(edges))


def recorded_edges(workflow: Workflow) -> list[Edge]:
    """Each node waits for the last ones that had ended when it began; whoever they waited for goes without saying."""
    times, nodes = workflow.tape.times, workflow.nodes
    if any(node.id not in times for node in nodes):
        return [Edge(one.id, other.id, "recorded") for one, other in pairwise(nodes)]
    return list(_by_time(workflow))


def _by_time(workflow: Workflow) -> Iterator[Edge]:
    times, position = workflow.tape.times, workflow.position
    # Whatever had ended when a node began comes before it in this order; at one instant the log's order decides.
    nodes = sorted(times, key=lambda node: (*times[node], position[node]))
    for index, node in enumerate(nodes):
        latest_begin = -1.0
        for other in reversed(nodes[:index]):
            began, ended = times[other]
            if ended > times[node][0]:
                continue
            # What had ended before another of them began is waited for by that one already.
            if ended > latest_begin:
                yield Edge(other, node, "recorded")
            latest_begin = max(latest_begin, began)
