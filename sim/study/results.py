"""A study's results as numpy arrays and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import StudyError, nearest
from sim.study.outcome import comparisons, summary
from sim.study.store import Status, Store, first_line
from sim.study.table import Columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        return summary(self._finished)

    @cached_property
    def comparisons(self) -> Columns:
        """A row for each policy at each point: ``speedup`` over the baseline, interval, p, verdict."""
        return comparisons(self._finished)

    def query(self, sql: str) -> Columns:
        """The rows of a SELECT over ``cells``, ``sessions``, ``calls``, ``plan`` and ``comparisons``."""
        with self._finished.connect() as connection:
            try:
                rows = connection.execute(sql)
            except _mistakes() as error:
                raise StudyError(f"query: {first_line(error)}; DESCRIBE cells shows what there is") from error
            if rows is None:
                raise StudyError("query: there is no statement in it; give SQL such as SELECT * FROM cells")
            return dict(rows.fetchnumpy())

    def figure(self, kind: str = "speedup", policies: Sequence[str] = (), point: int | None = None) -> Figure:
        """One of FIGURES, of all policies or these, at a point of its own choice or this one.

        Raises StudyError for another, or where there is nothing to draw.
        """
        from sim.study.figures import ALL_POINTS, FIGURES
        from sim.study.panels import Asked

        if kind not in FIGURES:
            raise StudyError(f"no figure {kind!r}{nearest(kind, FIGURES)}")
        if point is not None and kind in ALL_POINTS:
            raise StudyError(f"{kind} draws all points; leave out which")
        return FIGURES[kind](self, Asked(tuple(policies), point))

    @property
    def status(self) -> Status:
        """How far the study is."""
        return self._store.status()

    @property
    def _finished(self) -> Store:
        """The folder, which must have rows."""
        if self._store.is_empty:
            raise StudyError(f"{self.folder}: no cell is finished yet; run the study")
        return self._store

    @property
    def _store(self) -> Store:
        return Store(self.folder)


def open_results(folder: str | Path) -> Results:
    """The results in a folder. Raises StudyError where there are none."""
    found = Results(Path(folder))
    _ = found.manifest
    return found


def _mistakes() -> tuple[type[Exception], ...]:
    """What is wrong with a query, not with the folder."""
    import duckdb

    of_statements = duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException
    return *of_statements, duckdb.DataError, duckdb.InvalidInputException, duckdb.PermissionException
