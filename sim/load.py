"""When workflows arrive, and in which order."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.errors import RunError
from sim.workflow import Workflow

#: Sessions per second. Below, the clock runs so long that its rounding reaches the length of a step.
_RATES = (1e-4, 1e6)
#: Shapes of the gaps' distribution. Below, nearly all sessions arrive at once; above, the gaps are all but equal.
_BURSTINESS = (0.01, 100.0)
#: Seconds, some eight months. What is further apart is on different clocks.
_ONE_RECORDING_S = 2e7


class _Shuffled:
    """The order of arrival is drawn with the seed."""

    __slots__ = ()

    def order(self, workflows: Sequence[Workflow], seed: int) -> list[int]:
        """The numbers of the sessions as they arrive. A session's number is the place of its workflow."""
        order: list[int] = generator(seed, "order of the workflows").permutation(len(workflows)).tolist()
        return order


class OpenLoop(_Shuffled, ABC):
    """A load whose workflows arrive at instants of their own, however many are under way."""

    __slots__ = ()

    @abstractmethod
    def arrivals(self, workflows: Sequence[Workflow], seed: int) -> list[float]:
        """When the sessions arrive, in seconds, ascending: the first instant is that of the first in order."""

    def offered_rate(self, workflows: Sequence[Workflow], seed: int) -> float | None:
        """Sessions per second that arrive on average; None where all arrive at one instant."""
        arrivals = self.arrivals(workflows, seed)
        seconds = arrivals[-1] - arrivals[0]
        return (len(arrivals) - 1) / seconds if seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Alone:
    """Each workflow by itself on an idle server with an empty cache."""

    def order(self, workflows: Sequence[Workflow], seed: int) -> list[int]:
        """One after the other as they stand: it makes no difference."""
        return list(range(len(workflows)))

    def __str__(self) -> str:
        return "each workflow alone on an idle server"


@dataclass(frozen=True, slots=True)
class ConcurrentSessions(_Shuffled):
    """Closed loop: ``sessions`` workflows under way at any time, the next starts when one ends."""

    sessions: int

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise RunError(f"--concurrent-sessions {self.sessions}: give 1 or more")

    def __str__(self) -> str:
        return f"{self.sessions} concurrent sessions"


@dataclass(frozen=True, slots=True)
class SessionRate(OpenLoop):
    """Open loop: ``per_s`` workflows per second on average, with gaps that are gamma-distributed and independent.

    ``burstiness`` is the shape, as `vllm bench serve --burstiness` has it: 1 is Poisson, less is burstier; the squared
    coefficient of variation of the gaps is 1 / burstiness. Unlike vLLM (0.32, get_request) we do not stretch the
    arrivals to last sessions / per_s: their number in a time varies as that of a real stream does.
    """

    per_s: float
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        check_rate("--session-rate", self.per_s)
        low, high = _BURSTINESS
        if not low <= self.burstiness <= high:
            raise RunError(f"burstiness {self.burstiness:g}: give {low:g} to {high:g}; 1 is Poisson, less is burstier")

    def instants(self, sessions: int, seed: int) -> list[float]:
        """When each of so many sessions arrives, in seconds, ascending."""
        scale_s = 1 / (self.per_s * self.burstiness)
        gaps = generator(seed, "arrivals").gamma(self.burstiness, scale_s, sessions)
        instants: list[float] = gaps.cumsum().tolist()
        return instants

    def arrivals(self, workflows: Sequence[Workflow], seed: int) -> list[float]:
        """Drawn with the seed."""
        return self.instants(len(workflows), seed)

    def offered_rate(self, workflows: Sequence[Workflow], seed: int) -> float:
        """The rate itself, whatever was drawn."""
        return self.per_s

    def __str__(self) -> str:
        gaps = "Poisson" if self.burstiness == 1 else f"gamma, burstiness {self.burstiness:g}"
        return f"{self.per_s:g} sessions/s ({gaps})"


@dataclass(frozen=True, slots=True)
class Recorded(OpenLoop):
    """Open loop: every workflow arrives when it did in the recording, counted from the first of them.

    Of what arrived at one instant the smaller id comes first. The seed has no say. Raises RunError where a workflow
    has no recorded arrival, or the workflows cannot be of one recording.
    """

    def order(self, workflows: Sequence[Workflow], seed: int) -> list[int]:
        """As they arrived."""
        began = _began_s(workflows)
        return sorted(range(len(workflows)), key=lambda number: (began[number], workflows[number].id))

    def arrivals(self, workflows: Sequence[Workflow], seed: int) -> list[float]:
        """As they arrived."""
        began = sorted(_began_s(workflows))
        return [instant - began[0] for instant in began]

    def __str__(self) -> str:
        return "recorded arrivals"


Load = Alone | ConcurrentSessions | OpenLoop


def in_order(workflows: Sequence[Workflow], load: Load, seed: int) -> dict[int, Workflow]:
    """Session number -> workflow, in the order of arrival."""
    return {number: workflows[number] for number in load.order(workflows, seed)}


def check_rate(name: str, per_s: float) -> None:
    """Raise RunError for a rate that cannot be simulated."""
    low, high = _RATES
    if not low <= per_s <= high:
        raise RunError(f"{name} {per_s:g}: give {low:g} to {high:g} workflows per second")


def generator(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one purpose: the same in every process, independent of every other name."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _began_s(workflows: Sequence[Workflow]) -> list[float]:
    """When each began on the clock of the recording."""
    began = [workflow.began_s for workflow in workflows if workflow.began_s is not None]
    if missing := [workflow.id for workflow in workflows if workflow.began_s is None]:
        raise RunError(
            f"recorded arrivals: {len(missing)} of {len(workflows)} workflows have none (the first is {missing[0]});"
            " leave them out, or let them arrive at a rate; resampled copies never have one"
        )
    if (days := (max(began) - min(began)) / 86400) > _ONE_RECORDING_S / 86400:
        raise RunError(f"recorded arrivals: they are up to {days:,.0f} days apart; give workflows of one recording")
    return began
