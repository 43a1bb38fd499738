"""What a study survives: kills at any moment, a full disk, damaged files, workers that die, Ctrl-C."""

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from sim.data import embedded_path
from sim.errors import StudyError
from sim.study import Study, open_results
from sim.study.drive import Run
from sim.study.plan import Plan, read_corpus
from sim.study.points import Files
from sim.study.store import Store
from sim.traces import LoadOptions, jsonl, read

#: Of the study: two points, two policies, six seeds, and the baseline once more for each seed.
CELLS = 30

#: `workspan study run`, with a cell in each chunk.
PROGRAM = """
import json, sys, click
import sim.study.plan
from sim.cli import execute
from sim.study import Study
from sim.study.drive import run_study

sim.study.plan._CALLS_PER_CHUNK = 1

@click.command()
@click.argument("study")
@click.argument("folder")
@click.argument("executor")
def run(study, folder, executor):
    run_study(Study(**json.loads(study)), folder, jobs=2, executor=executor)

if __name__ == "__main__":
    execute(run)
"""


@pytest.fixture(autouse=True)
def a_cell_in_each_chunk(monkeypatch):
    monkeypatch.setattr("sim.study.plan._CALLS_PER_CHUNK", 1)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "workflows.jsonl"
    path.write_text("".join(jsonl.dump(read([embedded_path()], LoadOptions(only=("peer-review/*",)))[0], {})))
    study = Study(
        traces={"sources": [str(path)], "resample": 40},
        policies=["sequential", "async"],
        server={"profile": "rtx4090-llama-3.1-8b", "max_num_seqs": 8},
        grid={"product": {"load.session_rate": [0.1, 0.3]}},
        seeds=6,
    )
    return Plan.of(study, read_corpus(study, Files())[0], Files())


@pytest.fixture(scope="module")
def run(plan):
    """Runs the study in a folder, in this process."""
    return lambda folder, **options: Run(plan, Store(folder), Files(), **options).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, run):
    """The folder of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.study.plan._CALLS_PER_CHUNK", 1)
        assert run(folder).cells == CELLS
    return folder


@pytest.fixture(scope="module")
def running(plan):
    """Starts a process that runs the study; its group is ended when the test is."""

    @contextlib.contextmanager
    def start(folder, executor="local"):
        study = plan.study.model_dump_json(by_alias=True, exclude_unset=True)
        command = [sys.executable, "-c", PROGRAM, study, str(folder), executor]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, **pipes, text=True, start_new_session=True)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    return start


@pytest.fixture
def copy(tmp_path, whole):
    """Of the undisturbed run's folder, to be damaged."""
    return shutil.copytree(whole, tmp_path / "copy")


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def number_done(folder):
    return len(list(folder.glob("cells/*.parquet")))


def wait_until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def workers(process):
    return [child for child in children(process) if "popen_loky" in " ".join(child.cmdline())]


def kill_at_random(process, folder, chance, most):
    """Kill it after up to so many cells: perhaps a worker first, then all processes or the main one alone."""
    before, more = number_done(folder), chance.randint(0, most)
    wait_until(lambda: number_done(folder) >= before + more or process.poll() is not None)
    time.sleep(chance.random() * (0.1 if more else 2.0))  # or while it starts
    assert process.poll() is None, process.communicate()
    if chance.random() < 0.5 and (some := workers(process)):
        chance.choice(some).kill()
        time.sleep(chance.random() * 0.2)
    born = children(process)
    (os.killpg if chance.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(born, timeout=10)[1]


def check_kills(folder, times, seed, most, running, run, whole):
    chance = random.Random(seed)
    for _ in range(times):
        with running(folder) as process:
            kill_at_random(process, folder, chance, most)
    left = number_done(folder)
    done = run(folder)
    assert (done.kept, done.complete) == (left, True)
    assert content(folder) == content(whole)  # and no *.part
    return left


def test_killed_again_and_again_a_study_ends_as_if_undisturbed(tmp_path, running, run, whole):
    assert 0 < check_kills(tmp_path, 3, 7, 3, running, run, whole) < CELLS


def test_ctrl_c_ends_all_at_once_and_quietly(tmp_path, running):
    with running(tmp_path) as process:
        wait_until(lambda: number_done(tmp_path) > 2)
        born = children(process)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=10)
        assert (process.returncode, told.strip()) == (130, "stopped")
        assert len(born) >= 2
        assert not psutil.wait_procs(born, timeout=10)[1]
    assert not list(tmp_path.rglob("*.part"))


@contextlib.contextmanager
def cluster(folder):
    """A Dask scheduler and two workers of two threads: its address, and the workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    dask = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    worker = ["-m", "distributed.cli.dask_worker", address, "--nworkers", "1", "--nthreads", "2"]
    worker += ["--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([sys.executable, *command], **quiet) for command in (dask, worker, worker)]
    try:
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_dask_cluster_that_loses_a_worker_gives_the_same_bytes(tmp_path, running, whole):
    folder = tmp_path / "out"
    with cluster(tmp_path / "dask") as (address, crew), running(folder, f"dask:{address}") as process:
        wait_until(lambda: number_done(folder) > 3)
        crew[0].kill()
        assert number_done(folder) < CELLS
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (0, "")
    assert content(folder) == content(whole)


@pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1:1", "http://127.0.0.1:80"])
def test_a_wrong_address_of_dask_is_one_line(tmp_path, run, address, monkeypatch):
    monkeypatch.setattr("sim.study.pool._ANSWER_S", 1)
    with pytest.raises(StudyError, match=f"--executor dask:{address}: no scheduler answers there"):
        run(tmp_path, executor=f"dask:{address}")


def test_without_dask_the_mend_is_said(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StudyError, match=r"Dask is not installed; pip install 'workspan\[dask\]'"):
        run(tmp_path, executor="dask:127.0.0.1:8786")


@pytest.mark.parametrize(
    ("jobs", "problem"),
    [
        (1, r"no table can be written to the temporary folder \(.*; make room there, or set TMPDIR to another"),
        (2, r"\.parquet: cannot be written \(File too large\); what is finished is kept, make room"),
    ],
)
def test_where_nothing_more_can_be_written_what_is_finished_is_kept(tmp_path, run, whole, jobs, problem):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit_size_of_files(more, total):
        if number_done(tmp_path) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))

    try:
        with pytest.raises(StudyError, match=problem):
            run(tmp_path, jobs=jobs, progress=limit_size_of_files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run(tmp_path).kept == 3
    assert content(tmp_path) == content(whole)


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_keeps_what_is_finished(disk, run, whole):
    folder, filler = disk / "out", disk / "filler"

    def fill(more, total):
        if number_done(folder) == 3:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

    with pytest.raises(StudyError, match=r"\.parquet: cannot be written \(No space left on device\); what is finished"):
        run(folder, progress=fill)
    assert not list(folder.rglob("*.part"))
    filler.unlink()
    assert run(folder).kept == 3
    assert content(folder) == content(whole)


def test_a_read_only_folder_is_read_and_not_written(disk, run, whole):
    shutil.copytree(whole, disk / "out")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StudyError, match=r"cannot be written \(Read-only file system\)"):
        run(disk / "out")
    assert len(open_results(disk / "out").comparisons["policy"]) == 3


DAMAGED = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "zeros inside": lambda path: path.write_bytes(path.read_bytes()[:200].ljust(600, b"\0") + path.read_bytes()[600:]),
    "text": lambda path: path.write_text("not mine"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", ["cells", "sessions"])
@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_named_and_mended_as_said(copy, run, whole, kind, how):
    finished = sorted(copy.glob("cells/*"))[4]
    damaged = copy / kind / finished.name
    DAMAGED[how](damaged)
    if finished.exists():  # or its cells are just not done
        what = "damaged, or of no study" if damaged.exists() else "missing"
        with pytest.raises(StudyError, match=f"^{damaged}: {what}; remove .*, and run the study again") as caught:
            run(copy)
        assert damaged == finished or str(finished) in str(caught.value)
        for path in {damaged, finished}:
            path.unlink(missing_ok=True)
    assert run(copy).cells == 1
    assert content(copy) == content(whole)


@pytest.mark.parametrize("how", ["empty", "cut off", "missing"])
def test_what_does_not_need_the_cells_is_written_anew(copy, run, whole, how):
    for name in ("manifest.json", "plan.parquet"):
        DAMAGED[how](copy / name)
        with pytest.raises(StudyError, match=name):
            _ = open_results(copy).status
        shutil.copy(whole / name, copy / name)
    for path in [path for path in copy.rglob("*") if path.is_file() and path.parent.name not in ("cells", "sessions")]:
        DAMAGED[how](path)
    assert run(copy).cells == 0
    assert content(copy) == content(whole)


def test_a_foreign_table_among_the_results_is_named(copy):
    foreign = copy / "cells" / "0.parquet"
    shutil.copy(copy / "plan.parquet", foreign)
    with pytest.raises(StudyError, match=r"cells/0.parquet: damaged, or of no study; remove it, and run"):
        _ = open_results(copy).comparisons
    foreign.rename(copy / "cells" / "notes.txt")
    assert open_results(copy).status.done == CELLS


def test_before_a_cell_is_finished_there_are_no_results(tmp_path, whole):
    for name in ("manifest.json", "plan.parquet"):
        shutil.copy(whole / name, tmp_path / name)
    assert open_results(tmp_path).status.done == 0
    with pytest.raises(StudyError, match="no cell is finished yet; run the study"):
        _ = open_results(tmp_path).comparisons


def test_what_is_killed_before_its_manifest_goes_on(tmp_path, run, whole):
    shutil.copytree(whole / "inputs", tmp_path / "inputs")
    (tmp_path / "manifest.json.0.part").write_bytes(b"{")
    run(tmp_path)
    assert content(tmp_path) == content(whole)
