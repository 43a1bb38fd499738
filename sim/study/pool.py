"""Who does the chunks of a study: this process, processes of this machine, or a Dask cluster."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from sim.errors import StudyError, WorkspanError
from sim.study.worker import Chunk, Part, run_chunk

#: Chunks -> their parts, as they are done.
Pool = Callable[[Sequence[Chunk]], Generator[Part, None, None]]

#: So many processes may die of a chunk.
_MOST_DEATHS = 2
#: A process looks so often whether its parent is there.
_LOOK_S = 1.0
#: A Dask scheduler has so long to answer, and to name a worker.
_ANSWER_S = 20


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
    # Each process by itself: one that dies takes no other's chunk with it, as it would in a common pool.
    processes = [_Process() for _ in range(jobs)]
    left = iter(chunks)
    try:
        while True:
            for process, chunk in zip((process for process in processes if not process.future), left, strict=False):
                process.begin(chunk)
            busy = [process for process in processes if process.future]
            if not busy:
                return
            wait([process.future for process in busy if process.future], return_when=FIRST_COMPLETED)
            for process in busy:
                if process.future and process.future.done() and (part := process.part()):
                    yield part
    finally:
        for process in processes:
            process.stop()


class _Process:
    """A process that is started when it is needed, and again when it has died."""

    def __init__(self) -> None:
        self.future: Future[Part] | None = None
        self._chunk: Chunk
        self._deaths = 0
        self._executor: Any = None

    def begin(self, chunk: Chunk) -> None:
        """Give it the chunk."""
        self._chunk, self._deaths = chunk, 0
        self._submit()

    def part(self) -> Part | None:
        """What it made of the chunk; None where it died of it, and another one tries."""
        future, self.future = self.future, None
        assert future
        try:
            return future.result()
        except BrokenExecutor:
            self.stop()
            self._deaths += 1
            if self._deaths == _MOST_DEATHS:
                return _lost(self._chunk)
            self._submit()
            return None

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._executor:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def _submit(self) -> None:
        try:
            self.future = self._handed_over()
        except BrokenExecutor:  # it had died before
            self.stop()
            self.future = self._handed_over()

    def _handed_over(self) -> Future[Part]:
        from joblib.externals.loky import ProcessPoolExecutor

        self._executor = self._executor or ProcessPoolExecutor(1, initializer=_end_with, initargs=(os.getpid(),))
        with _deaf():
            future: Future[Part] = self._executor.submit(run_chunk, self._chunk)
        return future


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started here hear no Ctrl-C: it is for this one, which then ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no place to say so
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, by whatever: a queue would be waited at forever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_dask(chunks: Sequence[Chunk], address: str) -> Generator[Part, None, None]:
    """On the workers of a Dask cluster, which gives a chunk whose worker dies to another one."""
    try:
        dask: Any = import_module("distributed")
    except ImportError as error:
        raise StudyError("--executor dask: Dask is not installed; pip install 'workspan[dask]'") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is said in one line
    where = f"--executor dask:{address}"
    try:
        client = dask.Client(address, timeout=f"{_ANSWER_S}s")
    except (OSError, ValueError) as error:
        raise StudyError(f"{where}: no scheduler answers there ({error}); start one, or correct the address") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_ANSWER_S)
            yield from _as_completed(dask, client, chunks)
        except WorkspanError:
            raise
        except TimeoutError as error:
            raise StudyError(f"{where}: there is no worker; start some with `dask worker {address}`") from error
        except Exception as error:  # of a cluster that has gone, or of a Python that cannot read a chunk
            raise StudyError(
                f"{where}: {type(error).__name__}: {error}; what is finished is kept, run again with a cluster all of"
                " whose machines have the same workspan, and your own rules"
            ) from error


def _as_completed(dask: Any, client: Any, chunks: Sequence[Chunk]) -> Iterator[Part]:
    chunk_of = dict(zip(client.map(run_chunk, chunks, pure=False), chunks, strict=True))
    for future in dask.as_completed(list(chunk_of)):
        chunk = chunk_of.pop(future)  # with its last reference the cluster forgets the part
        try:
            yield future.result()
        except dask.KilledWorker:
            yield _lost(chunk)


def _lost(chunk: Chunk) -> Part:
    reason = "its worker died, and so did the one that tried again (out of memory?)"
    return Part(chunk.name, 0, {}, {task.key: reason for task in chunk.tasks})
