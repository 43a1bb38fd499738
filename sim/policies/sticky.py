"""Long prompts stay with their workflow's replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim.errors import PolicyError
from sim.policies.least_loaded import least_loaded
from sim.rules import Replica, Router, Submission, View


@dataclass(frozen=True)
class Sticky(Router):
    """A prompt of more than ``min_tokens`` goes where its workflow's last call went, any other to the least loaded.

    Information: where the workflow's last call went. Source: Autellix (Luo et al. 2025), whose threshold is 2048.
    """

    name = "sticky"

    min_tokens: int = 2048

    def __post_init__(self) -> None:
        if self.min_tokens < 0:
            raise PolicyError(f"policy sticky: min_tokens={self.min_tokens}; give 0 or more")

    def route(self, submission: Submission, view: View, replicas: Sequence[Replica], memory: Any) -> int:
        """The workflow's replica for a long prompt, if it can take it."""
        home = any(replica.number == view.replica for replica in replicas)
        if home and view.replica is not None and submission.call.num_prompt_tokens > self.min_tokens:
            return view.replica
        return least_loaded(replicas)
