"""The machine: cores, memory, a place for temporary files, and GPUs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sim.doctor import Check

#: Bytes to reckon with for one process of a study; simulating the embedded workflows takes a fifth of it.
_PROCESS = 1 << 29
#: Bytes that should be free for temporary files.
_ROOM = 1 << 30
_GIB = 1 << 30


def machine() -> Iterator[Check]:
    """Every check of it."""
    yield cores_and_memory()
    yield temporary_files()
    yield gpu()


def cores_and_memory() -> Check:
    """What processes may use; a container's limits count."""
    number, memory = cores(), available()
    found = f"{number} cores, {f'{memory / _GIB:.1f} GiB free' if memory else 'memory unknown'}"
    fit = max(1, memory // _PROCESS) if memory else number
    if fit >= number:
        return Check("cores and memory", found)
    says = f"a study in {number} processes may run out of memory"
    return Check("cores and memory", found, "note", says, f"workspan study run -j {fit}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available() -> int | None:
    """Bytes of memory that may still be taken; None where nobody says."""
    told = [_meminfo(), _cgroup()]
    return min((value for value in told if value is not None), default=None)


def temporary_files() -> Check:
    """Where processes hand each other data, and matplotlib keeps its fonts."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 4096)
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            "temporary files",
            error.strerror or str(error),
            "will not work",
            "studies and figures",
            "set TMPDIR to a folder that can be written",
            essential=True,
        )
    found = f"{folder}, {free / _GIB:.1f} GiB free"
    if free >= _ROOM:
        return Check("temporary files", found)
    return Check("temporary files", found, "note", "little room", "set TMPDIR to a folder with 1 GiB free")


def gpu() -> Check:
    """What nvidia-smi tells; to simulate, none is needed."""
    if not shutil.which("nvidia-smi"):
        return Check("GPU", "no nvidia-smi", "note", "simulation needs none; vLLM also runs on the CPU, slowly")
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _no_gpu(type(error).__name__)
    rows = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not rows:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return _no_gpu(lines[0] if lines else f"exit code {done.returncode}")
    return Check("GPU", "; ".join(f"{len([r for r in rows if r == row])} x {row}" for row in dict.fromkeys(rows)))


def _no_gpu(why: str) -> Check:
    return Check(
        "GPU", f"nvidia-smi: {why}", "will not work", "vLLM on a GPU", "mend the driver until nvidia-smi works"
    )


def _meminfo() -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _cgroup() -> int | None:
    """Bytes that the container has left (cgroup v2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        most, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return None
    return max(0, int(most) - int(used)) if most.isdigit() else None
