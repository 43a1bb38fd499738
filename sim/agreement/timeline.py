"""What was under way over time, read from the records of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.agreement.join import Array
from sim.record import Record

#: Points of a line, and how often a run is looked at for each: a line is the average around its points.
_POINTS, _LOOKS = 150, 10


@dataclass(frozen=True, slots=True)
class Timeline:
    """At each of the instants, in seconds: calls running and waiting, and logical KV tokens held by them.

    ``waiting`` is None where some record does not tell when its call was scheduled; then ``running`` has both.
    """

    instants: Array
    running: Array
    waiting: Array | None
    tokens: Array


def timeline(records: Sequence[Record]) -> Timeline:
    """Of the finished calls of one clock. Between the instants of a record, tokens grow evenly.

    A call holds what it found cached when it is scheduled, its whole prompt at the first token, and prompt and answer
    at the end; a preempted call counts as running until it ends, as the records do not say when it waited again.
    """
    done = [record for record in records if record.status == "finished"]
    tells = all(record.scheduled_s is not None for record in done)
    sent = np.array([record.sent_s for record in done])
    began = np.array([record.scheduled_s if tells else record.sent_s for record in done], dtype=float)
    first = np.array([record.first_token_s for record in done], dtype=float)
    ended = np.array([record.finished_s for record in done], dtype=float)
    times = np.linspace(0.0, ended.max(initial=0.0), _POINTS * _LOOKS)
    running = _under_way(times, began, ended)
    tokens = np.zeros(times.size)
    for place, record in enumerate(done):
        low, high = np.searchsorted(times, (began[place], ended[place]))
        steps = (record.num_cached_tokens or 0, record.num_prompt_tokens)
        last = record.num_prompt_tokens + record.num_output_tokens
        tokens[low:high] += np.interp(times[low:high], (began[place], first[place], ended[place]), (*steps, last))
    waiting = _average(_under_way(times, sent, began)) if tells else None
    return Timeline(_average(times), _average(running), waiting, _average(tokens))


def _average(values: Array) -> Array:
    averages: Array = values.reshape(_POINTS, _LOOKS).mean(axis=1)
    return averages


def _under_way(times: Array, began: Array, ended: Array) -> Array:
    found = np.searchsorted(np.sort(began), times, side="right") - np.searchsorted(np.sort(ended), times, side="right")
    return found.astype(float)
