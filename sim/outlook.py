"""What engines are told of calls to come, for a retention rule that asks how far off each of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sim.engine import SimulatedServer
from sim.rules import Retention
from sim.workflow import Node, Workflow

#: Farther than any call of a workflow that has arrived.
_NOT_HERE = 1e12


class Outlook:
    """Keeps every replica informed, as any of them may get a call.

    A call is as far off as the longest path to it is long, less what of the workflow is done. ``seconds``: node id ->
    best-case seconds of a workflow's nodes.
    """

    def __init__(
        self,
        rule: Retention | None,
        servers: Sequence[SimulatedServer],
        workflows: Mapping[int, Workflow],
        seconds: Callable[[Workflow], Mapping[str, float]],
    ) -> None:
        self._rule, self._servers, self._workflows, self._seconds = rule, servers, workflows, seconds
        self._asks = rule is not None and rule.distance is not None
        self._ends: dict[int, Mapping[str, float]] = {}
        self._progress: dict[int, float] = {}
        if self._asks and rule and rule.foresees_arrivals:
            for place, session in enumerate(workflows):
                self._expect(session)
                # In the order of their arrival.
                self._advance(session, -_NOT_HERE * (1 + place))

    def arrived(self, session: int) -> None:
        """A workflow starts."""
        if not self._asks:
            return
        if session not in self._ends:
            self._expect(session)
        self._advance(session, 0.0)

    def done(self, session: int, node: Node) -> None:
        """A node of it is done."""
        if self._asks and self._ends[session][node.id] > self._progress[session]:
            self._advance(session, self._ends[session][node.id])

    def over(self, session: int) -> None:
        """It makes no more calls."""
        for server in self._servers if self._rule else ():
            server.release(session)

    def _expect(self, session: int) -> None:
        workflow = self._workflows[session]
        in_seconds = self._rule and self._rule.distance == "seconds"
        begins, self._ends[session] = workflow.timeline(
            self._seconds(workflow) if in_seconds else dict.fromkeys(workflow.order, 1.0)
        )
        distances = {call.id: begins[call.id] for call in workflow.calls}
        for server in self._servers:
            server.expect(session, workflow, distances)

    def _advance(self, session: int, progress: float) -> None:
        self._progress[session] = progress
        for server in self._servers:
            server.advance(session, progress)
