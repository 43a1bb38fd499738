"""Deepest in the graph first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sim.rules import Informed, Submission, View


@dataclass(frozen=True)
class TopoDepth(Informed):
    """The more nodes there are on the longest path that begins with a call, the sooner it goes: minus its depth.

    It is `critical_path` without times, for graphs that are known before they run. Information: an estimate of the
    depth that is left. Source: topology-aware batching in Ayo (Tan et al. 2025), there within one query.
    """

    name = "topo_depth"

    def key(self, submission: Submission, view: View, memory: Any) -> float:
        """Minus the nodes of the path."""
        assert submission.estimate
        return -submission.estimate.depth
