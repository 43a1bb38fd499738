"""Figures that look into a study's cells: where sessions' time went, one workflow, and an engine over time.

The last two simulate cells again, as a study keeps no such rows; the same cell gives the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.errors import StudyError
from sim.load import Alone
from sim.probe import Probe
from sim.simulate import simulate
from sim.study.figures.axes import finish_bare, place_marks, place_title
from sim.study.focus import Example, Where, example, focus, keys_of, resolved, where_time_went
from sim.study.panels import Asked, Row
from sim.study.results import Results
from sim.study.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

#: Inches.
_WIDTH = 7.2
#: So often engines are looked at.
_LOOKS = 400

_ENDS = """
SELECT session, latency_s, finished_s FROM sessions WHERE cell = '{cell}' AND status = 'finished' ORDER BY session
"""


def breakdown(results: Results, asked: Asked) -> Figure:
    """Mean seconds of a session by policy, stacked by what it waited for."""
    sheet, row = _chosen(results, asked)
    where = where_time_went(results, row)
    if not where:
        raise StudyError(f"{results.folder}: no session has finished under every policy there; --point names another")
    names = [name for name in where.parts if name in (sheet.baseline, *sheet.policies)]
    figure = draw_breakdown(Where({name: where.parts[name] for name in names}, where.sessions, {}), _WIDTH)
    notes = [f"{where.sessions:,} sessions that finished under every policy, along what each waited for"]
    rates = {name: rate for name in names if (rate := where.preemptions[name])}
    told = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    notes += [f"preemptions, whose recomputing is in decode, per thousand calls: {told}"] if told else []
    return finish_bare(figure, place_title(results, sheet, row), [*notes, *place_marks(row)])


def draw_breakdown(where: Where, width: float) -> Figure:
    """A bar for each policy."""
    from matplotlib.figure import Figure

    from sim.gantt import breakdown_bars, part_legend

    figure = Figure(figsize=(width, 0.9 + 0.5 * len(where.parts)), layout="constrained")
    breakdown_bars(figure.subplots(), where.parts)
    shown = {name for parts in where.parts.values() for name, seconds in parts._asdict().items() if seconds > 0}
    _legend(figure, part_legend(sorted(shown)))
    return figure


def gantt(results: Results, asked: Asked) -> Figure:
    """One workflow under the baseline and under a policy."""
    sheet, row = _chosen(results, asked)
    found = example(results, row)
    figure = draw_gantt(found, _WIDTH)
    workflow = next(iter(found.runs.values())).workflow.id
    reason = found.reason[0].lower() + found.reason[1:].rstrip(".")
    notes = [f"workflow {workflow}", reason, *place_marks(row)]
    return finish_bare(figure, place_title(results, sheet, row), notes)


def draw_gantt(example: Example, width: float) -> Figure:
    """One workflow under each policy, on one time axis."""
    from matplotlib.figure import Figure

    from sim.gantt import gantt, gantt_parts, gantt_rows, part_legend, seconds_text
    from sim.plots import literal

    rows = [gantt_rows(ran) for ran in example.runs.values()]
    inches = [min(4.5, max(0.7, 0.2 * number)) for number in rows]
    figure = Figure(figsize=(width, 1.3 + sum(inches)), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": inches}).ravel()
    for ax, (name, ran) in zip(axes, example.runs.items(), strict=True):
        gantt(ax, ran)
        ax.set_title(literal(f"{name}: {seconds_text(ran.session.latency_s)} s"), loc="left", fontsize=8.5)
    axes[0].set_xlim(left=0)
    axes[-1].set_xlabel("seconds since the session's arrival", fontsize=8)
    shown = sorted(set().union(*(gantt_parts(ran) for ran in example.runs.values())))
    _legend(figure, part_legend(shown, path=True))
    return figure


def timeline(results: Results, asked: Asked) -> Figure:
    """KV use, prefix hit rate, and calls running and waiting over one run of the baseline and of a policy."""
    from matplotlib.figure import Figure

    from sim.curves import end_labels
    from sim.overtime import LINES, LOOKS, SERIES, over_time

    sheet, row = _chosen(results, asked)
    names = (sheet.baseline, *(sheet.policies if asked.policies else (row["policy"],)))
    instants, probes = _probed(results, row["point"], names)
    styles = {
        name: {"color": sheet.style(name)[0], "linestyle": LINES[place % len(LINES)]}
        for place, name in enumerate(names)
    }
    figure = Figure(figsize=(_WIDTH, 1.4 + 1.15 * len(SERIES)), layout="constrained")
    axes = figure.subplots(len(SERIES), 1, sharex=True)
    for ax, (title, values) in zip(axes, SERIES.items(), strict=True):
        over_time(ax, {name: (instants, values(probe.signals)) for name, probe in probes.items()}, styles, title)
    axes[-1].set_xlabel("time, s", fontsize=8.5)
    notes = [f"the first seed simulated again, looked at every {instants[1] - instants[0]:.3g} s"]
    notes += [f"hit rates of the last {LOOKS} looks", "what is only cached counts as free"]
    notes += [f"{row['replicas']} replicas as one"] if row["replicas"] > 1 else []
    finish_bare(figure, place_title(results, sheet, row), [*notes, *place_marks(row)])
    figure.draw_without_rendering()
    top = axes[0].get_ylim()[1]
    end_labels(axes[0], [(top * (0.9 - 0.3 * place), name, styles[name]["color"]) for place, name in enumerate(names)])
    return figure


def _chosen(results: Results, asked: Asked) -> tuple[Sheet, Row]:
    """What there is to draw, and the comparison that is looked at."""
    sheet = Sheet.asked_for(results, asked)
    row = focus(sheet.rows, results.manifest)
    assert row
    return sheet, row


def _probed(results: Results, number: int, names: tuple[str, ...]) -> tuple[Any, Mapping[str, Probe]]:
    """Instants, and for each policy what its engines told at them in the first seed, until the last of them ended.

    Raises StudyError where the cells cannot be simulated as they were.
    """
    keys = keys_of(results, number)
    if missing := [name for name in names if name not in keys]:
        raise StudyError(f"{results.folder}: the first seed has not run under {missing[0]}; run the study to its end")
    point, workflows = resolved(results, number, {name: keys[name] for name in names})
    if isinstance(point.load, Alone):
        raise StudyError(f"{results.folder}: each workflow runs alone there, on a clock of its own; offer a load")
    told = {name: results.query(_ENDS.format(cell=keys[name])) for name in names}
    ends = [float(columns["finished_s"].max()) for columns in told.values() if len(columns["session"])]
    instants = np.linspace(0.0, max(ends, default=1.0), _LOOKS)
    probes = {name: Probe(instants.tolist()) for name in names}
    for name, probe in probes.items():
        run = simulate(workflows, point.policies[name], point.fleet, point.load, 0, probe=probe)
        again = sorted((one.session, one.latency_s) for one in run.sessions if one.status == "finished")
        if not np.array_equal([seconds for _, seconds in again], told[name]["latency_s"]):
            raise StudyError("simulated again sessions took other times than in the study; please report this bug")
    return instants, probes


def _legend(figure: Figure, handles: list[Any]) -> Artist:
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 8}
    return figure.legend(handles=handles, handlelength=2.4, handleheight=1.1, **place)
