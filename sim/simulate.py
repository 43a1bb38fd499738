"""Workflows under a policy on the simulated engines: SimPy's hands for a `Run`."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import chain, count, islice

import simpy

from sim.engine import Events, Sent, SimulatedServer
from sim.fleet import Fleet, fleet_of
from sim.latency import Profile
from sim.load import Alone, Load, OpenLoop, in_order
from sim.outlook import Outlook
from sim.policies import Policy
from sim.probe import Probe
from sim.record import Extras, Record, RunResult, SessionRecord, Status, joined, makespan_s
from sim.request import Request
from sim.retention import LRU
from sim.rules import Retention, Served
from sim.session import Start
from sim.signals import Signals, pooled
from sim.workflow import Call, Segment, Workflow
from sim.world import World


def simulate(
    workflows: Sequence[Workflow],
    policy: Policy,
    engine: Profile | Fleet,
    load: Load,
    seed: int,
    macro_steps: bool = True,
    probe: Probe | None = None,
) -> RunResult:
    """Every workflow once under the policy. Order and instants of arrival depend on load and seed only.

    A ``probe`` changes nothing; workflows that run alone have no clock in common, so there is none of them.
    """
    fleet = fleet_of(engine)
    numbered = in_order(workflows, load, seed)
    world = World(policy, fleet, numbered, seed)
    if isinstance(load, Alone):
        assert probe is None
        parts = []
        for number, workflow in numbered.items():
            driver = _Driver(world, fleet, {number: workflow}, macro_steps)
            driver.closed_loop(1)
            parts.append(driver.result())
        return joined(parts)
    driver = _Driver(world, fleet, numbered, macro_steps)
    if probe:
        driver.watch(probe)
    if isinstance(load, OpenLoop):
        driver.open_loop(load.arrivals(workflows, seed))
    else:
        driver.closed_loop(min(load.sessions, len(workflows)))
    return driver.result()


def serve(
    workflows: Mapping[int, Workflow],
    policy: Policy,
    engine: Profile | Fleet,
    instants: Iterable[float],
    macro_steps: bool = True,
) -> RunResult:
    """The sessions, in their order, arriving at these instants in seconds."""
    fleet = fleet_of(engine)
    driver = _Driver(World(policy, fleet, workflows, 0), fleet, workflows, macro_steps)
    driver.open_loop(instants)
    return driver.result()


@dataclass(slots=True)
class _Open:
    """A session under way; a call that is done is only its record."""

    workflow: Workflow
    arrived_s: float
    calls: dict[str, Sent | Record] = field(default_factory=dict)
    tool_s: float = 0.0
    finished_s: float | None = None


class _Driver:
    """Starts what the `Run` answers on simulated servers and reports what has ended."""

    def __init__(self, world: World, fleet: Fleet, workflows: Mapping[int, Workflow], macro_steps: bool = True) -> None:
        self._env = simpy.Environment()
        self._fleet = fleet.set_for(world.policy)
        retention = world.policy.rule(Retention)
        kept = retention.kept if retention else LRU
        self._servers = [
            SimulatedServer(self._env, pool.profile, self._call_done, macro_steps, None, kept, pool.cpu_tier, number)
            for number, pool in enumerate(self._fleet.replicas)
        ]
        self._outlook = Outlook(retention, self._servers, workflows, self._fleet.least_times_s)
        self._run = world.run()
        self._workflows = workflows
        self._open: dict[int, _Open] = {}
        self._to_come = iter(workflows)
        self._refill = False
        self._num_over = 0
        self._numbers = count()
        self._under_way: dict[Sent, Start] = {}
        self._extras = Extras()
        if self._run.every_s:
            self._env.process(self._looks(self._run.every_s))

    def watch(self, probe: Probe) -> None:
        """Let it see the engines at its instants."""
        self._env.process(self._seen(probe))

    def closed_loop(self, sessions: int) -> None:
        """Keep that many sessions under way until every workflow has had its turn."""
        self._refill = True
        for session in list(islice(self._to_come, sessions)):
            self._arrive(session)
        self._env.run()

    def open_loop(self, instants: Iterable[float]) -> None:
        """Let the sessions arrive at these instants, in their order."""
        self._env.process(self._arrivals(instants))
        self._env.run()

    def result(self) -> RunResult:
        """Everything that has happened."""
        records = {number: _records(state) for number, state in self._open.items()}
        sessions = [self._session(number, records[number]) for number in self._open]
        engine = reduce(operator.add, (server.stats for server in self._servers))
        return RunResult(
            tuple(chain(*records.values())),
            tuple(sessions),
            engine,
            makespan_s(sessions),
            self._extras,
            len(self._servers),
        )

    def _arrivals(self, instants: Iterable[float]) -> Events:
        for session, instant in zip(self._to_come, instants, strict=False):
            yield self._env.timeout(max(0.0, instant - self._env.now))
            self._arrive(session)

    def _looks(self, every_s: float) -> Events:
        """Let the policy see the engines now and then, as long as there are workflows."""
        while self._num_over < len(self._workflows):
            yield self._env.timeout(every_s)
            told: list[Signals] = []
            all_told = self._env.event()
            for server in self._servers:
                server.observe(partial(self._told, told, all_told))
            yield all_told
            self._start(self._run.tick(pooled(told), self._env.now))

    def _seen(self, probe: Probe) -> Events:
        for instant in probe.instants:
            yield self._env.timeout(instant - self._env.now)
            probe.signals.append(pooled([server.signals() for server in self._servers]))

    def _told(self, told: list[Signals], all_told: simpy.Event, signals: Signals) -> None:
        told.append(signals)
        if len(told) == len(self._servers):
            all_told.succeed()

    def _arrive(self, session: int) -> None:
        workflow = self._workflows[session]
        self._open[session] = _Open(workflow, self._env.now)
        self._outlook.arrived(session)
        self._start(self._run.arrive(session, workflow, self._env.now))

    def _start(self, starts: Iterable[Start]) -> None:
        pending, ended = deque(starts), []
        while pending:
            start = pending.popleft()
            if isinstance(start.node, Call):
                self._send(start, start.node)
            elif seconds := self._tool_s(start):
                self._env.process(self._tool(start, seconds))
            else:
                # At once, so that what follows is in time for a step that is scheduled at this very instant.
                pending.extend(self._tool_done(start, 0.0))
                ended.append(start.session)
        for session in ended:
            self._close(session)

    def _send(self, start: Start, call: Call) -> None:
        state = self._open[start.session]
        tokens = 1 if start.purpose == "ahead" else state.workflow.tape.output_tokens[call.id]
        answer = Segment(call.answer_id, tokens)
        request = Request(call.prompt, answer, start.priority, self._env.now, next(self._numbers))
        sent = Sent(start.session, call, request, self._env.now)
        if start.purpose == "work":
            state.calls[call.id] = sent
        self._under_way[sent] = start
        self._servers[start.replica].send(sent)

    def _tool_s(self, start: Start) -> float:
        # A duration that nobody recorded counts as none; every result says how many those are.
        return self._workflows[start.session].tape.tool_s[start.node.id] or 0.0

    def _tool(self, start: Start, seconds: float) -> Events:
        yield self._env.timeout(seconds)
        self._go_on(start.session, self._tool_done(start, seconds))

    def _tool_done(self, start: Start, seconds: float) -> list[Start]:
        if start.purpose == "waste":
            self._extras += Extras(wasted_tools=1, wasted_tool_s=seconds)
        else:
            self._open[start.session].tool_s += seconds
            self._extras += Extras(guessed_tools=int(start.purpose == "guess"))
        if start.purpose == "work":
            self._outlook.done(start.session, start.node)
        return self._run.finish(start, self._env.now)

    def _call_done(self, sent: Sent) -> None:
        start, state = self._under_way.pop(sent), self._open[sent.session]
        if start.purpose == "ahead":
            self._extras += Extras(ahead_calls=1, ahead_tokens=_computed(sent))
        else:
            state.calls[sent.call.id] = _record(sent, state.workflow)
        if sent.reason:
            starts = self._run.fail(start, self._env.now)
        else:
            if start.purpose == "work":
                self._outlook.done(sent.session, start.node)
            starts = self._run.finish(start, self._env.now, _served(sent))
        self._go_on(sent.session, starts)

    def _go_on(self, session: int, starts: Iterable[Start]) -> None:
        self._start(starts)
        self._close(session)

    def _close(self, session: int) -> None:
        state = self._open[session]
        if not self._run.over(session) or state.finished_s is not None:
            return
        state.finished_s = self._env.now
        self._outlook.over(session)
        self._num_over += 1
        if self._refill:
            for following in islice(self._to_come, 1):
                self._arrive(following)

    def _session(self, number: int, records: Sequence[Record]) -> SessionRecord:
        state = self._open[number]
        calls = (record for record in records if record.finished_s is not None)
        return SessionRecord(
            session=number,
            workflow_id=state.workflow.id,
            framework=state.workflow.framework,
            arrived_s=state.arrived_s,
            finished_s=state.finished_s,
            busy_s=state.tool_s + sum((call.finished_s or 0.0) - call.sent_s for call in calls),
            num_calls=len(records),
            status=self._run.status(number),
        )


def _served(sent: Sent) -> Served:
    assert sent.scheduled_s is not None
    assert sent.finished_s is not None
    request = sent.request
    return Served(
        sent.finished_s - sent.scheduled_s,
        sent.scheduled_s - sent.sent_s,
        request.num_prompt_tokens,
        request.num_output_tokens,
    )


def _computed(sent: Sent) -> int:
    return 0 if sent.reason else sent.request.num_prompt_tokens - (sent.request.num_cached_tokens or 0)


def _records(state: _Open) -> list[Record]:
    return [call if isinstance(call, Record) else _record(call, state.workflow) for call in state.calls.values()]


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
