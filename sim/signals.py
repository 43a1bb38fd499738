"""stub"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Signals(NamedTuple):
    kv_use: float = 0.0
    kv_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    num_running: int = 0
    num_waiting: int = 0


def pooled(signals: Sequence[Signals]) -> Signals: ...
