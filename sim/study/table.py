"""Tables as columns: numpy arrays in memory, Parquet, CSV or JSON through DuckDB on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.errors import StudyError

Columns = dict[str, npt.NDArray[Any]]

#: Columns whose type must not depend on the values that there happen to be.
_TEXT = {"cell", "policy", "profile", "router", "fleet", "load", "arrivals", "tool_time"}
_TEXT |= {"workflow", "framework", "status", "call_id", "agent", "reason", "baseline", "verdict", "kind"}
_WHOLE = {"point", "seed", "arrivals_seed", "session", "num_calls", "num_prompt_tokens", "num_output_tokens"}
_WHOLE |= {"replicas", "max_num_seqs", "max_num_batched_tokens", "num_gpu_blocks", "seeds", "workflows"}
_FLAG = {"counted", "derived", "enable_prefix_caching", "extrapolated", "saturated"}
_FORMS = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "csv": "FORMAT csv, HEADER",
    "json": "FORMAT json, ARRAY",
}


def column(name: str, values: Sequence[Any]) -> npt.NDArray[Any]:
    """The values in their column's type: text, whole numbers, flags, else numbers that are masked where missing."""
    if name in _TEXT:
        return np.array(values, object)
    if name in _WHOLE:
        return np.array(values, np.int64)
    if name in _FLAG:
        return np.array(values, bool)
    missing = np.array([value is None for value in values], bool)
    return np.ma.masked_array(np.array([0.0 if value is None else value for value in values], float), mask=missing)


class Rows:
    """Rows that are collected column by column."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """More rows, all columns equally long."""
        for name, values in columns.items():
            self._columns.setdefault(name, []).extend(values)

    def columns(self) -> Columns:
        """All rows."""
        return {name: column(name, values) for name, values in self._columns.items()}

    def parquet(self) -> bytes:
        """All rows as a file: the same rows give the same bytes."""
        return written(self.columns())


def written(columns: Mapping[str, Any], form: str = "parquet") -> bytes:
    """The table as a file: parquet, csv, or json (a list of objects). Raises StudyError where there is no room."""
    import duckdb  # a tenth of a second, which only those need who write results

    connection = _connection()
    connection.register("rows", dict(columns))
    try:
        with tempfile.TemporaryDirectory(prefix="workspan-") as folder:
            path = Path(folder) / "rows"
            name = str(path).replace("'", "''")
            connection.execute(f"COPY rows TO '{name}' ({_FORMS[form]})")
            return path.read_bytes()
    except (OSError, duckdb.IOException) as error:
        raise StudyError(
            f"no table can be written to the temporary folder ({error}); make room there, or set TMPDIR to another"
            " folder and run again"
        ) from error
    finally:
        connection.unregister("rows")


@cache
def _connection() -> Any:
    """A database in memory, one for each process."""
    import duckdb

    return duckdb.connect(config={"threads": 1})
