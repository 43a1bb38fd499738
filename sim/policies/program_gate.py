"""A window of admitted workflows that follows the KV cache."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sim.errors import PolicyError
from sim.rules import PREFIX_CACHE, Gate, View
from sim.signals import Signals


@dataclass(slots=True)
class _Window:
    size: float
    hits: int = 0
    queries: int = 0


@dataclass(frozen=True)
class ProgramGate(Gate):
    """The ``window`` oldest workflows go on, the others wait; additive increase, multiplicative decrease (AIMD).

    Every ``every_s`` seconds: where more than ``high`` of the KV blocks are held and less than ``least_hits`` of the
    prompt tokens since the last look were cached, the window is halved; where less than ``low`` is held, it grows by
    ``step``. Information: the engine's metrics. Source: CONCUR, whose thresholds are the defaults.
    """

    name = "program_gate"
    needs = PREFIX_CACHE

    window: int = 8
    high: float = 0.5
    low: float = 0.2
    least_hits: float = 0.2
    step: int = 2
    every_s: float = 1.0

    def __post_init__(self) -> None:
        marks = 0 <= self.low <= self.high <= 1 and 0 <= self.least_hits <= 1
        if self.window < 1 or self.step < 1 or not marks or not 0.01 <= self.every_s < math.inf:
            raise PolicyError(
                f"policy program_gate: window={self.window}, step={self.step}, low={self.low:g}, high={self.high:g},"
                f" least_hits={self.least_hits:g}, every_s={self.every_s:g}; give window and step 1 or more, low <="
                " high and least_hits within 0 to 1, every_s 0.01 or more"
            )

    def begin(self) -> _Window:
        """The window as given."""
        return _Window(self.window)

    def tick(self, signals: Signals, sessions: Sequence[View], now_s: float, memory: _Window) -> None:
        """Halve the window, let it grow, or leave it."""
        queries, hits = signals.prefix_queries - memory.queries, signals.prefix_hits - memory.hits
        memory.queries, memory.hits = signals.prefix_queries, signals.prefix_hits
        if signals.kv_use > self.high and queries and hits / queries < self.least_hits:
            memory.size = max(1.0, memory.size / 2)
        elif signals.kv_use < self.low:
            # Beyond the workflows that there are, it would forget what it has learned.
            memory.size = max(memory.size, min(memory.size + self.step, len(sessions) + self.step))

    def admitted(self, sessions: Sequence[View], memory: _Window) -> Collection[int]:
        """The oldest, as many as the window is wide."""
        return [view.session for view in sessions[: int(memory.size)]]
