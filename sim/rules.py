"""What a scheduling rule may know, and what it decides.

A policy is rules put together, at most one of each kind. A rule is a frozen dataclass in a file of its own; its fields
are its parameters. It never sees a clock, the future, or an answer's length: what it is told is all here, and what
it is told of one workflow is plain data, so that nothing else can be reached from it.

A rule is a value and remembers nothing. One that has to gets, as ``memory``, what its `Rule.begin` has made for the
run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from sim.detector import Detector
from sim.foresight import Estimate, Information
from sim.retention import Retention as Kept
from sim.signals import Signals
from sim.workflow import Call, Node, Segment

#: Who can carry a rule out: any client; a client of a vLLM that is started for it; no vLLM as it is.
RunsOn = Literal["client side", "public API", "simulation only"]


#: vLLM's setting -> value: what a rule may need.
PRIORITY: Mapping[str, object] = {"scheduling_policy": "priority"}
PREFIX_CACHE: Mapping[str, object] = {"enable_prefix_caching": True}
NOTHING: Mapping[str, object] = {}


class View(NamedTuple):
    """What a client knows of one workflow now.

    ``ready``: nodes whose parents are done, in log order. ``service_s`` and ``waited_s``: seconds its finished calls
    were served, and waited before. ``context_tokens``: prompt and answer of the call that finished last.
    ``acting_since_s``: since when only tools of it are under way. ``replica``: where its last call went. ``warned``: a
    detector says that it will fail.
    """

    session: int
    framework: str
    arrived_s: float
    ready: tuple[Node, ...]
    calls_in_flight: int
    tools_in_flight: int
    calls_done: int
    service_s: float
    waited_s: float
    context_tokens: int
    acting_since_s: float | None
    replica: int | None
    warned: bool


class Submission(NamedTuple):
    """A call that is about to be sent, and what it waited for.

    ``estimate``: of its workflow's future, where the rule has the information that it asks for.
    """

    call: Call
    parents: tuple[str, ...]
    estimate: Estimate | None = None


class Served(NamedTuple):
    """A finished call as its client measured it: seconds of service, and seconds in the queue before."""

    service_s: float
    waited_s: float
    num_prompt_tokens: int
    num_output_tokens: int


class Replica(NamedTuple):
    """An engine that could take a call: what this client has under way there."""

    number: int
    calls_in_flight: int
    tokens_in_flight: int


@dataclass(frozen=True)
class Rule:
    """Answers one question of scheduling. Its docstring says rule, information and source."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str]
    runs_on: ClassVar[RunsOn]
    #: What the engine must be set to: vLLM's setting -> value.
    needs: ClassVar[Mapping[str, object]] = NOTHING

    def begin(self) -> Any:
        """What the rule remembers during one run, to be changed by its methods."""
        return None

    def arrived(self, view: View, memory: Any) -> None:
        """A workflow starts."""

    def finished(self, node: Node, parents: tuple[str, ...], served: Served | None, view: View, memory: Any) -> None:
        """A node of a workflow is done; a tool has not been served."""

    def over(self, view: View, memory: Any) -> None:
        """Nothing of the workflow is under way and nothing will be."""


class Dispatch(Rule, ABC):
    """Which ready nodes of a workflow start now."""

    kind = "dispatch"
    runs_on: ClassVar[RunsOn] = "client side"

    @abstractmethod
    def select(self, view: View) -> Sequence[Node]:
        """The nodes of ``view.ready`` to start now, first to last."""


class Order(Rule, ABC):
    """Which of the waiting calls goes first: the priority with which a call is sent, fixed from then on."""

    kind = "order"
    runs_on: ClassVar[RunsOn] = "public API"
    needs = PRIORITY

    @abstractmethod
    def key(self, submission: Submission, view: View, memory: Any) -> float:
        """Smaller goes first; it is sent in thousandths."""


@dataclass(frozen=True)
class Informed(Order):
    """An order that needs to know the future: its name says from where (`sim.foresight`).

    ``NAME_oracle`` knows it, ``NAME_noisy:error=0.3`` is off by up to 30 % for each workflow, ``NAME_mean`` has
    learned from other workflows only.
    """

    information: Information = "oracle"
    error: float = 0.0


class Gate(Rule, ABC):
    """Which workflows may start nodes now; the others wait, what they have under way goes on."""

    kind = "gate"
    runs_on: ClassVar[RunsOn] = "client side"

    #: Seconds between two looks at the engine.
    every_s: float

    @abstractmethod
    def tick(self, signals: Signals, sessions: Sequence[View], now_s: float, memory: Any) -> None:
        """The engine as it is now, and the workflows that are not over, in the order of their arrival."""

    @abstractmethod
    def admitted(self, sessions: Sequence[View], memory: Any) -> Collection[int]:
        """The sessions that may start nodes."""


class Router(Rule, ABC):
    """Which replica takes a call."""

    kind = "router"
    runs_on: ClassVar[RunsOn] = "client side"

    @abstractmethod
    def route(self, submission: Submission, view: View, replicas: Sequence[Replica], memory: Any) -> int:
        """The number of one of the replicas, of which there are several."""


class Retention(Rule, ABC):
    """What becomes of KV blocks that no running request holds; `sim.retention` has what the simulated engine does."""

    kind = "retention"
    runs_on: ClassVar[RunsOn] = "simulation only"
    #: How far a call to come is: in seconds or in nodes of the longest path to it; None: not asked.
    distance: ClassVar[Literal["seconds", "nodes"] | None] = None
    #: Whether it knows workflows before they arrive.
    foresees_arrivals: ClassVar[bool] = False

    @property
    @abstractmethod
    def kept(self) -> Kept:
        """What the engine keeps."""


class Ahead(Rule, ABC):
    """Whether the known part of the next prompt is prefilled while a tool runs."""

    kind = "ahead"
    runs_on: ClassVar[RunsOn] = "client side"
    needs = PREFIX_CACHE

    @abstractmethod
    def wants(self, known: tuple[Segment, ...], view: View) -> bool:
        """Whether to send these segments, with which the next prompt begins, for one token now."""


class Speculation(Rule, ABC):
    """Whether a tool is started before the call has ended that decides about it."""

    kind = "speculation"
    runs_on: ClassVar[RunsOn] = "client side"

    @abstractmethod
    def guessed(self, workflow_id: str, tool_id: str) -> bool:
        """Whether the guess is right; a wrong one runs in vain."""


class Verdict(Rule, ABC):
    """What becomes of a workflow when a detector says that it will fail."""

    kind = "verdict"
    runs_on: ClassVar[RunsOn] = "client side"
    #: Whether it is stopped; otherwise it goes on, behind all others.
    aborts: ClassVar[bool]

    @property
    @abstractmethod
    def detector(self) -> Detector:
        """Who warns; not part of the policy, which sees only the warning."""


KINDS: tuple[type[Rule], ...] = (Dispatch, Order, Gate, Router, Retention, Ahead, Speculation, Verdict)
