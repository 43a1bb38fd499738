"""Figures as functions ``(ax, ...) -> ax``; nothing here opens a file or sets a global style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

#: Colour-blind safe (Okabe and Ito 2008), and of different lightness in grey print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_DARK = "0.25"
#: How much of its colour a bar keeps that shows only noise.
PALE = 0.35


def speedup_by_framework(
    ax: Axes, policies: Mapping[str, Mapping[str, Any]], baseline: str, bound: str, interval: str | None = None
) -> Axes:
    """Bars of speed-up with 95 % interval per framework and policy; a black line marks work / span, called ``bound``.

    ``policies``: name -> the ``by_framework`` part of a result; an extrapolated row has a star, one of mere ``noise``
    is pale. An interval, which the legend calls ``interval``, may cross the line: the line is of the workflows that
    ran, the interval over those that could have.
    """
    shown = [name for name in policies if name != baseline] or [baseline]
    frameworks = _drawable(policies[shown[0]])
    rows = {name: [policies[name][framework] for framework in frameworks] for name in shown}
    bounds = [max(rows[name][row]["bound"] or 0.0 for name in shown) for row in range(len(frameworks))]
    height = 0.62 / len(shown)
    for index, name in enumerate(shown):
        places = [row + (index - (len(shown) - 1) / 2) * height for row in range(len(frameworks))]
        _bars(ax, places, height, rows[name], bounds, name, COLOURS[index % len(COLOURS)])
    for row, value in enumerate(bounds):
        if value:
            _bound(ax, row, value, bound.split()[0].rstrip(":"))
    if any(bounds):
        ax.plot([], [], color="black", linewidth=2, label=bound)
    drawn = any(row.get("speedup_ci95_profile") for some in rows.values() for row in some)
    over = "95 % interval over workflows" + (" and profile draws" if drawn else "")
    over += " (their bounds differ)" if any(bounds) else ""
    ax.plot([], [], color=_DARK, linewidth=1, label=interval or over)
    marks = ["*" if any(row.get("extrapolated") for row in some) else "" for some in zip(*rows.values(), strict=True)]
    labels = [
        f"{literal(name)}{mark}\n{_count(policies[shown[0]][name]['workflows'])}"
        for name, mark in zip(frameworks, marks, strict=True)
    ]
    ax.set_yticks(range(len(frameworks)), labels)
    ax.set_ylim(len(frameworks) - 0.45, -0.7)
    ax.axvline(1, color="0.6", linewidth=0.8, zorder=0)
    ax.set_xlim(left=0)
    ax.margins(x=0.12)
    ax.set_xlabel(f"speed-up over {baseline} (ratio of mean session latency)")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def regime_map(ax: Axes, cells: Sequence[Sequence[Any]], loads: Sequence[str], kv: Sequence[str]) -> Axes:
    """Best speed-up by load (columns) and KV capacity (rows, `sim.regime_map.Cell`), its policy written in the cell.

    Hatched: no policy is better by more than noise. A cell with a frame of dashes is saturated: more is offered than
    the server sustains.
    """
    from matplotlib.patches import Rectangle

    best = [[cell.best.speedup if cell.best else 1.0 for cell in row] for row in cells]
    largest = max(1.25, max(map(max, best)))
    ax.imshow(best, cmap="YlGnBu", vmin=1.0, vmax=largest, aspect="auto")
    for row, column in product(range(len(cells)), range(len(loads))):
        cell, place = cells[row][column], (column - 0.5, row - 0.5)
        real = bool(cell.best and cell.best.is_real)
        dark = best[row][column] > 1 + 0.6 * (largest - 1)
        if not real:
            ax.add_patch(Rectangle(place, 1, 1, fill=False, hatch="///", edgecolor="0.6", linewidth=0))
        if cell.saturated:
            inner = (place[0] + 0.04, place[1] + 0.04)
            line = "white" if dark else _DARK
            ax.add_patch(Rectangle(inner, 0.92, 0.92, fill=False, edgecolor=line, linewidth=0.8, linestyle="--"))
        gain = f"{cell.best.speedup:.2f}x" if cell.best else "none\nfinished"
        text = f"{gain}\n{cell.best.policy}" if cell.best and real else gain
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8} if not real else None
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark and real else "black",
            bbox=box,
        )
    ax.set_xticks(range(len(loads)), loads)
    ax.set_yticks(range(len(kv)), kv)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def literal(text: str) -> str:
    """Text in which a dollar is a dollar: between two of them matplotlib reads TeX."""
    return text.replace("$", r"\$")


def _drawable(by_framework: Mapping[str, Any]) -> list[str]:
    return [name for name, row in by_framework.items() if row["speedup"] is not None]


def _bars(
    ax: Axes,
    places: Sequence[float],
    height: float,
    rows: Sequence[Any],
    bounds: Sequence[float],
    name: str,
    colour: str,
) -> None:
    ratios = [row["speedup"] or 0.0 for row in rows]
    ends = [row["speedup_ci95"] or (ratio, ratio) for row, ratio in zip(rows, ratios, strict=True)]
    error = [
        [r - low for r, (low, _) in zip(ratios, ends, strict=True)],
        [h - r for r, (_, h) in zip(ratios, ends, strict=True)],
    ]
    bars = ax.barh(places, ratios, height * 0.9, color=colour, xerr=error, error_kw={"linewidth": 1, "ecolor": _DARK})
    ax.barh([0], [0], 0, color=colour, label=name)
    for bar, row in zip(bars, rows, strict=True):
        if row.get("noise"):
            bar.set_facecolor((*to_rgb(colour), PALE))
    width = 0.15 * max((*bounds, *(high for _, high in ends)), default=0.0)
    for place, ratio, (_, high), bound in zip(places, ratios, ends, bounds, strict=True):
        # Beside the bar, but never on the mark of the bound.
        start = bound if high <= bound < high + width else high
        ax.annotate(f"{ratio:.2f}", (start, place), (4, 0), textcoords="offset points", va="center", fontsize=8)


def _bound(ax: Axes, row: int, bound: float, name: str) -> None:
    ax.plot([bound, bound], [row - 0.38, row + 0.38], color="black", linewidth=2)
    ax.annotate(
        f"{name} {bound:.2f}",
        (bound, row - 0.38),
        (0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def _count(workflows: int) -> str:
    return f"{workflows} workflow{'s' if workflows != 1 else ''}"
