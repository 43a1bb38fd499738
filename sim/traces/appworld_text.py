"""AppWorld as the text its runner printed: one task after another, each under a header line with its id.

After the header come the task's description and then blocks, each a line that says who spoke, and its text, indented::

    ******************** Task 1/2 (abc1234_1)  ********************
    <description>
    Response from Supervisor Agent              a call
    Code Execution Output                       a tool, unless the code sent a message to an app's agent
    Entering <App> Agent message loop           its agent begins with a fresh context
        Message to <app> Agent                  its task; from the second on what its code printed, a tool
        Response from <App> Agent               a call
        Reply from <App> Agent to Supervisor
    Exiting <App> Agent message loop
    Response from send_message API
    Message to Supervisor Agent                 what the Supervisor reads next
    Evaluation                                  JSON with "success"

What that makes of a run is the same as for the DAG form (sim.appworld): calls and tools in a chain of visible edges.
A block's line stands at the margin, or four columns in between "Entering" and "Exiting"; texts are indented further, so
that a text which quotes such a line is not taken for one. How much of this holds for other logs than the two that are
known is not certain. Not recorded: times, token counts, system prompts (a guessed length stands for each).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from sim.appworld import FRAMEWORK, NOTES, SUPERVISOR, Stack, agent_name, body, success
from sim.chat import Recorder
from sim.errors import TraceError, WorkflowError
from sim.traces import Document, LoadOptions, Skipped, identifier
from sim.workflow import Workflow

#: Characters. A task's header is in the first lines of a file, and a block's line is no longer than this.
_BEGINNING = 2000
_LONGEST = 300

_HEADER = re.compile(r"\*{3,} Task \S+ \((?P<task>[^()]*)\) +\*{3,}[ \t\r]*")
_FIRST_HEADER = re.compile(f"^{_HEADER.pattern}$", re.MULTILINE)
_BLOCK = re.compile(
    r"(?P<indent> {4})?(?:(?P<who>Response from|Message to|Reply from) (?P<agent>.+) Agent(?: to .+)?"
    r"|(?P<loop>Entering|Exiting) (?P<app>.+) Agent message loop|(?P<plain>Code Execution Output|Evaluation"
    r"|Response from send_message API))[ \t\r]*"
)
_KINDS = {
    "Response from": "agent_response",
    "Message to": "agent_message",
    "Reply from": "agent_reply",
    "Entering": "agent_entry",
    "Exiting": "agent_exit",
    "Code Execution Output": "code_execution",
    "Response from send_message API": "api_response",
    "Evaluation": "evaluation",
}


class Block(NamedTuple):
    """One event: its kind as in the DAG form, who it is about, and its lines."""

    kind: str
    agent: str
    lines: list[str]


def looks_like(document: Document) -> bool:
    """A task's header in the first lines."""
    return _FIRST_HEADER.search(document.text[:_BEGINNING]) is not None


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """One workflow per task."""
    lines = document.lines
    starts = [number for number, line in enumerate(lines) if _header(line)]
    if not starts:
        raise TraceError("no task's header stands whole on its line; copy the log again")
    if any(_block(line, False) for line in lines[: starts[0]]):
        yield Skipped(document.where, f"the task that ends at line {starts[0]} has no header; give it one")
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(lines)], strict=True), start=1):
        try:
            yield _task(lines[start:end], options)
        except (TraceError, WorkflowError) as error:
            yield Skipped(f"{document.where}, task {number}", str(error))


def _task(lines: list[str], options: LoadOptions) -> Workflow:
    header = _header(lines[0])
    assert header is not None
    name = identifier(header["task"], "the task")
    description, blocks = _parts(lines[1:])
    recorder = Recorder(options.tokenizer)
    stack = Stack(description, recorder)
    verdict = None
    for kind, agent, text in blocks:
        if kind == "evaluation":
            verdict = success("\nEvaluation\n" + "\n".join(text))
        else:
            stack.step(kind, agent, body("\n".join(text)))
    return recorder.workflow(f"appworld/{name}", FRAMEWORK, name, success=verdict, notes=NOTES)


def _parts(lines: list[str]) -> tuple[str, list[Block]]:
    """The description, and the blocks after it."""
    description: list[str] = []
    blocks: list[Block] = []
    inside = False
    for line in lines:
        if found := _block(line, inside):
            name = found["agent"] or found["app"] or SUPERVISOR
            blocks.append(Block(_kind(found), agent_name(identifier(name, "an agent")), []))
            inside = inside if found["loop"] is None else found["loop"] == "Entering"
        else:
            (blocks[-1].lines if blocks else description).append(line)
    return "\n".join(description).strip(), blocks


def _header(line: str) -> re.Match[str] | None:
    return _HEADER.fullmatch(line) if line.startswith("***") and len(line) <= _LONGEST else None


def _block(line: str, inside: bool) -> re.Match[str] | None:
    """The line as the begin of a block; one that is indented only ``inside`` of a sub-agent's loop."""
    found = _BLOCK.fullmatch(line) if len(line) <= _LONGEST else None
    if found and found["indent"] and not (inside and found["who"]):
        return None
    return found


def _kind(block: re.Match[str]) -> str:
    return _KINDS[block["who"] or block["loop"] or block["plain"]]
