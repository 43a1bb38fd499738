"""What follows from a study's rows: how each policy compares with the baseline at each point, and the summary."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sim.load import Alone
from sim.paired import ALPHA, backlog_grows, effect, holm
from sim.study.store import Store
from sim.study.table import Columns, column, written
from sim.workflow import origin_of

#: A row compares two policies, or the baseline with itself under other arrivals: what that shows is noise.
POLICY, AA = "policy", "A/A"

#: The group of all workflows, beside those of each framework.
ALL = "all"

#: By how much seeds grow where intervals are too wide: each round costs a look at all results of a point.
_GROWTH = 1.5

#: Rows that are held at once.
_ROWS_AT_ONCE = 2_000_000

#: Cells whose seed is one of those that are whole at their point, up to the first that is not: policies are compared
#: over the same seeds.
_READY = """
CREATE TEMP TABLE ready AS
SELECT p.* FROM plan p JOIN (
  SELECT point, seed FROM (
    SELECT point, seed, bool_and(f.cell IS NOT NULL) AS whole
    FROM plan LEFT JOIN finished f USING (cell) GROUP BY point, seed)
  QUALIFY bool_and(whole) OVER (PARTITION BY point ORDER BY seed)
) USING (point, seed)
"""

_ONLY_NEEDED = """
CREATE OR REPLACE TEMP TABLE ready AS
SELECT r.* FROM ready r JOIN needed n ON r.point = n.point AND r.seed < n.seeds
"""

_PAIRS = """
WITH told AS (
  SELECT r.point, r.policy, r.seed, r.arrivals_seed <> r.seed AS aa, s.workflow, s.framework, s.latency_s, s.least_s
  FROM ready r JOIN sessions s USING (cell)
  WHERE r.point BETWEEN $first AND $last AND s.counted AND s.status = 'finished')
SELECT o.point, o.aa, o.policy, o.seed, o.workflow, o.framework, b.latency_s AS base, o.latency_s AS other, b.least_s
FROM told o JOIN told b ON o.point = b.point AND o.seed = b.seed AND o.workflow = b.workflow
WHERE b.policy = $baseline AND NOT b.aa AND (o.policy <> $baseline OR o.aa)
ORDER BY o.point, o.aa, o.policy, o.seed, o.workflow
"""

_SESSIONS = """
SELECT r.point, r.policy, r.seed, s.arrived_s, s.finished_s
FROM ready r JOIN sessions s USING (cell)
WHERE r.point BETWEEN $first AND $last AND r.arrivals_seed = r.seed
  AND (r.session_rate IS NOT NULL OR r.arrivals IS NOT NULL)
ORDER BY r.point, r.policy, r.seed, s.session
"""

_EXTRAPOLATED = """
SELECT point, policy, bool_or(derived OR coalesce(outside_s, 0) > 0 OR calls_outside > 0)
FROM ready JOIN finished USING (cell) GROUP BY ALL
"""

_SETTINGS = "SELECT DISTINCT ON (point) * EXCLUDE (cell, policy, seed, arrivals_seed) FROM plan ORDER BY point"


def write_outcome(store: Store) -> None:
    """``comparisons.csv``, and ``summary.csv`` and ``.json`` with a row for each cell, which vLLM's own plots read."""
    store.write("comparisons.csv", written(comparisons(store), "csv"))
    rows = summary(store)
    store.write("summary.csv", written(rows, "csv"))
    store.write("summary.json", written(rows, "json"))


def summary(store: Store) -> Columns:
    """The finished cells with the settings of their points and their numbers, point by point."""
    needed = seeds_needed(store)
    with store.connect() as connection:
        connection.register("needed", _columns(needed))
        found: Columns = connection.execute(
            "SELECT c.* FROM cells c JOIN needed n ON c.point = n.point AND c.seed < n.seeds"
            " ORDER BY c.point, arrivals_seed <> seed, policy, seed"
        ).fetchnumpy()
        return found


def complete(store: Store) -> bool:
    """Whether every point has all the seeds that it must have, of every policy."""
    done = _seeds_done(store)
    return all(done.get(point, 0) >= seeds for point, seeds in seeds_needed(store).items())


def seeds_needed(store: Store) -> dict[int, int]:
    """Point -> how many seeds it must have: by the stopping rule as far as results tell, else those of the study.

    The rule looks at a point's first seeds again, so the answer is the same however many more there are.
    """
    told = store.manifest()
    needed: dict[int, int] = dict.fromkeys(range(told["points"]), told["seeds"])
    if not (stop := told["stop"]):
        return needed
    done, asked = _seeds_done(store), dict(needed)
    while asked := {point: n for point, n in asked.items() if done.get(point, 0) >= n and n < stop["max_runs"]}:
        wide = _too_wide(store, asked, stop["ci_width"])
        asked = {point: min(stop["max_runs"], math.ceil(_GROWTH * asked[point])) for point in wide}
        needed |= asked
    return needed


def _seeds_done(store: Store) -> dict[int, int]:
    """Point -> how many seeds are whole."""
    with store.connect() as connection:
        connection.execute(_READY)
        return dict(connection.execute("SELECT point, count(DISTINCT seed) FROM ready GROUP BY point").fetchall())


def _too_wide(store: Store, seeds: Mapping[int, int], ci_width: float) -> list[int]:
    """Points of which a policy's interval is wider than this share of its speed-up, or there is none."""
    found = [row for row in _compared(store, seeds) if row["kind"] == POLICY and row["framework"] == ALL]
    wide = (
        row["point"]
        for row in found
        if row["ci95_high"] is None or row["ci95_high"] - row["ci95_low"] > ci_width * row["speedup"]
    )
    return sorted({*wide})


def _columns(seeds: Mapping[int, int]) -> Columns:
    return {"point": np.array([*seeds], np.int64), "seeds": np.array([*seeds.values()], np.int64)}


def comparisons(store: Store) -> Columns:
    """Each policy against the baseline at each point, over all workflows and by framework, as far as seeds are done.

    p-values are Holm's over the rows that one figure would show: all points and policies of one framework.
    """
    rows = list(_compared(store, seeds_needed(store)))
    families: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        families[row["kind"], row["framework"]].append(row)
    for family in families.values():
        tested = [row for row in family if row["p"] is not None]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row.update(p_holm=p, verdict=verdict(row["speedup"], p, row["held_out_error_pct"]))
    return {name: column(name, [row[name] for row in rows]) for name in (rows[0] if rows else ())}


def verdict(speedup: float, p: float, error_pct: float | None) -> str:
    """What may be said: a difference must be more than noise, and more than the profile's error where it is known."""
    if p >= ALPHA:
        return "within noise"
    if abs(speedup - 1) * 100 <= (error_pct or 0.0):
        return "within the profile's error"
    return "faster" if speedup > 1 else "slower"


def _compared(store: Store, seeds: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    """The rows of these points and of so many seeds, before they are corrected for how many they are."""
    baseline = store.manifest()["baseline"]
    with store.connect() as connection:
        connection.execute(_READY)
        connection.register("needed", _columns(seeds))
        connection.execute(_ONLY_NEEDED)
        settings = {row["point"]: row for row in _dicts(connection.execute(_SETTINGS))}
        beyond = {(point, policy): mark for point, policy, mark in connection.execute(_EXTRAPOLATED).fetchall()}
        for first, last in _batches(connection):
            span = {"first": first, "last": last}
            growing = _growing(connection.execute(_SESSIONS, span).fetchnumpy())
            pairs = connection.execute(_PAIRS, {**span, "baseline": baseline}).fetchnumpy()
            for part in _parts(pairs, ("point", "aa", "policy")):
                point, policy = int(part["point"][0]), str(part["policy"][0])
                alone = settings[point]["load"] == str(Alone())
                told = {
                    **settings[point],
                    "kind": AA if part["aa"][0] else POLICY,
                    "policy": policy,
                    "baseline": baseline,
                    "saturated": any(growing.get((point, name), False) for name in (policy, baseline)),
                    "extrapolated": any(beyond[point, name] for name in (policy, baseline)),
                }
                for framework, group in _by_framework(part):
                    yield {**told, "framework": framework, **_numbers(group, alone)}


def _dicts(relation: Any) -> list[dict[str, Any]]:
    return [dict(zip((name for name, *_ in relation.description), row, strict=True)) for row in relation.fetchall()]


def _batches(connection: Any) -> Iterator[tuple[int, int]]:
    """First and last of points that follow each other, as many as there is room for their rows."""
    total = connection.execute("SELECT count(*) FROM sessions").fetchall()[0][0]
    wanted = [row[0] for row in connection.execute("SELECT DISTINCT point FROM ready ORDER BY point").fetchall()]
    at_once = max(1, len(wanted) * _ROWS_AT_ONCE // max(1, total))
    for start in range(0, len(wanted), at_once):
        batch = wanted[start : start + at_once]
        yield batch[0], batch[-1]


def _parts(columns: Columns, by: Sequence[str]) -> Iterator[Columns]:
    """Rows that follow each other and agree in these columns."""
    size = len(columns[by[0]])
    if not size:
        return
    changes = np.zeros(size - 1, bool)
    for name in by:
        changes |= columns[name][1:] != columns[name][:-1]
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), size]
    for start, end in pairwise(bounds):
        yield {name: values[start:end] for name, values in columns.items()}


def _growing(columns: Columns) -> dict[tuple[int, str], bool]:
    """Point and policy -> whether more and more sessions are under way as long as they arrive."""
    return {
        (int(part["point"][0]), str(part["policy"][0])): backlog_grows(
            part["arrived_s"], np.ma.filled(part["finished_s"], np.nan), part["seed"]
        )
        for part in _parts(columns, ("point", "policy"))
    }


def _by_framework(pairs: Columns) -> Iterator[tuple[str, Columns]]:
    """All pairs, and those of each framework where there are several."""
    yield ALL, pairs
    names = np.unique(pairs["framework"])
    for name in names if len(names) > 1 else ():
        mask = pairs["framework"] == name
        yield str(name), {key: values[mask] for key, values in pairs.items()}


def _numbers(pairs: Columns, alone: bool) -> dict[str, Any]:
    """What the policy does to these sessions."""
    origins = np.unique([origin_of(name) for name in pairs["workflow"]], return_inverse=True)[1]
    # Who is alone meets no arrivals: without draws its seeds are copies of each other.
    seeds = np.zeros_like(pairs["seed"]) if alone else pairs["seed"]
    found = effect(origins, seeds, pairs["base"], pairs["other"])
    assert found
    low, high = found.ci95 or (None, None)
    least = np.ma.filled(pairs["least_s"], np.nan).sum()
    return {
        "speedup": found.speedup,
        "ci95_low": low,
        "ci95_high": high,
        "p": found.p,
        "p_holm": None,
        "verdict": "unknown: one workflow",
        "ceiling": None if np.isnan(least) else float(pairs["base"].sum() / least),
        "share_without_gain": found.without_gain,
        "baseline_session_latency_s": float(pairs["base"].mean()),
        "session_latency_s": float(pairs["other"].mean()),
        "workflows": found.workflows,
        "seeds": len(np.unique(pairs["seed"])),
        "sessions": len(pairs["base"]),
    }
