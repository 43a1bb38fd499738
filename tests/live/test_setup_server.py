"""setup_vllm.sh and its server: started, waited for, reported, stopped, or dead."""

import os
import re
import signal
import subprocess

import pytest


def test_a_server_is_started_once_reported_and_stopped(cpu):
    first = cpu.run("--cpu", VLLM_API_KEY="sk-secret")
    assert first.returncode == 0, first.stderr
    url = f"http://127.0.0.1:{cpu.environment['PORT']}"
    assert f"vLLM 0.0.1 is ready at {url}" in first.stdout
    assert "tiny-llama, max_model_len 8192" in first.stdout
    assert "policy priority, max_num_seqs 77" in first.stdout
    assert "2048 blocks of 128 tokens, enable_prefix_caching True" in first.stdout
    assert first.stdout.splitlines()[-1] == f"next: workspan live check --server {url}"
    process = (cpu.root / ".vllm/id").read_text()
    again = cpu.run("--cpu", VLLM_API_KEY="sk-secret")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert (cpu.root / ".vllm/id").read_text() == process
    other = cpu.run("--cpu", MAX_NUM_SEQS="5")
    assert other.returncode == 2
    assert "other settings" in other.stderr
    assert cpu.run("--status", VLLM_API_KEY="sk-secret").stdout == first.stdout
    assert cpu.run("--logs").stdout == "a line of the log\n"
    assert all("sk-secret" not in path.read_text() for path in (cpu.root / ".vllm").glob("*") if path.is_file())
    assert "stopped" in cpu.run("--stop").stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


def test_a_container_is_started_once_reported_and_stopped(gpu):
    first = gpu.run("--gpu")
    assert first.returncode == 0, first.stderr
    assert (gpu.run("--gpu").stdout, gpu.run("--status").stdout) == (first.stdout, first.stdout)
    assert gpu.calls.read_text().count("docker run") == 1
    assert gpu.run("--logs").stdout == "a line of the log\n"
    assert "stopped" in gpu.run("--stop").stderr
    assert gpu.run("--status").returncode == 1
    assert gpu.run("--logs").stdout == "a line of the log\n", "kept when the container is gone"


def test_without_a_server_stop_and_status_say_so(cpu):
    stop, status = cpu.run("--stop"), cpu.run("--status")
    assert (stop.returncode, status.returncode) == (0, 1)
    assert "no server that this script started runs" in stop.stderr
    assert "no server that this script started runs" in status.stderr


def test_a_process_that_only_has_the_number_of_the_server_is_left_alone(cpu):
    with subprocess.Popen(["sleep", "60"]) as other:
        (cpu.root / ".vllm").mkdir()
        (cpu.root / ".vllm/id").write_text(f"{other.pid}\n")
        (cpu.root / ".vllm/port").write_text("8000\n")
        assert "no server" in cpu.run("--stop").stderr
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize(
    ("log", "mend"),
    [
        ("OSError: [Errno 98] Address already in use", "set PORT"),
        ("torch.OutOfMemoryError: CUDA out of memory", "lower MAX_MODEL_LEN"),
        ("ValueError: Free memory on device cuda:0 (1/80 GiB)", "lower MAX_MODEL_LEN"),
        ("RuntimeError: No CUDA GPUs are available", "nvidia-smi"),
        ("401 Client Error: Unauthorized for url", "export HF_TOKEN"),
        ("The NVIDIA driver on your system is too old", "580 or newer"),
        ("api_server.py: error: unrecognized arguments: --x", "an option given after --"),
        ("something else", "no usual failure"),
    ],
)
def test_a_server_that_dies_is_noticed_with_its_log_and_the_mend(cpu, log, mend):
    done = cpu.run("--cpu", STUB_LOG=log)
    assert done.returncode == 1
    assert f"  | {log}" in done.stderr
    assert mend in done.stderr.splitlines()[-1]
    assert cpu.run("--status").returncode == 1


def test_a_server_that_is_not_ready_in_time_goes_on_starting_and_is_waited_for(cpu):
    done = cpu.run("--cpu", STUB_SLOW_S="4", READY_TIMEOUT="1")
    assert done.returncode == 1
    assert "not ready after 1 s" in done.stderr
    assert "a line of the log" in done.stderr
    assert "is not ready" in cpu.run("--status").stderr
    assert cpu.run("--cpu").returncode == 0
    assert cpu.calls.read_text().count("-m vllm.") == 1


def test_ctrl_c_ends_the_waiting_and_not_the_server(cpu):
    waiting = subprocess.Popen(
        **cpu.command("--cpu", STUB_SLOW_S="3"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    # Its first report of progress: from then on it waits.
    assert any(re.match(r"\d+ s", line) for line in iter(waiting.stderr.readline, ""))
    os.killpg(waiting.pid, signal.SIGINT)
    _, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 1
    assert "interrupted; the server goes on starting" in errors
    assert cpu.run("--cpu").returncode == 0
    assert cpu.calls.read_text().count("-m vllm.") == 1
