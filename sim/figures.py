"""Every figure by its kind, and which results it can be drawn of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sim.errors import RunError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY, RUN, PAIR = "study", "run", "pair"
_MADE_BY = {
    STUDY: "the folder of a study (workspan study run -o)",
    RUN: "the folder of a run or replay (workspan run -o, workspan replay -o)",
    PAIR: "a predicted and a measured result (workspan run -o, workspan replay -o), or a replay's folder with both",
}
#: Files by which a folder is known.
_MANIFEST, _RESULT, _PREDICTED = "manifest.json", "result.json", "predicted"


class Kind(NamedTuple):
    """What a figure shows, and of which results."""

    shows: str
    of: tuple[str, ...]


KINDS: Mapping[str, Kind] = {
    "speedup": Kind("speed-up along the load, with intervals, ceiling and noise floor", (STUDY,)),
    "latency": Kind("mean session latency along the load", (STUDY,)),
    "throughput": Kind("sessions/s and output tokens/s along the load", (STUDY,)),
    "frameworks": Kind("speed-up bars by framework, with intervals and ceilings", (STUDY, RUN)),
    "cdf": Kind("how session latencies are distributed", (STUDY, RUN)),
    "workload": Kind("how calls and tokens per workflow are distributed", (STUDY, RUN)),
    "breakdown": Kind("what sessions waited for: held, queue, prefill, decode, tool", (STUDY,)),
    "timeline": Kind("KV use, hit rate, running and waiting calls over time", (STUDY, RUN)),
    "gantt": Kind("one workflow under two policies", (STUDY,)),
    "sensitivity": Kind("speed-up along each setting of the grid, around a point", (STUDY,)),
    "ablation": Kind("speed-up of policies joined by +, rule by rule", (STUDY,)),
    "replicas": Kind("scaling over replicas, and the gap to an oracle policy", (STUDY,)),
    "predicted": Kind("predicted over measured times, identity and 10 % band", (PAIR,)),
}


def draw(
    kind: str, folders: Sequence[Path], policies: Sequence[str] = (), point: int | None = None
) -> tuple[Figure, Any]:
    """The figure and what its results depend on. Raises WorkspanError where these folders cannot give it."""
    if kind not in KINDS:
        raise RunError(f"no figure {kind!r}{nearest(kind, KINDS)}")
    found = _found(kind, folders)
    if point is not None and found != STUDY:
        raise RunError("--point: only a study has points; leave it out")
    if found == STUDY:
        from sim.study.results import open_results

        results = open_results(folders[0])
        return results.figure(kind, policies, point), results.manifest
    from sim.agreement.data import read_side
    from sim.result_figures import RESULT_FIGURES, predicted

    sides = [read_side(folder) for folder in (_pair(folders) if found == PAIR else folders)]
    if found == RUN:
        return RESULT_FIGURES[kind](sides[0], policies), sides[0].provenance
    if policies:
        raise RunError(f"--policy: {kind} shows every policy that was measured; leave it out")
    told = {name: dict(side.provenance) for name, side in zip(("predicted", "measured"), sides, strict=True)}
    return predicted(*sides), told


def _found(kind: str, folders: Sequence[Path]) -> str:
    """What the folders are, of what the kind can be drawn of."""
    what, of = _what(folders), KINDS[kind].of
    if what == PAIR and len(folders) == 1 and PAIR not in of:
        what = RUN  # which it is, too
    if what not in of:
        others = [name for name, one in KINDS.items() if what in one.of]
        raise RunError(f"{kind} takes {_MADE_BY[of[0]]}; of {_named(folders)} there are: {', '.join(others)}")
    return what


def _what(folders: Sequence[Path]) -> str:
    if len(folders) == 2:
        return PAIR
    if len(folders) > 2:
        raise RunError(f"{len(folders)} folders: name one, or for predicted two")
    (folder,) = folders
    if (folder / _MANIFEST).exists():
        return STUDY
    if (folder / _RESULT).exists():
        return PAIR if (folder / _PREDICTED).is_dir() else RUN
    raise RunError(f"{folder}: no result in it; name {_MADE_BY[STUDY]}, or {_MADE_BY[RUN]}")


def _pair(folders: Sequence[Path]) -> Sequence[Path]:
    """Predicted and measured."""
    return folders if len(folders) == 2 else (folders[0] / _PREDICTED, folders[0])


def _named(folders: Sequence[Path]) -> str:
    return " and ".join(map(str, folders))
