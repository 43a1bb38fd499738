"""In which kind of step an engine spends its time, and how much of it in steps larger than any that was measured."""

from __future__ import annotations

import sys
from bisect import bisect_left

from sim.latency import Profile, StepClock
from sim.request import Batch

#: `prefill`: no decodes. `decode`: no prefill tokens, and `kv` where reading KV takes more than half of the GPU's time.
#: `mixed`: both.
REGIMES = ("prefill", "decode", "kv", "mixed")


class Regimes:
    """Seconds of steps by regime, and of those with more requests or KV tokens than the profile was measured with.

    ``outside_s`` is None where the profile does not say with how many it was measured.
    """

    __slots__ = (
        *("prefill_s", "decode_s", "kv_s", "mixed_s", "outside_s"),
        *("_clock", "_distinct_s", "_fixed_s", "_kv_s", "_max_kv", "_max_rows", "_min_rows"),
    )

    def __init__(self, profile: Profile, clock: StepClock) -> None:
        self.prefill_s = self.decode_s = self.kv_s = self.mixed_s = 0.0
        measured = profile.measured
        self._max_rows = measured.batch_size or sys.maxsize
        self._min_rows = measured.least_batch_size
        self._max_kv = measured.kv_tokens or sys.maxsize
        self.outside_s = None if measured.batch_size is measured.kv_tokens is None else 0.0
        self._clock = clock
        self._kv_s, self._distinct_s = clock.step.kv_token_s, clock.step.distinct_kv_token_s
        self._fixed_s: dict[int, float] = {}

    def add(self, batch: Batch, rows: int, first_s: float, count: int, seconds: float) -> None:
        """``count`` steps of so many rows took ``seconds``, the first ``first_s`` on the GPU; KV grows by the rows."""
        decodes = batch.decode_seqs
        if batch.prefill_tokens:
            if decodes:
                self.mixed_s += seconds
            else:
                self.prefill_s += seconds
        # `_reading_s` of the last step, without the call: this is done for every event.
        elif self._kv_s * (batch.kv_tokens + decodes * (count - 1)) + self._distinct_s * (
            batch.distinct_kv_tokens + decodes * (count - 1)
        ) <= (self._fixed_s.get(decodes) or self._other_s(decodes)):
            self.decode_s += seconds
        else:
            light_s = self._first_s(rows, first_s, self._num_light(batch, count))
            self.decode_s += light_s
            self.kv_s += seconds - light_s
        if self.outside_s is not None:
            inside = self._num_inside(batch.kv_tokens, rows, count)
            if inside < count:
                self.outside_s += seconds - self._first_s(rows, first_s, inside)

    def _reading_s(self, batch: Batch, number: int) -> float:
        """Seconds of reading KV in the step after so many.

        From whole numbers of tokens each time, so that a run of steps and its single steps agree to the last one.
        """
        grown = batch.decode_seqs * number
        return self._kv_s * (batch.kv_tokens + grown) + self._distinct_s * (batch.distinct_kv_tokens + grown)

    def _other_s(self, decode_seqs: int) -> float:
        """Seconds of the rest of a decode step on the GPU."""
        found = self._fixed_s.get(decode_seqs)
        if found is None:
            found = self._fixed_s[decode_seqs] = self._clock.device_s(0, decode_seqs, 0, 0, 0)
        return found

    def _first_s(self, rows: int, first_s: float, part: int) -> float:
        """Seconds of the first ``part`` of the steps."""
        return self._clock.steps_s(first_s, rows, part) if part else 0.0

    def _num_light(self, batch: Batch, count: int) -> int:
        """After so many steps the KV read takes more than half of the GPU's time."""
        other_s = self._other_s(batch.decode_seqs)
        return bisect_left(range(count), True, key=lambda number: self._reading_s(batch, number) > other_s)

    def _num_inside(self, kv_tokens: int, rows: int, count: int) -> int:
        """After so many steps there are more requests or KV tokens than measured."""
        if not self._min_rows <= rows <= self._max_rows or kv_tokens > self._max_kv:
            return 0
        if kv_tokens + rows * (count - 1) <= self._max_kv:
            return count
        return (self._max_kv - kv_tokens) // rows + 1
