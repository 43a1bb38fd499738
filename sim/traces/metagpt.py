"""MetaGPT, a team of coder, tester and reviewer: JSON of one run, or the text of its communication log.

* JSON with ``run_id``, ``prompt`` (the task), ``content``, ``log_file``. The content has a line at the start of each
  action, "2025-01-02 10:20:30.000 | INFO | ... - Name(Role): to do Action(Action)", and after it what was generated.
  What the reviewer said is missing. ``run_N_new.json`` is the same run without these lines (and without some others):
  nothing tells its calls apart, so it is left out. ``run_N_newer.json`` is ``run_N.json`` byte for byte.
* Text that begins "=== MetaGPT Agent Communication Log - Started at ...": a block "[time] FROM: Human TO: ..." with the
  task, then blocks "[time] NEW MESSAGES:" with what one role published. Read as described, no such file was seen here.

Every action or published message is a call. A role remembers the messages it watches and its own; its prompt is one
message: a template and the list of what it remembers. The coder watches the task, the tester the coder and the
reviewer, the reviewer the tester. So code, test, review, test, review is a chain of visible edges, though not every
prompt holds the whole history. The rule is the framework's; no prompt was recorded.

Estimated: the templates, which are taken to follow the memories as in the framework's published example, and texts
that are missing. No times: the JSON tells when a call began, the text to the second when its message was published,
and neither how much of the time between two lines was the call's and how much the client's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from sim.chat import Recorder, prompt, unknown_system
from sim.errors import TraceError
from sim.traces import Document, LoadOptions, Skipped, identifier, segment_id
from sim.workflow import Edge, Segment, Workflow

FRAMEWORK = "MetaGPT"

_HUMAN = "Human"
#: Whose messages a role remembers.
_WATCHES = {
    "SimpleCoder": {_HUMAN, "SimpleCoder"},
    "SimpleTester": {"SimpleCoder", "SimpleReviewer", "SimpleTester"},
    "SimpleReviewer": {"SimpleTester", "SimpleReviewer"},
}
#: Tokens of a role's template, as long as in the framework's published example of such a team.
_TEMPLATES = {"SimpleCoder": 30, "SimpleTester": 40, "SimpleReviewer": 15}
#: From one line to the next, the client's part included, 93 calls with a known text took 1.31 s + 22.9 ms a token.
_FIRST_S, _TOKEN_S = 1.31, 0.0229
#: Tokens of a text that was not recorded and whose time is not known either: the median of the 31 where it is.
_MISSING = 134
#: Tokens. A time that would give more was not spent generating.
_LONGEST = 4096
#: Calls. Prompts grow with the calls before them; a team that goes on longer is none of those described above.
_MOST = 500

_MISSING_TEXTS = "MetaGPT: texts that were not recorded (the reviewer's) are estimated from the time to the next line"
_TEMPLATES_ARE_ESTIMATED = "MetaGPT: prompt templates were not recorded, their lengths are estimated"
_NO_TIMES = "MetaGPT: how long a call took is not known, the log has one time for each"
_CUT_OFF = "MetaGPT: the log has no end, later calls may be missing"
_NO_LINES = (
    "no line says which role acts, so that calls cannot be told apart; MAST's run_N_new.json are copies of run_N.json"
    " without these lines: read those, and leave this one out"
)

_TIME = r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{3})?)"
_ACTION = re.compile(_TIME + r" \| [A-Z]{1,10} *\| [^ |]{1,200} - [^(|]{1,100}\(([^()|]{1,100})\): to do .*")
_LOG_LINE = re.compile(_TIME + r" \| [A-Z]{1,10} *\| ")
_STARTED = "=== MetaGPT Agent Communication Log"
_ENDED = "=== Communication Log Ended"
_BLOCK = re.compile(rf"\[{_TIME}\] (?:FROM: (.{{1,200}}?) TO:.*|NEW MESSAGES:\s*)")
_SPEAKER = re.compile(r"([^\s:]{1,100}):(.*)")
_CONTENT = "CONTENT:"
_DASHES = "-" * 80


class Turn(NamedTuple):
    """``text`` is None where it was not recorded. ``gap_s``: the call took no longer."""

    role: str
    text: str | None
    gap_s: float | None


class Memory(NamedTuple):
    """A message as other prompts quote it; ``call`` generated it, none did the task."""

    role: str
    text: Segment | str
    call: str | None


class Block(NamedTuple):
    """A published message. ``sender`` is None where the text names it."""

    time: datetime
    sender: str | None
    lines: list[str]


def looks_like(document: Document) -> bool:
    """The keys of a run, or the headline of a communication log."""
    if document.text[:200].lstrip().startswith(_STARTED):
        return True
    data = document.data
    return isinstance(data, dict) and data.keys() >= {"run_id", "prompt", "content", "log_file"}


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflow of one run."""
    if isinstance(document.data, dict):
        complete = True
        task, turns = _run(document.data)
        if not turns:
            yield Skipped(document.where, _NO_LINES)
            return
    else:
        task, turns, complete = _log(document.lines)
    if len(turns) > _MOST:
        raise TraceError(f"{len(turns)} calls, at most {_MOST} are read; leave it out")
    recorder = Recorder(options.tokenizer, document.name)
    _record(task, turns, recorder)
    notes = [_TEMPLATES_ARE_ESTIMATED, _NO_TIMES]
    notes += [_MISSING_TEXTS] * any(turn.text is None for turn in turns)
    notes += [_CUT_OFF] * (not complete)
    yield recorder.workflow(f"metagpt/{document.name}", FRAMEWORK, segment_id(task), notes=tuple(notes))


def _record(task: str, turns: list[Turn], recorder: Recorder) -> None:
    """The calls of the turns, and what they wait for."""
    memories = [Memory(_HUMAN, task, None)]
    for number, turn in enumerate(turns):
        if turn.role not in _WATCHES:
            role = identifier(turn.role, f"the role of call {number}")
            raise TraceError(f"role {role} is none of {', '.join(_WATCHES)}: no rule tells what it reads; leave it out")
        seen = [memory for memory in memories if memory.role in _WATCHES[turn.role]]
        segments = _prompt(turn.role, seen, recorder)
        before = recorder.nodes[-1].id if recorder.nodes else None
        if turn.text is None:
            output = recorder.unknown(_estimate(turn.gap_s))
            call = recorder.call_of(turn.role, segments, output)
            memories.append(Memory(turn.role, output, call))
        else:
            call = recorder.call(turn.role, segments, turn.text)
            memories.append(Memory(turn.role, turn.text, call))
        parents = [memory.call for memory in seen if memory.call is not None]
        recorder.edges += [Edge(parent, call, "visible") for parent in parents]
        if before is not None and before not in parents:
            recorder.edges.append(Edge(before, call, "assumed", used=False))


def _prompt(role: str, memories: list[Memory], recorder: Recorder) -> tuple[Segment, ...]:
    """One message: the memories as Python prints a list of them, and the template's text."""
    header, template = unknown_system(FRAMEWORK, role, _TEMPLATES[role])
    segments = [header]
    for number, memory in enumerate(memories):
        quoted = f"{', ' if number else '['}{memory.role}: "
        if isinstance(memory.text, str):
            segments.append(_segment(quoted + memory.text, recorder))
        else:
            segments += [_segment(quoted, recorder), memory.text]
    return (*segments, template, *prompt((), recorder.tokenizer))


def _segment(text: str, recorder: Recorder) -> Segment:
    return Segment(segment_id(text), max(1, recorder.tokenizer.count(text)))


def _estimate(gap_s: float | None) -> int:
    """Tokens of a text that was not recorded."""
    tokens = 0 if gap_s is None else round((gap_s - _FIRST_S) / _TOKEN_S)
    return tokens if 0 < tokens <= _LONGEST else _MISSING


def _run(data: dict[str, Any]) -> tuple[str, list[Turn]]:
    """Task and turns of the JSON."""
    task, content = data["prompt"], data["content"]
    if not isinstance(task, str) or not isinstance(content, str):
        raise TraceError('no task or no log; "prompt" and "content" must be texts')
    starts: list[tuple[datetime, str]] = []
    texts: list[list[str]] = []
    lost = False
    for line in content.split("\n"):
        if match := _ACTION.fullmatch(line.rstrip()):
            starts.append((_time(match[1]), match[2]))
            texts.append([])
        elif _LOG_LINE.match(line):
            raise TraceError("a line of the log is no start of an action; copy the file again, or leave it out")
        elif texts:
            texts[-1].append(line)
        else:
            lost = lost or bool(line.strip())
    if starts and lost:
        raise TraceError("text before the first action: the log's begin is missing; copy it again, or leave it out")
    ends: list[datetime | None] = [time for time, _ in starts[1:]]
    turns = [
        Turn(role, _known(lines), None if end is None else (end - begin).total_seconds())
        for (begin, role), lines, end in zip(starts, texts, [*ends, None], strict=False)
    ]
    return task, turns


def _log(lines: list[str]) -> tuple[str, list[Turn], bool]:
    """Task and turns of the text, and whether it has an end."""
    blocks: list[Block] = []
    complete = False
    for line in lines:
        complete = line.startswith(_ENDED) or (complete and not line.strip())
        if match := _BLOCK.fullmatch(line):
            blocks.append(Block(_time(match[1]), match[2], []))
        elif blocks:
            blocks[-1].lines.append(line)
    if not blocks or blocks[0].sender != _HUMAN:
        raise TraceError(f'the first block must be "FROM: {_HUMAN}", with the task; copy the file again')
    messages = [(block.time, *_message(number, block)) for number, block in enumerate(blocks)]
    turns = [
        Turn(role, text or None, (time - before).total_seconds())
        for (before, _, _), (time, role, text) in pairwise(messages)
    ]
    return messages[0][2], turns, complete


def _message(number: int, block: Block) -> tuple[str, str]:
    """Who said what in the block."""
    lines = list(block.lines)
    while lines and (not lines[-1].strip() or lines[-1].strip() == _DASHES or lines[-1].startswith(_ENDED)):
        lines.pop()
    if block.sender is not None:
        start = next((index for index, line in enumerate(lines) if line.startswith(_CONTENT)), None)
        if start is None:
            raise TraceError(f'block {number} has no text; give it a line "{_CONTENT}"')
        return block.sender, "\n".join([lines[start].removeprefix(_CONTENT), *lines[start + 1 :]]).strip()
    start = next((index for index, line in enumerate(lines) if line.strip()), 0)
    match = _SPEAKER.fullmatch(lines[start].strip()) if lines else None
    if match is None:
        raise TraceError(f'block {number} has no speaker; its first line must be "ROLE:"')
    return match[1], "\n".join([match[2].strip(), *lines[start + 1 :]]).strip("\n")


def _known(lines: list[str]) -> str | None:
    text = "\n".join(lines).strip("\n")
    return text if text.strip() else None


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.replace(",", "."))
    except ValueError as error:
        raise TraceError(f"{text} is no time; copy the file again, or leave it out") from error
