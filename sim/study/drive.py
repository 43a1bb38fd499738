"""A study from its plan to its finished folder: what is not done yet is done, and nothing else."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from sim.errors import StudyError
from sim.study.outcome import complete, seeds_needed, write_outcome
from sim.study.plan import Cell, Plan, read_corpus
from sim.study.points import Files
from sim.study.pool import pool
from sim.study.results import Results, open_results
from sim.study.spec import RECORDED, Study
from sim.study.store import Store
from sim.study.table import written
from sim.study.version import engine_digest
from sim.study.worker import Chunk, Part, Task
from sim.traces import jsonl

#: Called with how many more cells are done, and how many there are to do in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``of`` parts of a study, from 1: for machines that share nothing but the folder."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise StudyError(f"--shard {self.number}/{self.of}: give 1/{self.of} to {self.of}/{self.of}")

    def of_cells(self, cells: Sequence[Cell], by_point: bool) -> list[Cell]:
        """Its cells; whole points of them where that is needed."""
        places = ((cell.point if by_point else place, cell) for place, cell in enumerate(cells))
        return [cell for place, cell in places if place % self.of == self.number - 1]


@dataclass
class Done:
    """What a run of a study has done. ``failed``: of cells that gave no result, which they are and why."""

    cells: int = 0
    kept: int = 0
    failed: list[str] = field(default_factory=list)
    complete: bool = False


@dataclass
class Run:
    """One process's share in a study."""

    plan: Plan
    store: Store
    files: Files
    jobs: int = 1
    executor: str = "local"
    shard: Shard = Shard()
    save_detailed: bool = False
    continue_on_error: bool = False
    progress: Progress = lambda more, total: None
    done: Done = field(default_factory=Done)
    _failed: set[str] = field(default_factory=set)

    def run(self) -> Done:
        """Do what is not done yet, and write what follows from all results if none is missing.

        Raises StudyError where a cell fails, unless the others shall go on, and where the folder cannot be written;
        what is finished is kept.
        """
        workers = pool(self.executor, self.jobs)
        workflows = self._prepare()
        cells = self.shard.of_cells(self._cells, by_point=self.plan.study.stop is not None)
        while chunks := self._chunks(cells, workflows):
            total = sum(len(chunk.tasks) for chunk in chunks)
            self.progress(0, total)
            with closing(workers(chunks)) as parts:
                for part in parts:
                    self._take(part, total)
        self.done.complete = complete(self.store)
        if self.done.complete:
            write_outcome(self.store)
            self.store.tidy()
        return self.done

    def _prepare(self) -> Path:
        """Write what the folder says of the study, and what it was made from; gives the file of the workflows."""
        plan, store = self.plan, self.store
        store.check_usable()
        inputs = {
            name: store.keep(path, f"{_digest(path)}-{Path(name).name}") for name, path in self._read_files().items()
        }
        workflows = f"inputs/workflows-{plan.corpus.digest}.jsonl.gz"
        text = "".join(jsonl.dump(plan.corpus.workflows, {"origin": plan.study.name})).encode()
        if not _holds(store.folder / workflows, text):
            store.write(workflows, gzip.compress(text, mtime=0))
        store.write("plan.parquet", written(plan.table(self._cells)))
        manifest = {**plan.manifest(), "inputs": {**inputs, "workflows": workflows}}
        told = (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode()
        if store.manifest_path.exists() and store.manifest_path.read_bytes() != told:
            store.drop_outcome()
        store.write("manifest.json", told)
        return (store.folder / workflows).absolute()

    def _read_files(self) -> dict[str, Path]:
        """The files besides traces that the points name, by the name there."""
        names = set()
        for point in self.plan.points:
            server, arrivals = point.settings.server, point.settings.load.arrivals
            names |= {server.profile} if server.profile.endswith((".yaml", ".yml")) else set()
            names |= {name for name in (server.fleet, arrivals) if name and name != RECORDED}
        return {name: self.files.path(name) for name in sorted(names)}

    def _chunks(self, cells: Sequence[Cell], workflows: Path) -> list[Chunk]:
        """Those of the cells that there must be, that are not done, and that have not failed."""
        seeds, done = seeds_needed(self.store), self.store.done(self.save_detailed)
        wanted = [cell for cell in cells if cell.seed < seeds[cell.point]]
        over = done | self._failed
        left = [[cell for cell in chunk if cell.key not in over] for chunk in self.plan.chunks(wanted)]
        self.done.kept = max(self.done.kept, len(done & {cell.key for cell in wanted}) - self.done.cells)
        return [self._chunk(chunk, workflows) for chunk in left if chunk]

    def _chunk(self, cells: Sequence[Cell], workflows: Path) -> Chunk:
        plan, study = self.plan, self.plan.study
        return Chunk(
            name=sha256("".join(cell.key for cell in cells).encode()).hexdigest()[:16],
            tasks=[self._task(cell) for cell in cells],
            workflows=workflows,
            engine=engine_digest(),
            own=plan.own,
            resample=study.traces.resample,
            window=study.window,
            slo=study.slo,
            save_detailed=self.save_detailed,
        )

    def _task(self, cell: Cell) -> Task:
        point = self.plan.points[cell.point]
        tools = tuple(map(str, point.tools))
        return Task(cell.key, point.policies[cell.policy], point.fleet, point.load, tools, cell.seed, cell.arrivals)

    def _take(self, part: Part, total: int) -> None:
        self.store.add(part)
        self.done.cells += part.num_cells
        self.progress(part.num_cells + len(part.failed), total)
        self._failed |= part.failed.keys()
        self.done.failed += [f"{self._called(key)}: {reason}" for key, reason in part.failed.items()]
        if self.done.failed and not self.continue_on_error:
            raise StudyError(
                f"{self.done.failed[0]}; mend it and run again, or let the others go on with --continue-on-error;"
                " what is finished is kept"
            )

    @cached_property
    def _cells(self) -> list[Cell]:
        """All of the plan: seconds of work where there are a million."""
        return self.plan.cells()

    @cached_property
    def _by_key(self) -> dict[str, Cell]:
        return {cell.key: cell for cell in reversed(self._cells)}

    def _called(self, key: str) -> str:
        """A cell's name for people."""
        cell = self._by_key[key]
        varied = "".join(f", {name} {value}" for name, value in self.plan.points[cell.point].varied.items())
        return f"policy {cell.policy}{varied}, seed {cell.seed}"


def _holds(path: Path, text: bytes) -> bool:
    """Whether the compressed file is this text."""
    try:
        return gzip.decompress(path.read_bytes()) == text
    except (OSError, EOFError, zlib.error):  # missing, or damaged
        return False


def _digest(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); name another file") from error


def run_study(
    study: Study,
    folder: str | Path,
    jobs: int | None = None,
    executor: str = "local",
    save_detailed: bool = False,
) -> Results:
    """Do what is not done yet of the study, in so many processes (None: one for each core), and open its results.

    Files that it names are looked for in the working directory. Raises WorkspanError.
    """
    from joblib import cpu_count

    files = Files()
    plan = Plan.of(study, read_corpus(study, files)[0], files)
    Run(plan, Store(Path(folder)), files, jobs or cpu_count(), executor, save_detailed=save_detailed).run()
    return open_results(folder)
