"""Who does the chunks of a study: this process, processes of this machine, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from importlib import import_module
from queue import Queue
from typing import Any

from sim.errors import StudyError
from sim.study.worker import Chunk, Part, run_chunk

#: Chunks -> their parts, as they are done.
Pool = Callable[[Sequence[Chunk]], Generator[Part, None, None]]


def pool(executor: str, jobs: int) -> Pool:
    """``local``, or ``dask:ADDRESS`` of a scheduler. Raises StudyError."""
    kind, _, address = executor.partition(":")
    if executor == "local":
        return in_this_process if jobs == 1 else lambda chunks: on_this_machine(chunks, jobs)
    if kind == "dask" and address:
        return lambda chunks: on_dask(chunks, address)
    raise StudyError(f"--executor {executor}: give local, or dask:ADDRESS, such as dask:tcp://10.0.0.1:8786")


def in_this_process(chunks: Sequence[Chunk]) -> Generator[Part, None, None]:
    """One after the other."""
    yield from map(run_chunk, chunks)


def on_this_machine(chunks: Sequence[Chunk], jobs: int) -> Generator[Part, None, None]:
    """In so many processes. A chunk whose process dies is tried once more, in a new one."""
    from joblib import Parallel, delayed

    # Each process by itself: one that dies takes no other's chunk with it, as it would in a common pool.
    free: Queue[_Process] = Queue()
    processes = [_Process() for _ in range(jobs)]
    for process in processes:
        free.put(process)
    threads = Parallel(n_jobs=jobs, backend="threading", return_as="generator_unordered", pre_dispatch=jobs)
    try:
        yield from threads(delayed(_attended)(chunk, free) for chunk in chunks)
    finally:
        for process in processes:
            process.stop()


class _Process:
    """A process that is started when it is needed, and again when it has died."""

    def __init__(self) -> None:
        self._executor: Any = None

    def run(self, chunk: Chunk) -> Part | None:
        """The chunk's part; None where the process died of it."""
        from joblib.externals.loky import ProcessPoolExecutor
        from joblib.externals.loky.process_executor import BrokenProcessPool

        self._executor = self._executor or ProcessPoolExecutor(max_workers=1)
        try:
            part: Part = self._executor.submit(run_chunk, chunk).result()
            return part
        except BrokenProcessPool:
            self.stop()
            return None

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._executor:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None


def _attended(chunk: Chunk, free: Queue[_Process]) -> Part:
    process = free.get()
    try:
        return process.run(chunk) or process.run(chunk) or _lost(chunk)
    finally:
        free.put(process)


def on_dask(chunks: Sequence[Chunk], address: str) -> Generator[Part, None, None]:
    """On the workers of a Dask cluster, which gives a chunk whose worker dies to another one."""
    try:
        dask: Any = import_module("distributed")
    except ImportError as error:
        raise StudyError("--executor dask: Dask is not installed; pip install 'workspan[dask]'") from error
    try:
        client = dask.Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise StudyError(f"--executor dask:{address}: no scheduler answers there ({error}); start one") from error
    with client:
        futures = {
            future: chunk for chunk, future in zip(chunks, client.map(run_chunk, chunks, pure=False), strict=True)
        }
        for future in dask.as_completed(list(futures)):
            try:
                yield future.result()
            except dask.KilledWorker:
                yield _lost(futures[future])
            del futures[future]


def _lost(chunk: Chunk) -> Part:
    reason = "its worker died, and so did the one that tried again (out of memory?)"
    return Part(chunk.name, 0, {}, {task.key: reason for task in chunk.tasks})
