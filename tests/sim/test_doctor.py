"""`workspan doctor`: what it finds, good or bad, and that a foreign `sim` cannot keep it from saying so."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from click.testing import CliRunner

import live.commands.doctor
from sim import doctor
from sim.cli import workspan
from sim.doctor import clock, machine, packages, places

ROOT = Path(__file__).parents[2]
#: What pip writes as the console command.
COMMAND = "import sys\nfrom calibration.start import main\nsys.argv[0] = 'workspan'\nmain()\n"


@pytest.fixture
def command(tmp_path):
    """The installed command, with folders before and after ours on PYTHONPATH."""
    script = tmp_path / "bin" / "workspan"
    script.parent.mkdir()
    script.write_text(COMMAND)

    def run(*arguments, before=(), after=(), cwd=ROOT):
        path = os.pathsep.join(map(str, (*before, ROOT, *after)))
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )

    return run


def package(folder, name, owner=""):
    """A foreign package; ``owner``: the distribution that says it is its own."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise AssertionError('a foreign package was run')\n")
    if owner:
        information = folder / f"{owner.replace('-', '_')}-1.2.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {owner}\nVersion: 1.2\n")
        (information / "top_level.txt").write_text(f"{name}\n")
    return folder


def foreign(folder, kind):
    """A foreign `sim`, of either kind."""
    if kind == "package":
        package(folder, "sim")
    else:
        folder.mkdir()
        (folder / "sim.py").write_text("raise AssertionError\n")


def rows(done):
    return {row["what"]: row for row in json.loads(done.stdout)["checks"]}


def test_here_nothing_essential_is_missing_and_nothing_slow_is_imported():
    code = "import sys; from sim.doctor import checks; found = list(checks()); "
    code += "print([c.what for c in found if c.fails], [n for n in ('scipy', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_foreign_packages_that_come_first_are_named_with_their_distribution(command, tmp_path):
    folder = package(package(tmp_path / "foreign", "sim", owner="other-tool"), "live")
    done = command("doctor", "--json", before=[folder])
    assert done.returncode == 1, done.stderr
    found = rows(done)["a foreign sim"]
    assert found["found"] == f"{folder / 'sim' / '__init__.py'}, of other-tool 1.2"
    assert (found["verdict"], found["essential"]) == ("will not work", True)
    assert found["mend"].startswith("pip uninstall other-tool")
    assert rows(done)["a foreign live"]["found"] == str(folder / "live" / "__init__.py")


def test_any_other_command_names_it_in_one_line(command, tmp_path):
    folder = package(tmp_path / "foreign", "sim")
    done = command("policies", "ls", before=[folder])
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"import sim finds {folder / 'sim' / '__init__.py'}, not workspan's" in line
    assert line.endswith(f"take {folder} off PYTHONPATH, or rename sim there")


@pytest.mark.parametrize("kind", ["module", "package"])
def test_one_that_comes_later_is_told_and_prevents_nothing(kind, tmp_path, monkeypatch):
    foreign(tmp_path / "foreign", kind)
    monkeypatch.setattr(sys, "path", [str(ROOT), str(tmp_path / "foreign")])
    places.check_places()
    (found,) = (check for check in packages.places() if check.what == "a foreign sim")
    assert (found.verdict, found.fails) == ("note", False)


@pytest.mark.parametrize("kind", ["module", "package"])
def test_one_in_the_working_directory_is_for_whoever_starts_python_there(kind, tmp_path, monkeypatch):
    foreign(tmp_path / "foreign", kind)
    monkeypatch.chdir(tmp_path / "foreign")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT)])
    places.check_places()
    (found,) = (check for check in packages.places() if check.what == "a foreign sim")
    assert (found.verdict, found.fails) == ("will not work", False)
    assert found.found.startswith(str(tmp_path / "foreign" / "sim"))


def test_the_command_runs_ours_in_a_folder_with_another(command, tmp_path):
    package(tmp_path / "work", "sim")
    done = command("doctor", "--json", cwd=tmp_path / "work", after=[package(tmp_path / "later", "calibration")])
    assert done.returncode == 0, done.stdout
    assert rows(done)["a foreign calibration"]["verdict"] == "note"
    assert rows(done)["a foreign sim"]["found"] == str(tmp_path / "work" / "sim" / "__init__.py")


def test_a_folder_of_data_called_sim_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "sim").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in "".join(map(str, places.others("sim")))


def test_a_second_workspan_is_no_foreign_package(tmp_path, monkeypatch):
    for name in places.NAMES:
        (tmp_path / name / "commands").mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(ROOT), str(tmp_path)])
    (found,) = (check for check in packages.places() if check.what == "a second sim")
    assert found.verdict == "note"


def test_a_distribution_that_was_installed_into_our_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ROOT", package(tmp_path, "sim", owner="other"))
    assert list(places.intruders()) == [("sim", "other 1.2")]
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.chdir(tmp_path)
    (found,) = (check for check in packages.places() if check.what == "a foreign sim")
    assert found.fails
    assert found.mend == "pip uninstall other, then install workspan again"


def test_requirements_of_checkout_and_installation_are_read_alike(monkeypatch):
    assert packages.Requirement("pyyaml", "6.0", "") in packages.requirements()
    assert packages.Requirement("distributed", "2024.1", "dask") in packages.requirements()
    monkeypatch.setattr(packages, "_of_checkout", list)
    assert packages.Requirement("pyyaml", "6.0", "") in packages.requirements()
    assert len(packages.requirements()) == len(requires("workspan"))


@pytest.mark.parametrize(
    ("line", "found", "fails"),
    [
        ("numpy>=1.26", "", False),
        ("numpy>=999.1", "older than 999.1", True),
        ("no-such-thing>=1", "not installed", True),
        ("no-such-thing>=1; extra == 'dask'", "not installed", False),
    ],
)
def test_a_package_that_is_missing_or_too_old_is_told_with_the_mend(line, found, fails, monkeypatch):
    monkeypatch.setattr(packages, "_of_checkout", lambda: [line])
    (check,) = packages.dependencies()
    assert found in check.found
    assert check.fails == fails
    assert (check.verdict == "ok") == (not found)
    assert not found or check.mend == f"pip install '{line.partition(';')[0]}'"


def test_a_package_that_breaks_when_it_is_imported_is_told(tmp_path, monkeypatch):
    folder = package(tmp_path, "broken_thing", owner="broken-thing")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(packages, "_of_checkout", lambda: ["broken-thing"])
    (check,) = packages.dependencies()
    assert check.fails
    assert check.found == "cannot be imported (AssertionError: a foreign package was run)"


def test_an_old_python_is_told(monkeypatch):
    assert packages.python().verdict == "ok"
    monkeypatch.setattr(packages.sys, "version_info", (3, 10, 4, "final", 0))
    assert packages.python().fails


@pytest.mark.parametrize(("free", "verdict", "mend"), [(64, "ok", ""), (1, "note", "workspan study run -j 2")])
def test_a_study_that_would_not_fit_in_memory_gets_fewer_processes(free, verdict, mend, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 16)
    monkeypatch.setattr(machine, "available", lambda: free << 30)
    check = machine.cores_and_memory()
    assert (check.verdict, check.mend) == (verdict, mend)


def test_no_place_for_temporary_files_is_essential(monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    assert not machine.temporary_files().fails
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    check = machine.temporary_files()
    assert check.fails
    assert check.found == "No space left on device"


GPU = "NVIDIA H200, 143771 MiB, 580.95.05"


@pytest.mark.parametrize(
    ("script", "found", "verdict"),
    [
        (f"echo '{GPU}'; echo '{GPU}'", f"2 x {GPU}", "ok"),
        ("echo 'no driver is loaded' >&2; exit 9", "nvidia-smi: no driver is loaded", "will not work"),
        ("", "nvidia-smi: exit code 0", "will not work"),
        (None, "no nvidia-smi", "note"),
    ],
)
def test_gpus_are_what_nvidia_smi_tells_and_none_is_needed(script, found, verdict, tmp_path, monkeypatch):
    if script is not None:
        stub = tmp_path / "nvidia-smi"
        stub.write_text(f"#!/bin/sh\n{script}\n")
        stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = machine.gpu()
    assert (check.found, check.verdict, check.fails) == (found, verdict, False)


def test_a_clock_that_is_set_meanwhile_or_late_is_noted(monkeypatch):
    assert len(list(clock.clock())) == 3
    monkeypatch.setattr(clock, "_gap", lambda seconds: -0.004)
    monkeypatch.setattr(clock, "_late", lambda seconds: 0.0156)
    _, drift, sleep = clock.clock()
    assert (drift.found, drift.verdict) == ("4.000 ms apart after 0.1 s", "note")
    assert (sleep.found, sleep.verdict) == ("15.600 ms late", "note")


def test_the_table_shows_every_check_and_what_to_mend_first(monkeypatch):
    bad = doctor.Check("numpy", "not installed", "will not work", "workspan", "pip install numpy", essential=True)
    monkeypatch.setattr(live.commands.doctor, "checks", lambda: [doctor.Check("Python", "3.11"), bad])
    done = CliRunner().invoke(workspan, ["doctor"])
    heading, *table, _, last = done.output.splitlines()
    assert done.exit_code == 1
    assert heading.split() == ["what", "found", "verdict", "mend"]
    assert table[0].split() == ["Python", "3.11", "ok"]
    second = re.split(r"\s{2,}", table[1].rstrip())
    assert second == ["numpy", "not installed", "will not work: workspan", "pip install numpy"]
    assert last == "mend first: numpy"


def test_without_rich_the_rows_are_printed_all_the_same(command, tmp_path):
    (tmp_path / "broken" / "rich").mkdir(parents=True)
    (tmp_path / "broken" / "rich" / "__init__.py").write_text("raise ImportError('half installed')\n")
    done = command("doctor", before=[tmp_path / "broken"])
    assert done.returncode == 1, done.stderr
    row = "rich | cannot be imported (ImportError: half installed) | will not work: workspan | pip install 'rich>="
    assert row in done.stdout


def test_without_click_the_command_says_what_to_install(command, tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')\n")
    done = command("--version", before=[tmp_path])
    assert done.returncode == 1
    assert done.stderr == "workspan: no click; pip install click\n"


def test_a_sim_that_another_distribution_overwrote_is_named(command, tmp_path):
    for name in ("live", "calibration"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.json*", "*.yaml"))
    (package(tmp_path, "sim", owner="other") / "sim" / "__init__.py").write_text("")
    done = command("doctor", before=[tmp_path])
    assert done.returncode == 1
    assert "other may have overwritten it: pip uninstall other, then install workspan again" in done.stderr


def test_a_check_fails_only_if_it_is_essential():
    assert doctor.Check("a", "b", "will not work", essential=True).fails
    assert not doctor.Check("a", "b", "will not work").fails
    assert not doctor.Check("a", "b", "note", essential=True).fails


def test_the_installed_command_starts_where_a_foreign_sim_can_be_told():
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][
        "workspan"
    ].partition(":")
    assert f"from {module} import {function}\n" in COMMAND
