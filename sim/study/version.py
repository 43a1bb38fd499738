"""Which sources a simulation's result comes from."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import sim


@cache
def engine_digest() -> str:
    """Twelve hexadecimal digits that change with any source that a simulation's result may depend on."""
    package = Path(sim.__file__).parent
    sources = sorted([*package.glob("*.py"), *package.glob("policies/*.py"), package / "study" / "worker.py"])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
