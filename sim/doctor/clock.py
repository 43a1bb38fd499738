"""The clock: a replay sends calls at instants and takes the time of every token."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from sim.doctor import Check

#: Seconds: a token's time should be known so well, and a call should leave so punctually.
_FINE, _PUNCTUAL = 1e-4, 2e-3
#: Seconds that the two clocks are watched, and by how much they may part; slewing parts them by 0.05 ms in that time.
_WATCHED, _PARTED = 0.1, 1e-3
_SLEEP = 1e-3


def clock() -> Iterator[Check]:
    """Every check of it; takes some 0.15 s."""
    yield _resolution()
    yield _drift()
    yield _sleep()


def _resolution() -> Check:
    seconds = time.get_clock_info("monotonic").resolution
    return _check("clock: resolution", f"{1e6 * seconds:.3g} us", seconds <= _FINE, "times of tokens are this coarse")


def _drift() -> Check:
    """A wall clock that is set or slewed meanwhile: only times of day suffer, durations are monotonic."""
    parted = abs(_gap(_WATCHED))
    mend = "wait until the time service (NTP) has settled"
    says = "records of several machines do not line up while it is being set"
    found = f"{1000 * parted:.3f} ms apart after {_WATCHED:g} s"
    return _check("clock: wall against monotonic", found, parted <= _PARTED, says, mend)


def _gap(seconds: float) -> float:
    before = time.time() - time.monotonic()
    time.sleep(seconds)
    return time.time() - time.monotonic() - before


def _sleep() -> Check:
    late = statistics.median(_late(_SLEEP) for _ in range(20))
    says = "calls of a replay leave this late; a busy machine, or a coarse timer"
    return _check("clock: sleep", f"{1000 * late:.3f} ms late", late <= _PUNCTUAL, says, "end what else runs here")


def _late(seconds: float) -> float:
    began = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - began - seconds


def _check(what: str, found: str, good: bool, says: str, mend: str = "") -> Check:
    return Check(what, found) if good else Check(what, found, "note", says, mend)
