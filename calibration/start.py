"""Where `workspan` starts: beside `sim`, so that somebody else's package of that name can be told from ours."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from importlib.util import module_from_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_NAMES = ("sim", "live")


def main() -> None:
    """Run the command line, with our own packages whatever comes before them in ``sys.path``."""
    try:
        for name in _NAMES:
            _load(name)
        from sim.cli import main as command
    except ImportError as error:
        sys.exit(f"workspan: {error}; {_mend(error)}")
    command()


def _load(name: str) -> None:
    spec = PathFinder.find_spec(name, [str(_ROOT)])
    assert spec, _ROOT
    assert spec.loader, _ROOT
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def _mend(error: ImportError) -> str:
    """Files of ours are overwritten by whoever installs a package of the same name beside us."""
    owners = packages_distributions()
    foreign = " ".join(sorted({owner for name in _NAMES for owner in owners.get(name, ()) if owner != "workspan"}))
    if foreign:
        return f"{foreign} may have overwritten it: pip uninstall {foreign}, then install workspan again"
    return f"pip install {error.name}" if isinstance(error, ModuleNotFoundError) else "install workspan again"
