"""The lines that vLLM writes for every step with ``--enable-logging-iteration-details``.

They count tokens and say how long the model ran. Right only with the engine in a process of its own (vLLM's default),
and without asynchronous scheduling: with it vLLM logs how long it waited for the result.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sim.errors import RunError

_LINE = re.compile(
    r"Iteration\((\d+)\): (\d+) context requests, (\d+) context tokens, (\d+) generation requests,"
    r" (\d+) generation tokens, iteration elapsed time: ([\d.]+) ms"
)
#: Seconds: a log that has not grown for so long has everything that was said so far.
_QUIET_S = 0.15
_MOST_S = 3.0


class Iteration(NamedTuple):
    """One step as vLLM logs it."""

    number: int
    context_requests: int
    context_tokens: int
    generation_requests: int
    generation_tokens: int
    seconds: float


class StepLog:
    """A server's log while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        if not _LINE.search(self._text(0)):
            raise RunError(
                f"--step-log {path}: no line of a step in it; start the server with --enable-logging-iteration-details"
                " and send it a request"
            )

    def skip(self) -> None:
        """Read from here on."""
        self._settle()
        self._position = self._path.stat().st_size

    def lines(self) -> Sequence[Iteration]:
        """The steps logged since `skip`."""
        self._settle()
        return [_iteration(found) for found in _LINE.findall(self._text(self._position))]

    def _text(self, position: int) -> str:
        try:
            with self._path.open("rb") as file:
                file.seek(position)
                return file.read().decode(errors="replace")
        except OSError as error:
            raise RunError(f"--step-log {self._path}: cannot be read ({error.strerror}); name the log") from error

    def _settle(self) -> None:
        end_s, size = time.monotonic() + _MOST_S, -1
        while size != (now := self._path.stat().st_size) and time.monotonic() < end_s:
            size = now
            time.sleep(_QUIET_S)


def _iteration(found: Sequence[str]) -> Iteration:
    number, requests, tokens, generating, generated = map(int, found[:-1])
    return Iteration(number, requests, tokens, generating, generated, float(found[-1]) / 1000)
