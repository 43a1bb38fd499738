"""Where `workspan` starts: beside `sim`, so that somebody else's package of that name can be told from ours."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the command line, with our own packages whatever comes before them in ``sys.path``."""
    for name in ("sim", "live"):
        _load(name)
    try:
        from sim.cli import main as command
    except ModuleNotFoundError as error:
        sys.exit(f"workspan: {error.name} is not installed; pip install {error.name}, or workspan anew")
    command()


def _load(name: str) -> None:
    spec = PathFinder.find_spec(name, [str(_ROOT)])
    assert spec, _ROOT
    assert spec.loader, _ROOT
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
