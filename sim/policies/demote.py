"""A workflow goes on behind all others when a detector says that it will fail."""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.early_abort import EarlyAbort, EarlyAbortOracle
from sim.rules import PRIORITY


@dataclass(frozen=True)
class Demote(EarlyAbort):
    """Calls of a workflow in which an agent has given the same answer ``times`` times go behind those of all others.

    Information: the answers so far. Source: step repetition is failure mode 1.3 of MAST (Cemri et al. 2025).
    """

    name = "demote"
    aborts = False
    runs_on = "public API"
    needs = PRIORITY


@dataclass(frozen=True)
class DemoteOracle(EarlyAbortOracle):
    """Demotes a workflow that a detector of this ``precision`` and ``recall`` marks once ``at`` of its calls are done.

    Information: the outcome, through the detector's errors. Source: MAST's outcomes and labels as ground truth.
    """

    name = "demote_oracle"
    aborts = False
    runs_on = "public API"
    needs = PRIORITY
