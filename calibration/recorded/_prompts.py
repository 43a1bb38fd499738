"""Prompts as token ids, from a file beside the record, and as segments that show exactly what they share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.recorded import read_lines, take
from sim.errors import TraceError
from sim.workflow import Segment

_MAX_ID = 2**31
Ids = NDArray[np.int64]


def read_ids(workload: Path, record: Path, count: int) -> list[list[int]]:
    """``input_tok_ids`` of JSON lines, plain or gzip: as many as the record has requests, in its order."""
    prompts = []
    for where, row in read_lines(workload):
        ids = take(where, row, "input_tok_ids", kind=list)
        if not ids or not all(type(one) is int and 0 <= one < _MAX_ID for one in ids):
            raise TraceError(f"{where}: input_tok_ids must be one or more token ids; copy the file again")
        prompts.append(ids)
    if len(prompts) != count:
        raise TraceError(f"{record}: {count} requests, but {workload} has {len(prompts)}; give this run's workload")
    return prompts


def of_ids(prompts: Sequence[list[int]]) -> list[tuple[Segment, ...]]:
    """Each prompt cut where another one goes on otherwise: two share their leading segments and nothing else.

    So the prefixes that they share are exact for every block size. A segment is named after all tokens up to its end.
    """
    order = sorted(range(len(prompts)), key=lambda number: prompts[number])
    arrays = [np.array(prompts[number], dtype=np.int64) for number in order]
    common = [0, *(_num_common(one, other) for one, other in pairwise(arrays)), 0]
    # In sorted order two prompts have in common what all neighbours between them have.
    before, after = _minima(common[:-1]), _minima(common[:0:-1])[::-1]
    found: list[tuple[Segment, ...]] = [()] * len(prompts)
    for place, number in enumerate(order):
        found[number] = _cut(arrays[place], before[place] | after[place])
    return found


def _num_common(one: Ids, other: Ids) -> int:
    size = min(len(one), len(other))
    differs = np.flatnonzero(one[:size] != other[:size])
    return int(differs[0]) if len(differs) else size


def _minima(common: Sequence[int]) -> list[set[int]]:
    """For each place, the minima of ``common`` over all stretches that end there."""
    found: list[set[int]] = []
    rising: list[int] = []
    for value in common:
        while rising and rising[-1] >= value:
            rising.pop()
        rising.append(value)
        found.append(set(rising))
    return found


def _cut(ids: Ids, cuts: set[int]) -> tuple[Segment, ...]:
    segments, begin, digest = [], 0, hashlib.sha256()
    for end in sorted({*cuts, len(ids)} - {0}):
        digest.update(ids[begin:end].tobytes())
        segments.append(Segment(digest.hexdigest()[:16], end - begin))
        begin = end
    return tuple(segments)
