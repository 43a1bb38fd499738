"""A folder of results: Parquet files that are whole or not there, and the tables that they make together.

``cells/``, ``sessions/`` and, if asked for, ``calls/`` have a file for each chunk of cells, all of one name; the one in
``cells/`` is written last, so what it names is finished. ``plan.parquet`` has every cell that may run with the settings
of its point, ``manifest.json`` what it all depends on, ``inputs/`` copies of what was read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sim.errors import StudyError
from sim.study.worker import KINDS, Part

FORMAT = "workspan-study"

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
        """Raise StudyError for a folder that is not a study's, or that cannot be written."""
        if self.folder.is_dir() and not self.manifest_path.exists() and any(self.folder.iterdir()):
            raise StudyError(f"{self.folder}: there is something in it that is no study; name another folder")
        self.write("probe", b"")
        (self.folder / "probe").unlink()

    def write(self, name: str, data: bytes) -> None:
        """A file of the folder, whole or not at all. Raises StudyError."""
        path = self.folder / name
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
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
        for stale in (path for kind in KINDS for path in (self.folder / kind).glob(f"{part.name}.parquet.*.part")):
            stale.unlink(missing_ok=True)  # of a process that was killed

    def keep(self, path: Path, name: str) -> str:
        """Copy a file that was read into the folder, under this name; gives its place in it."""
        place = f"inputs/{name}"
        if not (self.folder / place).exists():
            self.write(place, path.read_bytes())
        return place

    def done(self, save_detailed: bool = False) -> set[str]:
        """The keys of the cells that are finished, with their calls if those are asked for."""
        with self.connect() as connection:
            wanted = "SELECT DISTINCT cell FROM calls" if save_detailed else "SELECT cell FROM finished"
            return set(connection.execute(wanted).fetchnumpy()["cell"])

    def connect(self) -> Any:
        """A DuckDB connection with the folder's tables as views.

        ``plan``; ``finished``, a row of numbers for each finished cell; ``cells``, the two together; ``sessions`` and
        ``calls``.
        """
        connection = _duckdb().connect()
        parts = self._parts()
        for name, kind in (("finished", "cells"), ("sessions", "sessions"), ("calls", "calls")):
            files = [self.folder / kind / part for part in parts]
            files = [path for path in files if kind != "calls" or path.exists()]
            connection.execute(f"CREATE VIEW every_{name} AS {_rows(files)}")
        twice = self._twice(connection)
        for name in ("finished", "sessions", "calls"):
            once = (
                " SEMI JOIN first ON e.cell = first.cell AND parse_filename(e.filename) = first.part" if twice else ""
            )
            connection.execute(f"CREATE VIEW {name} AS SELECT e.* EXCLUDE (filename) FROM every_{name} e{once}")
        if (plan := self.folder / "plan.parquet").exists():
            connection.execute(f"CREATE VIEW plan AS SELECT * FROM '{_quoted(plan)}'")
            connection.execute("CREATE VIEW cells AS SELECT * FROM plan JOIN finished USING (cell)")
        if (compared := self.folder / "comparisons.csv").exists():
            connection.execute(f"CREATE VIEW comparisons AS SELECT * FROM read_csv('{_quoted(compared)}')")
        return connection

    def _twice(self, connection: Any) -> bool:
        """Whether two processes have done the same cell; then only the last of its files counts, by name."""
        rows, cells = connection.execute("SELECT count(*), count(DISTINCT cell) FROM every_finished").fetchall()[0]
        if rows == cells:
            return False
        connection.execute(
            "CREATE TABLE first AS SELECT cell, max(parse_filename(filename)) AS part FROM every_finished GROUP BY cell"
        )
        return True

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
        except FileNotFoundError:
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
        raise StudyError(f"{path}: not JSON; name the manifest of a study") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StudyError(f"{path}: no manifest of a study; name the folder or manifest that `workspan study run` wrote")
    return found


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
