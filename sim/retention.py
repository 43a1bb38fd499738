"""stub"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CpuTier:
    num_blocks: int
    load_token_s: float

    def to_json(self) -> dict:
        return {}
