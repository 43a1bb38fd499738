"""The state machine between policy and engine: told what happened, it answers what to start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sim.detector import Watch
from sim.errors import PolicyError
from sim.foresight import Foresight
from sim.outbox import Outbox
from sim.places import ToolPlaces
from sim.policies import Policy
from sim.policies.async_ import Async
from sim.policies.round_robin import RoundRobin
from sim.record import Status
from sim.rules import (
    Ahead,
    Dispatch,
    Gate,
    Rule,
    Served,
    Speculation,
    Verdict,
)
from sim.session import Session, Start
from sim.signals import Signals
from sim.workflow import Call, Node, Tool, Workflow


class Run:
    """Many workflows under one policy. No clock, no I/O.

    A driver reports `arrive`, `finish` (what was started is done), `fail` and, every ``every_s`` seconds while there
    are workflows, `tick`; each answers what to start now, in order. Times are those of the driver's clock. A session
    is one workflow as load, named by a number of the driver's.

    ``replicas``: agent -> the replicas that can take its calls. ``tool_limits``: how many runs of a tool there may be
    at once, over all workflows. ``foresight`` and ``watch``, who warns of a workflow that will fail, belong to
    the world: the policy sees only what they say.
    """

    def __init__(
        self,
        policy: Policy,
        replicas: Callable[[str], Sequence[int]] = lambda agent: (0,),
        tool_limits: Mapping[str, int] | None = None,
        foresight: Foresight | None = None,
        watch: Callable[[int, Workflow], Watch] | None = None,
    ) -> None:
        self._policy = policy
        self._memory = {rule.name: rule.begin() for rule in (*policy.rules, RoundRobin())}
        self._dispatch = policy.rule(Dispatch) or Async()
        self._sends_all = self._dispatch == Async()
        self._gate = policy.rule(Gate)
        self._ahead, self._speculation = policy.rule(Ahead), policy.rule(Speculation)
        self._verdict = policy.rule(Verdict)
        self._listeners = [rule for rule in policy.rules if type(rule).finished is not Rule.finished]
        self._outbox = Outbox(policy, replicas, self._memory)
        self._places = ToolPlaces(tool_limits or {})
        self._foresight, self._watch = foresight, watch
        self._sessions: dict[int, Session] = {}
        self._open: dict[int, Session] = {}

    @property
    def every_s(self) -> float | None:
        """Seconds between two ticks; None where the policy needs none."""
        return self._gate.every_s if self._gate else None

    def arrive(self, session: int, workflow: Workflow, now_s: float = 0.0) -> list[Start]:
        """A workflow starts."""
        assert session not in self._sessions
        state = Session(
            session,
            workflow,
            now_s,
            self._foresight.of(workflow) if self._foresight else None,
            self._watch(session, workflow) if self._watch else None,
        )
        self._sessions[session] = self._open[session] = state
        for rule in self._policy.rules:
            rule.arrived(state.view(), self._memory[rule.name])
        return self._go_on(state, now_s)

    def finish(self, start: Start, now_s: float = 0.0, served: Served | None = None) -> list[Start]:
        """What was started is done; ``served`` says how a call was. Nodes that waited for it may start."""
        state, node = self._sessions[start.session], start.node
        released = self._land(start, now_s)
        if start.purpose == "guess":
            assert isinstance(node, Tool)
            if not state.guessed(node):
                return released
            state.tools_in_flight -= 1
        if start.purpose in ("ahead", "waste"):
            return released
        if served:
            state.count(served)
        if self._ahead and isinstance(node, Call):
            state.known |= {node.answer_id, *(segment.segment_id for segment in node.prompt)}
        done = state.done(node)
        state.note_acting(now_s)
        for rule in self._listeners:
            for one in done:
                how = served if one is node else None
                rule.finished(one, state.workflow.parents[one.id], how, state.view(), self._memory[rule.name])
        if state.watch and isinstance(node, Call) and state.watch.finished(node):
            self._warn(state)
        return released + self._go_on(state, now_s)

    def fail(self, start: Start, now_s: float = 0.0) -> list[Start]:
        """What was started failed: nothing more of its workflow is started, what is under way goes on."""
        state = self._sessions[start.session]
        released = self._land(start, now_s)
        if start.purpose == "work":
            state.failed = True
            self._drop_waiting(state)
        return released + self._go_on(state, now_s)

    def tick(self, signals: Signals, now_s: float) -> list[Start]:
        """The engine as it is now; a gate may open for workflows, or close."""
        assert self._gate
        views = [state.view() for state in self._open.values()]
        self._gate.tick(signals, views, now_s, self._memory[self._gate.name])
        return self._admit(now_s)

    def over(self, session: int) -> bool:
        """Nothing of the session is under way and nothing will be."""
        return self._sessions[session].over

    def failed(self, session: int) -> bool:
        """A call of the session failed."""
        return self._sessions[session].failed

    def aborted(self, session: int) -> bool:
        """The policy has stopped the session before all of it was done."""
        state = self._sessions[session]
        return state.aborted and state.left > 0

    def status(self, session: int) -> Status:
        """How the session ended, or that it has not."""
        if not self.over(session):
            return "unfinished"
        if self.aborted(session):
            return "aborted"
        return "failed" if self.failed(session) else "finished"

    def _warn(self, state: Session) -> None:
        assert self._verdict
        state.warned = True
        if self._verdict.aborts:
            state.aborted = True
            self._drop_waiting(state)

    def _drop_waiting(self, state: Session) -> None:
        """Tools of a workflow that is stopped do not start when their turn comes."""
        dropped = self._places.drop(state.number)
        state.tools_in_flight -= sum(state.is_waited_for(start) for start in dropped)

    def _go_on(self, state: Session, now_s: float) -> list[Start]:
        """What the change of one session lets start, of it or, behind a gate, of any."""
        if state.over and state.number in self._open:
            del self._open[state.number]
            for rule in self._policy.rules:
                rule.over(state.view(), self._memory[rule.name])
        return self._admit(now_s) if self._gate else self._start(state, now_s)

    def _admit(self, now_s: float) -> list[Start]:
        assert self._gate
        views = [state.view() for state in self._open.values()]
        admitted = set(self._gate.admitted(views, self._memory[self._gate.name]))
        # One that never comes to an end would keep all others out for ever.
        assert admitted or not views or any(view.calls_in_flight + view.tools_in_flight for view in views), self._policy
        return [
            start for state in self._open.values() if state.number in admitted for start in self._start(state, now_s)
        ]

    def _start(self, state: Session, now_s: float) -> list[Start]:
        if state.stopped or not state.ready:
            return []
        starts: list[Start] = []
        for node in self._select(state):
            state.take(node)
            if isinstance(node, Call):
                starts.append(self._outbox.send(state, node))
                starts += self._guesses(state, node)
            else:
                starts += self._places.take(Start(state.number, node))
                starts += self._prefills(state, node)
        state.note_acting(now_s)
        if not state.under_way:
            raise PolicyError(
                f"policy {self._policy}: it starts nothing of {state.workflow.id} while nothing is under way, and would"
                " never be asked again; select a ready node"
            )
        return starts

    def _select(self, state: Session) -> list[Node]:
        nodes, position = state.workflow.nodes, state.workflow.position
        if self._sends_all:
            return [nodes[index] for index in state.ready]
        chosen = [position.get(node.id, -1) for node in self._dispatch.select(state.view())]
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(state.ready):
            raise PolicyError(f"policy {self._policy}: it starts what is not ready; select of view.ready, each once")
        return [nodes[index] for index in chosen]

    def _guesses(self, state: Session, call: Call) -> list[Start]:
        """The tools after a call, which a speculating policy starts beside it."""
        if not self._speculation:
            return []
        starts = []
        for tool in state.next_tools(call):
            if self._speculation.guessed(state.workflow.id, tool.id):
                state.guesses = {**state.guesses, tool.id: False}
                starts += self._places.take(Start(state.number, tool, purpose="guess"))
            else:
                starts += self._places.take(Start(state.number, tool, purpose="waste"))
        return starts

    def _prefills(self, state: Session, tool: Tool) -> list[Start]:
        """The known parts of the prompts that follow a tool."""
        if not self._ahead:
            return []
        starts = []
        for call in state.next_calls(tool):
            known = state.known_part(call)
            if known and self._ahead.wants(known, state.view()):
                ahead = Call(f"ahead:{call.id}", call.agent, known, f"ahead:{call.answer_id}")
                starts.append(self._outbox.send(state, ahead, call))
        return starts

    def _land(self, start: Start, now_s: float) -> list[Start]:
        """What was started is no longer under way; a tool that waited for its place may start."""
        node, state = start.node, self._sessions[start.session]
        if start.purpose == "work":
            state.land(node, now_s)
        if isinstance(node, Call):
            self._outbox.ended(node, start.replica)
            return []
        return self._places.leave(start)
