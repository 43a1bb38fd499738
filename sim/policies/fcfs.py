"""First come, first served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sim.rules import NOTHING, Order, Submission, View


@dataclass(frozen=True)
class Fcfs(Order):
    """Calls in the order in which they were sent.

    Information: none. Source: vLLM's default.
    """

    name = "fcfs"
    runs_on = "client side"
    needs = NOTHING

    def key(self, submission: Submission, view: View, memory: Any) -> float:
        """All alike: the engine's queue keeps the order of arrival."""
        return 0.0
