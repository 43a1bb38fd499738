"""What surrounds a policy in one study: engines, and what is known of workflows beyond what has happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sim.detector import Watcher
from sim.fleet import Fleet
from sim.foresight import Foresight, foresight
from sim.policies import Policy
from sim.rules import Informed, Order, Verdict
from sim.run import Run
from sim.workflow import Workflow


@dataclass(frozen=True)
class World:
    """The same for a simulated study and for a real one, so that both see the same decisions.

    ``fleet`` gives the seconds of an estimate; ``workflows`` are all of the study, by session.
    """

    policy: Policy
    fleet: Fleet
    workflows: Mapping[int, Workflow]
    seed: int

    def run(self) -> Run:
        """A new run."""
        watch = self._watcher.watch if self._watcher else None
        return Run(self.policy, self.fleet.numbers, self.fleet.tool_limits, self._foresight, watch)

    @cached_property
    def _foresight(self) -> Foresight | None:
        order = self.policy.rule(Order)
        if not isinstance(order, Informed):
            return None
        workflows = [self.workflows[number] for number in sorted(self.workflows)]
        return foresight(order.information, order.error, workflows, self.fleet.least_times_s, self.seed)

    @cached_property
    def _watcher(self) -> Watcher | None:
        verdict = self.policy.rule(Verdict)
        return verdict.detector.over(self.workflows, self.seed) if verdict else None
