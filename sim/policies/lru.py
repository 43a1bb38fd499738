"""Least recently used."""

from __future__ import annotations

from dataclasses import dataclass

from sim.retention import LRU
from sim.retention import Retention as Kept
from sim.rules import Retention


@dataclass(frozen=True)
class Lru(Retention):
    """A block that is needed is taken from whoever used it longest ago.

    Information: none. Source: vLLM's default.
    """

    name = "lru"
    runs_on = "client side"

    @property
    def kept(self) -> Kept:
        """What vLLM does."""
        return LRU
