"""The simulated engine: a SimPy process that turns the scheduler's steps into time, and its driver."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import simpy

from sim.latency import Profile
from sim.load import Alone, Load, SessionRate, generator
from sim.policies import Policy
from sim.record import EngineStats, Record, RunResult, SessionRecord, Status
from sim.run import Run
from sim.scheduler import Batch, Request, Scheduler
from sim.workflow import Call, Node, Segment, Tool, Workflow

Events = Generator[simpy.Event, Any, None]


@dataclass(slots=True, eq=False)
class Sent:
    """A call on its way through the engine, with the times it passed."""

    session: int
    call: Call
    request: Request
    sent_s: float
    scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None
    reason: str = ""


class SimulatedServer:
    """One GPU running vLLM: it steps while it has requests, and tells ``on_done`` who has ended.

    A request that comes during a step is seen when the next one is scheduled: at the end of the step
    (``EngineCore.step``), or with asynchronous scheduling one step later, because the next step was scheduled
    when this one began (``step_with_batch_queue``, two batches deep).

    While the same requests decode, steps differ only in the KV they read, one token more per request each time.
    Such a run of steps is one event, cut short where a request arrives; ``macro_steps=False`` makes every step an
    event of its own, with the same result.
    """

    def __init__(
        self, env: simpy.Environment, profile: Profile, on_done: Callable[[Sent], None], macro_steps: bool = True
    ) -> None:
        self._env = env
        self._step_time = profile.step_time
        self._ahead = profile.engine.async_scheduling
        self._macro_steps = macro_steps
        self._scheduler = Scheduler(profile.engine)
        self._on_done = on_done
        self._sent: dict[Request, Sent] = {}
        self._inbox: list[Request] = []
        self._wake = env.event()
        self._can_be_cut = False
        self.stats = EngineStats()
        self._process = env.process(self._loop())

    def send(self, sent: Sent) -> None:
        """Queue a call; one that can never run ends at once, with the reason."""
        sent.reason = self._scheduler.refusal(sent.request) or ""
        if sent.reason:
            self._env.process(self._refuse(sent))
            return
        self._sent[sent.request] = sent
        self._inbox.append(sent.request)
        if not self._wake.triggered:
            self._wake.succeed()
        if self._can_be_cut:
            self._can_be_cut = False
            self._process.interrupt()

    def _refuse(self, sent: Sent) -> Events:
        yield self._env.timeout(0)
        self._on_done(sent)

    def _loop(self) -> Events:
        while True:
            yield self._wake
            ahead = None
            while self._sent:
                batch = ahead or self._schedule()
                if not batch.num_rows:
                    # All tokens that are left were under way, or the only request that could run was preempted.
                    self._scheduler.update(batch)
                    ahead = None
                    continue
                self._note_scheduled(batch)
                ahead = self._schedule() if self._ahead else None
                steps = yield from self._run(batch, 1 + self._repeats(batch, ahead))
                if steps > 1:
                    last = ahead or batch
                    following = self._scheduler.skip(last, steps - 1)
                    batch, ahead = (last, following) if ahead else (following, None)
                self._end(batch)
            self._wake = self._env.event()

    def _schedule(self) -> Batch:
        for request in self._inbox:
            self._scheduler.add(request)
        self._inbox.clear()
        batch = self._scheduler.schedule()
        self.stats += EngineStats(num_preemptions=len(batch.preempted))
        return batch

    def _note_scheduled(self, batch: Batch) -> None:
        for row in batch.rows:
            sent = self._sent[row.request]
            if sent.scheduled_s is None:
                sent.scheduled_s = self._env.now

    def _repeats(self, batch: Batch, ahead: Batch | None) -> int:
        """How often the step can be repeated; with a step scheduled ahead, that one must be the same."""
        if not self._macro_steps or batch.rows or (ahead and ahead.num_decoding != batch.num_decoding):
            return 0
        return self._scheduler.repeats(ahead or batch)

    def _run(self, batch: Batch, count: int) -> Generator[simpy.Event, Any, int]:
        """Let the time of up to ``count`` equal steps pass; returns how many were made when a request arrived."""
        rows = batch.num_rows
        first = self._step_time(batch.prefill_tokens, batch.decode_seqs, batch.kv_tokens, batch.attention_pairs)
        growth = self._step_time.kv_token_s * rows

        def seconds(steps: int) -> float:
            return steps * first + growth * (steps * (steps - 1) // 2)

        began, steps = self._env.now, count
        self._can_be_cut = count > 1
        try:
            yield self._env.timeout(seconds(count))
        except simpy.Interrupt:
            steps = 1 + bisect_left(range(1, count), self._env.now - began, key=seconds)
            yield self._env.timeout(began + seconds(steps) - self._env.now)
        self._can_be_cut = False
        self.stats += EngineStats(steps, seconds(steps), rows * steps, batch.num_tokens * steps)
        return steps

    def _end(self, batch: Batch) -> None:
        grown, finished = self._scheduler.update(batch)
        for request in grown:
            if request.num_output_tokens == 1:
                self._sent[request].first_token_s = self._env.now
        for request in finished:
            sent = self._sent.pop(request)
            sent.finished_s = self._env.now
            self._on_done(sent)


@dataclass(slots=True)
class _Open:
    """A session under way."""

    workflow: Workflow
    arrived_s: float
    tool_s: float = 0.0
    calls: list[Sent] = field(default_factory=list)
    finished_s: float | None = None


class _Driver:
    """Hands for a `Run`: starts what it answers on a simulated server and reports what has ended."""

    def __init__(
        self, profile: Profile, policy: Policy, workflows: Mapping[int, Workflow], macro_steps: bool = True
    ) -> None:
        self.env = simpy.Environment()
        self.server = SimulatedServer(self.env, profile, self._call_done, macro_steps)
        self._run = Run(policy)
        self._workflows = workflows
        self._open: dict[int, _Open] = {}
        self._to_come = iter(workflows)
        self._refill = False
        self._num_sent = 0

    def closed_loop(self, sessions: int) -> None:
        """Keep that many sessions under way until every workflow has had its turn."""
        self._refill = True
        for session in list(islice(self._to_come, sessions)):
            self._arrive(session)

    def open_loop(self, instants: Iterable[float]) -> None:
        """Let the sessions arrive at these instants, in their order."""
        self.env.process(self._arrivals(instants))

    def result(self) -> RunResult:
        """Everything that has happened so far."""
        sessions = [self._session(number, state) for number, state in self._open.items()]
        records = [_record(sent, state.workflow) for state in self._open.values() for sent in state.calls]
        ends = (session.finished_s for session in sessions if session.finished_s is not None)
        makespan = max(ends, default=0.0) - min((session.arrived_s for session in sessions), default=0.0)
        return RunResult(tuple(records), tuple(sessions), self.server.stats, makespan)

    def _arrivals(self, instants: Iterable[float]) -> Events:
        for session, instant in zip(self._to_come, instants, strict=False):
            yield self.env.timeout(instant - self.env.now)
            self._arrive(session)

    def _arrive(self, session: int) -> None:
        workflow = self._workflows[session]
        self._open[session] = _Open(workflow, self.env.now)
        self._start(session, self._run.arrive(session, workflow))

    def _start(self, session: int, nodes: Iterable[Node]) -> None:
        state = self._open[session]
        for node in nodes:
            if isinstance(node, Tool):
                self.env.process(self._tool(session, node))
                continue
            answer = Segment(node.answer_id, state.workflow.tape.output_tokens[node.id])
            request = Request(node.prompt, answer, arrival_s=self.env.now, number=self._num_sent)
            self._num_sent += 1
            sent = Sent(session, node, request, self.env.now)
            state.calls.append(sent)
            self.server.send(sent)

    def _tool(self, session: int, tool: Tool) -> Events:
        # A duration that nobody recorded counts as none; every result says how many those are.
        seconds = self._workflows[session].tape.tool_s[tool.id] or 0.0
        yield self.env.timeout(seconds)
        self._open[session].tool_s += seconds
        self._go_on(session, self._run.finish(session, tool))

    def _call_done(self, sent: Sent) -> None:
        report = self._run.fail if sent.reason else self._run.finish
        self._go_on(sent.session, report(sent.session, sent.call))

    def _go_on(self, session: int, nodes: Iterable[Node]) -> None:
        self._start(session, nodes)
        if not self._run.over(session):
            return
        self._open[session].finished_s = self.env.now
        if self._refill:
            for following in islice(self._to_come, 1):
                self._arrive(following)

    def _session(self, number: int, state: _Open) -> SessionRecord:
        calls = [_record(sent, state.workflow) for sent in state.calls]
        status: Status = "failed" if self._run.failed(number) else "finished"
        return SessionRecord(
            session=number,
            workflow_id=state.workflow.id,
            framework=state.workflow.framework,
            arrived_s=state.arrived_s,
            finished_s=state.finished_s,
            busy_s=state.tool_s + sum(call.finished_s - call.sent_s for call in calls if call.finished_s is not None),
            num_calls=len(calls),
            status=status if self._run.over(number) else "unfinished",
        )


def simulate(
    workflows: Sequence[Workflow], policy: Policy, profile: Profile, load: Load, seed: int, macro_steps: bool = True
) -> RunResult:
    """Every workflow once under the policy. Order and instants of arrival depend on load and seed only."""
    if isinstance(load, Alone):
        parts = []
        for number, workflow in enumerate(workflows):
            driver = _Driver(profile, policy, {number: workflow}, macro_steps)
            driver.closed_loop(1)
            driver.env.run()
            parts.append(driver.result())
        return _joined(parts)
    order = generator(seed, "order of the workflows").permutation(len(workflows))
    shuffled = {int(number): workflows[number] for number in order}
    if isinstance(load, SessionRate):
        gaps = generator(seed, "arrivals").exponential(1 / load.per_s, len(workflows))
        return serve(shuffled, policy, profile, gaps.cumsum().tolist(), macro_steps)
    driver = _Driver(profile, policy, shuffled, macro_steps)
    driver.closed_loop(load.sessions)
    driver.env.run()
    return driver.result()


def serve(
    workflows: Mapping[int, Workflow],
    policy: Policy,
    profile: Profile,
    instants: Iterable[float],
    macro_steps: bool = True,
) -> RunResult:
    """The sessions, in their order, arriving at these instants in seconds."""
    driver = _Driver(profile, policy, workflows, macro_steps)
    driver.open_loop(instants)
    driver.env.run()
    return driver.result()


def _joined(parts: Sequence[RunResult]) -> RunResult:
    return RunResult(
        tuple(record for part in parts for record in part.records),
        tuple(session for part in parts for session in part.sessions),
        sum((part.engine for part in parts), EngineStats()),
        sum(part.makespan_s for part in parts),
    )


def _record(sent: Sent, workflow: Workflow) -> Record:
    status: Status = "failed" if sent.reason else "unfinished" if sent.finished_s is None else "finished"
    return Record(
        session=sent.session,
        workflow_id=workflow.id,
        call_id=sent.call.id,
        agent=sent.call.agent,
        num_prompt_tokens=sent.request.num_prompt_tokens,
        num_cached_tokens=sent.request.num_cached_tokens,
        num_output_tokens=sent.request.num_output_tokens,
        sent_s=sent.sent_s,
        scheduled_s=sent.scheduled_s,
        first_token_s=sent.first_token_s,
        finished_s=sent.finished_s,
        num_preemptions=sent.request.num_preemptions,
        status=status,
        reason=sent.reason,
    )
