"""A workflow goes on behind all others when a detector says that it will fail."""

from __future__ import annotations

from dataclasses import dataclass

from sim.detector import Detector, LabelDetector, RepetitionDetector
from sim.rules import PRIORITY, Verdict


@dataclass(frozen=True)
class Demote(Verdict):
    """Calls of a workflow in which an agent has given the same answer ``times`` times go behind those of all others.

    Information: the answers so far. Source: step repetition is failure mode 1.3 of MAST (Cemri et al. 2025).
    """

    name = "demote"
    aborts = False
    runs_on = "public API"
    needs = PRIORITY

    times: int = 3

    def __post_init__(self) -> None:
        RepetitionDetector(self.times)

    @property
    def detector(self) -> Detector:
        """Counts answers."""
        return RepetitionDetector(self.times)


@dataclass(frozen=True)
class DemoteOracle(Verdict):
    """Demotes a workflow that a detector of this ``precision`` and ``recall`` marks once ``at`` of its calls are done.

    Information: the outcome, through the detector's errors. Source: MAST's outcomes and labels as ground truth.
    """

    name = "demote_oracle"
    aborts = False
    runs_on = "public API"
    needs = PRIORITY

    precision: float = 1.0
    recall: float = 1.0
    at: float = 0.5

    def __post_init__(self) -> None:
        LabelDetector(self.precision, self.recall, self.at)

    @property
    def detector(self) -> Detector:
        """Knows who fails, and errs as often as it should."""
        return LabelDetector(self.precision, self.recall, self.at)
