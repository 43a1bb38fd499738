"""The one comparison of a study that is looked at closely: where its sessions' time went, and one of its workflows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from sim.breakdown import Breakdown
from sim.errors import StudyError, WorkspanError
from sim.gantt import Ran
from sim.latency import Profile
from sim.simulate import simulate
from sim.study.again import Again
from sim.study.panels import Row, is_only_noise
from sim.study.plan import Plan
from sim.study.points import Point, Resolver
from sim.study.results import Results
from sim.study.version import engine_digest
from sim.study.worker import as_they_run
from sim.workflow import Workflow

#: Calls of a workflow whose picture can be read.
_CALLS = (3, 60)
#: A difference below this share is none that could be seen.
_SEEN = 0.01

#: Sessions that count and have finished under every policy, of the point's own arrivals.
_PARTS = """
WITH one AS (
  SELECT r.seed, r.policy, s.workflow, s.session, s.held_s, s.queue_s, s.prefill_s, s.decode_s, s.tool_s,
    count(*) OVER (PARTITION BY r.seed, s.workflow) AS policies
  FROM cells r JOIN sessions s USING (cell)
  WHERE r.point = {point} AND r.seed = r.arrivals_seed AND s.counted AND s.status = 'finished')
SELECT * FROM one WHERE policies = {policies} ORDER BY policy, seed, session
"""

_PREEMPTIONS = """
SELECT policy, sum(preemptions) AS preemptions, sum(completed) AS calls FROM cells
WHERE point = {point} AND seed = arrivals_seed GROUP BY policy
"""

_PAIRS = """
SELECT b.session, b.workflow, b.num_calls, b.latency_s AS base, o.latency_s AS other
FROM sessions b JOIN sessions o USING (session)
WHERE b.cell = '{base}' AND o.cell = '{other}' AND b.counted AND o.counted
  AND b.status = 'finished' AND o.status = 'finished'
ORDER BY b.session
"""


def oracles(told: Mapping[str, Any]) -> set[str]:
    """The policies that know the future, so that nobody can run them."""
    return {name for name, rules in told["policies"].items() if "_oracle" in rules}


def focus(rows: Sequence[Row], told: Mapping[str, Any]) -> Row | None:
    """The comparison that the answer is about; without a gain the best one, where the server sustains the load."""
    real = [row for row in rows if row["policy"] not in oracles(told)] or rows
    faster = [row for row in real if row["verdict"] == "faster"]
    return max(faster or real, key=lambda row: (not row["saturated"], row["speedup"], -row["point"]), default=None)


@dataclass(frozen=True)
class Where:
    """Where the sessions of a point spent their time, on average: policy -> parts; over so many sessions.

    ``preemptions``: of each policy per thousand calls, over whole runs; None where nobody counted.
    """

    parts: Mapping[str, Breakdown]
    sessions: int
    preemptions: Mapping[str, float | None]


def where_time_went(results: Results, row: Row) -> Where | None:
    """At the row's point. None where no session has finished under every policy."""
    baseline = results.manifest["baseline"]
    names = sorted(results.manifest["policies"], key=lambda name: name != baseline)
    asked = {"point": row["point"], "policies": len(names)}
    columns = results.query(_PARTS.format(**asked))
    found = {}
    for name in names:
        mine = columns["policy"] == name
        if mine.any():
            # Not the database's mean, whose last digit depends on the order of its threads.
            found[name] = Breakdown(*(float(np.mean(columns[part][mine])) for part in Breakdown._fields))
    counts = results.query(_PREEMPTIONS.format(**asked))
    rates = {
        str(name): None if number is np.ma.masked or not calls else 1000 * float(number) / float(calls)
        for name, number, calls in zip(counts["policy"], counts["preemptions"], counts["calls"], strict=True)
    }
    sessions = len(columns["policy"]) // len(names)
    return Where(found, sessions, rates) if sessions else None


class Chosen(NamedTuple):
    """A session, by its number in its cells, and why it is this one."""

    number: int
    reason: str


@dataclass(frozen=True)
class Example:
    """One workflow under two policies: policy -> how it ran; why it was chosen."""

    runs: Mapping[str, Ran]
    reason: str


def example(results: Results, row: Row) -> Example:
    """Simulates the baseline's and the row's policy's cell of the first seed again.

    Raises StudyError, which says why, where there is nothing to see or the cells cannot be simulated as they were.
    """
    told = results.manifest
    names = (told["baseline"], row["policy"])
    keys = keys_of(results, row["point"])
    if any(name not in keys for name in names):
        raise StudyError("the first seed has not run under both policies")
    pairs = results.query(_PAIRS.format(base=keys[names[0]], other=keys[names[1]]))
    chosen = _chosen(pairs, is_only_noise(row))
    point, workflows = resolved(results, row["point"], {name: keys[name] for name in names})
    runs = {name: _ran(point, workflows, name, chosen.number) for name in names}
    at = int(np.flatnonzero(pairs["session"] == chosen.number)[0])
    for ran, column in zip(runs.values(), ("base", "other"), strict=True):
        if not np.isclose(ran.session.latency_s, pairs[column][at]):
            raise StudyError("simulated again it took another time than in the study; please report this bug")
    return Example(runs, chosen.reason)


def profiles_of(results: Results) -> list[Profile]:
    """The profiles that the points run on, each name once, as at the last of its points, like the manifest's digests.

    Raises WorkspanError where a file is gone.
    """
    again = Again.of(results.folder / "manifest.json")
    last = {(one.server.profile, one.server.fleet): one for _, one in again.study.points()}
    resolver = Resolver(again.files)
    pools = (pool for one in last.values() for pool in resolver.point({}, one, []).fleet.pools)
    return list({pool.profile.name: pool.profile for pool in pools}.values())


def keys_of(results: Results, point: int) -> dict[str, str]:
    """Policy -> the cell of the first seed."""
    columns = results.query(f"SELECT policy, cell FROM cells WHERE point = {point} AND seed = 0 AND arrivals_seed = 0")
    return dict(zip(map(str, columns["policy"]), map(str, columns["cell"]), strict=True))


def _chosen(pairs: Mapping[str, Any], noise: bool) -> Chosen:
    """The session of the median gain, or where the policy gains nothing the one with the largest difference."""
    least, most = _CALLS
    mask = (pairs["num_calls"] >= least) & (pairs["num_calls"] <= most)
    which = f"with {least} to {most} calls"
    if not mask.any():
        mask, which = pairs["num_calls"] > 0, "that count"
    numbers, base, other = (np.asarray(pairs[name])[mask] for name in ("session", "base", "other"))
    if not len(numbers):
        raise StudyError("no session of the first seed finished under both policies")
    gains = np.log(base / other)
    if noise:
        place = int(np.argmax(np.abs(gains)))
        if abs(gains[place]) < _SEEN:
            raise StudyError("the policy makes no difference of 1 % to any workflow of the first seed")
        return Chosen(
            int(numbers[place]),
            f"The difference between the policies is no more than noise, so no workflow is typical: of the"
            f" {len(numbers):,} sessions {which} of the first seed, this one differs most.",
        )
    place = int(np.lexsort((numbers, gains))[(len(gains) - 1) // 2])
    return Chosen(int(numbers[place]), f"Of the {len(numbers):,} sessions {which} of the first seed, the median gain.")


def resolved(results: Results, number: int, keys: Mapping[str, str]) -> tuple[Point, Sequence[Workflow]]:
    """The point and the workflows of its first seed, from which the cells of these names must come.

    Raises StudyError where they cannot be simulated as they were.
    """
    again = Again.of(results.folder / "manifest.json")
    changed = "workspan has changed since the study ran; run it again to look at single workflows and engines"
    if again.told["engine"] != engine_digest():
        raise StudyError(changed)
    try:
        _, settings = again.study.points()[number]
        point = Resolver(again.files).point({}, settings, list(results.manifest["policies"]))
        corpus = again.corpus()
    except WorkspanError as error:
        raise StudyError(f"the cell cannot be simulated again: {error}") from error
    plan = Plan(again.study, corpus, [point], results.manifest["baseline"])
    now = {cell.policy: cell.key for cell in plan.cells() if cell.seed == cell.arrivals == 0}
    if any(now[name] != key for name, key in keys.items()):
        raise StudyError(changed)
    return point, as_they_run(corpus.workflows, point.tools, again.study.traces.resample, 0)


def _ran(point: Point, workflows: Sequence[Workflow], policy: str, number: int) -> Ran:
    result = simulate(workflows, point.policies[policy], point.fleet, point.load, 0)
    by_session = groupby(result.records, key=attrgetter("session"))
    records = next(list(some) for session, some in by_session if session == number)
    session = next(session for session in result.sessions if session.session == number)
    return Ran(workflows[number], {record.call_id: record for record in records}, session)
