"""A look at the engines of a run while it goes on, of which the run takes no notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sim.signals import Signals


@dataclass(slots=True)
class Probe:
    """What the engines, as one, tell at these instants in seconds, which increase: ``signals`` has one for each.

    Nothing is cut short for it: within a run of equal steps the engines tell how things stood when that began, so the
    KV use may lack the tokens that have been decoded since.
    """

    instants: Sequence[float]
    signals: list[Signals] = field(default_factory=list)
