"""What a worker does: simulate the cells of a chunk and give back their rows as Parquet files.

It imports neither scipy nor matplotlib, and holds one simulation at a time besides the rows of its chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from sim.bench_row import Slo, bench_row
from sim.bounds import least_times_s
from sim.breakdown import Breakdown, breakdown
from sim.ceilings import no_queue_s
from sim.errors import BoundError, RunError, WorkspanError
from sim.fleet import Fleet
from sim.load import Alone, Load
from sim.paired import counted
from sim.policies import Policy, own_sources
from sim.record import Record, RunResult, SessionRecord
from sim.resample import resample
from sim.simulate import simulate
from sim.study.spec import Window
from sim.study.table import Rows
from sim.study.version import engine_digest
from sim.tool_time import ToolTime, parse_tool_times, with_tool_time
from sim.traces import read
from sim.workflow import Workflow

#: Kinds of rows, in the order in which their files are written: where there is one of cells, the others are whole.
KINDS = ("calls", "sessions", "cells")

#: Least times of so many servers are kept, as a chunk has the cells of one draw together.
_KEPT = 8
_LEAST_S: dict[tuple[Any, ...], Mapping[str, float]] = {}

_ONE = Lock()

#: Of a latency and what it cannot be below, both sums of the same floats.
_ROUNDING = 1e-9


class Task(NamedTuple):
    """One cell as it is simulated. ``arrivals`` is the seed of order and arrivals, ``seed`` that of other draws."""

    key: str
    policy: Policy
    fleet: Fleet
    load: Load
    tools: tuple[str, ...]
    seed: int
    arrivals: int


@dataclass(frozen=True)
class Chunk:
    """Cells that are done together, and what they have in common.

    ``engine`` and ``own``: the digests of the sources, which a worker elsewhere must share. ``workflows``: a file in
    workspan's own form.
    """

    name: str
    tasks: Sequence[Task]
    workflows: Path
    engine: str
    own: Mapping[str, str]
    resample: int | None
    window: Window
    slo: Slo | None
    save_detailed: bool


@dataclass(frozen=True)
class Part:
    """A chunk's rows by kind, as Parquet, of so many cells; of one that failed there is its key and why."""

    name: str
    num_cells: int
    rows: Mapping[str, bytes]
    failed: Mapping[str, str] = field(default_factory=dict)


def run_chunk(chunk: Chunk) -> Part:
    """Simulate its cells. Raises RunError where this worker is not of the study's kind, StudyError if its disk is full.

    One at a time, where a Dask worker has several threads: all that is kept between cells is the process's.
    """
    with _ONE:
        return _run(chunk)


def _run(chunk: Chunk) -> Part:
    _check_sources(chunk)
    tables = {kind: Rows() for kind in KINDS if kind != "calls" or chunk.save_detailed}
    failed = {}
    for task in chunk.tasks:
        try:
            for kind, columns in _cell(chunk, task).items():
                tables[kind].add(columns)
        except Exception as error:  # a rule of the user's own may raise anything; the other cells go on
            failed[task.key] = f"{type(error).__name__}: {error}"
    done = len(chunk.tasks) - len(failed)
    return Part(chunk.name, done, {kind: table.parquet() for kind, table in tables.items()} if done else {}, failed)


def _cell(chunk: Chunk, task: Task) -> dict[str, dict[str, Sequence[Any]]]:
    """Kind -> column -> values."""
    workflows = _drawn(str(chunk.workflows), task.tools, chunk.resample, task.seed)
    result = simulate(workflows, task.policy, task.fleet, task.load, task.arrivals)
    least_s = _least_s(chunk, task)
    _check_law(task, result, least_s)
    window = chunk.window
    if isinstance(task.load, Alone):
        window = Window(warm_up=0, drain=0)  # nobody meets anybody
    mask = counted(np.arange(len(result.sessions)), len(result.sessions), window.warm_up, window.drain)
    arrived = sorted(result.sessions, key=lambda session: (session.arrived_s, session.session))
    counts = {session.session: bool(one) for session, one in zip(arrived, mask, strict=True)}
    outside = sum(
        workflow.num_tokens(call) > task.fleet.profile(call.agent).measured.request_tokens
        for workflow in workflows
        for call in workflow.calls
    )
    row = {
        **bench_row(result, {number for number, one in counts.items() if one}, chunk.slo),
        "calls_outside": outside,
        "derived": any(pool.profile.derived for pool in task.fleet.pools),
    }
    tables: dict[str, dict[str, Sequence[Any]]] = {
        "sessions": _session_columns(task.key, result.sessions, counts, least_s) | _parts(workflows, result),
        "cells": {"cell": [task.key], **{name: [value] for name, value in row.items()}},
    }
    if chunk.save_detailed:
        tables["calls"] = _call_columns(task.key, result.records)
    return tables


def _check_law(task: Task, result: RunResult, least_s: Mapping[str, float] | None) -> None:
    """No session is faster than its longest path at best-case times."""
    if least_s is None or not task.policy.is_bounded:
        return
    for session in result.sessions:
        if session.status == "finished" and session.latency_s < least_s[session.workflow_id] * (1 - _ROUNDING):
            raise BoundError(
                f"{session.workflow_id} under {task.policy} takes {session.latency_s:.6f} s; its longest path takes"
                f" {least_s[session.workflow_id]:.6f} s; please report this bug with the study"
            )


def _session_columns(
    key: str, sessions: Sequence[SessionRecord], counts: Mapping[int, bool], least_s: Mapping[str, float] | None
) -> dict[str, Sequence[Any]]:
    ended = [session.status == "finished" for session in sessions]
    return {
        "cell": [key] * len(sessions),
        "session": [session.session for session in sessions],
        "workflow": [session.workflow_id for session in sessions],
        "framework": [session.framework for session in sessions],
        "arrived_s": [session.arrived_s for session in sessions],
        "finished_s": [session.finished_s for session in sessions],
        "latency_s": [one.latency_s if end else None for one, end in zip(sessions, ended, strict=True)],
        "least_s": [least_s[session.workflow_id] if least_s else None for session in sessions],
        "busy_s": [session.busy_s for session in sessions],
        "num_calls": [session.num_calls for session in sessions],
        "status": [session.status for session in sessions],
        "counted": [counts[session.session] for session in sessions],
    }


def _parts(workflows: Sequence[Workflow], result: RunResult) -> dict[str, Sequence[Any]]:
    """Where the latency of each finished session went: the columns of `sim.breakdown.Breakdown`."""
    records = {session: list(some) for session, some in groupby(result.records, key=attrgetter("session"))}
    found: list[Sequence[float | None]] = [
        breakdown(workflows[session.session], records[session.session], session)
        if session.status == "finished"
        else [None] * len(Breakdown._fields)
        for session in result.sessions
    ]
    return dict(zip(Breakdown._fields, zip(*found, strict=True), strict=True))


def _call_columns(key: str, records: Sequence[Record]) -> dict[str, Sequence[Any]]:
    columns = {name: [getattr(record, name) for record in records] for name in Record._fields}
    return {"cell": [key] * len(records), "workflow": columns.pop("workflow_id"), **columns}


@lru_cache(maxsize=1)
def _workflows(path: str) -> list[Workflow]:
    """The file's workflows."""
    try:
        return read([path])[0]
    except WorkspanError as error:
        raise RunError(f"{error}; a study's folder must be one that every worker sees") from error


def as_they_run(
    workflows: Sequence[Workflow], tools: Sequence[ToolTime], number: int | None, seed: int
) -> list[Workflow]:
    """The workflows of a cell with this seed: with their tool times, and drawn if ``number`` says how many."""
    timed = [with_tool_time(workflow, tools, seed) for workflow in workflows]
    return timed if number is None else resample(timed, number, seed)


@lru_cache(maxsize=2)
def _drawn(path: str, tools: tuple[str, ...], number: int | None, seed: int) -> list[Workflow]:
    """Those of the file."""
    return as_they_run(_workflows(path), parse_tool_times(tools), number, seed)


def _least_s(chunk: Chunk, task: Task) -> Mapping[str, float] | None:
    """Workflow id -> the seconds it takes at least; None on engines that differ."""
    digests = {pool.profile.digest for pool in task.fleet.pools}
    if len(digests) > 1:
        return None
    profile = task.fleet.pools[0].profile
    key = (str(chunk.workflows), task.tools, chunk.resample, task.seed, *digests, isinstance(task.load, Alone))
    if key not in _LEAST_S:
        workflows = _drawn(*key[:4])
        alone = isinstance(task.load, Alone)
        found = (
            {one.id: one.span(least_times_s(one, profile)) for one in workflows}
            if alone
            else no_queue_s(workflows, profile)
        )
        while len(_LEAST_S) >= _KEPT:
            _LEAST_S.pop(next(iter(_LEAST_S)))
        _LEAST_S[key] = found
    return _LEAST_S[key]


def _check_sources(chunk: Chunk) -> None:
    if chunk.engine != engine_digest():
        raise RunError(f"a worker has another workspan than the study's ({chunk.engine}); install the same everywhere")
    if not own_sources(task.policy for task in chunk.tasks).items() <= chunk.own.items():
        raise RunError("a worker has other rules of your own than the study; give it the same files")
