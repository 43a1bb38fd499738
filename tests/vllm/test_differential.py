"""Our scheduler composes every batch as vLLM's own does; and the comparison notices each rule when it is broken.

Real vLLM, in an environment of its own: ``make test-vllm`` makes it.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"

NEWEST = "0.32.0"


@pytest.fixture(scope="module")
def differential(tmp_path_factory):
    """What tests/vllm/differential.py reports with a version of vLLM, with the newest also of broken rules.

    It takes what time the processors have left, so that tests beside it that measure time are not disturbed.
    """

    @cache
    def run(version, workloads):
        files = VENV / f"vllm-{version}"
        if not (VENV / "installed").exists() or not (version == NEWEST or files.is_dir()):
            pytest.skip(f"no vLLM {version} in .venv-vllm; make test-vllm installs it")
        script, report = ROOT / "tests/vllm/differential.py", tmp_path_factory.mktemp("differential") / "report.json"
        command = ["nice", "-n", "19", VENV / "bin/python", script, "--report", report, "--workloads", str(workloads)]
        command += ["--mutants", "1000"] if version == NEWEST else []
        environment = os.environ | ({"PYTHONPATH": str(files)} if files.is_dir() else {})
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert report.exists(), done.stderr[-2000:]
        print(report.read_text())
        found = json.loads(report.read_text())
        assert found["vllm"] == version
        assert found["workloads"] == workloads
        return found

    return run


@pytest.mark.parametrize(("version", "workloads"), [(NEWEST, 2000), ("0.26.0", 2000), ("0.19.0", 1000)])
def test_every_batch_is_composed_as_vllm_composes_it(differential, version, workloads):
    report = differential(version, workloads)
    assert report["preemptions"] > workloads
    assert report["first_differences"] == []
    assert report["differences"] == 0


def test_every_broken_rule_is_noticed(differential):
    report = differential(NEWEST, 2000)
    assert report["broken_rules"] > 30
    assert report["unnoticed"] == []
