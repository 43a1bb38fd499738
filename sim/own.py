"""A user's own code, named on the command line."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


def import_own(module: str) -> ModuleType:
    """The module, which is also looked for in the working directory. Raises whatever importing it does."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # the last: it hides nothing that is installed
    return import_module(module)
