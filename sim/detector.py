"""Who says that a run will fail. Part of a policy's surroundings: outcomes and labels are not for the policy to see.

A `Detector` that is told who runs is a `Watcher`, which gives each session a `Watch` that hears of the session's calls
in the order in which they finish:

    watch = detector.over(workflows, seed).watch(session, workflow)
    if watch.finished(call): ..  # it warns, from now on
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sim.errors import PolicyError
from sim.load import generator
from sim.metrics import ratio
from sim.workflow import Call, Workflow

#: Of a share of a number of calls, which is no exact float.
_ROUNDING = 1e-9


class Watch(Protocol):
    """What a detector thinks of one session."""

    def finished(self, call: Call) -> bool:
        """Hear of the next call that is done; true from the warning on."""


class Watcher(Protocol):
    """A detector that knows who runs."""

    def watch(self, session: int, workflow: Workflow) -> Watch:
        """A new watch over a session that starts now."""


class Detector(Protocol):
    """A rule by which somebody warns that a run will fail."""

    def over(self, workflows: Mapping[int, Workflow], seed: int) -> Watcher:
        """The detector for these sessions."""


def fails(workflow: Workflow) -> bool | None:
    """Whether the run fails: by its outcome or, where that is unknown, as annotators saw a failure mode; else None.

    Annotators who saw none do not say that the run succeeded.
    """
    if workflow.success is not None:
        return not workflow.success
    return True if any(workflow.labels.values()) else None


@dataclass(frozen=True)
class LabelDetector:
    """Warns of the share ``recall`` of the failing runs, and of as many that succeed that ``precision`` of it is right.

    A run is warned of when the share ``at`` of its calls is done, which may be the last but one at the latest: a run of
    one call can't be warned of. Nor is one of which nobody knows whether it fails.
    """

    precision: float
    recall: float
    at: float = 0.5

    def __post_init__(self) -> None:
        _require(0 < self.precision <= 1, "precision", self.precision, "more than 0, and at most 1")
        _require(0 <= self.recall <= 1, "recall", self.recall, "0 to 1")
        _require(0 <= self.at <= 1, "at", self.at, "0 to 1")

    def warnings(self, workflows: Mapping[int, Workflow], seed: int) -> dict[int, int]:
        """Session -> after how many finished calls it is warned of. Who that is depends on seed and workflow ids only.

        Where too few runs can be warned of, fewer are: `achieved` tells which precision and recall that really is.
        """
        failing = [session for session, workflow in workflows.items() if fails(workflow)]
        others = [session for session, workflow in workflows.items() if fails(workflow) is False]
        right = self._first(round(self.recall * len(failing)), failing, workflows, seed)
        wrong = self._first(round(len(right) * (1 - self.precision) / self.precision), others, workflows, seed)
        return {session: self._after(len(workflows[session].calls)) for session in sorted((*right, *wrong))}

    def over(self, workflows: Mapping[int, Workflow], seed: int) -> Watcher:
        """The detector for these sessions."""
        return _Drawn(self.warnings(workflows, seed))

    def _first(self, number: int, some: Collection[int], workflows: Mapping[int, Workflow], seed: int) -> list[int]:
        """The sessions with the smallest random numbers, of those that can be warned of; each copy has its own."""
        numbers = {
            session: (generator(seed, f"detector {workflows[session].id}").random(), workflows[session].id, session)
            for session in some
            if len(workflows[session].calls) > 1
        }
        return sorted(numbers, key=numbers.__getitem__)[:number]

    def _after(self, calls: int) -> int:
        return max(1, min(calls - 1, math.ceil(self.at * calls - _ROUNDING)))


@dataclass(frozen=True)
class RepetitionDetector:
    """Warns when an agent has given the same answer ``times`` times: what MAST calls step repetition.

    It needs no label. An answer that was not recorded is like no other.
    """

    times: int = 3

    def __post_init__(self) -> None:
        _require(self.times >= 2, "times", self.times, "2 or more")

    def over(self, workflows: Mapping[int, Workflow], seed: int) -> Watcher:
        """The detector itself: it need not know who runs."""
        return self

    def watch(self, session: int, workflow: Workflow) -> Watch:
        """A new watch over a session that starts now."""
        return _Repetition(self.times)


@dataclass(frozen=True, slots=True)
class Achieved:
    """How many of the runs warned of fail (``right``), do not (``wrong``), and may or may not (``unknown``).

    Of the others, how many fail (``missed``) and do not (``spared``).
    """

    right: int
    wrong: int
    unknown: int
    missed: int
    spared: int

    @property
    def precision(self) -> float | None:
        """Right warnings / those known to be right or wrong; None where no run is known that could be a false alarm."""
        return ratio(self.right, self.right + self.wrong) if self.wrong + self.spared else None

    @property
    def recall(self) -> float | None:
        """Which share of the failing runs was warned of; None where none fails."""
        return ratio(self.right, self.right + self.missed)

    def to_json(self) -> dict[str, Any]:
        """Counts and shares."""
        return {**dataclasses.asdict(self), "precision": self.precision, "recall": self.recall}


def achieved(
    warned: Collection[int],
    workflows: Mapping[int, Workflow],
    truth: Callable[[Workflow], bool | None] = fails,
) -> Achieved:
    """What it was worth to warn of these sessions, and not of the others, against ``truth``."""
    seen = Counter(truth(workflows[session]) for session in warned)
    known = Counter(map(truth, workflows.values()))
    return Achieved(seen[True], seen[False], seen[None], known[True] - seen[True], known[False] - seen[False])


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Who is warned of, after how many calls."""

    after: Mapping[int, int]

    def watch(self, session: int, workflow: Workflow) -> Watch:
        """A new watch over a session that starts now."""
        return _Count(self.after.get(session))


@dataclass(slots=True)
class _Count:
    """Warns once so many calls are done; never for None."""

    after: int | None
    done: int = 0

    def finished(self, call: Call) -> bool:
        self.done += 1
        return self.after is not None and self.done >= self.after


class _Repetition:
    """Warns once somebody has said one thing so many times."""

    def __init__(self, times: int) -> None:
        self._times = times
        self._said: Counter[tuple[str, str]] = Counter()
        self._warns = False

    def finished(self, call: Call) -> bool:
        if not call.answer_is_unknown:
            self._said[call.agent, call.answer_id] += 1
            self._warns = self._warns or self._said[call.agent, call.answer_id] >= self._times
        return self._warns


def _require(holds: bool, name: str, value: float, mend: str) -> None:
    if not holds:
        raise PolicyError(f"detector: {name}={value:g}; give {mend}")
