"""What `workspan doctor` looks at on this machine: each check says what was found, what will not work and the mend.

Nothing here needs more than Python itself: a package that is missing is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["ok", "note", "will not work"]


@dataclass(frozen=True, slots=True)
class Check:
    """One row. ``says``: what will not work, or what is worth knowing; ``essential``: without it nothing works."""

    what: str
    found: str
    verdict: Verdict = "ok"
    says: str = ""
    mend: str = ""
    essential: bool = False

    @property
    def fails(self) -> bool:
        """Whether workspan is of no use until this is mended."""
        return self.essential and self.verdict == "will not work"

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def checks() -> Iterator[Check]:
    """All that need no server, in the order in which one would mend them."""
    from sim.doctor import clock, machine, packages

    yield packages.python()
    yield from packages.places()
    yield from packages.dependencies()
    yield from machine.machine()
    yield from clock.clock()
