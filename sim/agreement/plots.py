"""Figures of an agreement: functions ``(ax, ...) -> ax``, and which of them make which file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sim.agreement.join import Array, Joint
from sim.agreement.speedups import Speedup
from sim.agreement.timeline import Timeline, timeline
from sim.plots import COLOURS, literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.agreement import Agreement

_MARKERS = "os^Dv<>P"
_SMALL = 8
#: Above so many marks they are drawn as an image.
_MANY = 3000
#: Numbers of a decade that are written up to such a range of the axis.
_TICKS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (10, (1, 1.5, 2, 3, 5, 7)),
    (100, (1, 2, 5)),
    (math.inf, (1,)),
)
#: Behind text that may lie on lines.
_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
#: Half the width of the band around the identity.
_BAND = 0.1
_METRICS = (("e2el", "e2el of a call, s"), ("session_latency", "session latency, s"))


def figures(agreement: Agreement) -> Iterator[tuple[str, Figure]]:
    """Name and figure: ``scatter``, ``cdf``, ``speedup`` and, where the workflows share a clock, ``timeline``."""
    from matplotlib.figure import Figure

    for name, draw in (("scatter", scatter), ("cdf", cdf)):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        for ax, joint, (metric, label) in zip(
            figure.subplots(1, 2), (agreement.calls, agreement.sessions), _METRICS, strict=True
        ):
            draw(ax, joint, metric, label)
        handles = _side_handles() if name == "cdf" else _policy_handles(list(agreement.measured.runs))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        yield name, figure
    if agreement.speedups:
        figure = Figure(figsize=(6, 6), layout="constrained")
        speedups(figure.subplots(), _once(agreement.speedups), agreement.measured.baseline)
        yield "speedup", figure
    if not agreement.measured.alone:
        yield "timeline", _timelines(agreement)


def scatter(ax: Axes, joint: Joint, metric: str, label: str) -> Axes:
    """Each thing of both sides, mean over repetitions, on logarithmic axes; the identity and a band of +-10 %."""
    values, many = joint.values[metric], len(joint.keys) > _MANY
    for index, (_, chosen) in enumerate(_by_policy(joint)):
        predicted, measured = (side[:, chosen].mean(axis=0) for side in values)
        size = 2.0 if many else 4.5
        (points,) = ax.plot(measured, predicted, _marker(index), color=_colour(index), markersize=size, alpha=0.65)
        points.set_rasterized(many)  # as an image: a figure of so many marks is large and slow
    ax.set_xscale("log")
    ax.set_yscale("log")
    ends = np.array([min(side.min() for side in values), max(side.max() for side in values)]) * (0.8, 1.25)
    _identity(ax, ends, _BAND, f"±{_BAND:.0%}")
    ax.set_xlabel(f"measured {label}")
    ax.set_ylabel(f"predicted {label}")
    return _plain(ax)


def cdf(ax: Axes, joint: Joint, metric: str, label: str) -> Axes:
    """Share of the things that took at most so long: predicted dashed, every repetition measured a line of its own."""
    policies = list(_by_policy(joint))
    for index, (name, chosen) in enumerate(policies):
        predicted, measured = (side[:, chosen] for side in joint.values[metric])
        for side, style in ((measured, "-"), (predicted, "--")):
            for one in side:
                shares = np.arange(1, one.size + 1) / one.size
                ax.step(np.sort(one), shares, style, where="post", color=_colour(index), linewidth=1.3)
        height = 0.3 + 0.5 * index / len(policies)
        place = (float(np.quantile(measured, height)), height)
        ax.text(*place, literal(name), color=_colour(index), fontsize=9, weight="bold", ha="center", bbox=_BOX)
    ax.set_xscale("log")
    _ticks(ax.xaxis)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel(label)
    ax.set_ylabel("share of all")
    return _plain(ax)


def speedups(ax: Axes, gains: Sequence[Speedup], baseline: str) -> Axes:
    """Predicted over measured, each with its 95 % interval; around the identity the largest noise of them."""
    names = list(dict.fromkeys(gain.order.other for gain in gains))
    for index, name in enumerate(names):
        for gain in gains:
            if gain.order.other == name:
                _cross(ax, gain, index)
        ax.plot([], [], _marker(index), color=_colour(index), label=literal(name))
    spans = [(*_point(gain), *(gain.measured_ci95 or ()), *(gain.predicted_ci95 or ())) for gain in gains]
    ends = np.log([1.0, *(end for span in spans for end in span)])
    room = max(ends.max() - ends.min(), 0.1)
    limits = np.exp(np.array([ends.min() - 0.15 * room, ends.max() + 0.15 * room]))
    ax.set_xscale("log")
    ax.set_yscale("log")
    noises = [gain.numbers["noise"] for gain in gains]
    known = [noise for noise in noises if noise is not None]
    noise = max(known) if known and len(known) == len(noises) else None
    _identity(ax, limits, noise or 0.0, "noise unknown" if noise is None else f"noise ±{noise:.1%}")
    for place, label in _labels(gains, 0.05 * room):
        ax.annotate(label, place, (-5, 5), textcoords="offset points", ha="right", va="bottom", fontsize=_SMALL)
    for line in (ax.axvline, ax.axhline):
        line(1, color="0.8", linewidth=0.8, zorder=0)
    ax.legend(loc="lower right", frameon=False, fontsize=9)
    ax.set_xlabel(f"measured speed-up over {literal(baseline)} (ratio of mean session latency)")
    ax.set_ylabel(f"predicted speed-up over {literal(baseline)}")
    return _plain(ax)


def _point(gain: Speedup) -> tuple[float, float]:
    x, y = gain.numbers["measured"], gain.numbers["predicted"]
    assert x is not None
    assert y is not None
    return x, y


def _cross(ax: Axes, gain: Speedup, index: int) -> None:
    point = _point(gain)
    errors = [
        [[value - interval[0]], [interval[1] - value]] if interval else None
        for value, interval in zip(point, (gain.measured_ci95, gain.predicted_ci95), strict=True)
    ]
    ax.errorbar(*point, errors[1], errors[0], _marker(index), color=_colour(index), elinewidth=1, markersize=5)


def _labels(gains: Sequence[Speedup], near: float) -> list[tuple[tuple[float, float], str]]:
    """Where to write which frameworks: those whose points lie together, as logarithms, share a place."""
    found: list[tuple[tuple[float, float], list[str]]] = []
    for gain in sorted(gains, key=_point):
        point, name = _point(gain), gain.order.framework or "all"
        for place, names in found:
            if all(abs(math.log(one / other)) < near for one, other in zip(point, place, strict=True)):
                names += [name] if name not in names else []
                break
        else:
            found.append((point, [name]))
    return [(place, literal("\n".join(names))) for place, names in found]


def calls_over_time(ax: Axes, predicted: Sequence[Timeline], measured: Sequence[Timeline]) -> Axes:
    """Calls running, and calls waiting where the records tell; predicted dashed, every repetition a line."""
    for index, part in ((0, "running"), (5, "waiting")):
        for side, style in ((measured, "-"), (predicted, "--")):
            for one in side:
                values = getattr(one, part)
                if values is not None:
                    ax.plot(one.instants, values, style, color=COLOURS[index], linewidth=1)
    ax.set_ylabel("calls")
    return _plain(ax)


def tokens_over_time(ax: Axes, predicted: Sequence[Timeline], measured: Sequence[Timeline]) -> Axes:
    """KV tokens in use, a shared prefix counted for each call that has it."""
    for side, style in ((measured, "-"), (predicted, "--")):
        for one in side:
            ax.plot(one.instants, one.tokens / 1000, style, color=COLOURS[2], linewidth=1)
    ax.set_ylabel("KV tokens in use, thousands")
    ax.set_xlabel("time, s")
    return _plain(ax)


def _timelines(agreement: Agreement) -> Figure:
    from matplotlib.figure import Figure

    names = list(agreement.measured.runs)
    figure = Figure(figsize=(max(6, 4.2 * len(names)), 5.4), layout="constrained")
    axes = figure.subplots(2, len(names), sharex="col", sharey="row", squeeze=False)
    for (top, bottom), name in zip(axes.T, names, strict=True):
        predicted, measured = (
            [timeline(run.records) for run in side.runs[name]] for side in (agreement.predicted, agreement.measured)
        )
        calls_over_time(top, predicted, measured)
        tokens_over_time(bottom, predicted, measured)
        top.set_title(literal(name), loc="left", fontsize=10)
    for ax in axes[:, 0]:
        ax.set_ylim(bottom=0)
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    tell = all(one.waiting is not None for one in measured)
    handles = [
        Line2D([], [], color=COLOURS[0], label="running" if tell else "running (measured: or waiting)"),
        Line2D([], [], color=COLOURS[5], label="waiting" if tell else "waiting (measured: not told)"),
        Line2D([], [], color=COLOURS[2], label="KV tokens, shared prefixes counted for each call"),
    ]
    figure.legend(handles=[*handles, *_side_handles()], loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _identity(ax: Axes, ends: Array, band: float, label: str) -> None:
    ax.plot(ends, ends, color="black", linewidth=0.9, zorder=1)
    ax.fill_between(ends, ends * (1 - band), ends * (1 + band), color="0.88", linewidth=0, zorder=0)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    ax.set_aspect("equal")
    _ticks(ax.xaxis)
    _ticks(ax.yaxis)
    what = f"line: predicted = measured\ngrey: {label}"
    ax.text(0.03, 0.97, what, transform=ax.transAxes, fontsize=_SMALL, ha="left", va="top", bbox=_BOX)


def _ticks(axis: Axis) -> None:
    """Of a logarithmic axis: plain numbers, of each decade the fewer the more decades there are."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=next(subs for most, subs in _TICKS if high < most * low)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _by_policy(joint: Joint) -> Iterator[tuple[str, list[int]]]:
    """Policy -> the places of its things, in the order of the results."""
    for name in dict.fromkeys(joint.labels["policy"]):
        yield name, [index for index, policy in enumerate(joint.labels["policy"]) if policy == name]


def _once(gains: Sequence[Speedup]) -> list[Speedup]:
    """Of one framework alone, its speed-ups are those of all."""
    several = len({gain.order.framework for gain in gains}) > 2
    return [gain for gain in gains if several or gain.order.framework is None]


def _policy_handles(names: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=_colour(index), label=literal(name), marker=_marker(index), linewidth=0)
        for index, name in enumerate(names)
    ]


def _side_handles() -> list[Line2D]:
    return [
        Line2D([], [], color="0.25", linestyle="-", label="measured, each repetition"),
        Line2D([], [], color="0.25", linestyle="--", label="predicted"),
    ]
