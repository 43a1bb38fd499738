"""A result in the files of other tools: one file per format, found by its name.

A format is a module with ``write(result) -> Written``. ``USES_WORKFLOWS`` says that it writes what waits for what where
that is known: the records of a result don't tell, its traces do. A trailing underscore is no part of a format's name.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from sim.agreement.data import Side
from sim.choices import Choices
from sim.comparison import digest
from sim.errors import RunError, nearest
from sim.record import Record, RunResult, SessionRecord
from sim.tool_time import parse_tool_times
from sim.workflow import Workflow

#: Seconds since 1970. No record has a date: where a format wants one, runs begin with the year 2000.
BEGIN_S = 946_684_800

#: Between two rules for tool times, not between two parameters of one.
_BETWEEN_RULES = re.compile(r", (?!mean=|sigma=)")
_ORIGIN = (
    *("version", "engine", "profile", "profile_kind", "profile_digest", "vllm_version", "workflows_digest"),
    *("load", "seed", "view", "unknown_parts", "tool_time"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One run, as recorded and on one clock.

    They differ for workflows that ran alone: of the recorded ones each has its own clock, in ``timeline`` they follow
    one another.
    """

    policy: str
    repetition: int
    run: RunResult
    timeline: RunResult

    @property
    def finished(self) -> list[Record]:
        """The finished calls on the one clock, by session and then in the order in which they were sent."""
        done = (record for record in self.timeline.records if record.status == "finished")
        return sorted(done, key=lambda record: (record.session, record.sent_s, record.call_id))

    @property
    def left_out(self) -> list[str]:
        """What to say of the calls without an end."""
        number = sum(record.status != "finished" for record in self.run.records)
        return [f"{number} calls that did not finish are left out"] if number else []


@dataclass(frozen=True, slots=True)
class Result:
    """What a format writes. ``workflows`` by id, as they were run; empty where they are not known.

    ``sessions``: how many at most, where a format draws each.
    """

    where: str
    provenance: Mapping[str, Any]
    parts: Sequence[Part]
    workflows: Mapping[str, Workflow] = field(default_factory=dict)
    sessions: int | None = None

    @property
    def only(self) -> Part:
        """The one run there is. Raises RunError, for formats that hold one."""
        if len(policies := list(dict.fromkeys(part.policy for part in self.parts))) > 1:
            raise RunError(f"{self.where}: this format holds one policy; give --policy, one of {', '.join(policies)}")
        if len(self.parts) > 1:
            last = self.parts[-1].repetition
            raise RunError(f"{self.where}: this format holds one repetition; give --repetition, from 0 to {last}")
        return self.parts[0]

    def played(self, sessions: Iterable[SessionRecord]) -> Iterator[tuple[SessionRecord, Workflow]]:
        """Sessions with their workflows. Raises RunError where these are not known."""
        if not self.workflows:
            raise RunError(f"{self.where}: what waits for what is in the traces that were run; give --traces")
        for session in sessions:
            yield session, self.workflows[session.workflow_id]

    @property
    def origin(self) -> dict[str, Any]:
        """The provenance in short, for formats that have room for a few plain values."""
        facts = {"version": self.provenance["workspan"], **self.provenance}
        return {name: facts[name] for name in _ORIGIN if name in facts}

    @property
    def model(self) -> str:
        """What a server says it serves, or the profile's name."""
        return str(self.provenance.get("model", self.provenance.get("profile", "unknown")))

    @property
    def is_measured(self) -> bool:
        """Real servers ran it."""
        return self.provenance.get("engine") == "vllm"


@dataclass(frozen=True, slots=True)
class Written:
    """Files by name, each as the pieces of its text; a single one may get any name. ``notes`` are for people."""

    files: Mapping[str, Iterable[str]]
    notes: Sequence[str] = ()


def formats() -> dict[str, ModuleType]:
    """Format name -> module, in alphabetical order."""
    names = (info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return {name.removesuffix("_"): import_module(f"{__name__}.{name}") for name in names}


def result_of(side: Side, policy: str | None = None, repetition: int | None = None) -> Result:
    """All runs of what was read or is in memory (`sim.agreement.data`), or those that are asked for."""
    if policy is not None and policy not in side.runs:
        raise RunError(f"{side.where}: no policy {policy!r}{nearest(policy, side.runs)}")
    parts = [
        Part(name, number, run, _one_clock(run) if side.alone else run)
        for name, runs in side.runs.items()
        for number, run in enumerate(runs)
        if policy in (None, name) and repetition in (None, number)
    ]
    if not parts:
        raise RunError(f"{side.where}: no repetition {repetition}; they are 0 to {side.repetitions - 1}")
    return Result(side.where, side.provenance, parts)


def as_run(provenance: Mapping[str, Any], workflows: Sequence[Workflow]) -> dict[str, Workflow]:
    """The workflows by id as the run chose to take them. Raises RunError where they are not those of the result."""
    tool_times = parse_tool_times(_BETWEEN_RULES.split(provenance["tool_time"]))
    choices = Choices(provenance["view"], provenance["unknown_parts"] == "estimated", tool_times)
    mend = "give the run's own traces, in its order, and its --only, --tokenizer and --hidden-calls"
    try:
        chosen = choices.apply(workflows, provenance["seed"])
    except RunError as error:
        raise RunError(f"the traces are not those of the result ({error}); {mend}") from error
    if (found := digest(chosen)) != (wanted := provenance["workflows_digest"]):
        raise RunError(f"the traces are not those of the result (digest {found}, not {wanted}); {mend}")
    return {workflow.id: workflow for workflow in chosen}


def _one_clock(run: RunResult) -> RunResult:
    """Each session begins when the one before it has ended."""
    ends: dict[int, float] = {session.session: session.finished_s or 0.0 for session in run.sessions}
    for record in run.records:
        last_s = record.finished_s or record.first_token_s or record.sent_s
        ends[record.session] = max(ends.get(record.session, 0.0), last_s)
    begins: dict[int, float] = {}
    now_s = 0.0
    for number in sorted(ends):
        begins[number] = now_s
        now_s += ends[number]
    times = ("sent_s", "scheduled_s", "first_token_s", "finished_s")
    records = tuple(_later(record, times, begins[record.session]) for record in run.records)
    sessions = tuple(_later(session, ("arrived_s", "finished_s"), begins[session.session]) for session in run.sessions)
    return RunResult(records, sessions, run.engine, run.makespan_s, run.extras, run.replicas)


def _later(row: Any, times: Sequence[str], offset_s: float) -> Any:
    known = {name: getattr(row, name) for name in times}
    return row._replace(**{name: at + offset_s for name, at in known.items() if at is not None})
