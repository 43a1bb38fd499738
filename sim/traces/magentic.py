"""Magentic-One's console log: what its agents said, each message under a line with its speaker.

The run stands between ``SCENARIO.PY STARTING !#!#`` and ``SCENARIO.PY COMPLETE``; what is printed before and after it
(the container's setup, its end) is not read. ``---------- <agent> ----------`` begins a message. No such log was at
hand: this follows a description of the format, and of the framework what is generally known of it.

* `user` set the task: no call. `ComputerTerminal` runs the code of the message before it: a tool.
* `MagenticOneOrchestrator`, `Assistant` and any other: a call that generated the message.
* `WebSurfer` and `FileSurfer` choose an action, and report what it showed: a call whose answer was not printed, and a
  tool. A message of the `WebSurfer` without a screenshot (``<image>``) is its own words, as those of the others are.

The orchestrator speaks, then one agent, and so on; all read the whole conversation so far, which a new plan may have
cut short. So the run is a chain, of assumed edges. Before its messages the orchestrator fills in a ledger of progress,
which was not printed: whether an instruction is a field of it or a call of its own the log does not tell, so each
message counts as one call and no other is added; facts, plans and judgements are missing. Not recorded: times but that
of the whole run, token counts, system prompts, the page that a surfer looks at, and whether the answer was right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from sim.chat import Message, Recorder, prompt, unknown_system
from sim.errors import TraceError, WorkflowError
from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, Skipped, identifier, segment_id
from sim.workflow import Segment, Workflow

FRAMEWORK = "Magentic-One"

#: Guesses. An agent's instructions and tools; a screenshot of 1224 x 765 points in tiles of 512 (85 + 6 x 170); the
#: choice of an action with its arguments.
SYSTEM_TOKENS = 500
IMAGE_TOKENS = 1105
ACTION_TOKENS = 60

#: Messages. A prompt has all messages before it, so that a log without end would fill the memory.
_MOST = 2000

_STARTING = "SCENARIO.PY STARTING !#!#"
_COMPLETE = "SCENARIO.PY COMPLETE"
_IMAGE = "<image>"
#: Characters. The output of the container's setup comes first and is long.
_BEGINNING = 200_000
#: Newer versions print the type of the message before the speaker, and statistics at the end.
_SPEAKER = re.compile(r"-{10} (?:\w{1,80} \()?(?P<agent>[\w.-]{1,80})\)? -{10}[ \t\r]*")
_SUMMARY = "Summary"

_USER = "user"
_TERMINAL = "ComputerTerminal"
_WEB, _FILES = "WebSurfer", "FileSurfer"

_LEFT_OUT = "Magentic-One: the orchestrator's ledger calls were not printed and are left out"
_GUESSED = (
    f"Magentic-One: the lengths of system prompts ({SYSTEM_TOKENS} tokens), screenshots ({IMAGE_TOKENS}) and surfers'"
    f" choices of an action ({ACTION_TOKENS}) are guesses"
)
_CUT_OFF = "Magentic-One: the log ends before the run did"


class Said(NamedTuple):
    """A message: who said it, its text, and the screenshots in it."""

    agent: str
    text: str
    images: tuple[Segment, ...]


def looks_like(document: Document) -> bool:
    """The line with which a scenario starts."""
    text = document.text
    return text.startswith(_STARTING) or text.find(f"\n{_STARTING}", 0, _BEGINNING) >= 0


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """One workflow per start of the scenario."""
    lines = document.lines
    starts = [number for number, line in enumerate(lines) if line.startswith(_STARTING)]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(lines)], strict=True), start=1):
        name = f"{document.name}-{number}" if len(starts) > 1 else document.name
        try:
            yield _run(name, lines[start:end], options.tokenizer)
        except (TraceError, WorkflowError) as error:
            yield Skipped(f"{document.where}, run {number}" if len(starts) > 1 else document.where, str(error))


def _run(name: str, lines: list[str], tokenizer: Tokenizer) -> Workflow:
    ends = [number for number, line in enumerate(lines) if line.startswith(_COMPLETE)]
    messages = _messages(lines[: ends[0] if ends else None])
    if len(messages) > _MOST:
        raise TraceError(f"more than {_MOST:,} messages are no single run; part it, or leave it out")
    recorder = Recorder(tokenizer, name)
    said: list[Said] = []
    task = ""
    for agent, text in messages:
        images = tuple(recorder.unknown(IMAGE_TOKENS) for _ in range(text.count(_IMAGE)))
        message = Said(agent, text.replace(_IMAGE, "").strip(), images)
        if agent == _USER:
            task = task or f"task-{segment_id(message.text)}"
        else:
            _turn(message, said, recorder)
        said.append(message)
    notes = (_LEFT_OUT, _GUESSED) if ends else (_LEFT_OUT, _GUESSED, _CUT_OFF)
    return recorder.workflow(f"magentic-one/{name}", FRAMEWORK, task, notes=notes)


def _messages(lines: list[str]) -> list[tuple[str, str]]:
    """Speaker and text of every message."""
    messages: list[tuple[str, list[str]]] = []
    for line in lines:
        if found := _SPEAKER.fullmatch(line):
            if found["agent"] == _SUMMARY:
                break
            messages.append((identifier(found["agent"], "a speaker"), []))
        elif messages:
            messages[-1][1].append(line)
    return [(agent, "\n".join(text)) for agent, text in messages]


def _turn(message: Said, said: list[Said], recorder: Recorder) -> None:
    """The calls and tools behind a message, all after the message before it."""
    if message.agent == _TERMINAL:
        recorder.chain(recorder.tool(message.agent), "assumed")
        return
    segments = _view(said, message.agent, recorder.tokenizer)
    if message.agent == _FILES or (message.agent == _WEB and message.images):
        recorder.chain(recorder.call_of(message.agent, segments, recorder.unknown(ACTION_TOKENS)), "assumed")
        recorder.chain(recorder.tool(message.agent), "assumed")
    else:
        recorder.chain(recorder.call(message.agent, segments, message.text), "assumed")


def _view(said: list[Said], reader: str, tokenizer: Tokenizer) -> tuple[Segment, ...]:
    """The conversation as an agent reads it."""
    segments = list(unknown_system(FRAMEWORK, reader, SYSTEM_TOKENS))
    for agent, text, images in said:
        message = Message("assistant", text) if agent == reader else Message("user", text, agent)
        segments += (*prompt((message,), tokenizer)[:-1], *images)
    return (*segments, *prompt((), tokenizer))
