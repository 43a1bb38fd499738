"""Where time went, as pictures: sessions' mean seconds by policy, and one workflow as it ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sim.breakdown import Breakdown, Wait, breakdown, node_ends, waits
from sim.plots import COLOURS, literal
from sim.record import Record, SessionRecord
from sim.workflow import Call, Workflow

_SMALL = 8


class Style(NamedTuple):
    """How a part of the time looks: apart in colour, in lightness and by its hatch."""

    label: str
    colour: str
    hatch: str


STYLES: Mapping[str, Style] = {
    "held_s": Style("held", "white", "----"),
    "queue_s": Style("queue", "0.85", "/////"),
    "prefill_s": Style("prefill", COLOURS[1], ""),
    "decode_s": Style("decode", COLOURS[0], ""),
    "tool_s": Style("tool", "white", "xxxx"),
}
_EDGE: Mapping[str, Any] = {"edgecolor": "0.2", "linewidth": 0.4}


@dataclass(frozen=True)
class Ran:
    """One session as it ran: a workflow, its calls' records by call id, and its own."""

    workflow: Workflow
    records: Mapping[str, Record]
    session: SessionRecord

    @property
    def num_preemptions(self) -> int:
        """Of all its calls."""
        return sum(record.num_preemptions or 0 for record in self.records.values())

    @property
    def parts(self) -> Breakdown:
        """Where its latency went."""
        return breakdown(self.workflow, self.records.values(), self.session)

    def path(self) -> list[Wait]:
        """The chain that it waited for, first to last."""
        return list(waits(self.workflow, self.records, self.session))[::-1]


class _Bar(NamedTuple):
    """A node in its row, with the seconds since arrival at which each part of it began and ended."""

    node: str
    lane: str
    parts: Sequence[tuple[str, float, float]]

    @property
    def began_s(self) -> float:
        return self.parts[0][1]

    @property
    def ended_s(self) -> float:
        return self.parts[-1][2]


def seconds_text(seconds: float) -> str:
    """Three digits, without a unit."""
    return f"{seconds:,.0f}" if abs(seconds) >= 100 else f"{seconds:#.3g}"


def part_legend(names: Sequence[str], path: bool = False) -> list[Patch | Line2D]:
    """What the parts of a bar mean, of these columns of `Breakdown`; and the mark of the critical path."""
    handles: list[Patch | Line2D] = [
        Patch(facecolor=style.colour, hatch=style.hatch, label=style.label, edgecolor="0.2", linewidth=0.4)
        for name, style in STYLES.items()
        if name in names
    ]
    return [*handles, Line2D([], [], color="black", linewidth=1.8, label="critical path")] if path else handles


def breakdown_bars(ax: Axes, policies: Mapping[str, Breakdown]) -> Axes:
    """A bar for each policy, the mean seconds of a session end to end; its name over it, its length behind it."""
    longest = max(sum(parts) for parts in policies.values()) or 1.0
    text: dict[str, Any] = {"va": "center", "fontsize": _SMALL}
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for row, (name, parts) in enumerate(policies.items()):
        left = 0.0
        for column, seconds in parts._asdict().items():
            style = STYLES[column]
            ax.barh(row, seconds, 0.5, left=left, color=style.colour, hatch=style.hatch, **_EDGE)
            if seconds > 0.09 * longest:
                ax.text(left + seconds / 2, row, seconds_text(seconds), bbox=box, **text, ha="center")
            left += seconds
        ax.annotate(f"{seconds_text(left)} s", (left, row), (4, 0), textcoords="offset points", **text)
        ax.annotate(literal(name), (0, row - 0.3), (0, 1), textcoords="offset points", va="bottom", fontsize=_SMALL)
    ax.set_yticks([])
    ax.set_ylim(len(policies) - 0.6, -0.75)
    ax.set_xlim(0, 1.13 * longest)
    ax.set_xlabel("seconds of a session, on average", fontsize=_SMALL)
    ax.tick_params(labelsize=_SMALL)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def gantt(ax: Axes, ran: Ran) -> Axes:
    """A finished session from its arrival on: a lane for each agent and tool, its critical path a black line.

    What an agent did at once stands in several rows of its lane. The line runs under what was waited for, and leaps to
    the lane of what came next.
    """
    rows = _rows(ran)
    for bar, row in rows:
        for column, began_s, ended_s in bar.parts:
            style = STYLES[column]
            # A tool of no time is still to be seen.
            width = max(ended_s - began_s, ran.session.latency_s / 400 if column == "tool_s" else 0.0)
            ax.barh(row, width, 0.62, left=began_s, color=style.colour, hatch=style.hatch, **_EDGE, zorder=2)
    place = {bar.node: row for bar, row in rows}
    steps = [
        (edge_s - ran.session.arrived_s, place[wait.node] + 0.42)
        for wait in ran.path()
        for edge_s in (wait.ready_s, wait.until_s)
    ]
    ax.plot([x for x, _ in steps], [y for _, y in steps], color="black", linewidth=1.8, zorder=3)
    lanes: dict[str, list[int]] = {}
    for bar, row in rows:
        lanes.setdefault(bar.lane, []).append(row)
    names = [name if len(name) <= 18 else f"{name[:17]}…" for name in lanes]
    ticks = [(min(some) + max(some)) / 2 for some in lanes.values()]
    ax.set_yticks(ticks, [literal(name) for name in names], fontsize=_SMALL)
    ax.set_ylim(max(place.values()) + 0.75, -0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=_SMALL)
    return ax


def gantt_rows(ran: Ran) -> int:
    """How many rows of bars the picture has."""
    return 1 + max(row for _, row in _rows(ran))


def gantt_parts(ran: Ran) -> set[str]:
    """The columns of `Breakdown` that the picture shows."""
    return {column for bar in _bars(ran) for column, began_s, ended_s in bar.parts if ended_s > began_s}


def _rows(ran: Ran) -> list[tuple[_Bar, int]]:
    """Each bar and its row, counted over all lanes; lanes in the order in which their first nodes began."""
    lanes: dict[str, list[_Bar]] = {}
    for bar in sorted(_bars(ran), key=lambda bar: (bar.began_s, ran.workflow.position[bar.node])):
        lanes.setdefault(bar.lane, []).append(bar)
    placed, top = [], 0
    for bars in lanes.values():
        free: list[float] = []
        for bar in bars:
            row = next((row for row, end_s in enumerate(free) if end_s <= bar.began_s), len(free))
            free[row : row + 1] = [bar.ended_s]
            placed.append((bar, top + row))
        top += len(free)
    return placed


def _bars(ran: Ran) -> Iterator[_Bar]:
    arrived_s = ran.session.arrived_s
    ends = node_ends(ran.workflow, ran.records, arrived_s)
    for node in ran.workflow.nodes:
        ready_s = max((ends[parent] for parent in ran.workflow.parents[node.id]), default=arrived_s) - arrived_s
        if isinstance(node, Call):
            yield _Bar(node.id, node.agent, _call_parts(ran.records[node.id], ready_s, arrived_s))
        else:
            yield _Bar(node.id, f"tool: {node.name}", [("tool_s", ready_s, ends[node.id] - arrived_s)])


def _call_parts(record: Record, ready_s: float, arrived_s: float) -> list[tuple[str, float, float]]:
    instants = (record.sent_s, record.scheduled_s, record.first_token_s, record.finished_s)
    since = [instant - arrived_s for instant in instants if instant is not None]
    edges = [min(ready_s, since[0]), *since]
    names = [name for name in STYLES if name != "tool_s"]
    return list(zip(names, edges, edges[1:], strict=False))
