"""Figures of a study along its axis, which is its load where that varies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.study.figures.axes import (
    DECADE,
    PANEL,
    is_named,
    name_ends,
    note_saturated,
    ratio_title,
    saturated_spans,
    scale,
    ticks,
)
from sim.study.panels import Asked, Row, noise_rows, rows_of
from sim.study.results import Results
from sim.study.sheet import Sheet, floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.curves import Curve

_THROUGHPUTS = {"session_throughput": "sessions/s served", "output_throughput": "output tokens/s"}
#: Up to so many servers both are drawn, else the first.
_BOTH = 6


def speedup(results: Results, asked: Asked) -> Figure:
    """Speed-up of each policy along the axis, its interval, and what is only noise."""
    return draw_speedup(Sheet.asked_for(results, asked))


def draw_speedup(sheet: Sheet) -> Figure:
    """The same of a sheet of one's own."""
    from sim.curves import curves, noise_floor, shaded

    figure, axes = sheet.subplots(sheet.panel_titles(), True, PANEL)
    noise = [row for row in noise_rows(sheet.every) if row["ci95_low"] is not None]
    drawn = {key: [sheet.curve(name, rows, "speedup") for name in sheet.policies] for key, rows in sheet.panels.items()}
    low, high = limits([line for some in drawn.values() for line in some], noise)
    for (key, ax), rows in zip(axes.items(), sheet.panels.values(), strict=True):
        curves(ax, drawn[key], joined=bool(sheet.layout.axis))
        ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        shaded(ax, saturated_spans(sheet, rows), "saturated")
        for row in noise:
            if row["point"] in {one["point"] for one in rows}:
                noise_floor(ax, sheet.x(row), row["speedup"], row["ci95_low"], row["ci95_high"])
    scale(list(axes.values()), low, high, 4.0)
    _explain(sheet, drawn, noise)
    _ceilings(sheet, axes, high)
    note_saturated(sheet)
    sheet.note_marks()
    named = is_named(sheet, axes)
    ticks(sheet, list(axes.values()))
    sheet.finish(figure, list(axes.values()), sheet.layout.axis_title, ratio_title(sheet), legend=not named)
    if named:
        name_ends(figure, next(iter(axes.values())), next(iter(drawn.values())))
    return figure


def latency(results: Results, asked: Asked) -> Figure:
    """Mean session latency of every policy along the axis."""
    from sim.curves import curves, shaded

    sheet = Sheet.asked_for(results, asked)
    figure, axes = sheet.subplots(sheet.panel_titles(), True, PANEL)
    drawn = {}
    for (key, ax), rows in zip(axes.items(), sheet.panels.values(), strict=True):
        lines = [
            baseline_latency(sheet, rows),
            *(sheet.curve(name, rows, "session_latency_s") for name in sheet.policies),
        ]
        drawn[key] = lines
        curves(ax, lines, joined=bool(sheet.layout.axis))
        shaded(ax, saturated_spans(sheet, rows), "saturated")
    named = is_named(sheet, axes)
    every = np.concatenate([line.y for lines in drawn.values() for line in lines])
    scale(list(axes.values()), float(every.min()) * 0.9, float(every.max()) * 1.1, DECADE)
    ticks(sheet, list(axes.values()))
    note_saturated(sheet)
    sheet.note_marks()
    sheet.finish(figure, list(axes.values()), sheet.layout.axis_title, "mean session latency, s", legend=not named)
    if named:
        name_ends(figure, next(iter(axes.values())), next(iter(drawn.values())))
    return figure


def throughput(results: Results, asked: Asked) -> Figure:
    """Sessions and output tokens per second that every policy serves along the axis."""
    from sim.curves import curves, ideal, shaded

    sheet = Sheet.asked_for(results, asked)
    names, titles = (sheet.baseline, *sheet.policies), sheet.panel_titles()
    metrics = list(_THROUGHPUTS)[: 2 if len(titles) <= _BOTH else 1]
    panels = {(*key, metric): title for key, title in titles.items() for metric in metrics}
    figure, axes = sheet.subplots(panels, False, PANEL, abreast=4 - len(metrics))
    cells = cell_rows(results)
    for (*key, metric), ax in axes.items():
        rows = sheet.panels[tuple(key)]
        lines = [measured(sheet, rows, cells, name, metric) for name in names]
        curves(ax, lines, joined=bool(sheet.layout.axis))
        ax.set_ylim(0, 1.08 * max(float(np.nanmax(line.high)) for line in lines))
        shaded(ax, saturated_spans(sheet, rows), "saturated" if metric == "session_throughput" else "")
        if (sheet.layout.axis, metric) == ("session_rate", "session_throughput"):
            ideal(ax, np.unique(lines[0].x), np.unique(lines[0].x), "offered")
        ax.set_ylabel(_THROUGHPUTS[metric], fontsize=9)
    ticks(sheet, list(axes.values()))
    note_saturated(sheet)
    sheet.note_marks()
    sheet.notes.append("band: from the lowest to the highest seed; whole runs, with the ramp at both ends")
    return sheet.finish(figure, list(axes.values()), sheet.layout.axis_title, "", legend=True)


def cell_rows(results: Results) -> dict[tuple[int, str], list[Row]]:
    """Point and policy -> the numbers of its cells, one for each seed."""
    found: dict[tuple[int, str], list[Row]] = {}
    for row in rows_of(results.cells):
        if row["seed"] == row["arrivals_seed"]:
            found.setdefault((row["point"], row["policy"]), []).append(row)
    return found


def measured(
    sheet: Sheet, panel: Iterable[Row], cells: Mapping[tuple[int, str], Sequence[Row]], name: str, metric: str
) -> Curve:
    """A policy's number of whole runs along the axis: mean over seeds, between the lowest and the highest one."""
    points = {row["point"]: row for row in panel}
    rows = []
    for point, row in points.items():
        values = [cell[metric] for cell in cells.get((point, name), ()) if cell[metric] is not None]
        if values:
            ends = {"low": min(values), "high": max(values), "mean": sum(values) / len(values)}
            rows.append({**row, "policy": name, **ends})
    line = sheet.curve(name, rows, "mean")
    rows.sort(key=sheet.x)
    return replace(line, low=floats(rows, "low"), high=floats(rows, "high"))


def baseline_latency(sheet: Sheet, panel: Sequence[Row]) -> Curve:
    """The baseline's latency, over the sessions that it shares with the policy that has most of them."""
    best = {row["point"]: row for row in sorted(panel, key=lambda row: row["sessions"])}
    rows = [{**row, "policy": sheet.baseline} for row in best.values()]
    return sheet.curve(sheet.baseline, rows, "baseline_session_latency_s")


def limits(lines: Iterable[Curve], noise: Iterable[Row]) -> tuple[float, float]:
    """From where to where speed-ups are drawn: intervals whole, unless they are much wider than all points."""
    lines = list(lines)
    points = np.concatenate([[1.0], *(line.y for line in lines)])
    ends = [*(edge for line in lines for edge in (line.low, line.high))]
    ends += [np.array([row["ci95_low"], row["ci95_high"]]) for row in noise]
    low, high = float(np.nanmin(points)), float(np.nanmax(points))
    spread = max(high - low, 0.1)
    edges = np.concatenate([points, *ends])
    return (
        max(float(np.nanmin(edges)), low - spread, 0.5 * low) - 0.05 * spread,
        min(float(np.nanmax(edges)), high + spread) + 0.12 * spread,
    )


def _ceilings(sheet: Sheet, axes: Mapping[Any, Axes], high: float) -> None:
    """Draw what no policy can gain more than, as far as it fits the scale, and say in the foot where it is."""
    from sim.curves import ceiling

    drawn = False
    for ax, rows in zip(axes.values(), sheet.panels.values(), strict=True):
        best = {row["point"]: row for row in sorted(rows, key=lambda row: row["ceiling"] or 0.0)}
        chosen = sorted(best.values(), key=sheet.x)
        y = floats(chosen, "ceiling")
        if (y <= high).any():
            ceiling(ax, np.array([sheet.x(row) for row in chosen]), y, joined=bool(sheet.layout.axis))
            drawn = True
    ceilings = floats(sheet.rows, "ceiling")
    if np.isfinite(ceilings).any():
        where = "dashed" if drawn else "off the scale"
        ends = dict.fromkeys(f"{edge:.2f}" for edge in (np.nanmin(ceilings), np.nanmax(ceilings)))
        sheet.notes.append(f"{where}: the ceiling, which no policy can exceed ({' to '.join(ends)})")


def _explain(sheet: Sheet, drawn: Mapping[Any, Sequence[Curve]], noise: Sequence[Row]) -> None:
    """The foot of the figure of speed-ups."""
    sheet.notes.append("95 % intervals over workflows and arrivals")
    if any(line.small.any() for lines in drawn.values() for line in lines):
        sheet.notes.append(
            f"small: no more than noise, or than the profile's error (Holm over {sheet.asked:,} questions)"
        )
    if noise:
        sheet.notes.append(f"A/A: {sheet.baseline} against itself under other arrivals, the noise floor")
