"""AG2 on GSM-Plus: JSON with ``instance_id``, ``other_data`` and a ``trajectory`` of {content, role, name}.

Roles are seen from the initiator, so speakers are told apart by ``name``. Two topologies:

* two agents: every message of `assistant` is a call. A message of `mathproxyagent` is the problem (the first), a
  fixed reply ("Continue. ...", no call and no tool), or the result of running the code of the message before it.
* group chat: the problem, `chat_manager`'s introductions, then messages of the three agents. One that begins
  with "exitcode:" is a tool's result under an agent's name, any other a call. Before each message the manager picked
  the speaker with a call that was not recorded, and once more after a solution was found: 16,743 such calls in the
  full release.

An agent sees its own messages as its answers, and the introductions came before the problem except for the one who
posed it. All problems of a setting begin with the same instructions, which therefore are a segment of their own; the
manager's selections read the group's messages without the introductions.

Dependencies: the prompt is the whole history, so every call waits for the event before it: a chain of visible edges.
Not recorded: times, token counts, system prompts of the group chat (estimated).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.chat import Message, Recorder, prompt, unknown_system
from sim.errors import TraceError
from sim.masft import labels
from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, Skipped, identifier
from sim.workflow import EdgeKind, Segment, Workflow

FRAMEWORK = "AG2"

_PAIR = {"mathproxyagent", "assistant"}
_MANAGER = "chat_manager"
_CONTINUE = "Continue. Please keep solving the problem until you need to query."
_SYSTEM = Message("system", "You are a helpful assistant.")
# The two messages with which the manager asks who speaks next have some 120 tokens, template included.
_SELECTION_TOKENS = 116
# Each agent of the group chat has a system message of a few sentences; its length is a guess.
_SYSTEM_TOKENS = 150

_TOOL_RESULT = "exitcode:"
_LEFT_OUT = (
    "AG2: the group chat's speaker-selection calls were not recorded and are left out"
    " (--hidden-calls adds them when the original files are read)"
)
HIDDEN_CALLS_ADDED = "AG2: the group chat's speaker-selection calls were not recorded and are estimated"
_UNKNOWN_SYSTEM = f"AG2: the group chat's system prompts were not recorded (estimate: {_SYSTEM_TOKENS} tokens each)"

Turn = tuple[str, str]


def looks_like(document: Document) -> bool:
    """A trajectory of messages that have a name, or of none."""
    data = document.data
    if not isinstance(data, dict) or "instance_id" not in data or not isinstance(data.get("trajectory"), list):
        return False
    turns = data["trajectory"]
    return not turns or any(isinstance(turn, dict) and "role" in turn for turn in turns)


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflow of one run."""
    data = document.data
    if not data["trajectory"]:
        raise TraceError("the trajectory is empty: nothing was recorded; leave the file out")
    turns = [_turn(number, turn) for number, turn in enumerate(data["trajectory"])]
    speakers = {name for name, _ in turns}
    recorder = Recorder(options.tokenizer)
    if speakers <= _PAIR:
        notes = _two_agents(turns, recorder, _problem(data))
    elif _MANAGER in speakers:
        notes = _group_chat(turns, recorder, options.hidden_calls)
    else:
        raise TraceError(
            f"speakers {', '.join(sorted(speakers))} belong to no topology of AG2 that is known; leave it out"
        )
    yield recorder.workflow(
        f"ag2/{document.name}",
        FRAMEWORK,
        identifier(data["instance_id"], "the instance"),
        labels=labels(data),
        success=_success(data),
        notes=notes,
    )


def _turn(number: int, turn: Any) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get("name"), str):
        raise TraceError(f'turn {number} has no speaker; give it a "name"')
    content = turn.get("content")
    lines: list[Any] = content if isinstance(content, list) else [content]
    if not all(isinstance(line, str) for line in lines):
        raise TraceError(f'turn {number} has no text; its "content" must be a text or a list of lines')
    return identifier(turn["name"], f"the speaker of turn {number}"), "\n".join(lines)


def _problem(data: dict[str, Any]) -> str:
    statement = data.get("problem_statement")
    lines = statement if isinstance(statement, list) else [statement]
    return "\n".join(line for line in lines if isinstance(line, str))


def _two_agents(turns: list[Turn], recorder: Recorder, problem: str) -> tuple[str, ...]:
    for index, (name, text) in enumerate(turns):
        if name == "assistant":
            history = (_seen_by_assistant(turn, problem) for turn in turns[:index])
            recorder.chain(recorder.call(name, prompt((_SYSTEM, *history), recorder.tokenizer), text))
        elif index > 0 and not text.startswith(_CONTINUE):
            recorder.chain(recorder.tool("python"))
    return ()


def _seen_by_assistant(turn: Turn, problem: str) -> Message:
    """The message with the problem begins with instructions that are the same in every run of a setting."""
    name, text = turn
    if name == "assistant":
        return Message("assistant", text)
    template = text.removesuffix(problem) if problem and text.endswith(problem) else ""
    return Message("user", text, template=template)


def _group_chat(turns: list[Turn], recorder: Recorder, hidden_calls: bool) -> tuple[str, ...]:
    if [index for index, (name, _) in enumerate(turns) if name == _MANAGER] != [1]:
        raise TraceError(f"a group chat has {_MANAGER}'s introductions in turn 1, after the problem, and nowhere else")
    started = 2
    kind: EdgeKind = "control" if hidden_calls else "visible"
    for index, (name, text) in enumerate(turns[started:], start=started):
        if hidden_calls:
            _select(turns[:index], name, recorder)
        if text.startswith(_TOOL_RESULT):
            recorder.chain(recorder.tool("python"), kind)
        else:
            recorder.chain(recorder.call(name, _view(turns[:index], name, recorder.tokenizer), text), kind)
    if hidden_calls and "SOLUTION_FOUND" in turns[-1][1]:
        _select(turns, turns[-1][0], recorder)
    return (HIDDEN_CALLS_ADDED if hidden_calls else _LEFT_OUT), _UNKNOWN_SYSTEM


def _view(turns: list[Turn], reader: str, tokenizer: Tokenizer) -> tuple[Segment, ...]:
    """The conversation as an agent sees it: it got the introductions first, unless it posed the problem itself."""
    problem, introductions, *rest = turns
    first = (problem, introductions) if problem[0] == reader else (introductions, problem)
    messages = (
        Message("assistant", text) if name == reader else Message("user", text, name) for name, text in (*first, *rest)
    )
    return (*unknown_system(FRAMEWORK, reader, _SYSTEM_TOKENS), *prompt(messages, tokenizer))


def _select(turns: list[Turn], speaker: str, recorder: Recorder) -> None:
    """The unrecorded call that picks the next speaker: it reads what the agents said and answers with a name."""
    messages = (Message("user", text, name) for name, text in turns if name != _MANAGER)
    system = unknown_system(FRAMEWORK, "speaker selection", _SELECTION_TOKENS)
    recorder.chain(recorder.call(_MANAGER, (*system, *prompt(messages, recorder.tokenizer)), speaker))


def _success(data: dict[str, Any]) -> bool | None:
    other = data.get("other_data")
    correct = other.get("correct") if isinstance(other, dict) else None
    return correct if isinstance(correct, bool) else None
