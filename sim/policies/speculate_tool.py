"""Tools are started before the call has ended that decides about them."""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import PolicyError
from sim.load import generator
from sim.rules import Speculation


@dataclass(frozen=True)
class SpeculateTool(Speculation):
    """When a call is sent, the tool that may follow it starts at once; with probability ``hit`` it is the right one.

    A right guess hides the tool's time behind the call's, a wrong one runs in vain and the right tool follows as
    always. Never more than twice as fast, as only two things overlap. Information: none; ``hit`` stands for a
    predictor, its draws depend on workflow and tool only. Source: speculative actions (Ye et al. 2025).
    """

    name = "speculate_tool"

    hit: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.hit <= 1:
            raise PolicyError(f"policy speculate_tool: hit={self.hit:g}; give 0 to 1")

    def guessed(self, workflow_id: str, tool_id: str) -> bool:
        """Whether this guess is right."""
        return bool(generator(0, f"guess {workflow_id} {tool_id}").random() < self.hit)
