"""ChatDev logs: text whose records begin with ``[YYYY-DD-MM HH:MM:SS LEVEL] `` (`sim.chatdev_log` reads them).

A run is a chain of phases, each a conversation of an assistant with a user. An answer ("<role>: **A<->B on : Phase,
turn i**") is a call. "[Test Reports]" ends a run of the software, "[CMD Execute]" one of pip, an HTTP line to another
server a request: tools. Prompts are rebuilt from what the log shows (`sim.chatdev_client`). An answer that nothing
follows may be cut off and is left out. Not recorded: whether the run succeeded.

Dependencies: within a phase a prompt holds the answer before it (visible). A phase begins when the one before it has
ended; that edge is visible where the phase's first message holds the text, else assumed (a test run's: control). To
hold it is to have the whole text or more than 30 % of its lines of over 15 characters, its short conclusion in the
place for it ('Modality: "application"'), or a list of requirements that is not empty. Added are the edges from the
calls whose products the message has places for.

One edge is not used: where the list of requirements that Manual is given is empty, it reads nothing of EnvironmentDoc
and of the reflection on it. Then it waits for the codes and for what EnvironmentDoc itself waited for. Everywhere else
a product may have come reworded or in part, and the edge stays.

Times are measured, to the second: a call ends with its HTTP line, a tool with its record, and neither began before the
record before it. A second or more from one end to the next begin is the client's, be it work or a request that failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sim.chat import Recorder, Times, prompts
from sim.chatdev_client import client_of, conversations
from sim.chatdev_log import Log, Run, Start, Turn, begins_like_one, parse
from sim.errors import TraceError
from sim.traces import Document, LoadOptions, Skipped
from sim.workflow import CLIENT, Edge, EdgeKind, Segment, Workflow

FRAMEWORK = "ChatDev"

#: Phase -> products of other phases that its first message has places for.
_READS = {
    "LanguageChoose": ("modality",),
    "Coding": ("modality", "language"),
    "CodeComplete": ("codes",),
    "CodeReviewComment": ("codes",),
    "CodeReviewModification": ("codes", "comments"),
    "TestErrorSummary": ("codes", "test reports"),
    "TestModification": ("codes", "test reports", "error summary"),
    "EnvironmentDoc": ("codes",),
    "Manual": ("codes", "requirements"),
}
_MAKES = {
    "DemandAnalysis": "modality",
    "LanguageChoose": "language",
    "Coding": "codes",
    "CodeComplete": "codes",
    "CodeReviewComment": "comments",
    "CodeReviewModification": "codes",
    "TestErrorSummary": "error summary",
    "TestModification": "codes",
    "EnvironmentDoc": "requirements",
}
_REFLECTION = "Reflection"  # makes anew what the phase before it made
_DOCUMENTATION, _MANUAL = "EnvironmentDoc", "Manual"

_PLACE = re.compile(
    r'(?:Modality|Programming Language|Comments on Codes|Error Summary of Test Reports):\s{0,9}"([^"\n]{1,100})"'
)
_REQUIREMENTS = re.compile(r'^Requirements:\s*"(\s*")?', re.MULTILINE)

#: Characters. A shorter line, a shorter answer may stand in a message by chance.
_LONG_LINE, _LONG_ANSWER = 16, 8
_SHARE = 0.3
#: Seconds. Less is within the clock's resolution.
_SHORTEST_WAIT_S = 1.0


def looks_like(document: Document) -> bool:
    """A log that begins with a stamped record in which ChatDev starts."""
    return begins_like_one(document.text)


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflow of one log."""
    log = parse(document.text)
    client = client_of(log)
    segments = prompts(list(conversations(log, client)), options.tokenizer, client.wrapping)
    if not segments:
        raise TraceError("the log ends before an agent has answered; copy it again, or leave it out")
    recorder = Recorder(options.tokenizer, document.name)
    _Chain(recorder).record(log, segments)
    notes = _notes(log, client.limit, segments)
    yield recorder.workflow(f"chatdev/{document.name}", FRAMEWORK, log.project, notes=tuple(notes))


def _notes(log: Log, limit: int | None, segments: list[tuple[Segment, ...]]) -> Iterator[str]:
    if log.is_flat:
        yield "ChatDev: the server was sent strings, whose form is the client's and is not in the log"
    if not log.is_whole:
        yield "ChatDev: the log ends before the run did; the answers up to there are loaded"
    if log.has_failures:
        yield "ChatDev: requests failed and were sent again; the time of those that failed counts as the client's"
    if log.lacks_answers:
        yield "ChatDev: LLM calls whose answers are not in the log are left out"
    if limit and any(sum(segment.num_tokens for segment in prompt) > limit for prompt in segments):
        yield f"ChatDev: the client dropped messages of prompts of over {limit:,} tokens; here they are whole"


class _Wait(NamedTuple):
    kind: EdgeKind
    used: bool = True


@dataclass(slots=True)
class _Chain:
    """Records node after node. ``products``: what phases made -> the newest node that made it; "" is no node."""

    recorder: Recorder
    last: str = ""
    last_call: str = ""
    ended_s: float | None = 0.0
    making: str = ""
    products: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    before_documentation: str = ""

    def record(self, log: Log, segments: Iterable[tuple[Segment, ...]]) -> None:
        """All nodes of the log; the calls have these prompts."""
        rest = iter(segments)
        opening: Start | None = None
        for event in log.events:
            if isinstance(event, Start):
                opening = event
            elif isinstance(event, Run):
                self._run(event)
            else:
                waits = self._opens(event.phase, opening.prompt) if opening else self._goes_on()
                self._turn(event, waits, next(rest))
                opening = None

    def _run(self, run: Run) -> None:
        """A tool works on the codes, after the one who decided that it is its turn."""
        codes = self.products.get("codes", self.last)
        waits = {self.last: _Wait("control"), codes: _Wait("assumed")}
        self._client(run.times, waits)
        duration_s = run.times[1] - run.times[0] if run.times else None
        self._add(self.recorder.tool(run.tool, duration_s, run.times), run.output, waits)
        if run.tool == "python":
            self.products["test reports"] = self.last
            self.products.pop("error summary", None)

    def _turn(self, turn: Turn, waits: dict[str, _Wait], prompt: tuple[Segment, ...]) -> None:
        self._client(turn.times, waits)
        self._add(self.recorder.call(turn.agent, prompt, turn.answer, turn.times), turn.answer, waits)
        self.last_call = self.last
        if turn.phase != _REFLECTION:
            self.making = _MAKES.get(turn.phase, "")
        if self.making:
            self.products[self.making] = self.last

    def _goes_on(self) -> dict[str, _Wait]:
        """What a later call of a phase waits for."""
        return {self.last: _Wait("control"), self.last_call: _Wait("visible")}

    def _opens(self, phase: str, message: str) -> dict[str, _Wait]:
        """What the call waits for that answers a phase's first message."""
        read: dict[str, list[str]] = {self.last: []}
        for product in _READS.get(phase, ()):
            if product in self.products:
                read.setdefault(self.products[product], []).append(product)
        holds = _Holds(message)
        waits = {node: _Wait(self._kind(node, products, holds)) for node, products in read.items()}
        if phase == _DOCUMENTATION:
            self.before_documentation = self.last
        if phase == _MANUAL and read[self.last] == ["requirements"] and holds.requirements is False:
            waits[self.last] = _Wait("assumed", used=False)
            before = self.before_documentation
            waits.setdefault(before, _Wait("control" if before.startswith("tool") else "assumed"))
        return waits

    def _kind(self, node: str, products: list[str], holds: _Holds) -> EdgeKind:
        text = self.texts.get(node, "")
        if holds.text(text) or any(holds.product(product, text) for product in products):
            return "visible"
        return "control" if node.startswith("tool") else "assumed"

    def _client(self, times: Times | None, waits: dict[str, _Wait]) -> None:
        """Time between the node before and this one: a tool that waits for the same, and that this one waits for."""
        began_s, ended_s = times or (None, None)
        if self.ended_s is not None and began_s is not None and began_s - self.ended_s >= _SHORTEST_WAIT_S:
            client = self.recorder.tool(CLIENT, began_s - self.ended_s, (self.ended_s, began_s))
            self._edges(client, {node: _Wait("recorded", wait.used) for node, wait in waits.items()})
            waits[client] = _Wait("recorded")
        self.ended_s = ended_s

    def _add(self, node: str, text: str, waits: dict[str, _Wait]) -> None:
        self._edges(node, waits)
        self.texts[node] = text
        self.last = node

    def _edges(self, child: str, waits: dict[str, _Wait]) -> None:
        self.recorder.edges += [Edge(node, child, *wait) for node, wait in waits.items() if node]


class _Holds:
    """What a phase's first message has of earlier texts. Blanks and empty lines do not count: clients drop them."""

    def __init__(self, message: str) -> None:
        lines = _lines(message)
        self._lines = set(lines)
        self._whole = "\n".join(lines)
        self._conclusions = {_conclusion(match[1]) for match in _PLACE.finditer(message)}
        lists = list(_REQUIREMENTS.finditer(message))
        #: Whether the list of requirements has something in it; None where there is none.
        self.requirements = lists[-1][1] is None if lists else None

    def text(self, text: str) -> bool:
        """The whole text, or more than 30 % of its longer lines."""
        lines = _lines(text)
        long = [line for line in lines if len(line) >= _LONG_LINE]
        if sum(line in self._lines for line in long) > _SHARE * len(long):
            return True
        whole = "\n".join(lines)
        return len(whole) >= _LONG_ANSWER and whole in self._whole

    def product(self, product: str, text: str) -> bool:
        """What became of the text: a short conclusion in its place, or a list of requirements."""
        if product == "requirements":
            return self.requirements is True
        return _conclusion(text) in self._conclusions


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _conclusion(text: str) -> str:
    """What stands behind the mark, as the client writes it."""
    return text.rpartition("<INFO>")[2].replace(".", " ").strip().lower()
