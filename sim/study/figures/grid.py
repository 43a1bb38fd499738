"""Figures of what single settings and rules do: around one point of the grid, and of policies made of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.errors import StudyError
from sim.study.figures.along import baseline_latency, cell_rows, limits, measured
from sim.study.figures.axes import DECADE, PANEL, finish_bare, note_saturated, place_title, ratio_title, scale
from sim.study.focus import focus, oracles
from sim.study.panels import SETTINGS, Asked, Layout, Row, is_only_noise, said, setting_title, telling
from sim.study.results import Results
from sim.study.sheet import Sheet, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.curves import Curve


def sensitivity(results: Results, asked: Asked) -> Figure:
    """Speed-up along each setting that the grid varies, the others as at the point or in the middle of the grid."""
    from sim.curves import curves

    sheet = Sheet.of(results, only=Sheet.asked_for(results, replace(asked, point=None)).policies)
    points = list({row["point"]: row for row in sheet.rows}.values())
    names = telling(points, SETTINGS)
    centre = _centre(results, points, names, asked.point)
    panels = {(name,): _beside(sheet.rows, centre, names, name) for name in names}
    panels = {key: rows for key, rows in panels.items() if len({row["point"] for row in rows}) > 1}
    if not panels:
        raise StudyError(f"{results.folder}: no point differs in one setting from the others; give the study a grid")
    figure, axes = sheet.subplots(dict.fromkeys(panels, ""), False, PANEL)
    drawn = []
    for (key, ax), rows in zip(axes.items(), panels.items(), strict=True):
        lines = _along(sheet, rows[1], key[0])
        drawn += lines
        curves(ax, lines)
        ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        _name(ax, rows[1], key[0], centre)
    scale(list(axes.values()), *limits(drawn, []), 4.0)
    sheet.notes.append(f"all else as at point {centre['point']}, the dotted line: {said(centre, names)}")
    sheet.notes.append("95 % intervals; small: no more than noise, or than the profile's error")
    sheet.note_marks()
    sheet.finish(figure, list(axes.values()), "", ratio_title(sheet), legend=True)
    for (name,), ax in axes.items():
        ax.set_xlabel(setting_title(name), fontsize=8.5)
    return figure


def _centre(results: Results, points: Sequence[Row], names: Sequence[str], asked: int | None) -> Row:
    """The point asked for, else of those with neighbours along most settings the one nearest to the middle of each."""
    places = {name: sorted({row[name] for row in points}, key=_order) for name in names}

    def badness(row: Row) -> tuple[int, float, int]:
        alone = sum(len(_beside(points, row, names, name)) < 2 for name in names)
        off = (abs(2 * places[name].index(row[name]) / max(1, len(places[name]) - 1) - 1) for name in names)
        return alone, sum(off), row["point"]

    if asked is None:
        return min(points, key=badness)
    found = [row for row in points if row["point"] == asked]
    if not found:
        raise StudyError(f"{results.folder}: point {asked} is not done yet, or does not exist; leave out --point")
    return found[0]


def _beside(rows: Sequence[Row], centre: Row, names: Sequence[str], name: str) -> list[Row]:
    """Those that differ from the centre in this setting only."""
    return [row for row in rows if all(row[one] == centre[one] for one in names if one != name)]


def _order(value: Any) -> tuple[bool, Any]:
    """Nothing first, texts by the alphabet."""
    return value is not None, value if value is not None else 0


def _along(sheet: Sheet, rows: Sequence[Row], name: str) -> list[Curve]:
    """Each policy's speed-ups along the setting, by value or, where that is no number, by its place."""
    values = sorted({row[name] for row in rows}, key=_order)
    placed = [{**row, "_place": row[name] if _is_number(values) else values.index(row[name])} for row in rows]
    one = replace(sheet, layout=Layout("_place", ()))
    return [one.curve(policy, placed, "speedup") for policy in sheet.policies]


def _is_number(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _name(ax: Axes, rows: Sequence[Row], name: str, centre: Row) -> None:
    """Ticks at the values, and the centre's value marked."""
    from sim.curves import plain_log

    values = sorted({row[name] for row in rows}, key=_order)
    at = centre[name] if _is_number(values) else values.index(centre[name])
    ax.axvline(at, color="0.35", linewidth=0.9, linestyle=":", zorder=0)
    if not _is_number(values):
        ax.set_xticks(range(len(values)), [wrapped(said({name: value}, [name]), 1.0) for value in values], fontsize=8)
        ax.set_xlim(-0.3, len(values) - 0.7)
    elif values[0] > 0 and values[-1] > DECADE / 3 * values[0]:
        plain_log(ax, "x")
        ax.set_xticks(values, [f"{value:g}" for value in values])


def ablation(results: Results, asked: Asked) -> Figure:
    """Speed-up of each policy that is made of another and one more rule, at one point."""
    from matplotlib.figure import Figure

    from sim.steps import Step, step_bars, steps_of

    sheet = Sheet.asked_for(results, asked)
    chosen = focus(sheet.rows, results.manifest)
    assert chosen
    rows = {row["policy"]: row for row in sheet.rows if row["point"] == chosen["point"]}
    steps = steps_of(list(rows))
    if not steps:
        raise StudyError(
            f"{results.folder}: no policy is another one with a rule more; let the study compare plas and plas+sticky"
        )
    drawn = [Step(label, depth, *_told(rows[name])) for name, label, depth in steps]
    figure = Figure(figsize=(sheet.width, 0.9 + 0.5 * len(steps)), layout="constrained")
    ax = step_bars(figure.subplots(), drawn)
    ax.set_xlabel(ratio_title(sheet), fontsize=9)
    notes = ["95 % intervals over workflows and arrivals"]
    notes += ["pale: no more than noise, or than the profile's error"] if any(step.noise for step in drawn) else []
    notes += ["*: extrapolated beyond what the profile measured"] if any(step.extrapolated for step in drawn) else []
    return finish_bare(figure, place_title(results, sheet, chosen), notes)


def _told(row: Row) -> tuple[float, tuple[float, float] | None, bool, bool]:
    interval = None if row["ci95_low"] is None else (row["ci95_low"], row["ci95_high"])
    return row["speedup"], interval, is_only_noise(row), row["extrapolated"]


def replicas(results: Results, asked: Asked) -> Figure:
    """Sessions/s over the number of replicas, and how far policies are from the one that knows the future."""
    from sim.curves import curves, ideal

    sheet = Sheet.asked_for(results, asked, axis="replicas")
    if len({row["replicas"] for row in sheet.rows}) < 2:
        raise StudyError(f"{results.folder}: all points have as many replicas; vary server.replicas in the grid")
    knowing = [name for name in sheet.policies if name in oracles(results.manifest)]
    right = f"session latency / that of {knowing[0]}" if knowing else "mean session latency, s"
    titles = {(*key, side): title for key, title in sheet.panel_titles().items() for side in ("left", "right")}
    figure, axes = sheet.subplots(titles, False, PANEL, abreast=2)
    cells = cell_rows(results)
    for (*key, side), ax in axes.items():
        rows = sheet.panels[tuple(key)]
        if side == "left":
            lines = [measured(sheet, rows, cells, one, "session_throughput") for one in _names(sheet)]
            curves(ax, lines)
            ax.set_ylim(0, 1.08 * max(float(np.nanmax(line.high)) for line in lines))
            ideal(ax, lines[0].x, lines[0].y[0] * lines[0].x / lines[0].x[0], "linear in replicas")
        else:
            curves(ax, _gaps(sheet, rows, knowing[0]) if knowing else _latencies(sheet, rows))
            ax.axhline(1, color="0.6", linewidth=0.8, zorder=0) if knowing else ax.set_ylim(bottom=0)
        ax.set_ylabel("sessions/s served" if side == "left" else right, fontsize=9)
        values = sorted({row["replicas"] for row in rows})
        ax.set_xticks(values, map(str, values))
    note_saturated(sheet)
    sheet.note_marks()
    sheet.notes.append("left: whole runs, band from the lowest to the highest seed")
    return sheet.finish(figure, list(axes.values()), sheet.layout.axis_title, "", legend=True)


def _names(sheet: Sheet) -> tuple[str, ...]:
    return sheet.baseline, *sheet.policies


def _gaps(sheet: Sheet, panel: Sequence[Row], oracle: str) -> list[Curve]:
    """How many times the oracle's latency every other policy's is; the baseline's is the oracle's speed-up."""
    best = {row["point"]: row["speedup"] for row in panel if row["policy"] == oracle}
    rows = [row for row in panel if row["point"] in best and row["policy"] != oracle]
    gaps = [{**row, "gap": best[row["point"]] / row["speedup"]} for row in rows]
    gaps += [{**row, "policy": sheet.baseline, "gap": row["speedup"]} for row in panel if row["policy"] == oracle]
    return [sheet.curve(name, gaps, "gap") for name in _names(sheet) if name != oracle]


def _latencies(sheet: Sheet, panel: Sequence[Row]) -> list[Curve]:
    return [baseline_latency(sheet, panel), *(sheet.curve(one, panel, "session_latency_s") for one in sheet.policies)]
