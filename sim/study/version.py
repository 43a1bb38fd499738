"""Which sources a simulation's result comes from."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import sim

_PACKAGE = Path(sim.__file__).parent
_IMPORT = re.compile(r"^\s*from sim(?:\.([\w.]+) import| import (\w+))", re.MULTILINE)


@cache
def engine_digest() -> str:
    """Twelve hexadecimal digits that change with any source that a simulation's result may depend on.

    What only reads traces, shows or compares results is none of them.
    """
    return hashlib.sha256(b"".join(path.read_bytes() for path in engine_sources())).hexdigest()[:12]


def engine_sources() -> list[Path]:
    """The worker, all policies, and whatever these import; of a study's own modules only the worker."""
    found: set[Path] = set()
    left = [_PACKAGE / "study" / "worker.py", *_PACKAGE.glob("policies/*.py")]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        names = (one or other for one, other in _IMPORT.findall(path.read_text(encoding="utf-8")))
        left += [_file(name) for name in names if not name.startswith(("study.", "__"))]
    return sorted(found)


def _file(name: str) -> Path:
    module = _PACKAGE.joinpath(*name.split("."))
    return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
