"""What surrounds a policy in one study: engines, and what is known of workflows beyond what has happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from sim.detector import Watcher
from sim.foresight import Foresight, foresight
from sim.policies import Policy
from sim.rules import Informed, Order, Verdict
from sim.run import Run
from sim.workflow import Workflow


class Engines(Protocol):
    """What a run must know of its engines, simulated or real: `sim.fleet.Fleet` is one."""

    @property
    def tool_limits(self) -> Mapping[str, int]:
        """How many runs of a tool there may be at once, over all workflows."""

    def numbers(self, agent: str) -> Sequence[int]:
        """The replicas that can take an agent's calls."""

    def least_times_s(self, workflow: Workflow) -> Mapping[str, float]:
        """Node id -> its best-case seconds, which estimates are made of."""


@dataclass(frozen=True)
class World:
    """The same for a simulated study and for a real one, so that both see the same decisions.

    ``workflows`` are all of the study, by session.
    """

    policy: Policy
    engines: Engines
    workflows: Mapping[int, Workflow]
    seed: int

    def run(self) -> Run:
        """A new run."""
        watch = self._watcher.watch if self._watcher else None
        return Run(self.policy, self.engines.numbers, self.engines.tool_limits, self._foresight, watch)

    @cached_property
    def _foresight(self) -> Foresight | None:
        order = self.policy.rule(Order)
        if not isinstance(order, Informed):
            return None
        workflows = [self.workflows[number] for number in sorted(self.workflows)]
        return foresight(order.information, order.error, workflows, self.engines.least_times_s, self.seed)

    @cached_property
    def _watcher(self) -> Watcher | None:
        verdict = self.policy.rule(Verdict)
        return verdict.detector.over(self.workflows, self.seed) if verdict else None
