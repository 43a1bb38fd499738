"""Shortest remaining work first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sim.rules import Informed, Submission, View


@dataclass(frozen=True)
class Srpt(Informed):
    """The less work is left of a workflow, calls and tools in best-case seconds, the sooner its calls go.

    Information: an estimate of the work that is left. Source: shortest remaining processing time (Schrage 1968),
    which is best for the mean on one machine that can interrupt jobs.
    """

    name = "srpt"

    def key(self, submission: Submission, view: View, memory: Any) -> float:
        """Seconds of work that are left."""
        assert submission.estimate
        return submission.estimate.work_s
