"""A real vLLM on the CPU, with a small Llama of random weights, started for the tests and stopped after them."""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm/bin/python"
#: Seconds: it is ready after some 35.
_READY_S = 300
#: So few slots that a queue forms.
MAX_NUM_SEQS = 4

_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
}
_FLAGS = (
    *("--served-model-name", "tiny-llama", "--load-format", "dummy", "--dtype", "bfloat16", "--enforce-eager"),
    *("--max-model-len", "8192", "--max-num-seqs", str(MAX_NUM_SEQS), "--scheduling-policy", "priority"),
    *("--enable-per-request-metrics", "--enable-prompt-tokens-details"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}'),
)


@pytest.fixture(scope="session")
def start_vllm(tmp_path_factory):
    """A context manager that gives the URL of a real server and its process.

    Its arguments are flags, which win over the usual ones, and variables of its environment.
    """
    if not (ROOT / ".venv-vllm/installed").exists():
        pytest.skip("no vLLM in .venv-vllm; make test-vllm installs it")
    folder = tmp_path_factory.mktemp("vllm")
    subprocess.run([PYTHON, ROOT / "live/tiny_model.py", folder / "model"], check=True, timeout=120)

    @contextmanager
    def start(*flags, **environment):
        log = (folder / f"{time.time()}.log").open("w+")
        port = _free_port()
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", folder / "model", *_FLAGS]
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | _ENVIRONMENT | environment,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield url, process
        finally:
            # The engine is a process of its own, which the server may no longer be there to end.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
            log.close()

    return start


@pytest.fixture(scope="session")
def server(start_vllm):
    """The URL of a real server that all tests share."""
    with start_vllm() as (url, _):
        version = requests.get(f"{url}/version", timeout=10).json()["version"]
        print(f"\na real vLLM {version} runs on the CPU")
        yield url


def _wait(url, process, log):
    end = time.monotonic() + _READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if requests.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.5)
    log.seek(0)
    pytest.fail(f"the server did not start: {log.read()[-2000:]}")


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
