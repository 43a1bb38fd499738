"""Workflows under a policy on the simulated engine: SimPy's hands for a `Run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import simpy

from sim.engine import Events, Sent, SimulatedServer
from sim.latency import Profile
from sim.load import Alone, Load, SessionRate, in_order
from sim.policies import Policy
from sim.record import Record, RunResult, SessionRecord, Status, joined
from sim.request import Request
from sim.run import Run
from sim.workflow import Node, Segment, Tool, Workflow


def simulate(
    workflows: Sequence[Workflow], policy: Policy, profile: Profile, load: Load, seed: int, macro_steps: bool = True
) -> RunResult:
    """Every workflow once under the policy. Order and instants of arrival depend on load and seed only."""
    if isinstance(load, Alone):
        parts = []
        for number, workflow in enumerate(workflows):
            driver = _Driver(profile, policy, {number: workflow}, macro_steps)
            driver.closed_loop(1)
            parts.append(driver.result())
        return joined(parts)
    shuffled = in_order(workflows, seed)
    if isinstance(load, SessionRate):
        return serve(shuffled, policy, profile, load.instants(len(workflows), seed), macro_steps)
    driver = _Driver(profile, policy, shuffled, macro_steps)
    driver.closed_loop(min(load.sessions, len(workflows)))
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
    """Starts what the `Run` answers on a simulated server and reports what has ended."""

    def __init__(
        self, profile: Profile, policy: Policy, workflows: Mapping[int, Workflow], macro_steps: bool = True
    ) -> None:
        self._env = simpy.Environment()
        self._server = SimulatedServer(self._env, profile, self._call_done, macro_steps)
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
        self._env.run()

    def open_loop(self, instants: Iterable[float]) -> None:
        """Let the sessions arrive at these instants, in their order."""
        self._env.process(self._arrivals(instants))
        self._env.run()

    def result(self) -> RunResult:
        """Everything that has happened."""
        records = {number: _records(state) for number, state in self._open.items()}
        sessions = [self._session(number, records[number]) for number in self._open]
        ends = (session.finished_s for session in sessions if session.finished_s is not None)
        makespan = max(ends, default=0.0) - min((session.arrived_s for session in sessions), default=0.0)
        return RunResult(tuple(chain(*records.values())), tuple(sessions), self._server.stats, makespan)

    def _arrivals(self, instants: Iterable[float]) -> Events:
        for session, instant in zip(self._to_come, instants, strict=False):
            yield self._env.timeout(max(0.0, instant - self._env.now))
            self._arrive(session)

    def _arrive(self, session: int) -> None:
        workflow = self._workflows[session]
        self._open[session] = _Open(workflow, self._env.now)
        self._start(session, self._run.arrive(session, workflow))

    def _start(self, session: int, nodes: Iterable[Node]) -> None:
        state = self._open[session]
        for node in nodes:
            if isinstance(node, Tool):
                self._env.process(self._tool(session, node))
                continue
            answer = Segment(node.answer_id, state.workflow.tape.output_tokens[node.id])
            request = Request(node.prompt, answer, arrival_s=self._env.now, number=self._num_sent)
            self._num_sent += 1
            sent = Sent(session, node, request, self._env.now)
            state.calls[node.id] = sent
            self._server.send(sent)

    def _tool(self, session: int, tool: Tool) -> Events:
        # A duration that nobody recorded counts as none; every result says how many those are.
        seconds = self._workflows[session].tape.tool_s[tool.id] or 0.0
        yield self._env.timeout(seconds)
        self._open[session].tool_s += seconds
        self._go_on(session, self._run.finish(session, tool))

    def _call_done(self, sent: Sent) -> None:
        state = self._open[sent.session]
        state.calls[sent.call.id] = _record(sent, state.workflow)
        report = self._run.fail if sent.reason else self._run.finish
        self._go_on(sent.session, report(sent.session, sent.call))

    def _go_on(self, session: int, nodes: Iterable[Node]) -> None:
        self._start(session, nodes)
        if not self._run.over(session):
            return
        self._open[session].finished_s = self._env.now
        if self._refill:
            for following in islice(self._to_come, 1):
                self._arrive(following)

    def _session(self, number: int, records: Sequence[Record]) -> SessionRecord:
        state = self._open[number]
        calls = (record for record in records if record.finished_s is not None)
        status: Status = "failed" if self._run.failed(number) else "finished"
        return SessionRecord(
            session=number,
            workflow_id=state.workflow.id,
            framework=state.workflow.framework,
            arrived_s=state.arrived_s,
            finished_s=state.finished_s,
            busy_s=state.tool_s + sum((call.finished_s or 0.0) - call.sent_s for call in calls),
            num_calls=len(records),
            status=status if self._run.over(number) else "unfinished",
        )


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
