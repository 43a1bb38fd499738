"""What is needed last goes first, with the future known."""

from __future__ import annotations

from dataclasses import dataclass

from sim.retention import FarthestFirst
from sim.retention import Retention as Kept
from sim.rules import Retention


@dataclass(frozen=True)
class BeladyOracle(Retention):
    """A block that is needed is taken from what will be read again last: by calls to come, in best-case seconds.

    Workflows that have not arrived yet read later than all that have. When a call will really run depends on what is
    evicted, so this is a clairvoyant rule and not a bound. Information: the future of every workflow. Source: Belady
    1966.
    """

    name = "belady_oracle"
    distance = "seconds"
    foresees_arrivals = True

    @property
    def kept(self) -> Kept:
        """Farthest next use first."""
        return FarthestFirst()
