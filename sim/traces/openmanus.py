"""OpenManus's log: loguru lines ``YYYY-MM-DD HH:MM:SS.mmm | LEVEL | module:function:line - text``, to the millisecond.

No such log was at hand: this follows a description of the format, and of the framework what is generally known of it.

* "Executing step i/N" begins a step, "<agent>'s thoughts: .." ends its call; the answer is the thoughts, and which
  tools were chosen with which arguments (of the first tool only these were logged).
* "Tool 'x' completed its mission! Result: .." ends a tool, which began where "Activating tool: 'x'" says so, otherwise
  where the line before it in the same step was written. A tool that was chosen and never completed has no duration.
* The lines of ``_create_initial_plan`` are a call that came first. "Token usage: Input=.., Completion=..", where the
  log has it, is the exact length of a prompt and its answer.
* Time between the end of one of these and the begin of the next is the client's, from 10 ms on: below that it is the
  writing of the log itself.

It is a chain: a tool reads the call that chose it (visible), a call the tool results before it (assumed: no prompt was
logged). A prompt is what was known of its agent's conversation so far; the system prompt with the tools' definitions,
the request and the prompt that asks for the next step are unknown, and either follow from the token usage or have a
guessed length. Not recorded: token counts without such lines, and whether the run succeeded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from sim.chat import Message, Recorder, Times, prompt, unknown_system
from sim.errors import TraceError
from sim.traces import Document, LoadOptions, Skipped, identifier, segment_id
from sim.workflow import CLIENT, MAX_TOOL_S, Edge, EdgeKind, Segment, Tool, Workflow

FRAMEWORK = "OpenManus"

#: Guesses: the system prompt with the definitions of some five tools; the request, or the step of a plan; the prompt
#: that asks for the next step; a plan that was not logged.
SYSTEM_TOKENS = 2000
REQUEST_TOKENS = 100
NEXT_STEP_TOKENS = 100
PLAN_TOKENS = 200

#: Steps. A prompt has all steps of its agent before it, so that a log without end would fill the memory.
_MOST = 2000

_PLANNER = "planner"
#: Ten times the clock's resolution.
_CLIENT_S = 0.01
#: Characters. The first record of the program comes in the first lines.
_BEGINNING = 20_000
_EPOCH = datetime(1970, 1, 1)

_AT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
_FIRST = re.compile(rf"^{_AT} \| [A-Z]+ *\| app\.[\w.]+:[\w<>]+:\d+ - ", re.MULTILINE | re.ASCII)
_LINE = re.compile(rf"(?P<at>{_AT}) \| [A-Z]+ *\| [\w.]+:(?P<function>[\w<>]+):\d+ - (?P<text>.*)", re.ASCII)
# A symbol or two come before most texts.
_EVENTS = {
    event: re.compile(rf"\W{{0,10}}{pattern}")
    for event, pattern in {
        "step": r"Executing step (?P<number>\d{1,9})/",
        "usage": r"Token usage: Input=(?P<input>\d{1,9}), Completion=(?P<output>\d{1,9})",
        "thoughts": r"(?P<agent>[\w.-]{1,80})'s thoughts: ?",
        "chosen": r"Tools being prepared: (?P<tools>\[[^\]]{0,2000}\])",
        "arguments": r"Tool arguments: ?",
        "activated": r"Activating tool: '[^']{1,200}'",
        "completed": r"Tool '(?P<tool>[^']{1,200})' completed its mission! Result: ?",
        "planned": r"Plan creation result: ?",
        "timed_out": r"Request processing timed out",
    }.items()
}

_GUESSED = (
    f"OpenManus: system prompts ({SYSTEM_TOKENS} tokens), requests ({REQUEST_TOKENS}) and prompts for the next step"
    f" ({NEXT_STEP_TOKENS}) are not recorded and are guessed at"
)
_COUNTED = "OpenManus: of what prompts held besides the recorded texts only the length is known, from the token usage"
_TIMED_OUT = "OpenManus: the run was stopped by its time limit"


class Record(NamedTuple):
    """One entry of the log: milliseconds since its first, the function that wrote it, its text with all its lines."""

    at: int
    function: str
    text: str


class Usage(NamedTuple):
    """Tokens of a call's prompt and answer, as the server counted them."""

    prompt: int
    answer: int


class Used(NamedTuple):
    """A tool that a step used, and what it gave, if it ended."""

    name: str
    began: int | None = None
    ended: int | None = None
    result: str | None = None


@dataclass(slots=True)
class Step:
    """One call and the tools that it chose. ``starts``: its agent had just been given a request."""

    began: int | None
    starts: bool = False
    agent: str = ""
    ended: int | None = None
    usage: Usage | None = None
    answer: list[str] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    tools: list[Used] = field(default_factory=list)
    latest: int | None = None


def looks_like(document: Document) -> bool:
    """A record of a module of the program ``app`` in the first lines."""
    return _FIRST.search(document.text[:_BEGINNING]) is not None


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflow of one run."""
    steps, timed_out = _steps(_records(document.lines))
    if len(steps) > _MOST:
        raise TraceError(f"more than {_MOST:,} steps are no single run; part it, or leave it out")
    recorder = Recorder(options.tokenizer, document.name)
    timeline = _Timeline(recorder)
    contexts: dict[str, list[Segment]] = {}
    for step in steps:
        _replay(step, contexts.setdefault(step.agent, []), timeline)
    counted = [step.usage is not None for step in steps]
    notes = ((_COUNTED, any(counted)), (_GUESSED, not all(counted)), (_TIMED_OUT, timed_out))
    yield recorder.workflow(
        f"openmanus/{document.name}", FRAMEWORK, document.name, notes=tuple(note for note, holds in notes if holds)
    )


def _records(lines: Iterable[str]) -> Iterator[Record]:
    zero: int | None = None
    at, function, text = 0, "", list[str]()
    for line in lines:
        found = _LINE.match(line)
        now = _milliseconds(found["at"]) if found else None
        if found is None or now is None:
            text.append(line)
            continue
        if zero is None:
            zero = now
        else:
            yield Record(at, function, "\n".join(text))
        at, function, text = now - zero, found["function"], [found["text"]]
    if zero is not None:
        yield Record(at, function, "\n".join(text))


def _milliseconds(at: str) -> int | None:
    try:
        return (datetime.fromisoformat(at) - _EPOCH) // timedelta(milliseconds=1)
    except ValueError:  # no such day
        return None


def _steps(records: Iterable[Record]) -> tuple[list[Step], bool]:
    """The run step by step, and whether its time was up."""
    steps = [Step(None, starts=True)]
    timed_out = False
    for record in records:
        event = next(((name, found) for name, each in _EVENTS.items() if (found := each.match(record.text))), None)
        if record.function == "_create_initial_plan" and steps[-1].agent != _PLANNER:
            began = None if event and event[0] == "planned" else record.at
            steps.append(Step(began, starts=True, agent=_PLANNER))
        if event:
            timed_out |= event[0] == "timed_out"
            _take_in(*event, record, steps)
    return [step for step in steps if step.agent or step.tools], timed_out


def _take_in(event: str, found: re.Match[str], record: Record, steps: list[Step]) -> None:
    """Add what an event tells to the last step, or begin another one."""
    text = record.text[found.end() :]
    if event == "step" or (event == "thoughts" and steps[-1].agent):
        steps.append(Step(record.at if event == "step" else None, event == "step" and int(found["number"]) == 1))
    step = steps[-1]
    if event == "usage" and step.ended is None:  # later ones are of calls that a tool made
        step.usage = Usage(int(found["input"]), int(found["output"]))
    elif event == "thoughts":
        step.agent, step.ended = identifier(found["agent"], "an agent"), record.at
        step.answer.append(text)
    elif event == "planned" and step.agent == _PLANNER:
        step.ended = record.at
        step.answer.append(text)
    elif event == "chosen":
        step.chosen = [identifier(name, "a tool") for name in re.findall(r"'([^']*)'", found["tools"])]
        step.answer.append(found["tools"])
    elif event == "arguments":
        step.answer.append(text)
    elif event == "completed":
        step.tools.append(Used(identifier(found["tool"], "a tool"), step.latest, record.at, text))
    step.latest = record.at


class _Timeline:
    """Adds nodes one after another, and the client's time between them."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._ended: int | None = None

    def call(
        self, agent: str, segments: Iterable[Segment], output: Segment, began: int | None, ended: int | None
    ) -> None:
        """A call, after everything before it."""
        self._wait(began)
        times = _times(began, ended)
        self._chain(self.recorder.call_of(agent, segments, output, times), "assumed")
        self._ended = ended

    def tool(self, used: Used, kind: EdgeKind) -> None:
        """A tool, after everything before it."""
        self._wait(used.began)
        self._add_tool(used.name, _times(used.began, used.ended), kind)
        self._ended = used.ended

    def _wait(self, until: int | None) -> None:
        times = _times(self._ended, until)
        if times and times[1] - times[0] >= _CLIENT_S:
            self._add_tool(CLIENT, times, "recorded")

    def _add_tool(self, name: str, times: Times | None, kind: EdgeKind) -> None:
        duration_s = round(times[1] - times[0], 3) if times else None
        self._chain(self.recorder.tool(name, duration_s, times), kind)

    def _chain(self, node: str, kind: EdgeKind) -> None:
        """Let a node wait for the one before it, and through the client's time if that is one."""
        *_, before, last, _ = (None, None, *self.recorder.nodes)
        if before is not None and isinstance(last, Tool) and last.name == CLIENT:
            self.recorder.edges.append(Edge(before.id, node, kind))
            kind = "recorded"
        self.recorder.chain(node, kind)


def _times(began: int | None, ended: int | None) -> Times | None:
    """Seconds; None where one end is not known, or a clock was set back."""
    if began is None or ended is None or not 0 <= began <= ended <= MAX_TOOL_S * 1000:
        return None
    return began / 1000, ended / 1000


def _replay(step: Step, context: list[Segment], timeline: _Timeline) -> None:
    """The call and the tools of a step; its agent's conversation grows by them."""
    recorder = timeline.recorder
    if step.agent:
        context += _unrecorded(step, context, recorder)
        output = _output(step, recorder)
        timeline.call(step.agent, (*context, *prompt((), recorder.tokenizer)), output, step.began, step.ended)
        begin, _, end, _ = prompt((Message("assistant", ""),), recorder.tokenizer)
        context += (begin, output, end)
    completed = [used.name for used in step.tools]
    for name in completed:
        if name in step.chosen:
            step.chosen.remove(name)
    for number, used in enumerate((*step.tools, *map(Used, step.chosen))):
        timeline.tool(used, "assumed" if number else "visible")
        if used.result is not None:
            context += prompt((Message("tool", used.result, used.name),), recorder.tokenizer)[:-1]


def _unrecorded(step: Step, context: list[Segment], recorder: Recorder) -> list[Segment]:
    """What a prompt held besides what is known: the system prompt if it is the first, a request, the next-step prompt.

    The token usage tells how long that was; without it the lengths are guesses.
    """
    guess = REQUEST_TOKENS * step.starts + NEXT_STEP_TOKENS * (step.agent != _PLANNER)
    new = [] if context else list(unknown_system(FRAMEWORK, step.agent, SYSTEM_TOKENS))
    if step.usage:
        known = sum(segment.num_tokens for segment in (*context, *new, *prompt((), recorder.tokenizer)))
        if step.usage.prompt < known and new:
            new, known = new[:1], known - SYSTEM_TOKENS
        guess = step.usage.prompt - known
    return [*new, recorder.unknown(guess)] if guess > 0 else new


def _output(step: Step, recorder: Recorder) -> Segment:
    """What the call generated: its thoughts, and the tools it chose with their arguments."""
    text = "\n".join(step.answer)
    if step.usage:  # the length is part of the name: equal texts may have been counted differently
        return Segment(f"answer:{segment_id(f'{step.usage.answer} {text}')}", max(1, step.usage.answer))
    if not step.answer:
        return recorder.unknown(PLAN_TOKENS)
    return prompt((Message("assistant", text),), recorder.tokenizer)[1]
