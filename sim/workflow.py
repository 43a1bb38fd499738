"""One recorded multi-agent run as a graph of LLM calls and tools, with its work and span."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from sim.errors import WorkflowError, quoted

EdgeKind = Literal["recorded", "visible", "control", "assumed"]
EDGE_KINDS: tuple[str, ...] = get_args(EdgeKind)

#: Seconds, some four months: sums of longer times are no longer exact to the step, and in the end not finite.
MAX_TOOL_S = 1e7
#: Seconds since whatever a recording's clock counts from, some 3,000 years: a float is exact to 20 us there.
MAX_CLOCK_S = 1e11
#: Of a call, prompt and answer: more than any model reads.
MAX_TOKENS = 100_000_000
#: Characters. A longer name is a text that got into the wrong place.
MAX_NAME = 1000
#: How ids of segments begin whose text was not recorded: their lengths are estimates.
UNKNOWN = "unknown:"
#: What stands in the id of a resampled workflow between the original's id and its own number.
COPY = "#"
#: The name of a tool that is no tool but the recorded time the client took between two calls.
CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens that always occurs whole.

    Two prompts share a prefix exactly as far as their lists of segments agree.
    """

    segment_id: str
    num_tokens: int

    @property
    def is_unknown(self) -> bool:
        """Its text was not recorded; its length is an estimate."""
        return self.segment_id.startswith(UNKNOWN)


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call: who makes it and of which segments its prompt is made.

    ``answer_id`` is the segment id of what it will generate; how long that gets is on the `Tape`.
    """

    id: str
    agent: str
    prompt: tuple[Segment, ...]
    answer_id: str

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return sum(segment.num_tokens for segment in self.prompt)

    @property
    def answer_is_unknown(self) -> bool:
        """What it generated was not recorded; its length is an estimate."""
        return self.answer_id.startswith(UNKNOWN)


@dataclass(frozen=True, slots=True)
class Tool:
    """Work outside the GPU. How long it takes is on the `Tape`."""

    id: str
    name: str


Node = Call | Tool


@dataclass(frozen=True, slots=True)
class Edge:
    """``child`` cannot start before ``parent`` has finished; ``kind`` says on what evidence.

    recorded: log order. visible: the parent's output is in the child's prompt. control: a barrier or
    a test between them. assumed: a rule not proven for this trace. ``used`` is false where the child's prompt
    was seen and the parent's text is not in it, so that only the framework's rule lets it wait.
    """

    parent: str
    child: str
    kind: EdgeKind
    used: bool = True


@dataclass(frozen=True, slots=True)
class Tape:
    """What only an engine may know: output tokens of each call, seconds of each tool (None: unknown).

    ``times``: when a node began and ended in the recorded run, in seconds from the run's begin, where that is known.
    """

    output_tokens: Mapping[str, int]
    tool_s: Mapping[str, float | None]
    times: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Workflow:
    """One recorded multi-agent run. ``nodes`` are in log order; ``tokenizer`` names who counted the tokens.

    ``began_s``: when it began, in seconds on a clock that the runs of one recording share, where that is known.

    Raises WorkflowError, naming the node, for a name that cannot be printed, a duplicate id, a dangling edge,
    a cycle, a segment with two lengths, or a tape that does not fit the nodes.
    """

    id: str
    framework: str
    task: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    tape: Tape
    tokenizer: str = "unknown"
    labels: Mapping[str, bool] = field(default_factory=dict)
    success: bool | None = None
    notes: tuple[str, ...] = ()
    began_s: float | None = None

    def __post_init__(self) -> None:
        self._check_names()
        self._check_nodes()
        self._check_edges()
        self._check_lengths()
        self._check_times()
        assert len(self.order) == len(self.nodes)

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """The LLM calls, in log order."""
        return tuple(node for node in self.nodes if isinstance(node, Call))

    @cached_property
    def tools(self) -> tuple[Tool, ...]:
        """The tools, in log order."""
        return tuple(node for node in self.nodes if isinstance(node, Tool))

    def num_tokens(self, call: Call) -> int:
        """Tokens of the call's prompt and answer."""
        return call.num_prompt_tokens + self.tape.output_tokens[call.id]

    @cached_property
    def parents(self) -> Mapping[str, tuple[str, ...]]:
        """Node id -> ids it waits for."""
        return self._adjacency((edge.child, edge.parent) for edge in self.edges)

    @cached_property
    def children(self) -> Mapping[str, tuple[str, ...]]:
        """Node id -> ids that wait for it."""
        return self._adjacency((edge.parent, edge.child) for edge in self.edges)

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Node id -> index in the log."""
        return {node.id: index for index, node in enumerate(self.nodes)}

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Topological order (Kahn 1962); among ready nodes log order decides. Raises on a cycle."""
        position = self.position
        waits = {node: len(parents) for node, parents in self.parents.items()}
        ready = [position[node] for node, count in waits.items() if count == 0]
        done: list[str] = []
        while ready:
            node = self.nodes[heapq.heappop(ready)].id
            done.append(node)
            for child in self.children[node]:
                waits[child] -= 1
                if waits[child] == 0:
                    heapq.heappush(ready, position[child])
        if len(done) < len(self.nodes):
            raise WorkflowError(
                f"workflow {self.id}: node {self._on_cycle(waits)!r} waits for itself (cycle); remove an edge"
            )
        return tuple(done)

    @cached_property
    def levels(self) -> Mapping[str, int]:
        """Node id -> length in edges of the longest path that leads to it."""
        level: dict[str, int] = {}
        for node in self.order:
            level[node] = 1 + max((level[parent] for parent in self.parents[node]), default=-1)
        return level

    def work(self, seconds: Mapping[str, float] | None = None) -> float:
        """Sum over all nodes; without ``seconds`` a call counts 1 and a tool 0."""
        seconds = self._weights(seconds)
        return sum(seconds[node.id] for node in self.nodes)

    def span(self, seconds: Mapping[str, float] | None = None) -> float:
        """Length of the critical path: no schedule finishes the workflow faster."""
        seconds = self._weights(seconds)
        return sum(seconds[node] for node in self.critical_path(seconds))

    def parallelism(self, seconds: Mapping[str, float] | None = None) -> float:
        """Work / span (Brent 1974): the most any schedule can gain over one node at a time."""
        span = self.span(seconds)
        return self.work(seconds) / span if span > 0 else 1.0

    def critical_path(self, seconds: Mapping[str, float] | None = None) -> tuple[str, ...]:
        """Node ids of a longest path, first to last; ties go to the earlier node of the log."""
        _, ends = self.timeline(seconds)
        path: list[str] = []
        node = max(self.order, key=ends.__getitem__, default=None)
        while node is not None:
            path.append(node)
            node = max(self.parents[node], key=ends.__getitem__, default=None)
        return tuple(reversed(path))

    def timeline(self, seconds: Mapping[str, float] | None = None) -> tuple[dict[str, float], dict[str, float]]:
        """When each node begins, and when it ends, if it waits for its parents only."""
        seconds = self._weights(seconds)
        begins: dict[str, float] = {}
        ends: dict[str, float] = {}
        for node in self.order:
            begins[node] = max((ends[parent] for parent in self.parents[node]), default=0.0)
            ends[node] = begins[node] + seconds[node]
        return begins, ends

    def _weights(self, seconds: Mapping[str, float] | None) -> Mapping[str, float]:
        if seconds is not None:
            return seconds
        return {node.id: float(isinstance(node, Call)) for node in self.nodes}

    def _adjacency(self, pairs: Iterable[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
        lists: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for one, other in pairs:
            lists[one][other] = None
        return {node.id: tuple(lists[node.id]) for node in self.nodes}

    def _on_cycle(self, waits: Mapping[str, int]) -> str:
        """A node of a cycle: walk up from any node that is still waiting until one comes twice."""
        node = next(node for node, count in waits.items() if count > 0)
        seen: set[str] = set()
        while node not in seen:
            seen.add(node)
            node = next(parent for parent in self.parents[node] if waits[parent] > 0)
        return node

    def _check_names(self) -> None:
        """Every name can be shown on one line and read back; only the task may have none."""
        names = (self.id, self.framework, self.task or "none", self.tokenizer, *self.labels, *self.notes)
        for name in (*names, *sorted(self._ids())):
            if not (0 < len(name) <= MAX_NAME and name.isprintable()):
                raise WorkflowError(
                    f"workflow {self.id[:100]!r}: {name[:100]!r} is no name; give 1 to {MAX_NAME} printable characters"
                )

    def _ids(self) -> set[str]:
        """The names of nodes, of those who run them, and of segments."""
        names = {node.id for node in self.nodes} | {tool.name for tool in self.tools}
        names |= {name for call in self.calls for name in (call.agent, call.answer_id)}
        return names | {segment.segment_id for call in self.calls for segment in call.prompt}

    def _check_nodes(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.id in seen:
                raise WorkflowError(f"workflow {self.id}: node {node.id!r} occurs twice; give each its own id")
            seen.add(node.id)
        if not self.calls:
            raise WorkflowError(f"workflow {self.id}: no LLM call; leave it out, or add one")
        for ids, name in ((self.calls, "output_tokens"), (self.tools, "tool_s")):
            if {node.id for node in ids} != set(getattr(self.tape, name)):
                raise WorkflowError(f"workflow {self.id}: the tape's {name} must name each such node once")

    def _check_edges(self) -> None:
        known = {node.id for node in self.nodes}
        for edge in self.edges:
            for end in (edge.parent, edge.child):
                if end not in known:
                    raise WorkflowError(
                        f"workflow {self.id}: an edge names {quoted(end)}, which does not exist; add the node or remove"
                        " the edge"
                    )
            if edge.kind not in EDGE_KINDS:
                raise WorkflowError(
                    f"workflow {self.id}: edge {edge.parent} -> {edge.child} is of no known kind "
                    f"({quoted(edge.kind)}; one of {', '.join(EDGE_KINDS)})"
                )
        pairs = Counter((edge.parent, edge.child) for edge in self.edges)
        for (parent, child), number in pairs.items():
            if number > 1:
                raise WorkflowError(f"workflow {self.id}: {number} edges {parent} -> {child}; give one")

    def _check_lengths(self) -> None:
        lengths = {call.answer_id: self.tape.output_tokens[call.id] for call in self.calls}
        for call in self.calls:
            if lengths[call.answer_id] < 1 or self.tape.output_tokens[call.id] != lengths[call.answer_id]:
                raise WorkflowError(f"workflow {self.id}: call {call.id!r} needs one output length of at least 1")
            if self.num_tokens(call) > MAX_TOKENS:
                raise WorkflowError(
                    f"workflow {self.id}: call {call.id!r} has more than {MAX_TOKENS:,} tokens; correct its lengths"
                )
            if not call.prompt:
                raise WorkflowError(
                    f"workflow {self.id}: call {call.id!r} has an empty prompt; give it a segment of 1 token or more"
                )
            for segment in call.prompt:
                known = lengths.setdefault(segment.segment_id, segment.num_tokens)
                if segment.num_tokens < 1 or known != segment.num_tokens:
                    elsewhere = f", elsewhere {known}" if known != segment.num_tokens else ""
                    raise WorkflowError(
                        f"workflow {self.id}: call {call.id!r}, segment {segment.segment_id!r} has "
                        f"{segment.num_tokens} tokens{elsewhere}; give it one length of at least 1"
                    )

    def _check_times(self) -> None:
        for tool, seconds in self.tape.tool_s.items():
            if seconds is not None and not 0 <= seconds <= MAX_TOOL_S:
                raise WorkflowError(
                    f"workflow {self.id}: tool {tool!r} must take 0 to {MAX_TOOL_S:g} s; correct it, or give null"
                )
        known = {node.id for node in self.nodes}
        for node, (began, ended) in self.tape.times.items():
            if node not in known or not 0 <= began <= ended <= MAX_TOOL_S:
                raise WorkflowError(
                    f"workflow {self.id}: the recorded time of {node!r} must be that of a node, from its begin to its"
                    f" end within 0 to {MAX_TOOL_S:g} s; correct it, or leave it out"
                )
        if self.began_s is not None and not abs(self.began_s) <= MAX_CLOCK_S:
            raise WorkflowError(
                f"workflow {self.id}: it began at {self.began_s:g} s; give {MAX_CLOCK_S:g} s at most, or none"
            )


def origin_of(workflow_id: str) -> str:
    """The id of the workflow that a resampled one is a copy of, or its own."""
    return workflow_id.partition(COPY)[0]
