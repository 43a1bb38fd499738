"""The state machine between policy and engine: told what happened, it answers what to start."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from sim.policies import Policy, View
from sim.workflow import Call, Node, Workflow


@dataclass(slots=True)
class _Session:
    workflow: Workflow
    waits: dict[str, int]
    ready: list[int] = field(default_factory=list)
    calls_in_flight: int = 0
    tools_in_flight: int = 0
    left: int = 0
    failed: bool = False


class Run:
    """Many workflows under one policy. No clock, no I/O.

    A driver reports `arrive`, `finish` (a call or a tool is done) and `fail`; each answers the nodes of that
    session to start now, in order. A session is one workflow as load, named by a number of the driver's.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._sessions: dict[int, _Session] = {}

    def arrive(self, session: int, workflow: Workflow) -> list[Node]:
        """A workflow starts."""
        assert session not in self._sessions
        waits = {node: len(parents) for node, parents in workflow.parents.items()}
        state = _Session(workflow, waits, left=len(waits))
        state.ready = [index for index, count in enumerate(waits.values()) if not count]
        self._sessions[session] = state
        return self._start(state)

    def finish(self, session: int, node: Node) -> list[Node]:
        """A call or a tool is done; its children may become ready."""
        state = self._sessions[session]
        self._land(state, node)
        state.left -= 1
        for child in state.workflow.children[node.id]:
            state.waits[child] -= 1
            if state.waits[child] == 0:
                insort(state.ready, state.workflow.position[child])
        return self._start(state)

    def fail(self, session: int, node: Node) -> list[Node]:
        """A call failed: nothing more of its workflow is started, what is under way goes on."""
        state = self._sessions[session]
        self._land(state, node)
        state.failed = True
        return self._start(state)

    def over(self, session: int) -> bool:
        """Nothing of the session is under way and nothing will be."""
        state = self._sessions[session]
        return not (state.calls_in_flight or state.tools_in_flight) and (state.failed or not state.left)

    def failed(self, session: int) -> bool:
        """A call of the session failed."""
        return self._sessions[session].failed

    def _start(self, state: _Session) -> list[Node]:
        if state.failed or not state.ready:
            return []
        nodes = state.workflow.nodes
        view = View(
            state.workflow.id,
            state.workflow.framework,
            tuple(nodes[index] for index in state.ready),
            state.calls_in_flight,
            state.tools_in_flight,
        )
        chosen = list(self._policy.select(view))
        for node in chosen:
            state.ready.remove(state.workflow.position[node.id])
            if isinstance(node, Call):
                state.calls_in_flight += 1
            else:
                state.tools_in_flight += 1
        # A policy that starts nothing while nothing is under way would never be asked again.
        assert state.calls_in_flight or state.tools_in_flight, f"{self._policy} stalls {state.workflow.id}"
        return chosen

    def _land(self, state: _Session, node: Node) -> None:
        if isinstance(node, Call):
            state.calls_in_flight -= 1
        else:
            state.tools_in_flight -= 1
