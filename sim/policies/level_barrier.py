"""One topological level after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.rules import Dispatch, View
from sim.workflow import Node


@dataclass(frozen=True)
class LevelBarrier(Dispatch):
    """All nodes of a topological level together; the next level when the last of them is done.

    When nothing is under way every earlier level is done, so the ready nodes are exactly the next level:
    no knowledge of the graph is needed. Information: none. Source: the prototype; bulk-synchronous execution (Valiant
    1990).
    """

    name = "level_barrier"
    aliases = ("dependency_aware",)

    def select(self, view: View) -> Sequence[Node]:
        """Every ready node, once nothing is under way."""
        return () if view.calls_in_flight or view.tools_in_flight else view.ready
