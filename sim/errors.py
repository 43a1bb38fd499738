"""A user's mistakes, which print as one line and exit with 2, and the one bug we check for ourselves."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Characters of a file's value that a message shows.
_QUOTED = 60


class WorkspanError(Exception):
    """Something the user can mend; the message names the place and the mend on one line."""

    def __str__(self) -> str:
        """One line, whatever the text it quotes contains."""
        return " ".join(super().__str__().split())


class TraceError(WorkspanError):
    """A trace file or one of its records cannot be read."""


class WorkflowError(WorkspanError):
    """Calls, tools and edges that do not make a graph without cycles."""


class ProfileError(WorkspanError):
    """A profile that is unknown, unreadable or impossible."""


class PolicyError(WorkspanError):
    """A policy or policy parameter that does not exist or makes no sense."""


class RunError(WorkspanError):
    """Settings with which nothing can be run."""


class StudyError(WorkspanError):
    """A study that makes no sense, or a folder of results that cannot be used."""


class BoundError(Exception):
    """A speed-up above work / span: a bug in workspan, never a result."""


def quoted(value: object) -> str:
    """A value of somebody's file for a message: its beginning, as whatever follows might be a text."""
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}.."


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or, where nothing is near, ``; known: a, b``, or ``; there is none``."""
    names = sorted(known)
    if not names:
        return "; there is none"
    starts = [name for name in names if word and name.startswith(word)]
    close = starts or difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
