"""A workflow as a picture: agents and tools as lanes, time as it would take on an engine of unlimited width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sim.plots import COLOURS, literal
from sim.workflow import Call, Node, Workflow

_PATH, _CALL, _TOOL = COLOURS[5], COLOURS[4], "0.75"
#: Above so many edges they are only drawn along the critical path.
_MANY_EDGES = 400


@dataclass(frozen=True, slots=True)
class _Place:
    start_s: float
    end_s: float
    row: int


def workflow_lanes(ax: Axes, workflow: Workflow, seconds: Mapping[str, float]) -> Axes:
    """Every node from the earliest time its parents allow, as long as ``seconds`` (node id -> s) say.

    The critical path has a colour of its own. What an agent could do at once stands in several rows of its lane.
    """
    lanes = _lanes(workflow, seconds)
    path = workflow.critical_path(seconds)
    places = {node: place for lane in lanes.values() for node, place in lane.items()}
    _edges(ax, workflow, places, path)
    rows = [[place.row for place in lane.values()] for lane in lanes.values()]
    total = max(place.end_s for place in places.values()) or 1.0
    for node in workflow.nodes:
        place = places[node.id]
        colour = _PATH if node.id in path else _CALL if isinstance(node, Call) else _TOOL
        # A node of no time is still to be seen.
        width = max(place.end_s - place.start_s, total / 400)
        ax.barh(place.row, width, 0.7, left=place.start_s, color=colour, edgecolor="black", linewidth=0.4, zorder=2)
    ax.set_yticks([(min(lane) + max(lane)) / 2 for lane in rows], [literal(name) for name in lanes])
    ax.set_ylim(max(map(max, rows)) + 0.6, -0.6)
    ax.set_xlim(0, total * 1.01)
    ax.set_xlabel("s, each call at batch size 1 with every reusable prefix cached")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def legend() -> list[Patch | Line2D]:
    """What the colours mean."""
    return [
        Patch(facecolor=_PATH, edgecolor="black", label="critical path"),
        Patch(facecolor=_CALL, edgecolor="black", label="call"),
        Patch(facecolor=_TOOL, edgecolor="black", label="tool"),
        Line2D([], [], color="0.6", linewidth=0.8, label="waits for"),
    ]


def num_rows(workflow: Workflow, seconds: Mapping[str, float]) -> int:
    """How many rows of bars the picture has."""
    return 1 + max(place.row for lane in _lanes(workflow, seconds).values() for place in lane.values())


def _lanes(workflow: Workflow, seconds: Mapping[str, float]) -> dict[str, dict[str, _Place]]:
    """Lane -> node -> its place, rows counted over all lanes; lanes in the order in which they first occur."""
    start: dict[str, float] = {}
    end: dict[str, float] = {}
    for name in workflow.order:
        start[name] = max((end[parent] for parent in workflow.parents[name]), default=0.0)
        end[name] = start[name] + seconds[name]
    members: dict[str, list[Node]] = {}
    for node in workflow.nodes:
        members.setdefault(node.agent if isinstance(node, Call) else f"tool: {node.name}", []).append(node)
    lanes: dict[str, dict[str, _Place]] = {}
    top = 0
    for name, nodes in members.items():
        free: list[float] = []
        lanes[name] = {}
        for node in sorted(nodes, key=lambda node: start[node.id]):
            row = _row(free, start[node.id])
            free[row : row + 1] = [end[node.id]]
            lanes[name][node.id] = _Place(start[node.id], end[node.id], top + row)
        top += len(free)
    return lanes


def _row(free: Sequence[float], start: float) -> int:
    """The first row that is free again by then, or a new one."""
    return next((row for row, time in enumerate(free) if time <= start), len(free))


def _edges(ax: Axes, workflow: Workflow, places: Mapping[str, _Place], path: Sequence[str]) -> None:
    steps = set(pairwise(path))
    few = len(workflow.edges) <= _MANY_EDGES
    for edge in workflow.edges:
        critical = (edge.parent, edge.child) in steps
        if few or critical:
            start, end = places[edge.parent], places[edge.child]
            colour = _PATH if critical else "0.6"
            ax.plot([start.end_s, end.start_s], [start.row, end.row], color=colour, linewidth=0.8, zorder=1)
