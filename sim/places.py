"""Places for tools, of some of which only so many may run at once: who comes first runs first."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping

from sim.session import Start
from sim.workflow import Tool


class ToolPlaces:
    """``limits``: tool's name -> how many may run at once, over all workflows; of any other, as many as there are."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[Start]] = defaultdict(deque)

    def take(self, start: Start) -> list[Start]:
        """The tool, if it has a place; otherwise it waits for one."""
        name = _name(start)
        if name in self._limits and self._running[name] >= self._limits[name]:
            self._waiting[name].append(start)
            return []
        self._running[name] += 1
        return [start]

    def leave(self, start: Start) -> list[Start]:
        """The tool is over; the next that waited for its place starts."""
        name = _name(start)
        self._running[name] -= 1
        waiting = self._waiting[name]
        return self.take(waiting.popleft()) if waiting else []

    def drop(self, session: int) -> list[Start]:
        """The session's tools that wait no longer do."""
        dropped = [start for waiting in self._waiting.values() for start in waiting if start.session == session]
        for start in dropped:
            self._waiting[_name(start)].remove(start)
        return dropped


def _name(start: Start) -> str:
    assert isinstance(start.node, Tool)
    return start.node.name
