"""One workflow under way, as `sim.run.Run` keeps it."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from sim.detector import Watch
from sim.foresight import Forecast
from sim.rules import Served, View
from sim.workflow import Call, Node, Segment, Tool, Workflow

#: ``ahead``: a prefill for a call to come. ``guess``: a tool before it is known to be needed; ``waste``: a wrong guess.
Purpose = Literal["work", "ahead", "guess", "waste"]


class Start(NamedTuple):
    """A node to start now: a call with this priority on that replica, or a tool."""

    session: int
    node: Node
    priority: int = 0
    replica: int = 0
    purpose: Purpose = "work"


def blind(call: Call) -> Call:
    """The call as a rule sees it: without the name of its answer, which could be that of an answer it knows."""
    return Call(call.id, call.agent, call.prompt, "")


#: Shared by all sessions that guess nothing and send nothing ahead: there may be a hundred thousand.
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class Session:
    """What has happened to a workflow so far.

    ``waits``: node -> parents that are not done. ``ready``: positions of nodes to start. ``guesses``: tools that were
    started before their time, and whether they are done. ``ahead_at``: call -> the replica its prefill went to.
    ``known``: ids of the segments that were sent or answered.
    """

    number: int
    workflow: Workflow
    arrived_s: float
    forecast: Forecast | None = None
    watch: Watch | None = None
    waits: dict[str, int] = field(init=False)
    ready: list[int] = field(init=False)
    left: int = field(init=False)
    calls_in_flight: int = 0
    tools_in_flight: int = 0
    failed: bool = False
    aborted: bool = False
    warned: bool = False
    calls_done: int = 0
    service_s: float = 0.0
    waited_s: float = 0.0
    context_tokens: int = 0
    acting_since_s: float | None = None
    replica: int | None = None
    guesses: Mapping[str, bool] = field(default_factory=lambda: _NONE)
    ahead_at: Mapping[str, int] = field(default_factory=lambda: _NONE)
    known: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.waits = {node: len(parents) for node, parents in self.workflow.parents.items()}
        self.ready = [index for index, count in enumerate(self.waits.values()) if not count]
        self.left = len(self.waits)

    @property
    def stopped(self) -> bool:
        """Nothing more of it is started."""
        return self.failed or self.aborted

    @property
    def under_way(self) -> int:
        """Calls and tools that it waits for."""
        return self.calls_in_flight + self.tools_in_flight

    @property
    def over(self) -> bool:
        """Nothing of it is under way and nothing will be."""
        return not self.under_way and (self.stopped or not self.left)

    def view(self) -> View:
        """What a rule may know of it."""
        return View(
            self.number,
            self.workflow.framework,
            self.arrived_s,
            tuple([blind(node) if isinstance(node, Call) else node for node in self._ready_nodes()]),
            self.calls_in_flight,
            self.tools_in_flight,
            self.calls_done,
            self.service_s,
            self.waited_s,
            self.context_tokens,
            self.acting_since_s,
            self.replica,
            self.warned,
        )

    def take(self, node: Node) -> None:
        """A ready node starts."""
        self.ready.remove(self.workflow.position[node.id])
        if isinstance(node, Call):
            self.calls_in_flight += 1
        else:
            self.tools_in_flight += 1

    def land(self, node: Node, now_s: float) -> None:
        """A node that was under way is no longer."""
        if isinstance(node, Call):
            self.calls_in_flight -= 1
        else:
            self.tools_in_flight -= 1
        self.note_acting(now_s)

    def note_acting(self, now_s: float) -> None:
        """Whether only tools are under way may have changed."""
        acting = self.tools_in_flight and not self.calls_in_flight
        self.acting_since_s = (now_s if self.acting_since_s is None else self.acting_since_s) if acting else None

    def count(self, served: Served) -> None:
        """A call of it has been served."""
        self.calls_done += 1
        self.service_s += served.service_s
        self.waited_s += served.waited_s
        self.context_tokens = served.num_prompt_tokens + served.num_output_tokens

    def done(self, node: Node) -> list[Node]:
        """A node is done; its children may become ready, and a tool that was guessed is under way or done already.

        Returns the nodes that are done now.
        """
        done = [node]
        self.left -= 1
        if self.forecast:
            self.forecast.finished(node.id)
        for child in self.workflow.children[node.id]:
            self.waits[child] -= 1
            if self.waits[child]:
                continue
            position = self.workflow.position[child]
            if child not in self.guesses:
                insort(self.ready, position)
            elif self.guesses[child]:
                done += self.done(self.workflow.nodes[position])
            else:
                self.tools_in_flight += 1
        return done

    def guessed(self, tool: Tool) -> bool:
        """A guessed tool is done: whether it was waited for, so that it counts now."""
        self.guesses = {**self.guesses, tool.id: True}
        return not self.waits[tool.id]

    def is_waited_for(self, start: Start) -> bool:
        """Whether the workflow goes on with the node's end: not of a wrong guess, or before it is known to be right."""
        return start.purpose == "work" or (start.purpose == "guess" and not self.waits[start.node.id])

    def next_tools(self, call: Call) -> list[Tool]:
        """The tools that wait for this call only."""
        return [node for node in self._children(call) if isinstance(node, Tool) and self.waits[node.id] == 1]

    def next_calls(self, tool: Tool) -> list[Call]:
        """The calls that wait for this tool only."""
        return [node for node in self._children(tool) if isinstance(node, Call) and self.waits[node.id] == 1]

    def known_part(self, call: Call) -> tuple[Segment, ...]:
        """The segments with which its prompt begins, as far as each was sent or answered before."""
        known = list(call.prompt)
        for index, segment in enumerate(call.prompt):
            if segment.segment_id not in self.known:
                del known[index:]
                break
        return tuple(known)

    def _ready_nodes(self) -> list[Node]:
        return [self.workflow.nodes[index] for index in self.ready]

    def _children(self, node: Node) -> list[Node]:
        workflow = self.workflow
        return [workflow.nodes[workflow.position[child]] for child in workflow.children[node.id]]
