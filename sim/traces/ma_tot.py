"""MA-ToT, multi-agent tree of thoughts: JSON with ``instance_id`` and a ``trajectory`` that is a list of log lines.

In a round several reasoners each generate five thoughts from one prompt, let five votes choose one, generate five
that go on from it, and vote again; a verifier then judges each reasoner's last thought. Rounds follow until two
verified reasoners agree. Every sequence is a call, as if each of a step's five were a request of its own: 63 calls of
depth 5 in a round of three reasoners. A thought of a later step repeats the chosen one, which is not its output.

Dependencies. Visible: whose thoughts stand in the prompt, so all thoughts of a step -> its votes, the chosen thought ->
the next step's generations and the verifier. Control: the client counts the votes, so all votes of a step -> what
follows the choice; and it tests whether the verified answers agree, so all verifiers of a round -> the next round.
Nothing shows that a later round reads what the verifiers said. That the reasoners run at the same time is what the
dependencies permit; the log lists one after the other.

Recorded: the problem, the thoughts, the number of votes, the verifiers' texts. Assumed: all reasoners have the same
prompts, and templates stand before what they are about. Estimated: the lengths of the templates and of the votes. Not
recorded: times, token counts, whether the answer is right (an expected answer is there, the run's is cut to digits).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.chat import Recorder, prompt, unknown_system
from sim.errors import TraceError
from sim.masft import labels
from sim.traces import Document, LoadOptions, Skipped, identifier, segment_id
from sim.workflow import Edge, EdgeKind, Segment, Workflow

FRAMEWORK = "MA-ToT"

#: Tokens of the templates, a guess: how to lay out a thought; how to choose, with five headings; five criteria.
_TEMPLATES = {"generation": 60, "vote": 70, "verification": 250}
#: Tokens of a vote, which judges five thoughts as a verification judges one: the median verification has 399.
_VOTE = 400
#: Reasoners of a round, steps, thoughts of a step, votes on them: the known trees have 3, 2, 5 and 5.
_MOST = 10
#: Characters of a list of thoughts; the longest known has 20,000.
_LONGEST = 1_000_000

_NOTES = (
    f"MA-ToT: the votes' texts were not recorded, each is estimated as {_VOTE} tokens",
    "MA-ToT: prompt templates were not recorded, their lengths are estimated",
    "MA-ToT: five thoughts or votes of a step count as calls side by side; if they are one request with n=5 and if the"
    " reasoners run side by side, work / span is 3 instead of 12.6",
)
_CUT_OFF = "MA-ToT: the log ends before an answer was decided on, later calls may be missing"

_ROUND = re.compile(r"#{10} Round [0-9]{1,6} #{10}")
_REASONER = re.compile(r"\*{5} Reasoner ([0-9]{1,6}) output: \*{5}")
_BEGIN = re.compile(f"{_ROUND.pattern}|{_REASONER.pattern}")
_VERDICT = re.compile(r"Reasoner ([0-9]{1,6}): Answer: .*, Verified: (?:True|False)")
_LISTS = {
    "Generated thoughts: ": "thoughts",
    "Votes for each thought: ": "votes",
    "Selected thoughts for the next step: ": "selection",
    "Final selected thought: ": "final thought",
}
_RESPONSE = "Verifier response:"
_END = "*" * 50
_DECISION = re.compile(r"At least two |Maximum rounds ")
_OTHER = re.compile(r"Starting reasoning|Step [0-9]{1,6}: |No agreement |\*{50}$")

#: What may come before each kind of event.
_AFTER = {
    "round": ("begin", "verdict"),
    "reasoner": ("round", "final thought"),
    "thoughts": ("reasoner", "selection"),
    "votes": ("thoughts",),
    "selection": ("votes",),
    "final thought": ("selection",),
    "verdict": ("final thought", "verdict"),
    "decision": ("verdict",),
}


class Event(NamedTuple):
    """``entry`` is where in the trajectory. ``value``: a list, a reasoner, or a reasoner and its verifier's text."""

    entry: int
    kind: str
    value: Any


class Piece(NamedTuple):
    """A part of a thought, and the call that generated it."""

    text: str
    call: str


Thought = tuple[Piece, ...]


def looks_like(document: Document) -> bool:
    """A trajectory of log lines that begins with a round or a reasoner."""
    data = document.data
    lines = data.get("trajectory") if isinstance(data, dict) and "instance_id" in data else None
    if not isinstance(lines, list):
        return False
    return any(isinstance(line, str) and _BEGIN.fullmatch(line.strip()) for line in lines[:20])


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflow of one run."""
    data = document.data
    problem = data.get("problem_statement")
    if not isinstance(problem, str):
        raise TraceError('no problem; give it a text as "problem_statement"')
    recorder = Recorder(options.tokenizer, document.name)
    run = _Run(recorder, problem)
    for event in _events(data["trajectory"], problem):
        run.add(event)
    yield recorder.workflow(
        f"ma-tot/{document.name}",
        FRAMEWORK,
        identifier(data["instance_id"], "the instance"),
        labels=labels(data),
        notes=_NOTES if run.before == "decision" else (*_NOTES, _CUT_OFF),
    )


@dataclass
class _Run:
    """Makes calls of events, which are given one after the other."""

    recorder: Recorder
    problem: str
    before: str = "begin"
    reasoner: str = ""
    candidates: list[Thought] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    chosen: Thought = ()
    #: What the next generations or verification wait for, besides the thought in their prompt.
    control: list[str] = field(default_factory=list)
    #: Last thought of each reasoner of the round that is not verified yet, and the votes for it.
    finals: dict[str, tuple[Thought, list[str]]] = field(default_factory=dict)
    verifiers: list[str] = field(default_factory=list)
    barrier: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """The calls of this event. Raises TraceError where it does not fit those before."""
        if self.before not in _AFTER[event.kind]:
            raise _damaged(event.entry, f"{event.kind} after {self.before}, lines are missing or out of order")
        if self.finals and event.kind in ("round", "decision"):
            raise _damaged(event.entry, "a round ends before all its reasoners were verified")
        steps = {
            "round": self._round,
            "reasoner": self._reasoner,
            "thoughts": self._thoughts,
            "votes": self._votes,
            "selection": self._selection,
            "final thought": self._final_thought,
            "verdict": self._verdict,
        }
        if event.kind in steps:
            steps[event.kind](event)
        self.before = event.kind

    def _round(self, _: Event) -> None:
        self.barrier, self.verifiers = self.verifiers, []

    def _reasoner(self, event: Event) -> None:
        if event.value in self.finals or len(self.finals) == _MOST:
            raise _damaged(event.entry, f"a round has up to {_MOST} different reasoners")
        self.reasoner, self.chosen, self.control = event.value, (), self.barrier

    def _thoughts(self, event: Event) -> None:
        begin = _text(self.chosen)
        if len(self.chosen) == _MOST:
            raise _damaged(event.entry, f"more than {_MOST} steps")
        if not all(text.startswith(begin) for text in event.value):
            raise _damaged(event.entry, "a thought does not begin with the one that was chosen before")
        segments = self._prompt("generation", self.chosen)
        self.candidates = []
        for text in event.value:
            new = text[len(begin) :]
            call = self.recorder.call(f"reasoner-{self.reasoner}", segments, new)
            self._wait(call, self.chosen, self.control)
            self.candidates.append((*self.chosen, Piece(new, call)))

    def _votes(self, event: Event) -> None:
        self.counts = event.value
        if len(self.counts) != len(self.candidates) or not 0 < sum(self.counts) <= _MOST:
            raise _damaged(event.entry, f"each thought needs a number of votes, and all together 1 to {_MOST}")
        pieces = [piece for thought in self.candidates for piece in thought]
        segments = self._prompt("vote", pieces)
        self.control = []
        for _ in range(sum(self.counts)):
            call = self.recorder.call_of(f"voter-{self.reasoner}", segments, self.recorder.unknown(_VOTE))
            self._wait(call, pieces)
            self.control.append(call)

    def _selection(self, event: Event) -> None:
        """Of equal thoughts the one with the most votes, and of those the first."""
        equal = [index for index, thought in enumerate(self.candidates) if [_text(thought)] == event.value]
        if not equal:
            raise _damaged(event.entry, "needs one selected thought, and that one of those that were generated")
        self.chosen = self.candidates[max(equal, key=self.counts.__getitem__)]

    def _final_thought(self, event: Event) -> None:
        if event.value != [_text(self.chosen)]:
            raise _damaged(event.entry, "the final thought is not the one selected last")
        self.finals[self.reasoner] = self.chosen, self.control

    def _verdict(self, event: Event) -> None:
        reasoner, text = event.value
        if reasoner not in self.finals:
            raise _damaged(event.entry, "this reasoner has no final thought in this round")
        thought, votes = self.finals.pop(reasoner)
        call = self.recorder.call("verifier", self._prompt("verification", thought), text)
        self._wait(call, thought, votes)
        self.verifiers.append(call)

    def _prompt(self, template: str, pieces: Sequence[Piece]) -> tuple[Segment, ...]:
        """One message: the template, the problem, thoughts; and the tokens that begin the answer."""
        tokenizer = self.recorder.tokenizer
        texts = [text for text in (self.problem, *(piece.text for piece in pieces)) if text]
        known = [Segment(segment_id(text), max(1, tokenizer.count(text))) for text in texts]
        return (*unknown_system(FRAMEWORK, template, _TEMPLATES[template]), *known, *prompt((), tokenizer))

    def _wait(self, call: str, pieces: Iterable[Piece], control: Iterable[str] = ()) -> None:
        parents: dict[str, EdgeKind] = dict.fromkeys(control, "control")
        parents |= {piece.call: "visible" for piece in pieces}
        self.recorder.edges += [Edge(parent, call, kind) for parent, kind in parents.items()]


def _events(trajectory: list[Any], problem: str) -> Iterator[Event]:
    """The lines that tell of calls. Raises TraceError for a line that is none of the log's."""
    question = {line.strip() for line in problem.split("\n")}
    lines = enumerate(trajectory)
    for entry, value in lines:
        line = _line(entry, value)
        if _ROUND.fullmatch(line):
            yield Event(entry, "round", None)
        elif match := _REASONER.fullmatch(line):
            yield Event(entry, "reasoner", match[1])
        elif match := _VERDICT.fullmatch(line):
            yield Event(entry, "verdict", (match[1], _response(entry, lines)))
        elif name := next((name for name in _LISTS if line.startswith(name)), None):
            yield Event(entry, _LISTS[name], _list(entry, _LISTS[name], line.removeprefix(name)))
        elif _DECISION.match(line):
            yield Event(entry, "decision", None)
        elif line and line not in question and not _OTHER.match(line):
            raise _damaged(entry, "no line of MA-ToT's log")


def _line(entry: int, value: Any) -> str:
    if not isinstance(value, str):
        raise _damaged(entry, "no text")
    return value.strip()


def _response(entry: int, lines: Iterator[tuple[int, Any]]) -> str:
    """The verifier's text: up to the line of asterisks, or to the end of a log that was cut off."""
    if _line(*next(lines, (entry, ""))) != _RESPONSE:
        raise _damaged(entry, f'the next must be "{_RESPONSE}"')
    texts = []
    for number, value in lines:
        line = _line(number, value)
        if line == _END:
            break
        if _VERDICT.fullmatch(line) or _BEGIN.fullmatch(line):
            raise _damaged(number, "the line of asterisks before it is missing")
        texts.append(value)
    return "\n".join(texts)


def _list(entry: int, kind: str, text: str) -> list[Any]:
    """The Python list: of thoughts, in a list of its own for each thought they go on from, or of numbers."""
    try:
        value = ast.literal_eval(text) if len(text) <= _LONGEST else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = None
    if kind == "thoughts" and isinstance(value, list) and len(value) == 1:
        value = value[0]
    wanted = int if kind == "votes" else str  # a bool is no int here
    if not isinstance(value, list) or not 0 < len(value) <= _MOST or any(type(item) is not wanted for item in value):
        what = "numbers" if kind == "votes" else "texts"
        raise _damaged(entry, f"{kind} must be a list of 1 to {_MOST} {what}")
    if kind == "votes" and min(value) < 0:
        raise _damaged(entry, "a number of votes is below 0")
    return value


def _damaged(entry: int, problem: str) -> TraceError:
    return TraceError(f"entry {entry} of the trajectory: {problem}; copy the file again, or leave it out")


def _text(thought: Thought) -> str:
    return "".join(piece.text for piece in thought)
