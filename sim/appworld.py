"""What the recorded forms of an AppWorld run have in common: the events of its log, and what they say happened.

It is a stack. The Supervisor's answer is code. It runs (a tool), or it sends a message to an app's agent, which starts
with a fresh context, answers with code that runs (tools) and ends with a reply; the result goes into the Supervisor's
next prompt. Every prompt contains the event before it: a chain of visible edges.

A Supervisor's tool result occurs twice, as the output of its code and as the next message to it; a sub-agent's only as
the next message to it. Not recorded: times, token counts, system prompts.
"""

from __future__ import annotations

import re
import textwrap

from sim.chat import Message, Recorder, prompt, unknown_system
from sim.errors import TraceError, quoted

FRAMEWORK = "AppWorld"
SUPERVISOR = "Supervisor"

#: A guess: the instructions of an agent, an example and the names of its apps. None was recorded or seen.
SYSTEM_TOKENS = 500
NOTES = (f"AppWorld: system prompts are not recorded and are guessed at {SYSTEM_TOKENS} tokens each",)

#: Calls. A prompt has all calls of its agent before it, so that a task without end would fill the memory.
_MOST = 2000

_DELEGATES = "# CallExtension"
_SILENT = ("agent_reply", "agent_exit", "api_response")
_SUCCESS = re.compile(r'"success": (true|false)')


class Stack:
    """Records one task, event by event. The kinds of events are the node types of the DAG form."""

    def __init__(self, task: str, recorder: Recorder) -> None:
        self._recorder = recorder
        self._contexts = {SUPERVISOR: [Message("user", task)]}
        self._num_calls = 0

    def step(self, kind: str, agent: str, text: str) -> None:
        """The next event of the log. ``agent`` only where an event of this kind has one."""
        if kind == "agent_response":
            self._call(agent, text)
        elif kind == "agent_entry":
            self._contexts[agent] = []
        elif kind == "agent_message":
            self._message(agent, text)
        elif kind == "code_execution":
            if not text.startswith(_DELEGATES):
                self._code()
        elif kind not in _SILENT:
            raise TraceError(f"a node of type {quoted(kind)} is not known; leave the file out")

    def _call(self, agent: str, text: str) -> None:
        self._num_calls += 1
        if self._num_calls > _MOST:
            raise TraceError(f"more than {_MOST:,} calls are no single task; part it, or leave it out")
        recorder = self._recorder
        history = self._contexts.setdefault(agent, [])
        segments = (*unknown_system(FRAMEWORK, agent, SYSTEM_TOKENS), *prompt(history, recorder.tokenizer))
        recorder.chain(recorder.call(agent, segments, text))
        history.append(Message("assistant", text))

    def _message(self, agent: str, text: str) -> None:
        """The first message to a sub-agent is its task, every later one what its code printed."""
        history = self._contexts.setdefault(agent, [])
        if history and agent != SUPERVISOR:
            self._code()
        history.append(Message("user", text))

    def _code(self) -> None:
        self._recorder.chain(self._recorder.tool("code"))


def agent_name(name: str) -> str:
    """One spelling for an agent: a log has "Entering Spotify", and "Message to spotify" in the next line."""
    return name[:1].upper() + name[1:]


def body(text: str) -> str:
    """The text of a block: the log indents it as a whole, the prompt did not."""
    return textwrap.dedent(text).strip()


def success(text: str) -> bool | None:
    """The verdict of the evaluation at the end of a text; None where there is none."""
    _, found, evaluation = text.rpartition("\nEvaluation\n")
    verdict = _SUCCESS.search(evaluation) if found else None
    return verdict and verdict[1] == "true"
