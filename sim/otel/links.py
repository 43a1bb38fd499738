"""Which calls and tools of a trace wait for which: by what is proven, and by time."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from sim.otel.dialects import Tokens, tool_call
from sim.otel.export import Span
from sim.otel.messages import Said, plain
from sim.workflow import EdgeKind

#: Characters from which on an answer cannot stand in a message by chance.
_LONG = 50
#: Texts that begin alike: so many are compared with a place, the last ones.
_TRIES = 32
_NO_TOKENS = Tokens(None, None, 0, 0)

#: The attribute in which our own export says what a span waits for.
DEPENDENCIES = "workspan.dependencies"


class Dependency(NamedTuple):
    """One that is told: an edge from the node with that span."""

    kind: EdgeKind
    used: bool
    span: str

    def __str__(self) -> str:
        return f"{self.kind} {'used' if self.used else 'unused'} {self.span}"


@dataclass(slots=True)
class Node:
    """A call or a tool, with what its span says.

    ``text`` is the answer or the tool's result; ``made`` are the tool calls in it, ``passed`` their longer arguments.
    ``waits``: number of another node -> how it is known, and whether it is used.
    """

    span: Span
    is_call: bool
    name: str
    began: int
    ended: int
    prompt: list[Said] | None = None
    text: str = ""
    made: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    tokens: Tokens = _NO_TOKENS
    waits: dict[int, tuple[EdgeKind, bool]] = field(default_factory=dict)
    #: Text of an answer in the prompt -> the number of the call that gave it.
    answers: dict[str, int] = field(default_factory=dict)


def link(nodes: Sequence[Node]) -> None:
    """Let each node wait for those that it needs, and for the last that had ended when it began.

    Where every span tells what it waits for, it waits for that.
    """
    if are_told(nodes):
        _link_as_told(nodes)
        return
    proof = _Proof(nodes)
    before: list[int] = []  # for each node the set of those that are known to come before it, as bits
    running: list[tuple[int, int]] = []
    ended: list[int] = []
    for number, node in enumerate(nodes):
        covered = 0
        for other in sorted(proof.parents(node), reverse=True):
            if not covered >> other & 1:
                node.waits[other] = "visible", True
                covered |= before[other] | 1 << other
        before.append(covered)
        while running and running[0][0] <= node.began:
            ended.append(heapq.heappop(running)[1])
        proven = bool(node.waits)
        for other in _last(nodes, ended):
            if not covered >> other & 1:
                # The result of a tool that did not record it may be in the prompt.
                missing = bool(nodes[other].text) or not node.is_call
                node.waits[other] = "recorded", not (proven and missing)
        heapq.heappush(running, (node.ended, number))
        proof.add(number)


def are_told(nodes: Sequence[Node]) -> bool:
    """Every span says what it waits for."""
    return all(isinstance(node.span.attributes.get(DEPENDENCIES), list) for node in nodes)


def _link_as_told(nodes: Sequence[Node]) -> None:
    numbers = {node.span.id: number for number, node in enumerate(nodes)}
    for node in nodes:
        for one in map(_dependency, node.span.attributes[DEPENDENCIES]):
            if one and one.span in numbers:
                node.waits[numbers[one.span]] = one.kind, one.used


def _dependency(text: Any) -> Dependency | None:
    """What is told, or None where it is of another form."""
    kind, used, span = [*str(text).split(" "), "", ""][:3]
    known = next((name for name in get_args(EdgeKind) if name == kind), None)
    return Dependency(known, used == "used", span) if known else None


def _last(nodes: Sequence[Node], ended: Sequence[int]) -> Iterator[int]:
    """Of the nodes that have ended, in that order, those after which no other of them began."""
    latest: float = float("-inf")
    for other in reversed(ended):
        if nodes[other].ended <= latest:
            return
        yield other
        latest = max(latest, nodes[other].began)


class _Proof:
    """What earlier nodes gave, by its text and by its id, to find it again in what later ones got."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._answers: defaultdict[str, list[int]] = defaultdict(list)
        self._results: defaultdict[str, list[int]] = defaultdict(list)
        self._made: defaultdict[str, list[int]] = defaultdict(list)
        self._carried_out: defaultdict[str, list[int]] = defaultdict(list)
        self._long: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        self._quoted: dict[str, set[int]] = {}

    def add(self, number: int) -> None:
        """Take note of what the node gave."""
        node = self._nodes[number]
        if node.text:
            (self._answers if node.is_call else self._results)[node.text].append(number)
        for call in node.made:
            self._made[call].append(number)
        if not node.is_call and (call := tool_call(node.span)):
            self._carried_out[call].append(number)
        for text in (node.text.strip(), *node.passed):
            if len(text) >= _LONG:
                self._long[text[:_LONG]].append((text, number))

    def parents(self, node: Node) -> set[int]:
        """The numbers of the nodes of which it is shown that this one needs them."""
        if not node.is_call:
            return self._ended(self._made, tool_call(node.span), node)
        found: set[int] = set()
        for one in node.prompt or ():
            if one.role == "tools" or not (one.text or one.answers):
                continue
            answers = self._ended(self._answers, one.text, node)
            node.answers.update((one.text, number) for number in answers)
            found |= answers
            found |= self._ended(self._carried_out, one.answers, node) or self._ended(
                self._results, plain(one.text), node
            )
            if one.text not in self._quoted:
                self._quoted[one.text] = set(self._quotes(one.text, node))
            found |= self._quoted[one.text]
        return found

    def _ended(self, index: Mapping[str, Sequence[int]], key: str, node: Node) -> set[int]:
        """The last one there that had ended when the node began, if any."""
        numbers = reversed(index[key]) if key and key in index else ()
        return set(next(([number] for number in numbers if self._nodes[number].ended <= node.began), []))

    def _quotes(self, text: str, node: Node) -> Iterator[int]:
        """Those whose text stands in this one. What is first seen later cannot be older, so one look is enough."""
        place = 0
        while self._long and place <= len(text) - _LONG:
            step = 1
            for quoted, number in reversed(self._long.get(text[place : place + _LONG], [])[-_TRIES:]):
                if self._nodes[number].ended <= node.began and text.startswith(quoted, place):
                    yield number
                    step = len(quoted)
                    break
            place += step
