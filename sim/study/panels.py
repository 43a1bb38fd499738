"""How a study's points lie: in which settings they differ, and along which axis a figure can draw them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.study.outcome import AA, ALL, POLICY
from sim.study.table import Columns

Row = Mapping[str, Any]

#: The settings that make a server, by their columns; what an earlier one determines tells no points apart.
SERVER: tuple[str, ...] = ("profile", "replicas", "fleet", "router", "max_num_seqs", "max_num_batched_tokens")
SERVER += ("num_gpu_blocks", "enable_prefix_caching")
_OTHER = ("tool_time", "information_error")

#: Numbers that can be an axis, the most telling first, with their units.
_AXES = {
    "session_rate": "offered load, sessions/s",
    "concurrent_sessions": "load, concurrent sessions",
    "replicas": "replicas",
    "max_num_seqs": "max_num_seqs, requests",
    "max_num_batched_tokens": "max_num_batched_tokens, tokens",
    "num_gpu_blocks": "num_gpu_blocks, KV blocks",
    "burstiness": "burstiness (1: Poisson)",
    "information_error": "information_error",
}

_SAID: Mapping[str, Callable[[Any], str]] = {
    "profile": str,
    "load": str,
    "session_rate": lambda value: f"{value:g} sessions/s",
    "concurrent_sessions": lambda value: f"{value:,.0f} concurrent sessions",
    "arrivals": lambda value: f"arrivals of {value}",
    "replicas": lambda value: f"{value} replica{'s'[: value != 1]}",
    "num_gpu_blocks": lambda value: f"{value:,} KV blocks",
    "enable_prefix_caching": lambda value: f"prefix caching {'on' if value else 'off'}",
    "tool_time": lambda value: f"tool time {value}",
}
#: All columns that may tell points apart; a load is several.
SETTINGS = (*SERVER, "session_rate", "concurrent_sessions", "arrivals", "burstiness", *_OTHER)
_MISSING = {"arrivals": "drawn arrivals", "router": "router of the policy"}
#: What tells loads apart besides their axis.
_LOADS: Mapping[str, tuple[str, ...]] = {"session_rate": ("arrivals", "burstiness"), "concurrent_sessions": ()}


@dataclass(frozen=True)
class Asked:
    """What of a study to draw: these policies beside the baseline, or all; this point, or the figure's choice."""

    policies: tuple[str, ...] = ()
    point: int | None = None


@dataclass(frozen=True)
class Layout:
    """``axis``: the column along which points differ within a panel, None where they have no order.

    ``panels``: the columns by whose values points are told apart besides.
    """

    axis: str | None
    panels: tuple[str, ...]

    def at(self, row: Row) -> tuple[Any, ...]:
        """Which panel the point of this row is in."""
        return tuple(row[name] for name in self.panels)

    @property
    def axis_title(self) -> str:
        """With its unit."""
        return setting_title(self.axis) if self.axis else ""


def setting_title(name: str) -> str:
    """A setting as the name of an axis, with its unit."""
    return _AXES.get(name, name)


def rows_of(columns: Columns) -> list[dict[str, Any]]:
    """A table's rows, with None where nothing is."""
    plain = {name: _plain(values) for name, values in columns.items()}
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


def policy_rows(rows: Iterable[Row]) -> list[Row]:
    """Those that compare a policy with the baseline over all workflows."""
    return [row for row in rows if row["kind"] == POLICY and row["framework"] == ALL]


def layout(rows: Sequence[Row]) -> Layout:
    """How the points of these rows lie. An axis has several points in some panel."""
    points = list({row["point"]: row for row in rows}.values())
    for axis in _AXES:
        values = {point[axis] for point in points}
        if None in values or len(values) < 2:
            continue
        load = _LOADS.get(axis, ("load",))
        others = [name for name in (*SERVER, *load, *_OTHER) if name != axis]
        panels = telling(points, others)
        if len({tuple(point[name] for name in panels) for point in points}) < len(points):
            return Layout(axis, panels)
    return Layout(None, telling(points, (*SERVER, "load", *_OTHER)))


def layout_along(axis: str, rows: Sequence[Row]) -> Layout:
    """Along this column: what is varied together with it tells no panels apart."""
    points = list({row["point"]: row for row in rows}.values())
    others = [name for name in (*SERVER, "load", *_OTHER) if name != axis]
    return Layout(axis, telling(points, (axis, *others))[1:])


def telling(points: Sequence[Row], names: Iterable[str]) -> tuple[str, ...]:
    """Of these columns the first few that tell apart what all of them do."""
    kept: tuple[str, ...] = ()
    for name in names:
        longer = (*kept, name)
        if len(_tuples(points, longer)) > len(_tuples(points, kept)):
            kept = longer
    return kept


def _tuples(points: Sequence[Row], names: Sequence[str]) -> set[tuple[Any, ...]]:
    return {tuple(point[name] for name in names) for point in points}


def said(row: Row, names: Iterable[str]) -> str:
    """The values of these settings for people."""
    return ", ".join(setting(name, row[name]) for name in names)


def setting(name: str, value: Any) -> str:
    """A setting's value for people."""
    if value is None:
        return _MISSING.get(name, f"no {name}")
    if name in _SAID:
        return _SAID[name](value)
    return f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"


def _plain(values: Any) -> list[Any]:
    """Python's own values."""
    listed: list[Any] = np.ma.asarray(values).tolist() if values.dtype != object else list(values)
    # A list in a cell of a query's answer is an array here.
    listed = [value.tolist() if isinstance(value, np.ndarray) else value for value in listed]
    return [None if value is None or value != value else value for value in listed]


def is_alone(row: Row) -> bool:
    """Whether sessions meet no others there, so that there are no arrivals and nothing of them to leave out."""
    return row["session_rate"] is None and row["concurrent_sessions"] is None and row["arrivals"] is None


def noise_rows(rows: Iterable[Row]) -> list[Row]:
    """Those that compare the baseline with itself under other arrivals, where there are arrivals."""
    return [row for row in rows if row["kind"] == AA and row["framework"] == ALL and not is_alone(row)]


def is_only_noise(row: Row) -> bool:
    """Whether the row shows no difference that anybody should act on."""
    return row["verdict"] not in ("faster", "slower")


def saturated(rows: Iterable[Row]) -> set[int]:
    """The points at which the backlog grows whatever the policy, as it does under the baseline."""
    marks: dict[int, list[bool]] = {}
    for row in rows:
        marks.setdefault(row["point"], []).append(row["saturated"])
    return {point for point, some in marks.items() if all(some)}
