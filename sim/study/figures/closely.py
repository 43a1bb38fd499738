"""Figures of a study at one of its points: what each policy does there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.errors import StudyError
from sim.study.again import Again
from sim.study.figures.axes import DECADE, PANEL, finish_bare, ratio_title
from sim.study.outcome import ALL, POLICY
from sim.study.panels import Asked, Row, is_only_noise, said, saturated
from sim.study.results import Results
from sim.study.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def frameworks(results: Results, asked: Asked) -> Figure:
    """Speed-up by framework and policy, where the load is highest without being too high."""
    return draw_frameworks(Sheet.asked_for(results, asked), results.manifest)


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
    sheet.finish(figure, list(axes.values()), ratio_title(sheet), "", legend=True)
    return figure


def cdf(results: Results, asked: Asked) -> Figure:
    """How session latencies are distributed, where the load is highest without being too high."""
    from sim.curves import cumulative, plain_log

    sheet = Sheet.asked_for(results, asked)
    chosen = _chosen(sheet)
    told = _latencies(results, [row["point"] for row in chosen.values()])
    figure, axes = sheet.subplots(_chosen_titles(sheet, chosen), False, PANEL)
    for key, ax in axes.items():
        lines = [
            replace(sheet.curve(name, (), "speedup"), x=values, y=np.linspace(0, 1, len(values)))
            for name in (sheet.baseline, *sheet.policies)
            if (values := told.get((chosen[key]["point"], name))) is not None
        ]
        cumulative(ax, lines)
        ends = [float(edge) for line in lines for edge in (line.x[0], line.x[-1]) if np.isfinite(edge) and edge > 0]
        if ends and max(ends) > DECADE * min(ends):
            plain_log(ax, "x")
    sheet.notes.append("sessions that count and never finish keep a line below 1")
    if any(row["extrapolated"] for row in chosen.values()):
        sheet.notes.append("extrapolated beyond what the profile measured")
    sheet.finish(figure, list(axes.values()), "session latency, s", "share of sessions", legend=True)
    return figure


def workload(results: Results, asked: Asked) -> Figure:
    """How large the study's workflows are: calls and tokens, by framework."""
    from sim.sizes import Size, draw_sizes

    if asked.policies:
        raise StudyError("workload is of what all policies run; leave --policy out")
    workflows = Again.of(results.folder / "manifest.json").corpus().workflows
    sizes = (
        Size(
            one.framework,
            len(one.calls),
            sum(call.num_prompt_tokens for call in one.calls),
            sum(one.tape.output_tokens.values()),
        )
        for one in workflows
    )
    title = f"{results.manifest['study'].get('name', 'study')}: {len(workflows):,} workflows"
    return finish_bare(draw_sizes(sizes), title, [])


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
