"""Arrivals of a production service, from the public files that tell them; only when requests came is read.

* Azure's LLM inference traces: CSV with TIMESTAMP, ContextTokens and GeneratedTokens, the time of day in UTC;
* BurstGPT: CSV with Timestamp in seconds, Request tokens, Response tokens and more;
* Mooncake: JSON lines with "timestamp" in milliseconds.

Files may be gzip, their rows in any order. A row that tells no time is an error: without it the rate would be another.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from sim.errors import RunError, TraceError
from sim.load import OpenLoop, check_rate, generator
from sim.workflow import Workflow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Seconds. A larger number is no time.
_LATEST_S = 1e12
#: Digits of a second: what all formats have at most, but for Azure's tenths of a microsecond.
_DIGITS = 6

#: The number of a line and what stands there.
_Rows = Iterable[tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class ArrivalFile(OpenLoop):
    """Open loop: workflows arrive as requests did in a file, from a place in it that the seed chooses.

    ``at_s`` are all its arrivals in seconds, ascending; ``digest`` is theirs. With ``per_s`` those taken are stretched
    to that mean rate, which keeps the shape of their bursts; without, they come as they came.
    """

    name: str
    at_s: NDArray[np.float64] = field(repr=False, compare=False)
    per_s: float | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        at_s = np.array(self.at_s, dtype="<f8")
        if not (at_s.ndim == 1 and at_s.size and np.isfinite(at_s).all() and (np.diff(at_s) >= 0).all()):
            raise RunError(f"arrivals of {self.name}: give one instant or more, in seconds, ascending")
        if self.per_s is not None:
            check_rate(f"arrivals of {self.name} at a rate of", self.per_s)
        at_s.flags.writeable = False
        object.__setattr__(self, "at_s", at_s)
        object.__setattr__(self, "digest", hashlib.sha256(at_s.tobytes()).hexdigest()[:12])

    @classmethod
    def read(cls, path: str | Path, per_s: float | None = None) -> Self:
        """The arrivals of a file. Raises TraceError."""
        return cls(Path(path).name, read_arrivals(path), per_s)

    def instants(self, sessions: int, seed: int) -> list[float]:
        """When each of so many sessions arrives, in seconds from the first of them, ascending."""
        if sessions > self.at_s.size:
            raise RunError(
                f"arrivals of {self.name}: only {self.at_s.size} for {sessions} workflows; give a longer file, or fewer"
                " workflows"
            )
        first = int(generator(seed, "arrivals").integers(self.at_s.size - sessions + 1))
        taken = self.at_s[first : first + sessions]
        instants: list[float] = (self._stretch(taken) * (taken - taken[:1])).tolist()
        return instants

    def arrivals(self, workflows: Sequence[Workflow], seed: int) -> list[float]:
        """From a place of the file on that is drawn with the seed."""
        return self.instants(len(workflows), seed)

    def _stretch(self, taken: NDArray[np.float64]) -> float:
        """By how much the time between these arrivals is longer at the rate that is wanted."""
        if self.per_s is None or taken.size < 2:
            return 1.0
        seconds = float(taken[-1] - taken[0])
        if seconds <= 0:
            raise RunError(
                f"arrivals of {self.name}: {taken.size} in a row are at one instant, which makes no rate of"
                f" {self.per_s:g} per second; give more workflows, or no rate"
            )
        return (taken.size - 1) / self.per_s / seconds

    def __str__(self) -> str:
        rate = "" if self.per_s is None else f"{self.per_s:g} sessions/s, "
        return f"{rate}arrivals of {self.name} ({self.digest})"


def read_arrivals(path: str | Path) -> NDArray[np.float64]:
    """Seconds from the first arrival in the file to each, ascending.

    Raises TraceError for a file of another format, or with a row that tells no time; it names the first of those.
    """
    with _opened(path) as file:
        first = file.readline()
        times = _json_times(path, chain([first], file)) if first.lstrip()[:1] == "{" else _csv_times(path, first, file)
    if not times:
        raise TraceError(f"{path}: a header and no arrival; give another file")
    at_s = np.sort(np.frombuffer(times))
    # Since 1970 a float is exact to a quarter of a microsecond; from the first arrival on to what was written.
    since_first: NDArray[np.float64] = np.round(at_s - at_s[0], _DIGITS)
    return since_first


@dataclass(frozen=True, slots=True)
class _Form:
    """A CSV of arrivals: the columns that it has, the first with the time, and what is in that."""

    columns: tuple[str, ...]
    seconds: Callable[[str], float]
    example: str


def _clock(text: str) -> float:
    """Seconds since 1970; UTC where no zone is named, and cut to microseconds."""
    moment = datetime.fromisoformat(text)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


def _number(value: str | float) -> float:
    seconds = float(value)
    if not abs(seconds) < _LATEST_S:
        raise ValueError
    return seconds


_FORMS = (
    _Form(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _clock, "2023-11-16 18:15:46.680590"),
    _Form(("Timestamp", "Request tokens", "Response tokens"), _number, "a number of seconds"),
)


def _csv_times(path: str | Path, first: str, file: TextIO) -> array[float]:
    header = next(csv.reader([first]), [])
    form = next((form for form in _FORMS if set(form.columns) <= set(header)), None)
    if form is None:
        known = " nor ".join(",".join(form.columns) for form in _FORMS)
        raise TraceError(
            f'{path}: its first line has neither {known}, and is no JSON with a "timestamp"; convert the file to one'
            " of these"
        )
    time, width, seconds = header.index(form.columns[0]), len(header), form.seconds

    def arrival(row: list[str]) -> float:
        if len(row) != width:
            raise ValueError
        return seconds(row[time])

    return _times(path, _csv_rows(path, file), arrival, f"{width} columns with {form.columns[0]} as {form.example}")


def _csv_rows(path: str | Path, file: TextIO) -> _Rows:
    """The rows after the header; one of several lines, which only an open quote makes, as a row without columns."""
    reader, last = csv.reader(file), 1
    try:
        for row in reader:
            line, last = last + 1, reader.line_num + 1
            if row:
                yield line, row if line == last else []
    except csv.Error as error:
        raise TraceError(f"{path}, line {last + 1}: {error}; correct the row") from error


def _json_times(path: str | Path, lines: Iterable[str]) -> array[float]:
    rows = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return _times(path, rows, _json_arrival, 'a JSON object with a "timestamp" in milliseconds')


def _json_arrival(line: str) -> float:
    value = json.loads(line)["timestamp"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return _number(value / 1000)


def _times(path: str | Path, rows: _Rows, arrival: Callable[[Any], float], wanted: str) -> array[float]:
    """The time of each row. Raises TraceError that names the first row without one, and says how many there are."""
    times, broken = array("d"), array("q")
    for line, row in rows:
        try:
            times.append(arrival(row))
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            broken.append(line)
    if broken:
        others = f" (and {len(broken) - 1} rows more)" if len(broken) > 1 else ""
        raise TraceError(
            f"{path}, line {broken[0]}: no arrival{others} among {len(times) + len(broken)} rows; give each {wanted},"
            " or delete it"
        )
    return times


@contextmanager
def _opened(path: str | Path) -> Iterator[TextIO]:
    """The file as text, plain or gzip, line by line: a week of arrivals is gigabytes."""
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        opener: Any = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not text in UTF-8; convert it, or name another file") from error
    except (OSError, EOFError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or f"damaged gzip file ({error})"
        raise TraceError(f"{path}: {problem}; name another file, or copy it again") from error
