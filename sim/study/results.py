"""A study's results as numpy arrays and figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import StudyError, nearest
from sim.study.outcome import comparisons, summary
from sim.study.store import Store
from sim.study.table import Columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Status:
    """How far a study is. ``seeds_to_come`` where a stopping rule may still add cells."""

    cells: int
    done: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class Results:
    """The folder of a study, finished or not. Tables are columns: name -> array of equal length."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the results depend on."""
        return self._store.manifest()

    @cached_property
    def cells(self) -> Columns:
        """A row for each finished cell: the settings of its point, and its numbers under ``vllm bench``'s names."""
        return summary(self._store)

    @cached_property
    def comparisons(self) -> Columns:
        """A row for each policy at each point: ``speedup`` over the baseline, interval, p, verdict."""
        return comparisons(self._store)

    def query(self, sql: str) -> Columns:
        """The rows of a SELECT over ``cells``, ``sessions``, ``calls``, ``plan`` and ``comparisons``."""
        with self._store.connect() as connection:
            relation = _run(connection, sql)
            return {} if relation is None else relation.fetchnumpy()

    def figure(self, kind: str = "speedup") -> Figure:
        """One of FIGURES. Raises StudyError for another, or where there is nothing to draw."""
        from sim.study.figures import FIGURES

        if kind not in FIGURES:
            raise StudyError(f"no figure {kind!r}{nearest(kind, FIGURES)}")
        return FIGURES[kind](self)

    @property
    def _store(self) -> Store:
        return Store(self.folder)


def open_results(folder: str | Path) -> Results:
    """The results in a folder. Raises StudyError where there are none."""
    found = Results(Path(folder))
    _ = found.manifest
    return found
