"""Calls and sessions of a predicted and a measured result, joined by policy, workflow and call."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.agreement.data import Side
from sim.errors import RunError
from sim.metrics import tpot_s, ttft_s
from sim.record import Record, RunResult, SessionRecord

Array = NDArray[np.float64]
Key = tuple[str, ...]


class Values(NamedTuple):
    """The same n things on both sides: arrays of shape (repetitions of that side, n); NaN where there is no value.

    A number of a whole repetition has arrays of shape (repetitions,).
    """

    predicted: Array
    measured: Array

    def known(self) -> Values:
        """Without the things that lack a value somewhere."""
        return self.of(np.flatnonzero(~(np.isnan(self.predicted).any(axis=0) | np.isnan(self.measured).any(axis=0))))

    def of(self, chosen: NDArray[Any]) -> Values:
        """Those at these indices."""
        return Values(self.predicted[:, chosen], self.measured[:, chosen])

    def map(self, function: Callable[[Array], Any]) -> Values:
        """The function of each side."""
        return Values(function(self.predicted), function(self.measured))


@dataclass(frozen=True, slots=True)
class Joint:
    """Calls or sessions that finished on both sides in every repetition, and how many did not.

    ``keys``: (policy, workflow, call) or (policy, workflow); ``labels``: ``policy``, ``framework``, ``regime`` -> one
    each; ``values``: by metric, seconds and tokens.
    """

    keys: tuple[Key, ...]
    labels: Mapping[str, Sequence[str]]
    values: Mapping[str, Values]
    left_out: int

    def part(self, **wanted: str) -> Joint:
        """Those with these labels."""
        chosen = [i for i in range(len(self.keys)) if all(self.labels[k][i] == v for k, v in wanted.items())]
        index = np.array(chosen, dtype=int)
        return Joint(
            tuple(self.keys[i] for i in chosen),
            {name: [labels[i] for i in chosen] for name, labels in self.labels.items()},
            {name: values.of(index) for name, values in self.values.items()},
            self.left_out,
        )


def _known(value: int | None) -> float:
    return math.nan if value is None else value


def _computed(record: Record) -> float:
    return record.num_prompt_tokens - _known(record.num_cached_tokens)


def e2el_s(record: Record) -> float:
    """Seconds from sending the call to its last token."""
    assert record.finished_s is not None
    return record.finished_s - record.sent_s


_OF_CALL: dict[str, Callable[[Record], float]] = {
    "ttft": ttft_s,
    "tpot": lambda record: tpot_s(record) if record.num_output_tokens > 1 else math.nan,
    "e2el": e2el_s,
    "cached_tokens": lambda record: _known(record.num_cached_tokens),
    "computed_tokens": _computed,
    "output_tokens": lambda record: record.num_output_tokens,
}


def join_calls(predicted: Side, measured: Side) -> Joint:
    """The calls of the measured policies, with the regime that the prediction gives each."""
    frameworks = {s.workflow_id: s.framework for runs in predicted.runs.values() for s in runs[0].sessions}
    regime: dict[Key, str] = {}
    for name in measured.runs:
        records = predicted.runs[name][0].records
        regime.update({(name, *key): value for key, value in regimes(records, predicted.alone).items()})
    joint = _join(predicted, measured, _calls, _OF_CALL)
    labels = {
        **joint.labels,
        "framework": [frameworks[key[1]] for key in joint.keys],
        "regime": [regime[key] for key in joint.keys],
    }
    return replace(joint, labels=labels)


def join_sessions(predicted: Side, measured: Side) -> Joint:
    """The sessions of the measured policies."""
    frameworks = {s.workflow_id: s.framework for runs in predicted.runs.values() for s in runs[0].sessions}
    joint = _join(predicted, measured, _sessions, {"session_latency": lambda session: session.latency_s})
    labels = {**joint.labels, "framework": [frameworks[key[1]] for key in joint.keys]}
    return replace(joint, labels=labels)


def _calls(run: RunResult) -> Iterator[tuple[Key, Record]]:
    return (((record.workflow_id, record.call_id), record) for record in run.records)


def _sessions(run: RunResult) -> Iterator[tuple[Key, SessionRecord]]:
    return (((session.workflow_id,), session) for session in run.sessions)


def _join(
    predicted: Side,
    measured: Side,
    rows: Callable[[RunResult], Iterable[tuple[Key, Any]]],
    metrics: Mapping[str, Callable[[Any], float]],
) -> Joint:
    keys: list[Key] = []
    columns: dict[str, list[Values]] = {name: [] for name in metrics}
    left_out = 0
    for policy in measured.runs:
        sides = [[_by_key(side.where, rows(run)) for run in side.runs[policy]] for side in (predicted, measured)]
        everything = dict.fromkeys(key for side in sides for run in side for key in run)
        done = [key for key in everything if all(_finished(run.get(key)) for side in sides for run in side)]
        left_out += len(everything) - len(done)
        keys += [(policy, *key) for key in done]
        for name, value in metrics.items():
            found = (np.array([[value(run[key]) for key in done] for run in side], dtype=float) for side in sides)
            columns[name].append(Values(*found))
    joined = {name: Values(*map(np.hstack, zip(*some, strict=True))) for name, some in columns.items()}
    return Joint(tuple(keys), {"policy": [key[0] for key in keys]}, joined, left_out)


def _by_key(where: str, rows: Iterable[tuple[Key, Any]]) -> dict[Key, Any]:
    found: dict[Key, Any] = {}
    for key, row in rows:
        if key in found:
            raise RunError(f"{where}: {' '.join(key)} occurs twice in one run; give every workflow an id of its own")
        found[key] = row
    return found


def _finished(row: Any) -> bool:
    return row is not None and row.status == "finished"


#: Where a larger share of a call's time went by before it was scheduled, it waited for a slot or for blocks.
QUEUED = 0.1
REGIMES = ("idle", "busy", "saturated", "preempting")


def regimes(records: Sequence[Record], alone: bool) -> dict[Key, str]:
    """(workflow, call) -> its regime; ``alone``: the clock of every session is its own. Finished calls only.

    ``preempting``: it was preempted. Else ``idle``: no other call was under way between its sending and its end. Else
    ``saturated``: more than `QUEUED` of its e2el passed before it was first scheduled. Else ``busy``. ``unknown``
    where the records do not tell.
    """
    clocks: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.finished_s is not None:
            clocks[record.session if alone else 0].append(record)
    found: dict[Key, str] = {}
    for some in clocks.values():
        for record, by_itself in zip(some, _by_themselves(some), strict=True):
            found[record.workflow_id, record.call_id] = _regime(record, by_itself)
    return found


def _by_themselves(records: Sequence[Record]) -> list[bool]:
    sent = np.array([record.sent_s for record in records])
    finished = np.array([record.finished_s for record in records], dtype=float)
    # Whoever was sent before its end and had not finished at its sending was under way beside it; it itself is one.
    beside = np.searchsorted(np.sort(sent), finished) - np.searchsorted(np.sort(finished), sent, side="right")
    return [bool(number <= 1) for number in beside]


def _regime(record: Record, by_itself: bool) -> str:
    if record.num_preemptions is None or record.scheduled_s is None:
        return "unknown"
    if record.num_preemptions:
        return "preempting"
    if by_itself:
        return "idle"
    return "saturated" if record.scheduled_s - record.sent_s > QUEUED * e2el_s(record) else "busy"
