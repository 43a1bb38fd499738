"""Least attained service, of the whole workflow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sim.errors import PolicyError
from sim.rules import Order, Submission, View


@dataclass(frozen=True)
class Plas(Order):
    """The less service a workflow's finished calls have had in all, the sooner its next call goes.

    Service is counted in ``levels`` queues: queue i is for up to ``quantum_s`` * 2^i seconds, the last for any number;
    time in the waiting queue is none. With ``beta`` a workflow goes first while it has waited ``beta`` times as long as
    it was served. A call keeps the priority that it was sent with. Information: how long the workflow's finished calls
    waited and were served. Source: PLAS, program-level attained service, of Autellix (Luo et al. 2025).
    """

    name = "plas"

    levels: int = 8
    quantum_s: float = 1.0
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise PolicyError(f"policy {self.name}: levels={self.levels}; give 1 or more")
        if not 0 < self.quantum_s < math.inf:
            raise PolicyError(f"policy {self.name}: quantum_s={self.quantum_s:g}; give seconds, more than 0")
        if self.beta is not None and not 0 < self.beta < math.inf:
            raise PolicyError(f"policy {self.name}: beta={self.beta:g}; give more than 0, or leave it out")

    def key(self, submission: Submission, view: View, memory: Any) -> float:
        """The queue of the workflow's service."""
        return self.level(view.service_s, view)

    def level(self, service_s: float, view: View) -> int:
        """The queue of that much service, 0 the first; the first also for a workflow that starves."""
        if self.beta is not None and view.waited_s >= self.beta * view.service_s:
            return 0
        level, limit_s = 0, self.quantum_s
        while service_s > limit_s and level < self.levels - 1:
            level, limit_s = level + 1, 2 * limit_s
        return level
