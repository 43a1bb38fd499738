"""Prompts are read while tools run."""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import PolicyError
from sim.rules import Ahead, View
from sim.workflow import Segment


@dataclass(frozen=True)
class PrefillAhead(Ahead):
    """While a tool runs, the beginning of the next prompt is sent for one token, so that its KV is there.

    The beginning is what the client knows for sure: segments that the workflow has sent or got before, as far as
    they come first; at least ``min_tokens``. Information: which call follows a tool. Source: Sutradhara's prompt
    splitting.
    """

    name = "prefill_ahead"

    min_tokens: int = 256

    def __post_init__(self) -> None:
        if self.min_tokens < 1:
            raise PolicyError(f"policy prefill_ahead: min_tokens={self.min_tokens}; give 1 or more")

    def wants(self, known: tuple[Segment, ...], view: View) -> bool:
        """Whether the beginning is long enough."""
        return sum(segment.num_tokens for segment in known) >= self.min_tokens
