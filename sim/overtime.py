"""An engine over time, as functions ``(ax, ...) -> ax``; nothing here opens a file or sets a global style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sim.signals import Signals

Floats = NDArray[np.float64]

#: What can be drawn, by the name of its axis.
SERIES: Mapping[str, Callable[[Sequence[Signals]], Floats]] = {
    "KV blocks\nheld, %": lambda signals: 100 * np.array([one.kv_use for one in signals]),
    "prefix hit\nrate, %": lambda signals: 100 * hit_rates(signals),
    "calls\nrunning": lambda signals: np.array([one.num_running for one in signals], float),
    "calls\nwaiting": lambda signals: np.array([one.num_waiting for one in signals], float),
}
#: Shapes of lines, the baseline's first.
LINES = ("--", "-", ":", "-.")
#: Hit rates are of so many looks, the last ones: of fewer they are of a few calls only.
LOOKS = 20


def over_time(
    ax: Axes, lines: Mapping[str, tuple[Floats, Floats]], styles: Mapping[str, Mapping[str, Any]], title: str
) -> Axes:
    """A line of instants in s and values for each name; where nothing is known a gap."""
    for name, (instants, values) in lines.items():
        ax.plot(instants, values, linewidth=1.2, label=name, **styles[name])
    ax.set_xlim(0, max(instants[-1] for instants, _ in lines.values()))
    ax.set_ylim(bottom=0)
    ax.set_ylabel(title, fontsize=8.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    return ax


def hit_rates(signals: Sequence[Signals]) -> Floats:
    """Share of the prompt tokens that were admitted in the last `LOOKS` looks and found cached; nan without any."""
    counts = np.array([(one.prefix_queries, one.prefix_hits) for one in signals], float)
    before = np.maximum(np.arange(len(signals)) - LOOKS, 0)
    queries, hits = (counts - counts[before]).T
    found: Floats = np.divide(hits, queries, out=np.full(len(signals), np.nan), where=queries > 0)
    return found
