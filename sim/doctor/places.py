"""Where `import sim` would find another package than workspan's: the names of its packages are everybody's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path

from sim.errors import RunError

#: Folder that holds workspan's packages: a checkout, or site-packages.
ROOT = Path(__file__).resolve().parents[2]
NAMES = ("sim", "live", "calibration")


@dataclass(frozen=True, slots=True)
class Other:
    """A module or package of one of our names. ``first``: it is found before ours; ``owner``: of which distribution."""

    name: str
    path: Path
    first: bool
    owner: str = ""

    @property
    def folder(self) -> Path:
        """The entry of ``sys.path`` in which it lies."""
        return self.path.parents[1] if self.path.stem == "__init__" else self.path.parent

    @property
    def is_workspan(self) -> bool:
        """Whether it is a second copy of ours."""
        return all((self.folder / name / "commands").is_dir() for name in NAMES)

    def __str__(self) -> str:
        return f"{self.path}{f', of {self.owner}' if self.owner else ''}"


def others(name: str) -> list[Other]:
    """All on ``sys.path`` that are not ours, in its order; a folder without __init__.py hides nothing and is none."""
    ours, found, reached = ROOT / name / "__init__.py", [], False
    for entry in dict.fromkeys(str(Path(entry).resolve()) for entry in sys.path):
        path = module_in(entry, name)
        reached = reached or path == ours
        if path and path != ours:
            found.append(Other(name, path, not reached, owner(entry, name)))
    return found


def module_in(entry: str, name: str) -> Path | None:
    """The file that importing the name from that folder runs; None where there is none."""
    spec = PathFinder.find_spec(name, [entry])
    return Path(spec.origin).resolve() if spec and spec.origin else None


def owner(entry: str, name: str) -> str:
    """The distributions in that folder, other than workspan, to which the name belongs; empty where none says so."""
    return ", ".join(sorted({_title(one) for one in distributions(path=[entry]) if _owns(one, name)}))


def intruders() -> Iterator[tuple[str, str]]:
    """Names whose folder another distribution was installed into, and that distribution."""
    for name in NAMES:
        if found := owner(str(ROOT), name):
            yield name, found


def check_places() -> None:
    """Raise RunError where processes that we start would import another package than ours."""
    for other in (other for name in NAMES for other in others(name) if other.first):
        raise RunError(f"import {other.name} finds {other}, not workspan's {ROOT / other.name}; {mend(other)}")


def mend(other: Other) -> str:
    """How to be rid of it."""
    if other.owner:
        return f"pip uninstall {other.owner.split()[0]}, or give workspan an environment of its own"
    file = other.path.name if other.path.stem == other.name else other.name
    return f"take {other.folder} off PYTHONPATH, or rename {file} there"


def _owns(distribution: Distribution, name: str) -> bool:
    if distribution.metadata["Name"] == "workspan":
        return False
    tops = (distribution.read_text("top_level.txt") or "").split()
    return name in tops or any(file.parts[0] in (name, f"{name}.py") for file in distribution.files or ())


def _title(distribution: Distribution) -> str:
    return f"{distribution.metadata['Name']} {distribution.version}"
