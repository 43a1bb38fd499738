"""The figures of a study's results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.study.outcome import ALL, POLICY
from sim.study.panels import Row, is_only_noise, noise_rows, said, saturated
from sim.study.results import Results
from sim.study.sheet import Sheet, floats, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.curves import Curve

_PANEL = (3.2, 2.6)
#: A scale that spans more than this factor is logarithmic.
_DECADE = 10.0
#: A ceiling that is higher than so many times what is drawn is off the scale.
_FITS = 1.5
#: Quantiles that a distribution is drawn with.
_QUANTILES = 200

_LATENCIES = """
WITH one AS (
  SELECT cell, point, policy, count(*) OVER (PARTITION BY point, seed) AS policies
  FROM cells WHERE seed = arrivals_seed AND point IN ({points}))
SELECT point, policy, unnest({shares}) AS share,
  unnest(quantile_disc(CASE WHEN status = 'finished' THEN latency_s ELSE 'Infinity' END, {shares})) AS latency_s
FROM one JOIN sessions USING (cell) WHERE counted AND policies = {policies} GROUP BY point, policy
ORDER BY point, policy, share
"""


def speedup(results: Results) -> Figure:
    """Speed-up of each policy along the axis, its interval, and what is only noise."""
    return draw_speedup(Sheet.of(results))


def draw_speedup(sheet: Sheet) -> Figure:
    """The same of a sheet of one's own."""
    from sim.curves import curves, noise_floor, shaded

    figure, axes = sheet.subplots(sheet.panel_titles(), True, _PANEL)
    noise = [row for row in noise_rows(sheet.every) if row["ci95_low"] is not None]
    drawn = {key: [sheet.curve(name, rows, "speedup") for name in sheet.policies] for key, rows in sheet.panels.items()}
    low, high = _limits([line for some in drawn.values() for line in some], noise)
    for (key, ax), rows in zip(axes.items(), sheet.panels.values(), strict=True):
        curves(ax, drawn[key], joined=bool(sheet.layout.axis))
        ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        shaded(ax, _spans(sheet, rows), "saturated")
        for row in noise:
            if row["point"] in {one["point"] for one in rows}:
                noise_floor(ax, sheet.x(row), row["speedup"], row["ci95_low"], row["ci95_high"])
    _scale(list(axes.values()), low, high, 4.0)
    _explain(sheet, drawn, noise)
    _ceilings(sheet, axes, high)
    _note_saturated(sheet)
    sheet.note_marks()
    named = _is_named(sheet, axes)
    _axis(sheet, list(axes.values()))
    sheet.finish(figure, list(axes.values()), sheet.layout.axis_title, _ratio(sheet), legend=not named)
    if named:
        _name_ends(figure, next(iter(axes.values())), next(iter(drawn.values())))
    return figure


def latency(results: Results) -> Figure:
    """Mean session latency of every policy along the axis."""
    from sim.curves import curves, shaded

    sheet = Sheet.of(results)
    figure, axes = sheet.subplots(sheet.panel_titles(), True, _PANEL)
    drawn = {}
    for (key, ax), rows in zip(axes.items(), sheet.panels.values(), strict=True):
        lines = [_baseline(sheet, rows), *(sheet.curve(name, rows, "session_latency_s") for name in sheet.policies)]
        drawn[key] = lines
        curves(ax, lines, joined=bool(sheet.layout.axis))
        shaded(ax, _spans(sheet, rows), "saturated")
    named = _is_named(sheet, axes)
    every = np.concatenate([line.y for lines in drawn.values() for line in lines])
    _scale(list(axes.values()), float(every.min()) * 0.9, float(every.max()) * 1.1, _DECADE)
    _axis(sheet, list(axes.values()))
    _note_saturated(sheet)
    sheet.note_marks()
    sheet.finish(figure, list(axes.values()), sheet.layout.axis_title, "mean session latency, s", legend=not named)
    if named:
        _name_ends(figure, next(iter(axes.values())), next(iter(drawn.values())))
    return figure


def frameworks(results: Results) -> Figure:
    """Speed-up by framework and policy, where the load is highest without being too high."""
    return draw_frameworks(Sheet.of(results), results.manifest)


def draw_frameworks(sheet: Sheet, manifest: Mapping[str, Any]) -> Figure:
    """The same of a sheet of one's own."""
    from sim.plots import speedup_by_framework

    chosen = _chosen(sheet)
    told = {key: _by_framework(sheet, row["point"], manifest) for key, row in chosen.items()}
    most = max(len(frameworks) for policies in told.values() for frameworks in policies.values())
    figure, axes = sheet.subplots(
        _chosen_titles(sheet, chosen), False, (3.9, 0.6 + 0.16 * most * (2 + len(sheet.policies))), room=1.5
    )
    for key, ax in axes.items():
        bound = "ceiling: no policy can gain more"
        speedup_by_framework(ax, told[key], sheet.baseline, bound, "95 % interval over workflows and arrivals")
    sheet.notes.append("pale: no more than noise; *: extrapolated beyond what the profile measured")
    sheet.finish(figure, list(axes.values()), _ratio(sheet), "", legend=True)
    return figure


def cdf(results: Results) -> Figure:
    """How session latencies are distributed, where the load is highest without being too high."""
    from sim.curves import cumulative, plain_log

    sheet = Sheet.of(results)
    chosen = _chosen(sheet)
    told = _latencies(results, [row["point"] for row in chosen.values()])
    figure, axes = sheet.subplots(_chosen_titles(sheet, chosen), False, _PANEL)
    for key, ax in axes.items():
        lines = [
            replace(sheet.curve(name, (), "speedup"), x=values, y=np.linspace(0, 1, len(values)))
            for name in (sheet.baseline, *sheet.policies)
            if (values := told.get((chosen[key]["point"], name))) is not None
        ]
        cumulative(ax, lines)
        ends = [float(edge) for line in lines for edge in (line.x[0], line.x[-1]) if np.isfinite(edge) and edge > 0]
        if ends and max(ends) > _DECADE * min(ends):
            plain_log(ax, "x")
    sheet.notes.append("sessions that count and never finish keep a line below 1")
    sheet.finish(figure, list(axes.values()), "session latency, s", "share of sessions", legend=True)
    return figure


FIGURES: Mapping[str, Callable[[Results], Figure]] = {
    "speedup": speedup,
    "latency": latency,
    "frameworks": frameworks,
    "cdf": cdf,
}


def _ratio(sheet: Sheet) -> str:
    return f"speed-up over {sheet.baseline} (ratio of mean session latency)"


def _baseline(sheet: Sheet, panel: Sequence[Row]) -> Curve:
    """The baseline's latency, over the sessions that it shares with the policy that has most of them."""
    best = {row["point"]: row for row in sorted(panel, key=lambda row: row["sessions"])}
    rows = [{**row, "policy": sheet.baseline} for row in best.values()]
    return sheet.curve(sheet.baseline, rows, "baseline_session_latency_s")


def _limits(lines: Iterable[Curve], noise: Iterable[Row]) -> tuple[float, float]:
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


def _scale(axes: Sequence[Axes], low: float, high: float, linear: float) -> None:
    from sim.curves import plain_log

    for ax in axes:
        if high > linear * low > 0:
            plain_log(ax, "y", dense=high < 2 * _DECADE * low)
        ax.set_ylim(low, high)


def _spans(sheet: Sheet, panel: Sequence[Row]) -> list[tuple[float, float]]:
    """The saturated parts of the axis: from half-way to the neighbour that is not, to half-way to the next."""
    beyond = saturated(panel)
    places = sorted({(sheet.x(row), row["point"] in beyond) for row in panel})
    values = [x for x, _ in places]
    middles = [(left + right) / 2 for left, right in pairwise(values)]
    half = (middles[0] - values[0], values[-1] - middles[-1]) if middles else (0.5, 0.5)
    edges = [values[0] - half[0], *middles, values[-1] + half[1]]
    spans: list[tuple[float, float]] = []
    for (_, full), (start, end) in zip(places, pairwise(edges), strict=True):
        if full and spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        elif full:
            spans.append((start, end))
    return spans


def _axis(sheet: Sheet, axes: Sequence[Axes]) -> None:
    """Ticks of the axis; a logarithmic one where values span more than a decade."""
    from sim.curves import plain_log

    values = sorted({sheet.x(row) for row in sheet.rows})
    for ax in axes:
        if not sheet.layout.axis:
            names = [next(row for row in sheet.rows if row["point"] == point) for point in sheet.places]
            ax.set_xticks(values, [wrapped(said(row, sheet.layout.panels) or row["load"], 0.8) for row in names])
            ax.set_xlim(-0.6, len(values) - 0.4)
        elif values[0] > 0 and values[-1] >= _DECADE * values[0]:
            plain_log(ax, "x")
            ax.set_xlim(values[0] / 1.08, values[-1] * 1.08)
        else:
            margin = 0.03 * (values[-1] - values[0])
            ax.set_xlim(values[0] - margin, values[-1] + margin)


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


def _is_named(sheet: Sheet, axes: Mapping[Any, Axes]) -> bool:
    """Whether there is room for each line's name at its end."""
    return len(axes) == 1 and sheet.layout.axis is not None


def _explain(sheet: Sheet, drawn: Mapping[Any, Sequence[Curve]], noise: Sequence[Row]) -> None:
    """The foot of the figure of speed-ups."""
    sheet.notes.append("95 % intervals over workflows and arrivals")
    if any(line.small.any() for lines in drawn.values() for line in lines):
        sheet.notes.append(
            f"small: no more than noise, or than the profile's error (Holm over {sheet.asked:,} questions)"
        )
    if noise:
        sheet.notes.append(f"A/A: {sheet.baseline} against itself under other arrivals, the noise floor")


def _note_saturated(sheet: Sheet) -> None:
    if any(saturated(rows) for rows in sheet.panels.values()):
        sheet.notes.append("grey: saturated, the backlog grows as long as sessions arrive")


def _name_ends(figure: Figure, ax: Axes, lines: Sequence[Curve]) -> None:
    """Each line's name at its end, for which the layout must be known."""
    from sim.curves import end_labels

    figure.draw_without_rendering()
    end_labels(ax, [(float(line.y[-1]), line.name, line.colour) for line in lines])


def _chosen(sheet: Sheet) -> dict[tuple[Any, ...], Row]:
    """A row of the point that is looked at closely, for each panel; of every point where they have no order."""
    if sheet.layout.axis:
        return {key: sheet.steady_point(rows) for key, rows in sheet.panels.items()}
    return {(point,): next(row for row in sheet.rows if row["point"] == point) for point in sheet.places}


def _chosen_titles(sheet: Sheet, chosen: Mapping[tuple[Any, ...], Row]) -> dict[tuple[Any, ...], str]:
    """With the point's own place on the axis."""
    axis = (sheet.layout.axis,) if sheet.layout.axis else ()
    beyond = saturated(sheet.rows)
    return {
        key: (said(row, (*axis, *sheet.layout.panels)) or row["load"])
        + (" (saturated)" if row["point"] in beyond else "")
        for key, row in chosen.items()
    }


def _by_framework(sheet: Sheet, point: int, told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Policy -> framework -> what its bar shows."""
    rows = [row for row in sheet.every if row["kind"] == POLICY and row["point"] == point]
    names = list(dict.fromkeys(row["framework"] for row in rows))
    only = next(iter(told["traces"]["frameworks"])) if len(told["traces"]["frameworks"]) == 1 else ALL
    found = {(row["policy"], row["framework"]): row for row in rows}
    most = max((row["ci95_high"] or row["speedup"]) for row in rows)
    return {
        policy: {only if name == ALL else name: _bar(found.get((policy, name)), most) for name in names}
        for policy in sheet.policies
    }


def _bar(row: Row | None, most: float) -> dict[str, Any]:
    if row is None:
        return {"speedup": None, "speedup_ci95": None, "bound": None, "workflows": 0}
    return {
        "speedup": row["speedup"],
        "speedup_ci95": None if row["ci95_low"] is None else (row["ci95_low"], row["ci95_high"]),
        "bound": row["ceiling"] if row["ceiling"] and row["ceiling"] <= _FITS * most else None,
        "workflows": row["workflows"],
        "extrapolated": row["extrapolated"],
        "noise": is_only_noise(row),
    }


def _latencies(results: Results, points: Sequence[int]) -> dict[tuple[int, str], Any]:
    """Point and policy -> quantiles of the latencies of sessions that count; of seeds that every policy has run."""
    shares = [number / _QUANTILES for number in range(_QUANTILES + 1)]
    asked = {"points": ", ".join(map(str, points)), "shares": shares, "policies": len(results.manifest["policies"])}
    columns = results.query(_LATENCIES.format(**asked))
    found: dict[tuple[int, str], Any] = {}
    for point in points:
        for policy in dict.fromkeys(columns["policy"]):
            mask = (columns["point"] == point) & (columns["policy"] == policy)
            if mask.any():
                found[point, str(policy)] = np.ma.filled(columns["latency_s"][mask], np.inf)
    return found
