"""Our scheduler composes every batch as vLLM's own does; and the comparison notices each rule when it is broken.

Real vLLM, in an environment of its own: ``make test-vllm`` makes it.
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"


#: Version and options of each comparison.
WORKLOADS = {"0.32.0": 2000, "0.26.0": 2000, "0.19.0": 1000}
MUTANTS = ("0.32.0", "--workloads", "0", "--mutants", "1000")


@pytest.fixture(scope="module")
def differential(tmp_path_factory):
    """What tests/vllm/differential.py reports with a version of vLLM; two run at a time, as each takes one core."""
    folder = tmp_path_factory.mktemp("differential")

    def run(version, *options):
        files, report = VENV / f"vllm-{version}", folder / f"{'-'.join((version, *options))}.json"
        command = [VENV / "bin/python", ROOT / "tests/vllm/differential.py", "--report", report, *options]
        environment = os.environ | ({"PYTHONPATH": str(files)} if files.is_dir() else {})
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert report.exists(), done.stderr[-2000:]
        return json.loads(report.read_text())

    wanted = [*((version, "--workloads", str(number)) for version, number in WORKLOADS.items()), MUTANTS]
    with ThreadPoolExecutor(2) as pool:
        under_way = {one: pool.submit(run, *one) for one in wanted if _is_there(one[0])}

        def found(version, *options):
            if not _is_there(version):
                pytest.skip(f"no vLLM {version} in .venv-vllm; make test-vllm installs it")
            report = under_way[version, *options].result()
            print(json.dumps(report))
            assert report["vllm"] == version
            return report

        yield found


def _is_there(version):
    return (VENV / "installed").exists() and (version == "0.32.0" or (VENV / f"vllm-{version}").is_dir())


@pytest.mark.parametrize(("version", "workloads"), WORKLOADS.items())
def test_every_batch_is_composed_as_vllm_composes_it(differential, version, workloads):
    report = differential(version, "--workloads", str(workloads))
    assert report["workloads"] == workloads
    assert report["preemptions"] > workloads
    assert report["first_differences"] == []
    assert report["differences"] == 0


def test_every_broken_rule_is_noticed(differential):
    report = differential(*MUTANTS)
    assert report["broken_rules"] > 30
    assert report["unnoticed"] == []
