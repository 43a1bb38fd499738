"""Earliest deadline first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.errors import PolicyError
from sim.rules import Informed, Submission, View


@dataclass(frozen=True)
class Edf(Informed):
    """The sooner a workflow must go on to end in time, the sooner its calls go: deadline minus work that is left.

    A workflow has to end within ``slack`` times the work that it is estimated to be when its first call is sent.
    Information: an estimate of the work that is left. Source: earliest deadline first (Liu and Layland 1973); less the
    work that is left it is least laxity.
    """

    name = "edf"

    slack: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.slack < math.inf:
            raise PolicyError(f"policy edf: slack={self.slack:g}; give 1 or more")

    def begin(self) -> dict[int, float]:
        """Session -> deadline."""
        return {}

    def over(self, view: View, memory: dict[int, float]) -> None:
        """Its deadline is past."""
        memory.pop(view.session, None)

    def key(self, submission: Submission, view: View, memory: dict[int, float]) -> float:
        """The latest instant, in seconds, at which the rest could start one node at a time and still be in time."""
        assert submission.estimate
        left_s = submission.estimate.work_s
        return memory.setdefault(view.session, view.arrived_s + self.slack * left_s) - left_s
