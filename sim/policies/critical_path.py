"""Longest remaining path first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sim.rules import Informed, Submission, View


@dataclass(frozen=True)
class CriticalPath(Informed):
    """The longer the longest path that begins with a call, in best-case seconds, the sooner it goes.

    Within a workflow the calls go first that everything else waits for; among workflows it favours the long ones.
    Information: an estimate of that path. Source: the upward rank of HEFT (Topcuoglu, Hariri and Wu 2002).
    """

    name = "critical_path"

    def key(self, submission: Submission, view: View, memory: Any) -> float:
        """Minus the seconds of the path."""
        assert submission.estimate
        return -submission.estimate.path_s
