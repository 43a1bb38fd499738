"""Bars of policies that are made of each other, as functions ``(ax, ...) -> ax``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from sim.plots import COLOURS, PALE, literal

_SMALL = 8
_DARK = "0.25"
#: Points by which the name of a step is set off from that of the one before it.
_INDENT = 16


@dataclass(frozen=True, slots=True)
class Step:
    """A policy made of another and one more rule: how it is called there, how deep it is, and its speed-up.

    ``interval``: 95 %, None where there is none; ``noise``: it says no more; ``extrapolated``: beyond the profile.
    """

    label: str
    depth: int
    speedup: float
    interval: tuple[float, float] | None
    noise: bool
    extrapolated: bool


def steps_of(policies: Sequence[str]) -> list[tuple[str, str, int]]:
    """Policy, what it adds and how deep it is, each behind what it is made of; only those that have such a relation.

    ``plas+sticky`` is made of ``plas``; where there are several such, of the longest.
    """
    rules = {name: frozenset(name.split("+")) for name in policies}
    parents = {
        name: max((one for one in policies if rules[one] < rules[name]), key=_length, default=None) for name in policies
    }
    related = {one for name, parent in parents.items() if parent for one in (name, parent)}
    found: list[tuple[str, str, int]] = []

    def add(name: str, depth: int) -> None:
        parent = parents[name]
        new = [rule for rule in name.split("+") if parent and rule not in rules[parent]]
        found.append((name, f"+ {' + '.join(new)}" if new else name, depth))
        for child in policies:
            if parents[child] == name:
                add(child, depth + 1)

    for name in policies:
        if name in related and not parents[name]:
            add(name, 0)
    return found


def _length(name: str) -> int:
    return name.count("+")


def step_bars(ax: Axes, steps: Sequence[Step]) -> Axes:
    """A bar for each policy from 1 to its speed-up with its interval, its name over it; pale where it is only noise."""
    for row, step in enumerate(steps):
        ax.barh(row, step.speedup - 1, 0.42, left=1.0, color=(*to_rgb(COLOURS[0]), PALE if step.noise else 1.0))
        low, high = step.interval or (step.speedup, step.speedup)
        ax.plot([low, high], [row, row], color=_DARK, linewidth=1)
        text = f"{step.speedup:.2f}" + ("*" if step.extrapolated else "")
        ax.annotate(text, (max(high, 1.0), row), (4, 0), textcoords="offset points", va="center", fontsize=_SMALL)
        place: dict[str, Any] = {
            "xycoords": ax.get_yaxis_transform(),
            "textcoords": "offset points",
            "fontsize": _SMALL,
        }
        ax.annotate(literal(step.label), (0, row - 0.25), (_INDENT * step.depth, 1), va="bottom", **place)
    ax.axvline(1, color="0.6", linewidth=0.8, zorder=0)
    ax.set_yticks([])
    ax.set_ylim(len(steps) - 0.6, -0.75)
    ax.margins(x=0.14)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(labelsize=_SMALL)
    return ax
