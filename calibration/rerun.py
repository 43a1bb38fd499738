"""A recorded run once more, on the simulator: when each request would have had its tokens, and how far off that is."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from calibration.recorded import RecordedRun
from sim.engine import Sent, SimulatedServer
from sim.errors import RunError
from sim.latency import Measured, Profile
from sim.request import Batch, Request
from sim.workflow import Call, Segment

Array = NDArray[np.float64]
Judged = NDArray[np.bool_]

#: A regime with fewer requests has no error of its own.
_FEWEST = 5
#: Share of the time that is too little to have measured anything.
_RARE = 0.01
#: What an error of ttft counts against one of e2el.
_TTFT_COUNTS = 0.03


@dataclass(frozen=True, slots=True)
class Recorded:
    """Requests by the instant of sending; arrays of shape (n,), instants in seconds."""

    calls: tuple[tuple[Call, Segment], ...]
    outputs: NDArray[np.int64]
    sent: Array
    first_token: Array
    last_token: Array

    @classmethod
    def of(cls, run: RecordedRun) -> Recorded:
        """The run without what only people read."""
        requests = sorted(run.requests, key=lambda request: request.sent_s)
        calls = tuple((Call(one.id, "user", one.prompt, one.answer.segment_id), one.answer) for one in requests)
        rows = [(one.sent_s, one.first_token_s, one.last_token_s) for one in requests]
        instants = np.array(rows, dtype=float).reshape(-1, 3)
        outputs = np.array([one.num_output_tokens for one in requests])
        return cls(calls, outputs, *(instants - instants[:1, :1]).T)


@dataclass(frozen=True, slots=True)
class Rerun:
    """The simulated instants of every request, shape (n,), and one row per run of equal steps.

    Columns of ``steps``: end in seconds, seconds, seconds for reading KV, rows, KV tokens in the last step.
    """

    scheduled: Array
    first_token: Array
    last_token: Array
    steps: Array


class _Watched(SimulatedServer):
    """Keeps what its steps were made of."""

    def __init__(self, env: simpy.Environment, profile: Profile, on_done: Callable[[Sent], None]) -> None:
        super().__init__(env, profile, on_done)
        self.steps: list[tuple[float, float, float, int, int]] = []

    def _run(self, batch: Batch, count: int) -> Generator[simpy.Event, Any, int]:
        began, model = self._env.now, self._clock.step
        steps = yield from super()._run(batch, count)
        grown = batch.num_rows * (steps - 1)
        kv_s = steps * (
            model.kv_token_s * (batch.kv_tokens + grown / 2)
            + model.distinct_kv_token_s * (batch.distinct_kv_tokens + grown / 2)
        )
        now = self._env.now
        self.steps.append((now, now - began, kv_s, batch.num_rows, batch.kv_tokens + grown))
        return steps


def rerun(run: Recorded, profile: Profile, judged: Judged | None = None) -> Rerun:
    """The run on the profile's engine, until all are answered or all that are judged; instants of others are NaN.

    Raises RunError where a request cannot run there.
    """
    env = simpy.Environment()
    over = env.event()
    left = set(range(len(run.sent)) if judged is None else np.flatnonzero(judged).tolist())
    sent: list[Sent] = []

    def done(one: Sent) -> None:
        if one.reason:
            raise RunError(f"request {one.call.id}: {one.reason}; give the settings of the recorded engine with --set")
        left.discard(one.session)
        if not left and not over.triggered:
            over.succeed()

    server = _Watched(env, profile, done)

    def arrivals() -> Generator[simpy.Event, Any, None]:
        for number, ((call, answer), instant) in enumerate(zip(run.calls, run.sent.tolist(), strict=True)):
            yield env.timeout(max(0.0, instant - env.now))
            request = Request(call.prompt, answer, arrival_s=env.now, number=number)
            sent.append(Sent(number, call, request, env.now))
            server.send(sent[-1])

    env.process(arrivals())
    env.run(over)
    instants = np.full((len(run.sent), 3), np.nan)
    for one in sent:
        instants[one.session] = [
            np.nan if at is None else at for at in (one.scheduled_s, one.first_token_s, one.finished_s)
        ]
    scheduled, first, last = instants.T
    return Rerun(scheduled, first, last, np.array(server.steps, dtype=float))


def errors(run: Recorded, again: Rerun) -> Array:
    """Errors of each request's e2el and decoding relative to its e2el, and of its ttft relative to that, shape (n, 3).

    The last counts little: on an idle server it is a few steps long, and which step a request is in time for is
    chance. In a queue it is as good as the others, but there e2el has it too.
    """
    e2el, ttft = run.last_token - run.sent, run.first_token - run.sent
    first, last = again.first_token - run.first_token, again.last_token - run.last_token
    return np.stack([last / e2el, (last - first) / e2el, _TTFT_COUNTS * first / ttft]).T


def accuracy(run: Recorded, again: Rerun, judged: Judged) -> dict[str, float]:
    """Errors in percent of the judged: per request end to end (mean absolute), and of the means of e2el, ttft, tpot."""
    several = judged & (run.outputs > 1)
    ttft, e2el = again.first_token - run.sent, again.last_token - run.sent
    tpot, tpot_m = ((part.last_token - part.first_token)[several] / (run.outputs[several] - 1) for part in (again, run))
    found = {
        "e2el_mape_pct": np.abs(e2el / (run.last_token - run.sent) - 1)[judged].mean(),
        "e2el_mean_error_pct": e2el[judged].mean() / (run.last_token - run.sent)[judged].mean() - 1,
        "ttft_mean_error_pct": ttft[judged].mean() / (run.first_token - run.sent)[judged].mean() - 1,
        "tpot_mean_error_pct": tpot.mean() / tpot_m.mean() - 1,
    }
    return {name: round(100 * float(error), 3) for name, error in found.items()}


def regimes(run: Recorded, again: Rerun) -> list[str]:
    """Where most of each request's simulated time went.

    ``queue`` until it was scheduled, ``prefill`` until its first token, then ``decode``, or ``kv`` where reading KV
    took more than half of that.
    """
    ends, kv_s = again.steps[:, 0], np.cumsum(again.steps[:, 2])
    reading = np.interp(again.last_token, ends, kv_s) - np.interp(again.first_token, ends, kv_s)
    decode = again.last_token - again.first_token
    parts = np.stack([again.scheduled - run.sent, again.first_token - again.scheduled, decode])
    names = np.array(["queue", "prefill", "decode"])[parts.argmax(axis=0)]
    names[(names == "decode") & (reading > decode / 2)] = "kv"
    return [str(name) for name in names]


def regime_errors(run: Recorded, again: Rerun, judged: Judged) -> dict[str, tuple[int, float]]:
    """Per regime the number of judged requests and their mean absolute error end to end in percent."""
    off = np.abs((again.last_token - run.last_token) / (run.last_token - run.sent))
    names = np.array(regimes(run, again))
    found = {}
    for name in ("queue", "prefill", "decode", "kv"):
        inside = judged & (names == name)
        if inside.sum() >= _FEWEST:
            found[name] = int(inside.sum()), round(100 * float(off[inside].mean()), 3)
    return found


def measured(run: Recorded, again: Rerun) -> Measured:
    """The largest request, batch and sum of KV tokens, and the smallest batch but for a hundredth of the time."""
    tokens = max(sum(part.num_tokens for part in (*call.prompt, answer)) for call, answer in run.calls)
    rows, kv_tokens = again.steps[:, 3:].max(axis=0)
    order = again.steps[:, 3].argsort(kind="stable")
    passed = again.steps[order, 1].cumsum()
    least = again.steps[order, 3][np.searchsorted(passed, _RARE * passed[-1])]
    return Measured(
        request_tokens=tokens,
        batch_size=int(rows),
        least_batch_size=int(least),
        kv_tokens=max(1, int(kv_tokens)),
    )
