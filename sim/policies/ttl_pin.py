"""The KV of a workflow is held for its next call."""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import PolicyError
from sim.retention import TtlPin
from sim.retention import Retention as Kept
from sim.rules import Retention


@dataclass(frozen=True)
class TtlPinned(Retention):
    """A finished call's KV blocks are held for its workflow's next call, ``tau_s`` seconds at most.

    Waiting calls of others get none of them, but nobody is preempted and the engine never idles for a pin. Pins of a
    workflow end with it. Information: none. Source: Continuum's TTL, with one fixed time.
    """

    name = "ttl_pin"

    tau_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.tau_s <= 1e6:
            raise PolicyError(f"policy ttl_pin: tau_s={self.tau_s:g}; give more than 0, and at most a million")

    @property
    def kept(self) -> Kept:
        """What the engine does."""
        return TtlPin(self.tau_s)
