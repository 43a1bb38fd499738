"""The model of vLLM's scheduler in real time: its simulated clock is kept at the wall clock.

One thread, the pump, runs the simulated engine. It does what is due when it is due, never before, and takes in
requests in the order in which they came. What the clients are sent comes from here: token n when the simulated
engine has it.
"""

from __future__ import annotations

import math
import queue
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import simpy

from sim.engine import Sent, SimulatedServer
from sim.latency import Profile
from sim.request import Request
from sim.workflow import Call, Segment

#: The engine never looks at what a call is in its workflow.
_CALL = Call("call", "client", (), "answer")
#: Seconds that somebody waits for the pump at most.
_PUMP_S = 10.0

Act = Callable[[], None]


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the engine.

    ``on_token`` is told the number of every token, from 1, in the pump's thread, and must not wait. ``wake`` is set
    when the job is over; then ``failed`` says that the engine stopped before its end.
    """

    sent: Sent
    wake: threading.Event = field(default_factory=threading.Event)
    on_token: Callable[[int], None] = lambda number: None
    num_tokens: int = 0
    over: bool = False
    failed: bool = False


@dataclass(slots=True)
class Counters:
    """What vLLM counts under these names in /metrics."""

    iteration_tokens_total_count: int = 0
    iteration_tokens_total_sum: int = 0
    prefix_cache_queries_total: int = 0
    prefix_cache_hits_total: int = 0
    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0


class RealTimeEngine:
    """The engine of a profile. Its times are seconds since it was made.

    ``lateness_s`` has, for the last tokens, how long after its time each was passed on.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.counters = Counters()
        self.lateness_s: deque[float] = deque(maxlen=100_000)
        self._env = simpy.Environment()
        self._server = SimulatedServer(self._env, profile, self._done, macro_steps=False, on_tokens=self._tokens)
        self._jobs: dict[int, Job] = {}
        self._acts: queue.SimpleQueue[tuple[float, Act]] = queue.SimpleQueue()
        self._numbers = count()
        self._door, self._last = threading.Lock(), threading.Lock()
        self._stopping = self._stopped = False
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._pump, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_preemptions(self) -> int:
        """Preemptions so far."""
        return self._server.stats.num_preemptions or 0

    def gauges(self) -> dict[str, float]:
        """What vLLM shows under these names in /metrics as it is now."""
        # In another thread than the scheduler's: each is right by itself, which is all that a gauge is.
        now = self._server.signals()
        return {
            "kv_cache_usage_perc": now.kv_use,
            "num_requests_running": now.num_running,
            "num_requests_waiting": now.num_waiting,
        }

    def now(self) -> float:
        """Seconds since the engine was made."""
        return time.monotonic() - self._began

    @contextmanager
    def turn(self) -> Iterator[float]:
        """The instant at which a request came; who comes later waits until it has been taken in."""
        mine = threading.Lock()
        mine.acquire()
        with self._door:
            before, self._last = self._last, mine
            came_s = self.now()
        with before:
            try:
                yield came_s
            finally:
                mine.release()

    def job(
        self, prompt: Sequence[int], answer: Sequence[int], came_s: float, priority: int = 0, salt: str = ""
    ) -> Job:
        """A job for these token ids that came at that instant; the caller starts it with `submit`."""
        # Under `turn`, so that numbers are in the order in which requests came.
        number, block_size = next(self._numbers), self.profile.engine.block_size
        request = Request(
            (Segment("prompt", len(prompt)),),
            Segment("answer", len(answer)),
            priority=priority,
            arrival_s=came_s,
            number=number,
            content=blocks((*prompt, *answer), block_size, salt) if self.profile.engine.enable_prefix_caching else (),
        )
        return Job(Sent(number, _CALL, request, came_s))

    def submit(self, job: Job) -> None:
        """Let the engine have the job."""
        self._jobs[job.sent.session] = job
        self._acts.put((job.sent.sent_s, lambda: self._server.send(job.sent)))
        if self._stopped:
            self._fail(job)

    def abort(self, job: Job) -> None:
        """Nobody waits for the job any more."""
        self._acts.put((self.now(), lambda: self._forget(job)))

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; False, and nothing done, while a request runs."""
        answered, answers = threading.Event(), []

        def act() -> None:
            answers.append(self._server.reset_prefix_cache())
            answered.set()

        self._acts.put((self.now(), act))
        answered.wait(_PUMP_S)
        return answers == [True]

    def stop(self) -> None:
        """Stop at once; jobs that are under way fail."""
        self._stopping = True
        self._acts.put((0.0, lambda: None))
        self._thread.join(_PUMP_S)

    def _pump(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        finally:
            # Whatever happened, no request may wait for ever.
            self._stopped = True
            for job in list(self._jobs.values()):
                self._fail(job)

    def _turn(self) -> None:
        """Wait for what comes first: a request, or the next event of the simulation."""
        wait_s = self._env.peek() - self.now()
        try:
            at_s, act = self._acts.get(timeout=None if wait_s == math.inf else max(wait_s, 0.0))
        except queue.Empty:
            while self._acts.empty() and self._env.peek() <= self.now():
                self._env.step()
        else:
            if at_s > self._env.now:
                self._env.run(until=at_s)
            act()

    def _forget(self, job: Job) -> None:
        if self._jobs.pop(job.sent.session, None):
            self._server.abort(job.sent)

    def _tokens(self, calls: list[Sent]) -> None:
        told = [self._jobs[sent.session] for sent in calls if sent.session in self._jobs]
        for job in told:
            job.num_tokens += 1
        self._count(told)
        due_s = self._env.now
        for job in told:
            job.on_token(job.num_tokens)
            self.lateness_s.append(self.now() - due_s)

    def _count(self, told: list[Job]) -> None:
        """Like vLLM, which counts no step that brings no token, and a prompt with its first (``IterationStats``)."""
        counters = self.counters
        counters.iteration_tokens_total_count += 1
        counters.iteration_tokens_total_sum += len(told)
        counters.generation_tokens_total += len(told)
        for job in told:
            if job.num_tokens == 1:
                prompt, cached = job.sent.request.num_prompt_tokens, job.sent.request.num_cached_tokens or 0
                counters.prompt_tokens_total += prompt
                counters.iteration_tokens_total_sum += prompt - cached
                if self.profile.engine.enable_prefix_caching:
                    counters.prefix_cache_queries_total += prompt
                    counters.prefix_cache_hits_total += cached

    def _done(self, sent: Sent) -> None:
        job = self._jobs.pop(sent.session, None)
        if job:
            job.over = True
            job.wake.set()

    def _fail(self, job: Job) -> None:
        job.failed = job.over = True
        job.wake.set()


def blocks(ids: Sequence[int], block_size: int, salt: str = "") -> tuple[Segment, ...]:
    """A segment for every full block, named by its very ids, the first of them by the salt as well.

    So two sequences share exactly as many blocks as they would by vLLM's hashes, wherever they were generated.
    """
    data, size = struct.pack(f"<{len(ids)}I", *ids), 4 * block_size
    names = [data[i : i + size].decode("latin-1") for i in range(0, len(data) - size + 1, size)]
    if names:
        names[0] = salt + names[0]
    return tuple(Segment(name, block_size) for name in names)
