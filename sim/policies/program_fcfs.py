"""First workflow come, first served."""

from __future__ import annotations

from dataclasses import dataclass

from sim.rules import Order, Submission, View


@dataclass(frozen=True)
class ProgramFcfs(Order):
    """Calls in the order in which their workflows arrived: an older workflow's calls go before a younger one's.

    Information: whose call it is. Source: `fcfs` for whole programs, the level at which Autellix
    schedules (Luo et al. 2025).
    """

    name = "program_fcfs"

    def begin(self) -> dict[int, int]:
        """Session -> how many came before it."""
        return {}

    def arrived(self, view: View, memory: dict[int, int]) -> None:
        """The next in line; two of the same instant keep their order."""
        memory[view.session] = len(memory)

    def key(self, submission: Submission, view: View, memory: dict[int, int]) -> float:
        """The workflow's place in line."""
        return memory[view.session]
