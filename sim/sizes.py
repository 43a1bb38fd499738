"""How large workflows are, as distributions: calls and tokens by framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.curves import MARKERS, plain_log
from sim.plots import COLOURS, literal

_LINES = ("-", "--", ":")
#: An axis that spans more than so many times is logarithmic, and has few ticks.
_DECADE, _MANY = 10.0, 60.0
_TITLES = ("LLM calls of a workflow", "prompt tokens of a workflow", "output tokens of a workflow")


class Size(NamedTuple):
    """A workflow's calls, and their prompt and output tokens, summed."""

    framework: str
    calls: int
    prompt_tokens: int
    output_tokens: int


def draw_sizes(sizes: Iterable[Size]) -> Figure:
    """Three distributions over workflows, a line for each framework."""
    groups: dict[str, list[Size]] = {}
    for size in sorted(sizes):
        groups.setdefault(size.framework, []).append(size)
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    axes = figure.subplots(1, len(_TITLES), sharey=True)
    for place, (ax, title) in enumerate(zip(axes, _TITLES, strict=True), start=1):
        shares(ax, {f"{name} ({len(some):,})": [float(size[place]) for size in some] for name, some in groups.items()})
        ax.set_xlabel(title, fontsize=8.5)
    axes[0].set_ylabel("share of workflows", fontsize=8.5)
    names, handles = axes[0].get_legend_handles_labels()[::-1]
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def shares(ax: Axes, groups: Mapping[str, Sequence[float]]) -> Axes:
    """Share of each group (y) that is no larger than x; on a logarithmic axis where they span more than a decade."""
    for place, (name, some) in enumerate(groups.items()):
        values = np.sort(np.asarray(some, float))
        steps = np.concatenate([values[:1], values]), np.linspace(0, 1, values.size + 1)
        style = _LINES[place // len(COLOURS) % len(_LINES)]
        colour = COLOURS[place % len(COLOURS)]
        mark: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)], "markersize": 3.5}
        mark |= {"markevery": (values.size // 2, values.size + 1)}
        ax.step(*steps, where="post", linewidth=1.4, color=colour, linestyle=style, label=literal(name), **mark)
    ends = [edge for some in groups.values() for edge in (min(some), max(some)) if edge > 0]
    if ends and max(ends) > _DECADE * min(ends):
        plain_log(ax, "x", decades=max(ends) > _MANY * min(ends))
    ax.set_ylim(0, 1.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    return ax
