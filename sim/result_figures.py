"""The figures of a result that `workspan run` or `replay` has written, read by `sim.agreement.data.read_side`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.agreement.data import Side
from sim.comparison import name_of_bound
from sim.errors import RunError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.record import RunResult

#: Inches.
_WIDTH = 7.2
#: A scale that spans more than this factor is logarithmic.
_DECADE = 10.0


def frameworks(side: Side, policies: Sequence[str]) -> Figure:
    """Speed-up by framework and policy."""
    from sim.results import speedup_figure

    names = dict.fromkeys((side.baseline, *_names(side, policies)))
    stated = {name: side.stated[name] for name in names}
    return speedup_figure(stated, side.baseline, name_of_bound(side.alone), _title(side).removesuffix(", extrapolated"))


def cdf(side: Side, policies: Sequence[str]) -> Figure:
    """How session latencies are distributed, over all repetitions."""
    from matplotlib.figure import Figure

    from sim.curves import Curve, cumulative, plain_log

    figure = Figure(figsize=(_WIDTH, 4.0), layout="constrained")
    ax = figure.subplots()
    lines = []
    for name in _names(side, policies):
        x = np.array(sorted(_latencies(side.runs[name])))
        y = np.arange(1, x.size + 1) / max(1, x.size)
        colour, marker = _style(side, name)
        nothing = np.zeros(x.size, bool)
        lines.append(Curve(name, x, y, y, y, nothing, nothing, colour, marker, dashed=name == side.baseline))
    cumulative(ax, lines)
    known = np.concatenate([line.x[np.isfinite(line.x) & (line.x > 0)] for line in lines])
    if known.size and known.max() > _DECADE * known.min():
        plain_log(ax, "x", decades=bool(known.max() > _DECADE**2.5 * known.min()))
    ax.set(xlabel="session latency, s", ylabel="share of sessions")
    ax.set_title(_title(side), loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def workload(side: Side, policies: Sequence[str]) -> Figure:
    """How large the workflows are, as they ran under the baseline or the policy."""
    from sim.sizes import Size, draw_sizes

    name = _names(side, policies or (side.baseline,))[0]
    run = side.runs[name][0]
    calls: dict[int, list[Any]] = {session.session: [] for session in run.sessions}
    for record in run.records:
        calls[record.session].append(record)
    figure = draw_sizes(
        Size(
            session.framework,
            len(calls[session.session]),
            sum(record.num_prompt_tokens for record in calls[session.session]),
            sum(record.num_output_tokens for record in calls[session.session]),
        )
        for session in run.sessions
    )
    figure.suptitle(f"{_title(side)}, as they ran under {name}", fontsize=10)
    return figure


def timeline(side: Side, policies: Sequence[str]) -> Figure:
    """Calls running and waiting, and KV tokens in use, over the first repetition: read from the records."""
    from matplotlib.figure import Figure

    from sim.agreement.timeline import timeline
    from sim.overtime import LINES, over_time

    if side.alone:
        raise RunError(f"{side.where}: each workflow ran alone, on a clock of its own; run it under a load")
    names = _names(side, policies)
    lines = {name: timeline(side.runs[name][0].records) for name in names}
    tells = all(line.waiting is not None for line in lines.values())
    parts: dict[str, Callable[[Any], Any]] = {"calls\nrunning" if tells else "calls running\nor waiting": _running}
    parts |= {"calls\nwaiting": lambda line: line.waiting} if tells else {}
    parts |= {"KV tokens,\nthousands": lambda line: line.tokens / 1000}
    others = [name for name in side.runs if name != side.baseline]
    shapes = {name: LINES[place % len(LINES)] for place, name in enumerate((side.baseline, *others))}
    styles = {name: {"color": _style(side, name)[0], "linestyle": shapes[name]} for name in names}
    figure = Figure(figsize=(_WIDTH, 1.4 + 1.3 * len(parts)), layout="constrained")
    axes = figure.subplots(len(parts), 1, sharex=True)
    for ax, (title, values) in zip(axes, parts.items(), strict=True):
        over_time(ax, {name: (line.instants, values(line)) for name, line in lines.items()}, styles, title)
    axes[-1].set_xlabel("time, s", fontsize=8.5)
    axes[0].set_title(_title(side), loc="left", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    foot = "KV tokens are read from the records: a shared prefix counts for each call that has it"
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "frameon": False, "fontsize": 8}
    figure.legend(handles, labels, title=foot, title_fontsize=8, **place)
    return figure


RESULT_FIGURES: Mapping[str, Callable[[Side, Sequence[str]], Figure]] = {
    "frameworks": frameworks,
    "cdf": cdf,
    "workload": workload,
    "timeline": timeline,
}


def predicted(one: Side, other: Side) -> Figure:
    """Each call and session as predicted over as measured, with the identity and a band of 10 %."""
    from sim.agreement import compare_results
    from sim.agreement.plots import figures

    found = compare_results(one, other)
    figure: Figure = dict([next(figures(found))])["scatter"]
    return figure


def _running(line: Any) -> Any:
    return line.running


def _names(side: Side, policies: Sequence[str]) -> list[str]:
    """Those asked for, or all. Raises RunError."""
    for name in policies:
        if name not in side.runs:
            raise RunError(f"{side.where}: no policy {name!r}{nearest(name, side.runs)}")
    return list(policies or side.runs)


def _style(side: Side, name: str) -> tuple[str, str]:
    """A policy's colour and marker, the same in every figure of the result."""
    from sim.curves import MARKERS
    from sim.plots import COLOURS

    if name == side.baseline:
        return "0.25", "."
    index = [one for one in side.runs if one != side.baseline].index(name)
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _latencies(runs: Sequence[RunResult]) -> Iterable[float]:
    """Of all sessions; one that did not finish takes for ever."""
    for run in runs:
        for session in run.sessions:
            yield session.latency_s if session.status == "finished" else np.inf


def _title(side: Side) -> str:
    from sim.plots import literal

    facts = side.provenance
    engine = facts.get("profile") or facts.get("model") or facts["engine"]
    beyond = ", extrapolated" if any(stated.get("extrapolated") for stated in side.stated.values()) else ""
    return literal(f"{facts['load']}, {'profile ' if facts['engine'] == 'simulated' else ''}{engine}{beyond}")
