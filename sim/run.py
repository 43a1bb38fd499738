"""The state machine between policy and engine: told what happened, it answers what to start."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

from sim.detector import Watch
from sim.errors import PolicyError
from sim.foresight import Foresight
from sim.policies import Policy, str_of
from sim.policies.async_ import Async
from sim.policies.round_robin import RoundRobin
from sim.rules import (
    Ahead,
    Dispatch,
    Gate,
    Order,
    Replica,
    Router,
    Rule,
    Served,
    Speculation,
    Submission,
    Verdict,
    View,
)
from sim.session import Session, Start
from sim.signals import Signals
from sim.workflow import Call, Tool, Workflow

#: Behind every key that a rule may give.
DEMOTED = 10**15


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
        self._order, self._gate = policy.rule(Order), policy.rule(Gate)
        self._router = policy.rule(Router) or RoundRobin()
        self._ahead, self._speculation = policy.rule(Ahead), policy.rule(Speculation)
        self._verdict = policy.rule(Verdict)
        self._listeners = [rule for rule in policy.rules if type(rule).finished is not Rule.finished]
        self._replicas = replicas
        self._load: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        self._tool_limits = dict(tool_limits or {})
        self._tools_running: Counter[str] = Counter()
        self._tools_waiting: defaultdict[str, deque[Start]] = defaultdict(deque)
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

    def _warn(self, state: Session) -> None:
        assert self._verdict
        state.warned = True
        state.aborted = self._verdict.aborts

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
        for node in self._dispatch.select(state.view()):
            if state.workflow.position.get(node.id) not in state.ready:
                raise PolicyError(
                    f"policy {self._policy}: it starts {node.id}, which is not ready; select of view.ready, each once"
                )
            state.take(node)
            if isinstance(node, Call):
                starts.append(self._send(state, node))
                starts += self._guesses(state, node)
            else:
                starts += self._run_tool(Start(state.number, node))
                starts += self._prefills(state, node)
        state.note_acting(now_s)
        if not state.under_way:
            raise PolicyError(
                f"policy {self._policy}: it starts nothing of {state.workflow.id} while nothing is under way, and would"
                " never be asked again; select a ready node"
            )
        return starts

    def _send(self, state: Session, call: Call, ahead_of: Call | None = None) -> Start:
        """The call, or with ``ahead_of`` a prefill that goes ahead of that call, with its priority and replica."""
        wanted = ahead_of or call
        numbers, priority = self._replicas(wanted.agent), DEMOTED if state.warned else 0
        replica = numbers[0]
        if self._order or len(numbers) > 1:
            estimate = state.forecast.estimate(wanted.id) if state.forecast else None
            submission = Submission(wanted, state.workflow.parents[wanted.id], estimate)
            view = state.view()
            if self._order:
                priority += _thousandths(self._order, self._order.key(submission, view, self._memory[self._order.name]))
            if len(numbers) > 1:
                replica = self._route(submission, view, numbers)
        state.replica = replica
        load = self._load[replica]
        load[0] += 1
        load[1] += call.num_prompt_tokens
        return Start(state.number, call, priority, replica, "ahead" if ahead_of else "work")

    def _route(self, submission: Submission, view: View, numbers: Sequence[int]) -> int:
        candidates = [Replica(number, *self._load[number]) for number in numbers]
        chosen = self._router.route(submission, view, candidates, self._memory[self._router.name])
        if chosen not in numbers:
            raise PolicyError(
                f"policy {self._policy}: it routes to replica {chosen}; give the number of one that can take the call"
            )
        return chosen

    def _guesses(self, state: Session, call: Call) -> list[Start]:
        """The tools after a call, which a speculating policy starts beside it."""
        if not self._speculation:
            return []
        starts = []
        for tool in state.next_tools(call):
            if self._speculation.guessed(state.workflow.id, tool.id):
                state.guesses[tool.id] = False
                starts += self._run_tool(Start(state.number, tool, purpose="guess"))
            else:
                starts += self._run_tool(Start(state.number, tool, purpose="waste"))
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
                starts.append(self._send(state, ahead, call))
        return starts

    def _run_tool(self, start: Start) -> list[Start]:
        """The tool, or nothing while as many of its name run as may."""
        assert isinstance(start.node, Tool)
        name = start.node.name
        if self._tools_running[name] >= self._tool_limits.get(name, self._tools_running[name] + 1):
            self._tools_waiting[name].append(start)
            return []
        self._tools_running[name] += 1
        return [start]

    def _land(self, start: Start, now_s: float) -> list[Start]:
        """What was started is no longer under way; a tool that waited for its place may start."""
        node, state = start.node, self._sessions[start.session]
        if start.purpose == "work":
            state.land(node, now_s)
        if isinstance(node, Call):
            load = self._load[start.replica]
            load[0] -= 1
            load[1] -= node.num_prompt_tokens
            return []
        self._tools_running[node.name] -= 1
        waiting = self._tools_waiting[node.name]
        return self._run_tool(waiting.popleft()) if waiting else []


def _thousandths(order: Order, key: float) -> int:
    """A key as a priority. Raises PolicyError for one that is no finite number, or as large as what is demoted."""
    if not isinstance(key, Real) or not abs(key) < DEMOTED / 2000:
        raise PolicyError(f"policy {str_of(order)}: the key of a call is {key!r}; give a number nearer to 0 than 5e11")
    return round(1000 * key)
