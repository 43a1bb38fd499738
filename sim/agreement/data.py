"""A result from memory or from a folder, in one form, and whether two of them can be compared."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sim.comparison import Comparison
from sim.errors import RunError, TraceError, nearest
from sim.load import Alone
from sim.record import EngineStats, Record, RunResult, SessionRecord
from sim.traces import text_of
from sim.traces.jsonl import check

Row = TypeVar("Row", Record, SessionRecord)

#: Of two results these must be equal, or they are not of the same thing.
_SAME = ("workflows_digest", "load", "seed")
_NUMBER, _MAYBE, _COUNT = (int, float), (int, float, type(None)), (int, type(None))
_CALL = {
    "session": int,
    "workflow_id": str,
    "call_id": str,
    "agent": str,
    "num_prompt_tokens": int,
    "num_cached_tokens": _COUNT,
    "num_output_tokens": int,
    "sent_s": _NUMBER,
    "scheduled_s": _MAYBE,
    "first_token_s": _MAYBE,
    "finished_s": _MAYBE,
    "num_preemptions": _COUNT,
    "status": str,
    "reason": str,
}
_SESSION = {
    "session": int,
    "workflow_id": str,
    "framework": str,
    "arrived_s": _NUMBER,
    "finished_s": _MAYBE,
    "busy_s": _NUMBER,
    "num_calls": int,
    "status": str,
}


#: What the engine did is not among the records.
_UNTOLD = EngineStats(None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two results. ``runs``: policy -> its repetitions; ``stated``: policy -> what the result says of it."""

    where: str
    provenance: Mapping[str, Any]
    baseline: str
    stated: Mapping[str, Any]
    runs: Mapping[str, Sequence[RunResult]]

    @property
    def alone(self) -> bool:
        """Each workflow had the server, and a clock, to itself."""
        return bool(self.provenance["load"] == str(Alone()))

    @property
    def repetitions(self) -> int:
        """How many of each policy."""
        return min(map(len, self.runs.values()))


def side_of(comparison: Comparison, where: str) -> Side:
    """A comparison in memory."""
    result = comparison.to_json()
    runs: defaultdict[str, list[RunResult]] = defaultdict(list)
    for part, run in comparison.parts():
        runs[part["policy"]].append(run)
    return Side(where, result["provenance"], comparison.baseline, result["policies"], runs)


def read_side(folder: Path) -> Side:
    """What `sim.results.write` has written there. Raises RunError or TraceError, which name file, line and mend."""
    result = _json(folder / "result.json", _text(folder / "result.json"))
    check(
        str(folder / "result.json"), result, {"provenance": dict, "baseline": str, "policies": dict}, {"ceilings": dict}
    )
    facts, policies = result["provenance"], result["policies"]
    check(
        f"{folder / 'result.json'}, provenance",
        {key: facts[key] for key in _SAME if key in facts},
        dict.fromkeys(_SAME, (str, int)),
    )
    calls = _rows(folder / "calls.jsonl", {"records": "calls", **facts}, _CALL, Record)
    sessions = _rows(folder / "sessions.jsonl", {"records": "sessions", **facts}, _SESSION, SessionRecord)
    alone = facts["load"] == str(Alone())
    runs: dict[str, list[RunResult]] = {name: [] for name in policies}
    for name, repetition in sorted({*calls, *sessions}):
        if name not in policies:
            raise RunError(f"{folder}: records of a policy {name!r}{nearest(name, policies)}; write the result again")
        some = sessions.get((name, repetition), [])
        rows = tuple(calls.get((name, repetition), []))
        runs[name].append(RunResult(rows, tuple(some), _UNTOLD, makespan_s(some, alone)))
    return Side(str(folder), facts, result["baseline"], policies, runs)


def makespan_s(sessions: Sequence[SessionRecord], alone: bool) -> float:
    """First arrival to last end; ``alone``: one workflow after the other, each on a clock of its own."""
    if alone:
        return sum(makespan_s([session], False) for session in sessions)
    ends = (session.finished_s for session in sessions if session.finished_s is not None)
    return max(ends, default=0.0) - min((session.arrived_s for session in sessions), default=0.0)


def _text(path: Path) -> str:
    try:
        return text_of(path)
    except TraceError as error:
        hint = "" if path.exists() else f" ({path.parent} is no folder that run -o or replay -o has written)"
        raise TraceError(f"{path}: {error}{hint}") from error


def _json(where: object, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise TraceError(f"{where}: not JSON ({error}); write the result again") from error


def _rows(
    path: Path, header: Mapping[str, Any], keys: Mapping[str, Any], form: type[Row]
) -> dict[tuple[str, int], list[Row]]:
    """(policy, repetition) -> its rows. The header must be the result's: files of two results make none."""
    first, *lines = _text(path).splitlines() or [""]
    if _json(f"{path}, line 1", first) != header:
        raise TraceError(f"{path}, line 1: not the provenance that result.json has; these files are of two results")
    found: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)
    for number, line in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        row = _json(where, line)
        check(where, row, {"policy": str, **keys}, {"repetition": int})
        if not all(math.isfinite(value) for value in row.values() if isinstance(value, float)):
            raise TraceError(f"{where}: a time that is no number; write the result again")
        done = row["status"] == "finished"
        if done and any(row[key] is None for key in ("first_token_s", "finished_s") if key in row):
            raise TraceError(f"{where}: finished, but without its times; write the result again")
        found[row.pop("policy"), row.pop("repetition", 0)].append(form(**row))
    return found


def check_comparable(predicted: Side, measured: Side) -> None:
    """Raise RunError unless both are whole results of the same workflows, arrivals and policies."""
    for side in (predicted, measured):
        _check_whole(side)
    for key in _SAME:
        one, other = predicted.provenance[key], measured.provenance[key]
        if one != other:
            raise RunError(
                f"{predicted.where} has {key} {one}, {measured.where} has {other}; predict what was measured: the same "
                "traces, load and seed"
            )
    for name in measured.runs:
        if name not in predicted.runs:
            raise RunError(f"{predicted.where}: no policy {name!r}{nearest(name, predicted.runs)}; predict it too")


def _check_whole(side: Side) -> None:
    open_ = [s for runs in side.runs.values() for run in runs for s in run.sessions if s.status == "unfinished"]
    if side.provenance.get("interrupted") or open_:
        raise RunError(f"{side.where}: unfinished, it was interrupted; run it to its end")
    if len({len(runs) for runs in side.runs.values()}) != 1 or not side.repetitions:
        raise RunError(f"{side.where}: not the same number of repetitions of every policy; run it to its end")
