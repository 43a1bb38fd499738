"""Curves over a study's axis, as functions ``(ax, ...) -> ax``; nothing here opens a file or sets a global style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from sim.plots import literal

#: Beside the colour, for those who do not see it.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SMALL = 8
_DARK = "0.25"
#: Of a line that has many points.
_MARKS = 12
_CEILING = "ceiling: no policy can gain more"

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A policy's numbers along an axis, arrays of equal length, nan where there is none.

    ``low`` and ``high``: its 95 % interval; ``hollow``: which points are extrapolated; ``small``: which are only noise.
    """

    name: str
    x: Floats
    y: Floats
    low: Floats
    high: Floats
    hollow: NDArray[np.bool_]
    small: NDArray[np.bool_]
    colour: str
    marker: str
    dashed: bool = False


def curves(ax: Axes, lines: Sequence[Curve], joined: bool = True) -> Axes:
    """A line with a band per policy; not ``joined``, where places have no order, points with intervals side by side."""
    for index, line in enumerate(lines):
        x = line.x if joined else line.x + 0.6 * ((index + 0.5) / len(lines) - 0.5)
        if joined:
            ax.fill_between(x, line.low, line.high, color=line.colour, alpha=0.18, linewidth=0)
            ax.plot(x, line.y, color=line.colour, linewidth=1.6, linestyle="--" if line.dashed else "-")
        else:
            ax.vlines(x, line.low, line.high, color=line.colour, linewidth=1.4)
        for hollow, small in product((True, False), repeat=2):
            some = (line.hollow == hollow) & (line.small == small)
            style: dict[str, Any] = {"marker": line.marker, "linestyle": "none", "zorder": 3}
            style |= {"markersize": 3.5 if small else 7, "markerfacecolor": "white" if hollow else line.colour}
            ax.plot(x[some], line.y[some], color=line.colour, **style)
        ax.plot([], [], color=line.colour, marker=line.marker, label=line.name, linestyle="--" if line.dashed else "-")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def end_labels(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> Axes:
    """Names (value, text, colour) at the right edge, each as near to its value as the others leave room."""
    size, gap = ax.get_window_extent().height * 72 / ax.figure.dpi, 1.25 * _SMALL
    to_axes = ax.transData + ax.transAxes.inverted()
    wanted = [float(to_axes.transform((ax.get_xlim()[1], value))[1]) for value, *_ in ends]
    for (_, text, colour), place in zip(ends, _apart(wanted, gap / size), strict=True):
        where: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (6, 0), "textcoords": "offset points"}
        ax.annotate(
            literal(text), (1, place), color=colour, va="center", fontsize=_SMALL, annotation_clip=False, **where
        )
    return ax


def shaded(ax: Axes, spans: Sequence[tuple[float, float]], text: str) -> Axes:
    """Grey parts of the axis, the first one labelled."""
    for index, (start, end) in enumerate(spans):
        ax.axvspan(start, end, color="0.93", linewidth=0, zorder=0)
        if index == 0:
            where: dict[str, Any] = {
                "xycoords": ax.get_xaxis_transform(),
                "xytext": (4, -3),
                "textcoords": "offset points",
            }
            ax.annotate(text, (start, 1), va="top", color="0.4", fontsize=_SMALL, **where)
    return ax


def noise_floor(ax: Axes, x: float, y: float, low: float, high: float) -> Axes:
    """The baseline against itself: an interval with caps, a little beside the policies'."""
    beside = ax.transData + ScaledTranslation(-0.13, 0, ax.figure.dpi_scale_trans)
    style: dict[str, Any] = {"color": _DARK, "capsize": 3, "linewidth": 1.2, "zorder": 4, "transform": beside}
    ax.errorbar([x], [y], [[y - low], [high - y]], label="A/A: noise floor", **style)
    where: dict[str, Any] = {"xytext": (-5, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
    ax.annotate("A/A", (x, y), xycoords=beside, color=_DARK, fontsize=_SMALL, **where)
    return ax


def ceiling(ax: Axes, x: Floats, y: Floats, joined: bool = True) -> Axes:
    """What no policy can gain more than; named where there is one line."""
    style: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": (0, (4, 3))}
    if joined:
        ax.plot(x, y, label=_CEILING, **style)
    else:
        ax.hlines(y, x - 0.45, x + 0.45, label=_CEILING, **style)
    return ax


def ideal(ax: Axes, x: Floats, y: Floats, text: str) -> Axes:
    """A dotted line that nothing can be above, its name along its middle, as far as that is within the scale."""
    limits = ax.get_ylim()
    ax.plot(x, y, color="0.35", linewidth=1.1, linestyle=":", label=text, zorder=1)
    ax.set_ylim(limits)
    return ax


def cumulative(ax: Axes, lines: Sequence[Curve]) -> Axes:
    """Share of sessions (y) that take no longer than x."""
    for line in lines:
        style: dict[str, Any] = {"color": line.colour, "linewidth": 1.4, "linestyle": "--" if line.dashed else "-"}
        style |= {"marker": line.marker, "markersize": 4, "markevery": max(1, len(line.x) // _MARKS)}
        ax.step(line.x, line.y, where="post", label=line.name, **style)
    ax.set_ylim(0, 1.02)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plain_log(ax: Axes, side: Literal["x", "y"], dense: bool = False, decades: bool = False) -> Axes:
    """A logarithmic axis, ticks at 1, 2, 5 (``dense``: at more, ``decades``: at 1) as one writes numbers."""
    axis = ax.xaxis if side == "x" else ax.yaxis
    (ax.set_xscale if side == "x" else ax.set_yscale)("log")
    subs = (1.0,) if decades else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if dense else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    return ax


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near the wanted ones that are at least the gap from each other: neighbours that touch move as a block."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    blocks: list[list[int]] = []
    middles: list[float] = []
    for index in order:
        blocks.append([index])
        middles.append(wanted[index])
        while len(blocks) > 1 and middles[-1] - middles[-2] < gap * (len(blocks[-1]) + len(blocks[-2])) / 2:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
            middles[-2:] = [sum(wanted[one] for one in blocks[-1]) / len(blocks[-1])]
    places = [0.0] * len(wanted)
    for block, middle in zip(blocks, middles, strict=True):
        for rank, index in enumerate(block):
            places[index] = middle + gap * (rank - (len(block) - 1) / 2)
    return places
