"""Who carries out the tools that a model calls: nobody (the recorded time passes), functions of the user's, AppWorld.

Only calls that the model made in this replay, of tools that the user's texts offer it, are ever carried out; code that
a trace recorded is not.
"""

from __future__ import annotations

import inspect
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from live.tool_calls import ToolCall
from sim.errors import RunError, nearest
from sim.own import import_own
from sim.workflow import Tool, Workflow

#: What stands as the result of a tool that was not carried out.
NOT_RUN = "(This tool was not run; only its recorded time has passed.)"
_MOST_REASON = 200


@dataclass(frozen=True, slots=True)
class Job:
    """A tool to carry out. ``call`` is None where the model was to call it and did not, or not so that it can be done.

    ``session``: the number of the workflow's run; ``recorded_s``: what the trace, or --tool-time, says it takes.
    """

    session: int
    workflow: Workflow
    tool: Tool
    call: ToolCall | None
    recorded_s: float


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered after that many seconds; ``reason`` why it failed, and whether its workflow ends thereby."""

    text: str
    seconds: float
    reason: str = ""
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class ToolRun:
    """A job and what came of it. ``ended_s``: seconds since the replay began."""

    job: Job
    result: ToolResult
    ended_s: float

    @property
    def call_id(self) -> str:
        """The id by which a result refers to the model's call; empty where there was none."""
        return self.job.call.id if self.job.call else ""


class Executor(Protocol):
    """Carries out tools."""

    def run(self, job: Job) -> ToolResult:
        """Called in a thread of its own, several at once; must come back. What it raises is a failed tool."""

    def over(self, session: int) -> None:
        """Nothing more of that session will come."""


class RecordedTime:
    """Lets the recorded time pass; the result is `NOT_RUN`."""

    def run(self, job: Job) -> ToolResult:
        """Wait."""
        time.sleep(job.recorded_s)
        return ToolResult(NOT_RUN, job.recorded_s)

    def over(self, session: int) -> None:
        """Nothing is kept of a session."""


class Callables:
    """Functions by the names of tools, called with the model's arguments as keywords.

    What one returns becomes the result, as JSON if it is no text. One that raises, or takes longer than ``timeout_s``
    (it is then left behind), is a failed tool: its workflow goes on with the error as result, or ends (``stops``).
    A tool without a function takes its recorded time.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], timeout_s: float, stops: bool = False) -> None:
        self._functions = dict(functions)
        self._timeout_s = timeout_s
        self._stops = stops
        self._others = RecordedTime()

    def run(self, job: Job) -> ToolResult:
        """Call the tool's function."""
        function = self._functions.get(job.tool.name)
        if function is None:
            return self._others.run(job)
        began = time.monotonic()
        text, reason = self._call(function, job.call) if job.call else ("", "the model did not call it")
        seconds = time.monotonic() - began
        return failed(reason, seconds, self._stops) if reason else ToolResult(text, seconds)

    def over(self, session: int) -> None:
        """Nothing is kept of a session."""

    def check(self, workflows: Iterable[Workflow]) -> None:
        """Raise RunError if no tool has a function: the names must be those of the traces."""
        names = {tool.name for workflow in workflows for tool in workflow.tools}
        if not names & self._functions.keys():
            name = min(self._functions, default="")
            raise RunError(f"no tool of the traces is named {name!r} or as another function{nearest(name, names)}")

    def _call(self, function: Callable[..., Any], call: ToolCall) -> tuple[str, str]:
        """Result and reason of a failure, one of them empty."""
        done: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

        def act() -> None:
            try:
                result = function(**(call.arguments or {}))
                done.put((result if isinstance(result, str) else json.dumps(result, default=str), ""))
            except BaseException as error:  # also SystemExit: somebody waits for an answer
                done.put(("", f"{type(error).__name__}: {error}"))

        threading.Thread(target=act, daemon=True).start()
        try:
            return done.get(timeout=self._timeout_s)
        except queue.Empty:
            return "", f"no result within {self._timeout_s:g} s"


def failed(reason: str, seconds: float, fatal: bool = False) -> ToolResult:
    """The result of a tool that failed; the model is told the reason."""
    line = " ".join(reason.split())[:_MOST_REASON]
    return ToolResult(f"error: {line}", seconds, line, fatal)


def start(executor: Executor, job: Job, done: Callable[[ToolResult], None]) -> None:
    """Carry it out in a thread that nobody waits for at the end; ``done`` is called there, whatever happens."""

    def act() -> None:
        began = time.monotonic()
        try:
            result = executor.run(job)
        except Exception as error:
            result = failed(f"{type(error).__name__}: {error}", time.monotonic() - began)
        done(result)

    threading.Thread(target=act, name="tool", daemon=True).start()


def parse_executor(text: str, timeout_s: float, stops: bool = False) -> Executor:
    """``recorded``, ``module:attribute`` (a dict of functions, or an object with methods), or ``appworld:URL[,URL..]``.

    A module is also looked for in the working directory. Raises RunError.
    """
    if text == "recorded":
        return RecordedTime()
    kind, _, rest = text.partition(":")
    if kind == "appworld":
        from live.appworld import AppWorld

        return AppWorld(rest.split(","), timeout_s, stops)
    return Callables(_functions(text, kind, rest), timeout_s, stops)


def _functions(text: str, module: str, attribute: str) -> Mapping[str, Callable[..., Any]]:
    if not module or not attribute:
        raise RunError(f"tools {text}: give recorded, module:attribute or appworld:URL")
    try:
        place = getattr(import_own(module), attribute)
    except AttributeError as error:
        raise RunError(f"tools {text}: {error}; define it there, or give another name") from error
    except Exception as error:  # importing runs what the user wrote
        raise RunError(f"tools {text}: {module} cannot be imported ({type(error).__name__}: {error})") from error
    members = place.items() if isinstance(place, Mapping) else inspect.getmembers(place)
    found = {name: value for name, value in members if callable(value) and not str(name).startswith("_")}
    if not found:
        raise RunError(f"tools {text}: no functions there; give a dict of them by name, or an object with methods")
    return found
