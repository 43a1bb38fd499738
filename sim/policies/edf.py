"""Earliest deadline first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sim.errors import PolicyError
from sim.rules import Informed, Submission, View


@dataclass(frozen=True)
class Edf(Informed):
    """The sooner a workflow must go on to end in time, the sooner its calls go: deadline minus work that is left.

    Every workflow has to end ``deadline_s`` after its arrival. As all have the same time, the order is that of arrival
    minus remaining work, whatever that time is. Information: an estimate of the work that is left. Source: earliest
    deadline first (Liu and Layland 1973); less the work that is left it is least laxity.
    """

    name = "edf"

    deadline_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.deadline_s < math.inf:
            raise PolicyError(f"policy edf: deadline_s={self.deadline_s:g}; give seconds, more than 0")

    def key(self, submission: Submission, view: View, memory: Any) -> float:
        """The latest instant, in seconds, at which the rest could start one node at a time and still be in time."""
        assert submission.estimate
        return view.arrived_s + self.deadline_s - submission.estimate.work_s
