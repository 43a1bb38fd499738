"""The replica with the least under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim.rules import Replica, Router, Submission, View


def least_loaded(replicas: Sequence[Replica]) -> int:
    """The number of the replica with the fewest tokens under way, the first of equal ones."""
    return min(replicas, key=lambda one: (one.tokens_in_flight, one.number)).number


@dataclass(frozen=True)
class LeastLoaded(Router):
    """Each call goes to the replica with the fewest prompt tokens of this client's calls under way.

    Information: the client's own calls under way. Source: join the shortest queue (Winston 1977), by tokens.
    """

    name = "least_loaded"

    def route(self, submission: Submission, view: View, replicas: Sequence[Replica], memory: Any) -> int:
        """The least loaded replica."""
        return least_loaded(replicas)
