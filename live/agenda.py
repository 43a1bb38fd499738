"""What the thread of a replay's policy has to do next: what other threads hand in, and what is due at an instant."""

from __future__ import annotations

import heapq
import queue
import time
from collections.abc import Callable
from itertools import count

Act = Callable[[], None]


class Agenda:
    """Acts of one thread, in the order in which they are handed in or due. Times are seconds since it `begin`-s."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._handed_in: queue.SimpleQueue[Act] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Act]] = []
        self._numbers = count()

    def begin(self) -> None:
        """Start the clock."""
        self.began = time.monotonic()

    def now(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self.began

    @property
    def num_timers(self) -> int:
        """Acts that are due at an instant."""
        return len(self._timers)

    def at(self, instant: float, act: Act) -> None:
        """An act that is due then."""
        heapq.heappush(self._timers, (instant, next(self._numbers), act))

    def soon(self, act: Act) -> None:
        """An act for now; from any thread."""
        self._handed_in.put(act)

    def next(self) -> Act:
        """Wait for what comes next."""
        wait = self._timers[0][0] - self.now() if self._timers else None
        if wait is None or wait > 0:
            try:
                return self._handed_in.get(timeout=wait)
            except queue.Empty:
                pass
        return heapq.heappop(self._timers)[2]
