"""Flat tables: ``calls.csv`` and ``sessions.csv``, with the columns of `sim.record`, and ``provenance.json``.

All policies and repetitions of a result, times in seconds as they were recorded, nothing left out. What is not known
is empty. Of workflows that ran alone each has a clock of its own.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence

from sim.export import Part, Result, Written
from sim.record import Record, SessionRecord

USES_WORKFLOWS = False


def write(result: Result) -> Written:
    """A row per call, a row per session."""
    return Written(
        {
            "calls.csv": _table(Record._fields, result.parts, "records"),
            "sessions.csv": _table(SessionRecord._fields, result.parts, "sessions"),
            "provenance.json": [json.dumps(dict(result.provenance), indent=2) + "\n"],
        }
    )


def _table(columns: Sequence[str], parts: Sequence[Part], rows: str) -> Iterator[str]:
    yield _line(["policy", "repetition", *columns])
    for part in parts:
        for row in getattr(part.run, rows):
            yield _line([part.policy, part.repetition, *row])


def _line(values: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
