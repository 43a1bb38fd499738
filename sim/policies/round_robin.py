"""Replicas in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sim.rules import Replica, Router, Submission, View


@dataclass(frozen=True)
class RoundRobin(Router):
    """Each call goes to the next of the replicas that can take it.

    Information: none. Source: the default of common load balancers.
    """

    name = "round_robin"

    def begin(self) -> Counter[int]:
        """First replica of a pool -> how many calls the pool got; pools do not share turns."""
        return Counter()

    def route(self, submission: Submission, view: View, replicas: Sequence[Replica], memory: Counter[int]) -> int:
        """The replicas one after the other."""
        turn = memory[replicas[0].number]
        memory[replicas[0].number] += 1
        return replicas[turn % len(replicas)].number
