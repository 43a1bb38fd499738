"""The simulated engine: a SimPy process that turns the scheduler's steps into time."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import simpy
from simpy.events import NORMAL, EventPriority

from sim.latency import Profile, StepClock
from sim.record import EngineStats
from sim.regimes import Regimes
from sim.request import Batch, Request
from sim.retention import LRU, CpuTier, Retention
from sim.scheduler import Scheduler
from sim.signals import Signals
from sim.workflow import Call, Workflow

Events = Generator[simpy.Event, Any, None]


class _Passed(simpy.Event):
    """That much time has passed, and everything else has happened that happens at that instant.

    Of several engines the first comes first, however long ago their steps began.
    """

    def __init__(self, env: simpy.Environment, seconds: float, replica: int) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, priority=EventPriority(NORMAL + 1 + replica), delay=seconds)


@dataclass(slots=True, eq=False)
class Sent:
    """A call on its way through the engine, with the times it passed: the client's, queued, and admitted."""

    session: int
    call: Call
    request: Request
    sent_s: float
    queued_s: float | None = None
    scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None
    reason: str = ""


class SimulatedServer:
    """One GPU running vLLM: it steps while it has requests, and tells ``on_done`` who has ended.

    A request that comes during a step is seen when the next one is scheduled: at the end of the step
    (``EngineCore.step``), or with asynchronous scheduling one step later, because the next step was scheduled
    when this one began (``step_with_batch_queue``, two batches deep). One that comes at the very instant at which a
    step is scheduled is in time for it.

    While the same requests decode, steps differ only in the KV they read, one token more per request each time.
    Such a run of steps is one event, cut short where a request arrives or anything else comes from outside;
    ``macro_steps=False`` makes every step an event of its own, with the same result. Only then can ``on_tokens`` be
    told of every token: after each step, at the instant at which they are with the client, the calls that got one.

    ``retention`` other than `LRU` and a ``cpu_tier`` are more than the modelled vLLM has.
    """

    def __init__(
        self,
        env: simpy.Environment,
        profile: Profile,
        on_done: Callable[[Sent], None],
        macro_steps: bool = True,
        on_tokens: Callable[[list[Sent]], None] | None = None,
        retention: Retention = LRU,
        cpu_tier: CpuTier | None = None,
        replica: int = 0,
    ) -> None:
        assert not (macro_steps and on_tokens)
        self._env = env
        self._replica = replica
        self._clock = StepClock(profile)
        self._overheads = profile.overheads
        self._settings = profile.engine
        self._macro_steps = macro_steps
        self._scheduler = Scheduler(profile.engine, retention, cpu_tier)
        self._load_token_s = cpu_tier.load_token_s if cpu_tier else 0.0
        self._on_done, self._on_tokens = on_done, on_tokens
        self._sent: dict[Request, Sent] = {}
        self._inbox: list[Request] = []
        self._aborted: list[Request] = []
        self._changes: list[Callable[[], None]] = []
        self._observers: list[Callable[[Signals], object]] = []
        self._last_input_s = -profile.overheads.input_gap_s
        self._wake = env.event()
        self._can_be_cut = False
        self._num_steps = self._num_rows = self._num_tokens = self._num_preemptions = 0
        self._busy_s = 0.0
        self._regimes = Regimes(profile, self._clock)
        self._process = env.process(self._loop())

    @property
    def stats(self) -> EngineStats:
        """What the engine has done so far."""
        regimes = self._regimes
        return EngineStats(
            num_steps=self._num_steps,
            busy_s=self._busy_s,
            num_rows=self._num_rows,
            num_tokens=self._num_tokens,
            num_preemptions=self._num_preemptions,
            prefill_s=regimes.prefill_s,
            decode_s=regimes.decode_s,
            kv_s=regimes.kv_s,
            mixed_s=regimes.mixed_s,
            outside_s=regimes.outside_s,
        )

    def send(self, sent: Sent) -> None:
        """Queue a call; one that can never run ends at once, with the reason.

        One that was sent a while ago has come part of its way to the scheduler since.
        """
        sent.reason = self._settings.refusal(sent.request.max_num_tokens)
        if sent.reason:
            self._later(0.0, partial(self._on_done, sent))
            return
        sent.request.session = sent.session
        seen_s = max(sent.sent_s + self._overheads.input_s, self._last_input_s + self._overheads.input_gap_s)
        self._last_input_s = seen_s
        if seen_s > self._env.now:
            self._later(seen_s - self._env.now, partial(self._arrive, sent))
        else:
            self._arrive(sent)

    def abort(self, sent: Sent) -> None:
        """The client has gone: from the next step on the engine does nothing more for the call.

        Of what it did before, it may still tell.
        """
        sent.reason = "aborted"
        self._aborted.append(sent.request)
        self._cut_short()

    def observe(self, tell: Callable[[Signals], object]) -> None:
        """Tell once how things stand when the step under way has ended; at once where there is none.

        "At once" is an event of no delay. One that is asked for while it is told is told of the next step.
        """
        self._observers.append(tell)
        if self._sent:
            self._cut_short()
        else:
            self._later(0.0, self._tell_observers)

    def expect(self, session: int, workflow: Workflow, distances: Mapping[str, float]) -> None:
        """The session will make these calls, call id -> how far off; it has made no progress yet.

        This, `advance` and `release` count from the next step that is scheduled on, and do nothing where the
        retention does not ask for them.
        """
        if self._scheduler.upcoming is not None:
            self._change(lambda: self._expect(session, workflow, distances))

    def advance(self, session: int, progress: float) -> None:
        """The session's calls are nearer by ``progress`` than `expect` said; negative: farther off."""
        if self._scheduler.upcoming is not None:
            self._change(partial(self._scheduler.upcoming.advance, session, progress))

    def release(self, session: int) -> None:
        """The session is over: nothing is kept for it any more."""
        if self._scheduler.upcoming is not None or self._scheduler.pins is not None:
            self._change(partial(self._scheduler.release, session))

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; False, and nothing done, while a call runs."""
        return self._scheduler.reset_prefix_cache()

    def _arrive(self, sent: Sent) -> None:
        if sent.reason:
            return
        self._sent[sent.request] = sent
        self._inbox.append(sent.request)
        if not self._wake.triggered:
            self._wake.succeed()
        self._cut_short()

    def _cut_short(self) -> None:
        """End the run of steps with the one under way, so that what has happened counts from the next on."""
        if self._can_be_cut:
            self._can_be_cut = False
            self._process.interrupt()

    def _change(self, act: Callable[[], None]) -> None:
        self._changes.append(act)
        self._cut_short()

    def _make_changes(self) -> None:
        for act in self._changes:
            act()
        self._changes.clear()

    def _expect(self, session: int, workflow: Workflow, distances: Mapping[str, float]) -> None:
        assert self._scheduler.upcoming is not None
        self._scheduler.upcoming.expect(self._scheduler.prefixes, session, workflow, distances)

    def _loop(self) -> Events:
        while True:
            yield self._wake
            yield _Passed(self._env, 0.0, self._replica)
            ahead = None
            while self._sent:
                batch = ahead or self._schedule()
                if not batch.num_rows:
                    # All tokens that are left were under way, or the only request that could run was preempted.
                    self._scheduler.update(batch)
                    ahead = None
                    continue
                for row in batch.rows:
                    sent = self._sent[row.request]
                    if sent.scheduled_s is None:
                        sent.scheduled_s = self._env.now
                ahead = self._schedule() if self._settings.async_scheduling else None
                steps = yield from self._run(batch, 1 + self._repeats(batch, ahead))
                if steps > 1:
                    last = ahead or batch
                    following = self._scheduler.skip(last, steps - 1)
                    batch, ahead = (last, following) if ahead else (following, None)
                self._end(batch)
                self._tell_observers()
            if ahead:
                self._scheduler.update(ahead)
            # Who asked before all calls were aborted.
            self._tell_observers()
            self._wake = self._env.event()

    def _tell_observers(self) -> None:
        if self._observers:
            observers, self._observers = self._observers, []
            self._make_changes()
            for tell in observers:
                tell(self.signals())

    def signals(self) -> Signals:
        """How things stand now, in the middle of a run of steps as they stood when it began."""
        scheduler, pool = self._scheduler, self._scheduler.pool
        return Signals(
            kv_use=1 - pool.num_free_blocks / pool.num_usable_blocks,
            kv_tokens=pool.num_usable_blocks * self._settings.block_size,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
        )

    def _schedule(self) -> Batch:
        if self._changes:
            self._make_changes()
        for request in self._inbox:
            sent = self._sent[request]
            sent.queued_s = self._env.now
            self._scheduler.add(request)
            if self._scheduler.upcoming is not None:
                self._scheduler.upcoming.sent(sent.session, sent.call.id)
        self._inbox.clear()
        for request in self._aborted:
            # Not one that has ended in the meantime, or never got here.
            if self._sent.pop(request, None):
                self._scheduler.abort(request)
        self._aborted.clear()
        batch = self._scheduler.schedule()
        self._num_preemptions += len(batch.preempted)
        return batch

    def _repeats(self, batch: Batch, ahead: Batch | None) -> int:
        """How often the step can be repeated; with a step scheduled ahead, that one must be the same."""
        return 0 if batch.rows or not self._macro_steps else self._scheduler.repeats(ahead or batch)

    def _run(self, batch: Batch, count: int) -> Generator[simpy.Event, Any, int]:
        """Let the time of up to ``count`` equal steps pass; returns how many were made when a request arrived."""
        began, steps, rows = self._env.now, count, batch.num_rows
        first = self._clock.device_s(
            batch.prefill_tokens,
            batch.decode_seqs,
            batch.kv_tokens,
            batch.distinct_kv_tokens,
            batch.attention_pairs,
        )
        seconds = self._clock.steps_s(first, rows, count)
        if batch.loaded_tokens:
            # A step that admits is never repeated.
            seconds += self._load_token_s * batch.loaded_tokens
        self._can_be_cut = count > 1
        try:
            yield _Passed(self._env, seconds, self._replica)
        except simpy.Interrupt:
            passed = self._env.now - began
            steps = 1 + bisect_left(range(1, count), passed, key=lambda n: self._clock.steps_s(first, rows, n))
            seconds = self._clock.steps_s(first, rows, steps)
            yield _Passed(self._env, max(0.0, began + seconds - self._env.now), self._replica)
        self._can_be_cut = False
        self._num_steps += steps
        self._busy_s += seconds
        self._regimes.add(batch, rows, first, steps, seconds)
        self._num_rows += rows * steps
        self._num_tokens += batch.num_tokens * steps
        return steps

    def _end(self, batch: Batch) -> None:
        grown, finished = self._scheduler.update(batch, self._env.now)
        told_s = self._env.now + self._overheads.output_s
        for request in grown:
            if request.num_output_tokens == 1:
                self._sent[request].first_token_s = told_s
        if self._on_tokens:
            told = [self._sent[request] for request in (*grown, *self._scheduler.unnamed(batch))]
            if told:
                self._tell(partial(self._on_tokens, told))
        for request in finished:
            sent = self._sent.pop(request)
            sent.finished_s = told_s
            self._let_pin_expire(sent.session)
            self._tell(partial(self._on_done, sent))

    def _let_pin_expire(self, session: int) -> None:
        pins = self._scheduler.pins
        if pins is not None and math.isfinite(pins.tau_s):
            expires_s = self._env.now + pins.tau_s
            expire = partial(self._expire, session, expires_s)
            self._later(pins.tau_s, partial(self._change, expire))

    def _expire(self, session: int, expires_s: float) -> None:
        assert self._scheduler.pins is not None
        self._scheduler.pins.expire(self._scheduler.pool, session, expires_s)

    def _tell(self, act: Callable[[], None]) -> None:
        if self._overheads.output_s:
            self._later(self._overheads.output_s, act)
        else:
            act()

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        timeout = self._env.timeout(seconds)
        assert timeout.callbacks is not None
        timeout.callbacks.append(lambda _: act())
