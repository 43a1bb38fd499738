"""Replicas in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from sim.rules import Replica, Router, Submission, View


@dataclass(frozen=True)
class RoundRobin(Router):
    """Each call goes to the next of the replicas that can take it.

    Information: none. Source: the default of common load balancers.
    """

    name = "round_robin"

    def begin(self) -> count[int]:
        """The number of the next call."""
        return count()

    def route(self, submission: Submission, view: View, replicas: Sequence[Replica], memory: count[int]) -> int:
        """The replicas one after the other."""
        return replicas[next(memory) % len(replicas)].number
