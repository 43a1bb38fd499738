"""A folder of results: Parquet files that are whole or not there, and the tables that they make together.

``cells/``, ``sessions/`` and, if asked for, ``calls/`` have a file for each chunk of cells, all of one name; the one in
``cells/`` is written last, so what it names is finished. ``plan.parquet`` has every cell that may run with the settings
of its point, ``manifest.json`` what it all depends on, ``inputs/`` copies of what was read.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sim.errors import StudyError
from sim.study.worker import KINDS, Part

FORMAT = "workspan-study"

#: What is written of a study that is complete.
_OUTCOME = ("comparisons.csv", "summary.csv", "summary.json", "report.html")
#: What a study writes besides its manifest.
_NAMES = {*KINDS, "inputs", "plan.parquet", *_OUTCOME}
#: Kind -> a column that no other has.
_OF = {"calls": "call_id", "sessions": "session", "cells": "duration"}
#: What a manifest must have.
_TOLD = ("study", "traces", "policies", "baseline", "points", "seeds", "stop")
#: Ends the name of a file that is being written.
_PART = ".part"

Columns = Mapping[str, Any]


class Status(NamedTuple):
    """Cells that may run, those of them that are finished, and the files that these are in."""

    planned: int
    done: int
    files: int


class Store:
    """The folder. Every file is written under another name first and then renamed: its name means it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest_path(self) -> Path:
        """What the results depend on."""
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """The manifest. Raises StudyError where the folder has none."""
        return read_manifest(self.manifest_path)

    def check_usable(self) -> None:
        """Raise StudyError for a folder in which there is anything that no study has written."""
        if self.folder.is_dir() and not self.manifest_path.exists():
            names = {path.name for path in self.folder.iterdir() if path.suffix != _PART}
            if not names <= _NAMES:  # those may be of a run that was killed before it wrote the manifest
                raise StudyError(f"{self.folder}: there is something in it that is no study; name another folder")

    def write(self, name: str, data: bytes) -> None:
        """A file of the folder, whole or not at all. Raises StudyError."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write(path, data)
            except FileNotFoundError:  # another process has finished the study, and taken us for a dead one
                _write(path, data)
        except OSError as error:
            raise StudyError(
                f"{path}: cannot be written ({error.strerror}); what is finished is kept, make room or take another"
                " folder and run again"
            ) from error

    def add(self, part: Part) -> None:
        """The rows of a chunk."""
        for kind in KINDS:
            if kind in part.rows:
                self.write(f"{kind}/{part.name}.parquet", part.rows[kind])

    def tidy(self) -> None:
        """Remove what processes that were killed have left half-written."""
        for part in self.folder.rglob(f"*{_PART}"):
            part.unlink(missing_ok=True)

    def drop_outcome(self) -> None:
        """Remove what follows from all results, as the study is another one now: it may have no such policy or load."""
        for name in _OUTCOME:
            (self.folder / name).unlink(missing_ok=True)

    def keep(self, path: Path, name: str) -> str:
        """Copy a file that was read into the folder, under this name; gives its place in it."""
        place, data = f"inputs/{name}", path.read_bytes()
        if not (self.folder / place).exists() or (self.folder / place).read_bytes() != data:
            self.write(place, data)
        return place

    def done(self, save_detailed: bool = False) -> set[str]:
        """The keys of the cells that are finished, with their calls if those are asked for."""
        with self.connect() as connection:
            wanted = "SELECT DISTINCT cell FROM calls" if save_detailed else "SELECT cell FROM finished"
            return set(connection.execute(wanted).fetchnumpy()["cell"])

    @contextmanager
    def connect(self) -> Iterator[Any]:
        """A DuckDB connection with the folder's tables as views. Raises StudyError for a file that is damaged.

        ``plan``; ``finished``, a row of numbers for each finished cell of it; ``cells``, the two together; ``sessions``
        and ``calls`` of those. What an earlier plan had besides is kept in the files, and in no table.
        """
        duckdb = _duckdb()
        with duckdb.connect() as connection:
            try:
                self._make_views(connection)
                yield connection
            except duckdb.Error as error:
                found = self._damage() or StudyError(f"{self.folder}: cannot be read ({first_line(error)})")
                raise found from error

    def _damage(self) -> StudyError | None:
        """What is wrong with the folder's files, if anything is: they are all read."""
        plan = self.folder / "plan.parquet"
        if not _whole(plan, "point"):
            return StudyError(f"{plan}: missing or damaged; run the study again, which writes it")
        for part in self._parts():
            for kind in reversed(KINDS):
                path = self.folder / kind / part
                if not _whole(path, _OF[kind]) and (path.exists() or kind != "calls"):
                    return _spoilt(path, self.folder / "cells" / part)
        return None

    def _make_views(self, connection: Any) -> None:
        parts = self._parts()
        for name, kind in (("finished", "cells"), ("sessions", "sessions"), ("calls", "calls")):
            files = [self.folder / kind / part for part in parts]
            files = [path for path in files if kind != "calls" or path.exists()]
            connection.execute(f"CREATE VIEW every_{name} AS {_rows(files)}")
        plan = _quoted(self.folder / "plan.parquet")
        connection.execute(f"CREATE VIEW plan AS SELECT * FROM read_parquet('{plan}')")
        twice = self._twice(connection)
        for name in ("finished", "sessions", "calls"):
            once = "SEMI JOIN first ON e.cell = first.cell AND parse_filename(e.filename) = first.part" if twice else ""
            # Else an average over sessions would be over those of a policy or window that the study has no more.
            once += " SEMI JOIN plan ON e.cell = plan.cell"
            connection.execute(f"CREATE VIEW {name} AS SELECT e.* EXCLUDE (filename) FROM every_{name} e {once}")
        connection.execute("CREATE VIEW cells AS SELECT * FROM plan JOIN finished USING (cell)")
        if (compared := self.folder / "comparisons.csv").exists():
            connection.execute(f"CREATE VIEW comparisons AS SELECT * FROM read_csv('{_quoted(compared)}')")

    def _twice(self, connection: Any) -> bool:
        """Whether two processes have done the same cell; then only the last of its files counts, by name."""
        rows, cells = connection.execute("SELECT count(*), count(DISTINCT cell) FROM every_finished").fetchall()[0]
        if rows == cells:
            return False
        connection.execute(
            "CREATE TABLE first AS SELECT cell, max(parse_filename(filename)) AS part FROM every_finished GROUP BY cell"
        )
        return True

    @property
    def is_empty(self) -> bool:
        """Whether no cell is finished."""
        return not self._parts()

    def status(self) -> Status:
        """How much of the plan is done."""
        with self.connect() as connection:
            planned, done = connection.execute(
                "SELECT count(*), count(f.cell) FROM (SELECT DISTINCT cell FROM plan) LEFT JOIN finished f USING (cell)"
            ).fetchall()[0]
        return Status(planned, done, len(self._parts()))

    def _parts(self) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.folder / "cells") if entry.name.endswith(".parquet"))
        except (FileNotFoundError, NotADirectoryError):
            return []


def read_manifest(path: Path) -> dict[str, Any]:
    """A study's manifest. Raises StudyError for what is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be read ({error.strerror}); name the folder of a study that has run"
        ) from error
    except ValueError as error:
        raise StudyError(
            f"{path}: not JSON, or cut off; run the study again in its folder, or name the manifest of a study"
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StudyError(f"{path}: no manifest of a study; name the folder or manifest that `workspan study run` wrote")
    if missing := [key for key in _TOLD if key not in found]:
        raise StudyError(f"{path}: {', '.join(missing)} missing; run the study again in its folder, which writes it")
    return found


def first_line(error: Exception) -> str:
    """Of DuckDB's messages, which show the statement, too."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_PART}")  # process numbers repeat on other machines
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or its name could outlive a power cut that its content does not
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _whole(path: Path, column: str) -> bool:
    """Whether the file is a table of cells with this column, too, and every value can be read."""
    duckdb = _duckdb()
    values = f"SELECT any_value(cell), any_value({column}), max(hash(COLUMNS(*))) FROM read_parquet('{_quoted(path)}')"
    try:
        with duckdb.connect() as connection:
            connection.execute(values)
    except duckdb.Error:
        return False
    return True


def _spoilt(path: Path, finished: Path) -> StudyError:
    """Of a chunk's file, where the one in ``cells/`` says that it is there."""
    what, remove = "damaged, or of no study", "it" if path == finished else f"it and {finished}"
    if not path.exists():
        what, remove = "missing", str(finished)
    return StudyError(f"{path}: {what}; remove {remove}, and run the study again, which does anew what was in it")


def _rows(files: Sequence[Path]) -> str:
    """SQL of the rows of these files."""
    if not files:
        return "SELECT NULL::VARCHAR AS cell, NULL::VARCHAR AS filename WHERE false"
    names = ", ".join(f"'{_quoted(path)}'" for path in files)
    return f"SELECT * FROM read_parquet([{names}], filename = true)"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _duckdb() -> Any:
    import duckdb  # a tenth of a second, which only those need who read or write results

    return duckdb
