"""The records of a ChatDev log: which phases began, who answered what, what the client ran, and when.

A record begins with ``[YYYY-DD-MM HH:MM:SS LEVEL] ``, the day before the month, and ends where the next one begins.
"ChatDev Starts (YYYYmmddHHMMSS)" says which of the two is the day. Times are seconds from the first record on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sim.chat import Times
from sim.errors import TraceError
from sim.traces import identifier
from sim.workflow import MAX_TOOL_S

#: Where the first record says what kind of log this is.
_HEAD = 4000

_STAMP = re.compile(r"\n\[([0-9]{4})-([0-9]{2})-([0-9]{2}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) [A-Z]+\] ")
_STARTS = re.compile(r"ChatDev Starts(?:\*\*)? \(([0-9]{8})[0-9]{6}\)")
_TASK, _PROJECT = "\n**task_prompt**: ", "\n\n**project_name**: "
_MODEL = re.compile(r"\| \*\*model_type\*\* \| ([^\n|]{1,100}) \|")
_HTTP = re.compile(r'HTTP Request: POST (\S+) "HTTP/[0-9.]+ ([0-9]{3})')
_TURN = re.compile(r"([^:*\n]+): \*\*([^:*<\n]+)<->([^:*<\n]+) on : ([^:*\n]+), turn [0-9]+\*\*\Z")

_COMPLETION = "/completions"
#: Records that the client writes when something it ran has ended.
_RUNS = {"**[Test Reports]**": "python", "**[CMD Execute]**": "pip"}
#: The name of a request to a server that is not asked for an answer: for an image, say.
_REQUEST = "request"


class Record(NamedTuple):
    """``at_s`` is None where the stamp is no date; ``since_s`` is the time of the record before."""

    number: int
    text: str
    at_s: float | None
    since_s: float | None

    @property
    def title(self) -> str:
        """The first line."""
        return self.text.partition("\n")[0]

    @property
    def body(self) -> str:
        """What follows the title and an empty line; the logger ends it with a line feed of its own."""
        return self.text.partition("\n\n")[2].removesuffix("\n")

    @property
    def is_retry(self) -> bool:
        """A request is sent again."""
        return self.text.startswith("Retrying request")

    @property
    def times(self) -> Times | None:
        """What ended with this record cannot have begun before the last one was written."""
        if self.at_s is None or self.since_s is None or not 0 <= self.since_s <= self.at_s <= MAX_TOOL_S:
            return None
        return self.since_s, self.at_s


@dataclass(frozen=True, slots=True)
class Start:
    """A phase begins with this system message of its assistant and this first message of its user."""

    system: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer. ``system`` is the system message of the agent that hears it, ``times`` those of the LLM call."""

    phase: str
    agent: str
    is_assistant: bool
    system: str
    answer: str
    times: Times | None


@dataclass(frozen=True, slots=True)
class Run:
    """Something the client ran that is no LLM call, and what came out."""

    tool: str
    output: str
    times: Times | None


Event = Start | Turn | Run


@dataclass(frozen=True, slots=True)
class Log:
    """``is_flat``: the server was sent prompts as one string. ``lacks_answers``: some that it gave are not here."""

    events: tuple[Event, ...]
    project: str
    task: str
    model: str
    is_flat: bool
    is_whole: bool
    has_failures: bool
    lacks_answers: bool


def begins_like_one(text: str) -> bool:
    """A stamp at the very beginning, and ChatDev's name in the record after it."""
    head = text[:_HEAD]
    return _STAMP.match("\n" + head) is not None and _STARTS.search(head) is not None


def parse(text: str) -> Log:
    """The log. Raises TraceError for a record that cannot be read."""
    records = _records(text)
    # What the project's name stands behind is the task, which may have several lines.
    head, named, rest = records[0].text.partition(_PROJECT)
    task, project = head.partition(_TASK)[2] if named else "", rest.partition("\n")[0]
    model = _MODEL.search(text)
    events = tuple(_events(records, task))
    requests = [_HTTP.match(record.text) for record in records]
    answered = [request[1] for request in requests if request and request[2] == "200"]
    urls = [url for url in answered if url.endswith(_COMPLETION)]
    return Log(
        events,
        identifier(project, "the project") if project else "",
        task,
        model[1] if model else "",
        is_flat=bool(urls) and not any(url.endswith("/chat" + _COMPLETION) for url in urls),
        is_whole=any(record.text.startswith("**[Post Info]**") for record in records),
        # A request that failed has a line; one that timed out has none, only one that it is sent again.
        has_failures=len(answered) < sum(map(bool, requests)) or any(record.is_retry for record in records),
        lacks_answers=len(urls) > sum(isinstance(event, Turn) for event in events),
    )


def _records(text: str) -> list[Record]:
    text = "\n" + text
    stamps = list(_STAMP.finditer(text))
    day_first = _is_day_first(text, stamps[0])
    first = _when(stamps[0], day_first)
    records: list[Record] = []
    since: float | None = None
    for number, stamp in enumerate(stamps, start=1):
        end = stamps[number].start() if number < len(stamps) else len(text)
        when = _when(stamp, day_first)
        at_s = (when - first).total_seconds() if when is not None and first is not None else None
        records.append(Record(number, text[stamp.end() : end], at_s, since))
        since = at_s
    return records


def _is_day_first(text: str, stamp: re.Match[str]) -> bool:
    """Whether the stamp has the day before the month, as all known logs have, unless the log says otherwise."""
    starts = _STARTS.search(text, 0, _HEAD)
    year, one, other = stamp[1], stamp[2], stamp[3]
    return not (starts and one != other and starts[1] == year + one + other)


def _when(stamp: re.Match[str], day_first: bool) -> datetime | None:
    year, one, other, hour, minute, second = map(int, stamp.groups())
    day, month = (one, other) if day_first else (other, one)
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None


def _events(records: Sequence[Record], task: str) -> Iterator[Event]:
    """What happened, in order. The last record may be cut off, so an answer in it is not believed."""
    ends: deque[Times | None] = deque()  # LLM calls whose answers are still to come: a turn shows both of its later
    for record in records:
        title = record.title
        request = _HTTP.match(title)
        run = next((tool for start, tool in _RUNS.items() if title.startswith(start)), None)
        if request:
            if request[2] == "200" and request[1].endswith(_COMPLETION):
                ends.append(record.times)
            elif request[2] == "200":
                yield Run(_REQUEST, "", record.times)
        elif run:
            yield Run(run, record.body, record.times)
        elif title.endswith("**[Start Chat]**"):
            ends.clear()
            yield Start(*_told(record, task))
        elif "<->" in title and ", turn " in title and record.number < len(records):
            yield _turn(record, task, ends.popleft() if ends else None)


def _turn(record: Record, task: str, times: Times | None) -> Turn:
    match = _TURN.match(record.title)
    agent, assistant, user, phase = match.groups() if match else ("", "one", "other", "")
    if agent not in (assistant, user):
        raise TraceError(f"record {record.number}: an answer of neither of the two agents; copy the log again")
    return Turn(
        identifier(phase, f"record {record.number}: the phase"),
        identifier(agent, f"record {record.number}: the agent"),
        agent == assistant,
        *_told(record, task),
        times,
    )


def _told(record: Record, task: str) -> tuple[str, str]:
    """A system message in brackets, and the text after it. The task, which the former quotes, may have brackets."""
    body = record.body
    close = body.find("]\n\n")
    quoted = body.find(task) if task else -1
    if 0 <= quoted < close:
        close = body.find("]\n\n", quoted + len(task))
    if not body.startswith("[") or close < 0:
        raise TraceError(f"record {record.number}: no system message in brackets before the text; copy the log again")
    return body[1:close], body[close + 3 :]
