"""Workflows whose tools run are paused while the KV cache is short."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sim.errors import PolicyError
from sim.rules import Gate, View
from sim.signals import Signals


@dataclass(frozen=True)
class Pause(Gate):
    """Above the ``high`` mark the acting workflow with the shortest context is paused, below ``low`` one goes on.

    A workflow acts while only tools of it are under way, else it reasons. Every ``every_s`` seconds the load is the
    sum of contexts, those of the acting ones halved for each second that the tool has run; marks are shares of the KV
    cache. The first to be paused goes on first, and with nobody else there the oldest does. Information: the
    workflows' own contexts and the cache's size. Source: ThunderAgent; the marks are ours.
    """

    name = "pause"

    high: float = 0.9
    low: float = 0.7
    every_s: float = 5.0

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.high and 0.01 <= self.every_s < math.inf):
            raise PolicyError(
                f"policy pause: low={self.low:g}, high={self.high:g}, every_s={self.every_s:g}; give low <= high and"
                " every_s 0.01 or more"
            )

    def begin(self) -> list[int]:
        """Nobody is paused."""
        return []

    def tick(self, signals: Signals, sessions: Sequence[View], now_s: float, memory: list[int]) -> None:
        """Pause until the load is below the high mark, let go on until it is above the low one."""
        there = {view.session: view for view in sessions}
        memory[:] = [session for session in memory if session in there]
        loads = {session: _load(view, now_s) for session, view in there.items() if session not in memory}
        acting = [view for view in sessions if view.session in loads and view.acting_since_s is not None]
        for view in sorted(acting, key=lambda one: (one.context_tokens, one.session)):
            if sum(loads.values()) <= self.high * signals.kv_tokens:
                break
            memory.append(view.session)
            del loads[view.session]
        while memory and sum(loads.values()) + _load(there[memory[0]], now_s) < self.low * signals.kv_tokens:
            session = memory.pop(0)
            loads[session] = _load(there[session], now_s)

    def admitted(self, sessions: Sequence[View], memory: list[int]) -> Collection[int]:
        """Whoever is not paused."""
        free = [view.session for view in sessions if view.session not in memory]
        return free or [view.session for view in sessions[:1]]


def _load(view: View, now_s: float) -> float:
    if view.acting_since_s is None:
        return view.context_tokens
    # Whoever acts for a quarter of an hour counts as nothing; no need to compute how little.
    return view.context_tokens * math.pow(0.5, min(1000.0, now_s - view.acting_since_s))
