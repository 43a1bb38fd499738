"""What a server's engine did, step by step: the file that `live.step_trace` writes, and which call each request was."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sim.errors import TraceError
from sim.record import Record
from sim.settings import EngineSettings

#: vLLM puts its own around the id that a client gives: cmpl-ID-0-1a2b3c4d, or chatcmpl-ID-1a2b3c4d.
_OWN = re.compile(r"cmpl-(.*)-0-[0-9a-f]{8}|chatcmpl-(.*)-[0-9a-f]{8}", re.DOTALL)

_STRICT = ConfigDict(extra="forbid", strict=True)


def request_id(run: str, session: int, call_id: str) -> str:
    """What a replay gives vLLM as ``request_id``, so that its requests can be told apart in the server."""
    return f"{run}/{session}/{call_id}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request when the scheduler first saw it. ``id`` is vLLM's, ``number`` counts arrivals from 0.

    ``seen_s`` is monotonic; ``arrival_time`` the API server's clock of the day, by which vLLM breaks ties of priority.
    """

    number: int
    id: str
    num_prompt_tokens: int
    max_tokens: int
    priority: int
    arrival_time: float
    seen_s: float

    __pydantic_config__ = _STRICT

    @property
    def client_id(self) -> str:
        """The id that the client gave; vLLM's where it gave none or it cannot be told."""
        found = _OWN.fullmatch(self.id)
        return next(group for group in found.groups() if group is not None) if found else self.id


class Row(NamedTuple):
    """A request's share of a step: its number, tokens to compute, and tokens computed before."""

    number: int
    num_new: int
    num_computed: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step, as vLLM's scheduler composed it. ``rows`` are in its order; requests are named by their numbers.

    Seconds of the machine's monotonic clock: ``schedule_s`` when the scheduler began, ``scheduled_s`` when it was done,
    ``result_s`` when the model's result was there, ``updated_s`` when it was taken in. The last two are None where the
    server ended before. Waiting, running and free blocks are counted after scheduling; ``arrived`` and ``aborted`` came
    between this call of the scheduler and the one before it, ``finished`` ended with this step's result.
    A step without rows computes nothing: vLLM makes one when the last request has ended.
    """

    step: int
    schedule_s: float
    scheduled_s: float
    rows: tuple[Row, ...]
    new: tuple[int, ...]
    resumed: tuple[int, ...]
    preempted: tuple[int, ...]
    free_blocks: int
    num_waiting: int
    num_running: int
    arrived: tuple[Arrival, ...]
    aborted: tuple[int, ...]
    result_s: float | None
    updated_s: float | None
    finished: tuple[int, ...]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class _Header:
    format: Literal["workspan-steps"]
    version: Literal[1]
    vllm_version: str
    scheduler: str
    settings: dict[str, Any]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True, slots=True)
class StepTrace:
    """All steps of one engine since its start. ``cut_off``: the last line was not whole, and was left out."""

    vllm_version: str
    scheduler: str
    settings: EngineSettings
    steps: tuple[Step, ...]
    requests: Mapping[int, Arrival]
    cut_off: bool


@dataclass(slots=True)
class Served:
    """What the engine did for one request: when it came, its rows by step number, and how often it was preempted."""

    arrival: Arrival
    rows: dict[int, Row] = field(default_factory=dict)
    scheduled_s: float | None = None
    num_preemptions: int = 0

    @property
    def num_cached_tokens(self) -> int | None:
        """Tokens found in the prefix cache at the first admission; None before it."""
        return next((row.num_computed for row in self.rows.values()), None)


class Duration(NamedTuple):
    """How long a step took: see `durations`."""

    step: Step
    device_s: float
    host_s: float


def read_steps(path: Path) -> StepTrace:
    """The steps in a file. Raises TraceError, naming the line, for anything that the tracer does not write.

    Only a last line without its end is tolerated: the server was still writing, or was killed.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read ({error}); give the file that WORKSPAN_STEP_TRACE named") from error
    cut_off = lines.pop() != ""
    if not lines:
        raise TraceError(f"{path}: has no whole line; was the server started with WORKSPAN_STEP_TRACE?")
    header = _parse(TypeAdapter(_Header), lines[0], f"{path}, line 1")
    parser = TypeAdapter(Step)
    steps = [_parse(parser, line, f"{path}, line {number}") for number, line in enumerate(lines[1:], 2)]
    return StepTrace(
        header.vllm_version, header.scheduler, _settings(header, path), tuple(steps), _requests(steps, path), cut_off
    )


def served(trace: StepTrace) -> dict[int, Served]:
    """What the engine did for each request, by its number."""
    found = {number: Served(arrival) for number, arrival in trace.requests.items()}
    for step in trace.steps:
        for row in step.rows:
            one = found[row.number]
            one.rows[step.step] = row
            one.scheduled_s = step.schedule_s if one.scheduled_s is None else one.scheduled_s
        for number in step.preempted:
            found[number].num_preemptions += 1
    return found


def join(trace: StepTrace, records: Iterable[Record], run: str) -> list[tuple[Record, Served]]:
    """Each finished record of a replay with what the engine did for it; ``run`` is the name that the replay was given.

    Raises TraceError where a record has no request in the trace, or several.
    """
    by_id: defaultdict[str, list[Served]] = defaultdict(list)
    for one in served(trace).values():
        by_id[one.arrival.client_id].append(one)
    pairs = []
    for record in records:
        if record.status != "finished":
            continue
        name = request_id(run, record.session, record.call_id)
        if len(by_id[name]) != 1:
            raise TraceError(
                f"call {record.call_id} of session {record.session}: {len(by_id[name])} requests in the step trace are"
                f" called {name}; give the trace of the server, and the name of the run, that the record is from"
            )
        pairs.append((record, by_id[name][0]))
    return pairs


def durations(steps: Sequence[Step]) -> list[Duration]:
    """How long each step took on the device and on the CPU; those without rows or without a result are left out.

    Device: from when the step could begin (it was composed, and the step before had its result) to its result. CPU: to
    compose it and to take in its result.
    Without asynchronous scheduling a step takes the sum of both, and next to nothing (some 0.15 ms on a CPU) passes
    until the next. With it the CPU composes the next step meanwhile and a step takes the longer of both; then the
    device's time is exact only while the device is the slower one, as a result is noticed when the CPU has time for it.
    """
    found, before_s = [], float("-inf")
    for step in steps:
        if step.result_s is None or step.updated_s is None:
            continue
        if step.rows:
            device_s = step.result_s - max(step.scheduled_s, before_s)
            host_s = step.scheduled_s - step.schedule_s + step.updated_s - step.result_s
            found.append(Duration(step, device_s, host_s))
        before_s = step.result_s
    return found


def _parse(parser: TypeAdapter[Any], line: str, place: str) -> Any:
    try:
        return parser.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        raise TraceError(f"{place}: {where}: {first['msg']}; give a file that live.step_trace wrote") from error


def _settings(header: _Header, path: Path) -> EngineSettings:
    version = header.vllm_version.partition("+")[0]
    try:
        return EngineSettings(vllm_version=version, **header.settings)
    except (ValidationError, TypeError) as error:
        raise TraceError(f"{path}, line 1: settings that workspan does not know: {error}") from error


def _requests(steps: Iterable[Step], path: Path) -> dict[int, Arrival]:
    """All arrivals by number, once it is certain that the steps are whole: none is missing, none names a stranger."""
    known: dict[int, Arrival] = {}
    for expected, step in enumerate(steps):
        place = f"{path}, line {expected + 2}"
        if step.step != expected:
            raise TraceError(f"{place}: step {step.step} where {expected} should be; lines are missing or out of order")
        for arrival in step.arrived:
            if arrival.number != len(known):
                raise TraceError(
                    f"{place}: request {arrival.number} arrives where {len(known)} should; lines are missing"
                )
            known[arrival.number] = arrival
        named = {row.number for row in step.rows}.union(
            step.new, step.resumed, step.preempted, step.aborted, step.finished
        )
        if strangers := named - known.keys():
            raise TraceError(f"{place}: request {min(strangers)} never arrived; lines are missing")
    return known
