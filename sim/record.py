"""One row per finished call and per session; the same columns from every engine."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, NamedTuple, TypeVar

N = TypeVar("N", int, float)

Status = Literal["finished", "failed", "aborted", "unfinished"]


class Record(NamedTuple):
    """One call. Times in seconds since the run began; None where the call did not get that far.

    ``num_cached_tokens``: prompt tokens found in the prefix cache when the call was first admitted.
    """

    session: int
    workflow_id: str
    call_id: str
    agent: str
    num_prompt_tokens: int
    num_cached_tokens: int | None
    num_output_tokens: int
    sent_s: float
    scheduled_s: float | None
    first_token_s: float | None
    finished_s: float | None
    num_preemptions: int | None
    status: Status
    reason: str = ""


class SessionRecord(NamedTuple):
    """One workflow as load. ``busy_s`` is the sum of its calls' and tools' seconds, waiting included."""

    session: int
    workflow_id: str
    framework: str
    arrived_s: float
    finished_s: float | None
    busy_s: float
    num_calls: int
    status: Status

    @property
    def latency_s(self) -> float:
        """Arrival to end; only a finished session has one."""
        assert self.finished_s is not None
        return self.finished_s - self.arrived_s


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine did: steps, seconds in steps, rows and tokens summed over steps, preemptions.

    ``busy_s`` is the sum of the seconds in the regimes of `sim.regimes`; ``outside_s`` are the seconds in steps larger
    than the profile was measured with, as far as that is known. None where an engine does not tell, as no real server
    tells these.
    """

    num_steps: int | None = 0
    busy_s: float | None = 0.0
    num_rows: int | None = 0
    num_tokens: int | None = 0
    num_preemptions: int | None = 0
    prefill_s: float | None = None
    decode_s: float | None = None
    kv_s: float | None = None
    mixed_s: float | None = None
    outside_s: float | None = None

    def __add__(self, other: EngineStats) -> EngineStats:
        total = EngineStats(*(_sum(getattr(self, name), getattr(other, name)) for name in EngineStats.__slots__))
        # Of engines with several profiles, one may have no known range while another has been beyond its own.
        known = [outside for outside in (self.outside_s, other.outside_s) if outside is not None]
        return replace(total, outside_s=sum(known) if known else None)


@dataclass(frozen=True, slots=True)
class Extras:
    """What a policy does beyond the recorded work: prefills ahead of a call, and tools started on a guess.

    ``ahead_tokens`` are those that were not in the cache. A tool guessed wrong ran for ``wasted_tool_s`` in vain.
    """

    ahead_calls: int = 0
    ahead_tokens: int = 0
    guessed_tools: int = 0
    wasted_tools: int = 0
    wasted_tool_s: float = 0.0

    def __add__(self, other: Extras) -> Extras:
        return Extras(*(getattr(self, name) + getattr(other, name) for name in Extras.__slots__))


@dataclass(frozen=True, slots=True)
class RunResult:
    """Everything that happened in one run, how long it took from first arrival to last end, and on how many engines."""

    records: tuple[Record, ...]
    sessions: tuple[SessionRecord, ...]
    engine: EngineStats
    makespan_s: float
    extras: Extras = Extras()
    replicas: int = 1


def makespan_s(sessions: Sequence[SessionRecord]) -> float:
    """Seconds from the first arrival to the last end."""
    ends = (session.finished_s for session in sessions if session.finished_s is not None)
    return max(ends, default=0.0) - min((session.arrived_s for session in sessions), default=0.0)


def joined(parts: Sequence[RunResult]) -> RunResult:
    """Runs one after the other as one: makespans and what the engines did are summed."""
    return RunResult(
        tuple(record for part in parts for record in part.records),
        tuple(session for part in parts for session in part.sessions),
        reduce(operator.add, (part.engine for part in parts)) if parts else EngineStats(),
        sum(part.makespan_s for part in parts),
        reduce(operator.add, (part.extras for part in parts), Extras()),
        max((part.replicas for part in parts), default=1),
    )


def _sum(one: N | None, other: N | None) -> N | None:
    return None if one is None or other is None else one + other
