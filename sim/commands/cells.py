"""How far the cells of a study are, for people who wait."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from sim.study.drive import Progress

#: Where stderr is no terminal, a line at most so often.
_EVERY_S = 10.0


def cores() -> int:
    """Of this machine, as many as this process may use."""
    from joblib import cpu_count

    cores: int = cpu_count()
    return cores


def minutes(minutes: float) -> str:
    """A time for people."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


@contextmanager
def cell_progress() -> Iterator[Progress]:
    """A bar with cells per second and the time left on a terminal, elsewhere a line now and then; on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = ("cells", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("cells", total=None, rate="")
            started = time.monotonic()

            def show(more: int, total: int) -> None:
                bar.update(task, advance=more, total=total)
                done = bar.tasks[0].completed
                bar.update(task, rate=f"{done / max(1e-9, time.monotonic() - started):.3g}/s")

            yield show
        return
    yield _Lines().show


class _Lines:
    """Progress where nothing can be overwritten."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._done = 0

    def show(self, more: int, total: int) -> None:
        """A line, if the last one is old or all is done."""
        self._done += more
        now = time.monotonic()
        if not more or (now - self._last < _EVERY_S and self._done < total):
            return
        self._last = now
        rate = self._done / (now - self._began)
        left = minutes((total - self._done) / rate / 60)
        click.echo(f"{self._done:,} of {total:,} cells, {rate:.3g} cells/s, {left} left", err=True)
