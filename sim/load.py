"""When workflows arrive."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.errors import RunError
from sim.workflow import Workflow

#: Sessions per second. Below, the clock runs so long that its rounding reaches the length of a step.
_RATES = (1e-4, 1e6)


@dataclass(frozen=True, slots=True)
class Alone:
    """Each workflow by itself on an idle server with an empty cache."""

    def __str__(self) -> str:
        return "each workflow alone on an idle server"


@dataclass(frozen=True, slots=True)
class ConcurrentSessions:
    """Closed loop: ``sessions`` workflows under way at any time, the next starts when one ends."""

    sessions: int

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise RunError(f"--concurrent-sessions {self.sessions}: give 1 or more")

    def __str__(self) -> str:
        return f"{self.sessions} concurrent sessions"


@dataclass(frozen=True, slots=True)
class SessionRate:
    """Open loop: Poisson arrivals, ``per_s`` workflows per second on average."""

    per_s: float

    def __post_init__(self) -> None:
        low, high = _RATES
        if not low <= self.per_s <= high:
            raise RunError(f"--session-rate {self.per_s:g}: give {low:g} to {high:g} workflows per second")

    def instants(self, sessions: int, seed: int) -> list[float]:
        """When each of so many sessions arrives, in seconds, ascending."""
        instants: list[float] = generator(seed, "arrivals").exponential(1 / self.per_s, sessions).cumsum().tolist()
        return instants

    def __str__(self) -> str:
        return f"{self.per_s:g} sessions/s (Poisson)"


Load = Alone | ConcurrentSessions | SessionRate


def in_order(workflows: Sequence[Workflow], seed: int) -> dict[int, Workflow]:
    """Session number -> workflow, in the order of arrival."""
    order = generator(seed, "order of the workflows").permutation(len(workflows))
    return {int(number): workflows[number] for number in order}


def generator(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one purpose: the same in every process, independent of every other name."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
