"""Python and the packages that workspan imports: there, in the right place, and new enough."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from sim import __version__
from sim.doctor import Check
from sim.doctor.places import NAMES, ROOT, Other, intruders, mend, module_in, others

_PYTHON = (3, 11)
#: Distributions whose module has another name.
_MODULES = {"pyyaml": "yaml"}
#: Seconds to import, and only some commands do: they are looked for, and not imported.
_SLOW = ("matplotlib", "scipy")
_EXTRAS = {"dask": "studies on a Dask cluster", "tokenizers": "--tokenizer with a tokenizer.json"}
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:>=(?P<least>[\d.]+))?(?:.*extra == ['\"](?P<extra>\w+)['\"])?")


class Requirement(NamedTuple):
    """``least``: oldest version, empty for any; ``extra``: the option of which it is part, empty for none."""

    name: str
    least: str
    extra: str

    @property
    def module(self) -> str:
        """What is imported."""
        return _MODULES.get(self.name, self.name.replace("-", "_"))

    def __str__(self) -> str:
        return f"{self.name}>={self.least}" if self.least else self.name


def python() -> Check:
    """The interpreter."""
    found = f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}"
    if sys.version_info >= _PYTHON:
        return Check("Python", found)
    return Check("Python", found, "will not work", "workspan", "take Python 3.11 or newer", essential=True)


def places() -> Iterator[Check]:
    """Where workspan is imported from, and every other package of one of its names."""
    yield Check("workspan", f"{__version__}, {ROOT}")
    for name in NAMES:
        for other in others(name):
            yield _other(other)
        yield from _in_working_directory(name)
    for name, owner in intruders():
        again = f"pip uninstall {owner.split()[0]}, then install workspan again"
        yield Check(
            f"a foreign {name}", f"{owner}, in {ROOT / name}", "will not work", "it shares our files", again, True
        )


def _other(other: Other) -> Check:
    if other.first:
        says = f"`import {other.name}` finds it instead of workspan's"
        return Check(f"a foreign {other.name}", str(other), "will not work", says, mend(other), essential=True)
    if other.is_workspan:
        return Check(f"a second {other.name}", str(other), "note", "another workspan; this one hides it")
    says = f"`import {other.name}` finds workspan's; who means this one needs another environment"
    return Check(f"a foreign {other.name}", str(other), "note", says, mend(other))


def _in_working_directory(name: str) -> Iterator[Check]:
    """The command does not look there; a Python or a notebook that is started there does, and first."""
    folder = Path.cwd()
    path = module_in(str(folder), name)
    if not path or path == ROOT / name / "__init__.py" or folder in [Path(entry).resolve() for entry in sys.path]:
        return
    if Other(name, path, first=False).is_workspan:
        says = "another workspan; a Python or notebook that is started in this folder takes it"
        yield Check(f"a second {name}", str(path), "note", says)
    else:
        says = f"`import {name}` in a Python or notebook that is started in this folder"
        yield Check(f"a foreign {name}", str(path), "will not work", says, "start it elsewhere, or rename it")


def dependencies() -> Iterator[Check]:
    """What workspan requires, and its extras."""
    for requirement in requirements():
        problem, found = _problem(requirement)
        if not problem:
            yield Check(requirement.name, found)
        elif not requirement.extra:
            yield Check(
                requirement.name, problem, "will not work", "workspan", f"pip install '{requirement}'", essential=True
            )
        else:
            lost = _EXTRAS.get(requirement.extra, f"what needs {requirement.name}")
            missing = problem == "not installed"
            says = f"optional, for {lost}" if missing else lost
            yield Check(
                requirement.name, problem, "note" if missing else "will not work", says, f"pip install '{requirement}'"
            )


def requirements() -> list[Requirement]:
    """Those of the checkout that runs, whose installation may be older; else those of the installed distribution."""
    lines = _of_checkout() or _of_distribution()
    found = (_REQUIREMENT.match(line) for line in lines)
    return [Requirement(one["name"].lower(), one["least"] or "", one["extra"] or "") for one in found if one]


def _of_checkout() -> list[str]:
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, ValueError):
        return []
    if project.get("name") != "workspan":
        return []
    extras = project.get("optional-dependencies", {}).items()
    return [*project["dependencies"], *(f"{line}; extra == '{extra}'" for extra, lines in extras for line in lines)]


def _of_distribution() -> list[str]:
    try:
        return requires("workspan") or []
    except PackageNotFoundError:
        return []


def _problem(requirement: Requirement) -> tuple[str, str]:
    """What is wrong, empty where nothing is; and the version."""
    try:
        there = version(requirement.name)
        if requirement.extra or requirement.name in _SLOW:
            if find_spec(requirement.module) is None:
                return f"{there}, but there is no module {requirement.module}", there
        else:
            import_module(requirement.module)
    except PackageNotFoundError:
        return "not installed", ""
    except Exception as error:  # importing runs what others wrote
        return f"cannot be imported ({type(error).__name__}: {error})", ""
    if _numbers(there) < _numbers(requirement.least):
        return f"{there}, older than {requirement.least}", there
    return "", there


def _numbers(text: str) -> tuple[int, ...]:
    """A version's leading numbers: 2.0.1rc1 is (2, 0, 1)."""
    return tuple(map(int, re.findall(r"\d+", re.match(r"[\d.]*", text)[0])))  # type: ignore[index]
