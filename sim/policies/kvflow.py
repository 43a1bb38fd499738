"""What is needed in most steps goes first."""

from __future__ import annotations

from dataclasses import dataclass

from sim.retention import FarthestFirst
from sim.retention import Retention as Kept
from sim.rules import Retention


@dataclass(frozen=True)
class KvFlowOracle(Retention):
    """A block that is needed is taken from what will be read again after the most steps of its workflow.

    Steps are nodes of the longest path to the next call that reads it, of workflows that have arrived. Information: the
    workflow's graph and what its prompts will be made of, which a fixed graph tells beforehand. Source: KVFlow's
    steps to execution.
    """

    name = "kvflow_oracle"
    distance = "nodes"

    @property
    def kept(self) -> Kept:
        """Farthest next use first."""
        return FarthestFirst()
