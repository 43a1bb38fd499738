"""The same workflows under several policies on the simulated engine, and how far the prediction can be trusted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sim.bounds import Bound
from sim.ceilings import Ceilings, capacity_rate, no_queue_s, saturation
from sim.choices import DEFAULT, Choices
from sim.comparison import Comparison, latencies
from sim.errors import PolicyError, RunError
from sim.fleet import Fleet, fleet_of
from sim.latency import Profile
from sim.load import Alone, Load, OpenLoop
from sim.metrics import ratio
from sim.policies import SEQUENTIAL, Policy, parse_policy
from sim.record import RunResult
from sim.simulate import simulate
from sim.trust import Trust, around, drawn_profiles, half_width, kind, profile_title
from sim.workflow import Workflow

#: Workflows, enough to tell at which rate an engine is saturated: fewer end before long ones have filled its batches.
_SAMPLE = 1000


@dataclass(frozen=True, kw_only=True)
class Predicted(Comparison):
    """A comparison on simulated engines.

    ``drawn``: for each draw of the profile's coefficients, policy -> workflow id -> latency.
    """

    fleet: Fleet
    drawn: Sequence[Mapping[str, Mapping[str, float]]] = ()

    @property
    def profile(self) -> Profile:
        """The engine that serves whoever is not named."""
        return self.fleet.pools[0].profile

    @property
    def clock(self) -> Profile:
        """The engine's profile."""
        return self.profile

    @property
    def engine(self) -> str:
        """The profiles, marked where nobody measured them."""
        pools = (f"{profile_title(pool.profile)}{_times(pool.replicas)}" for pool in self.fleet.pools)
        return f"profile {' + '.join(pools)}"

    def engine_facts(self) -> dict[str, Any]:
        """The profile, its digest and settings, and how far it is to be trusted here."""
        return {
            "engine": "simulated",
            "profile": self.profile.name,
            "profile_kind": kind(self.profile),
            "profile_digest": self.profile.digest,
            "engine_settings": self.profile.engine.model_dump(),
            "fleet": self.fleet.to_json(),
            "calls_outside_the_measured_range": self.extrapolated(),
            "trust": {name: self.trust.to_json(name) for name in self.runs},
            "draws": len(self.drawn),
        }

    @property
    def trust(self) -> Trust:
        """What the numbers rest on."""
        calls = sum(len(workflow.calls) for workflow in self.workflows)
        profiles = {pool.profile.digest: pool.profile for pool in self.fleet.pools}
        engines = {name: run.engine for name, run in self.runs.items()}
        return Trust([*profiles.values()], self.extrapolated(), calls, engines)

    def to_json(self) -> dict[str, Any]:
        """With the limits that no order of the calls can beat, where workflows share the engines."""
        found = super().to_json()
        return {**found, "ceilings": self.ceilings.to_json()} if self.ceilings else found

    @cached_property
    def ceilings(self) -> Ceilings | None:
        """What binds under this load; None for workflows that run alone, and for pools of different engines.

        The rate at which the engines are saturated comes from a sample of the workflows.
        """
        if isinstance(self.load, Alone) or len(self.fleet.pools) > 1:
            return None
        replicas = len(self.fleet.replicas)
        sample = self.workflows[:: -(-len(self.workflows) // _SAMPLE)]
        ended = latencies(self.runs[self.baseline])
        least = no_queue_s(self.workflows, self.profile)
        bounds = self.bounds.values()
        return Ceilings(
            work_span=ratio(sum(bound.work_s for bound in bounds), sum(bound.span_s for bound in bounds)),
            no_queue=ratio(sum(ended.values()), sum(least[one] for one in ended)),
            offered_rate=self.load.offered_rate(self.workflows, self.seed) if isinstance(self.load, OpenLoop) else None,
            saturation_rate=saturation(sample, self.fleet, self.seed),
            capacity_rate=replicas * capacity_rate(self.workflows, self.profile),
        )

    def limits(self) -> list[str]:
        """What is beyond what was measured, how wrong the profile was, and what an interval covers."""
        return [*self.fleet.without_effect(self.workflows), *self.trust.sentences(), self._covered()]

    def _covered(self) -> str:
        others = "Intervals cover other workflows of the same kind"
        if self.drawn:
            return f"{others} and the uncertainty of the profile ({len(self.drawn)} draws), not what the model lacks."
        if self.profile.draws:
            return f"{others}, not the uncertainty of the profile (0 draws)."
        return f"{others}; how certain the profile is, it does not say."

    def extrapolated(self, framework: str | None = None) -> int:
        """Calls with more tokens than any request that the profile was measured with."""
        return self._long_calls.total() if framework is None else self._long_calls[framework]

    @cached_property
    def _long_calls(self) -> Counter[str]:
        return Counter(
            workflow.framework
            for workflow in self.workflows
            for call in workflow.calls
            if workflow.num_tokens(call) > self.fleet.profile(call.agent).measured.request_tokens
        )

    def _policy(self, name: str) -> dict[str, Any]:
        run, usd_per_s = self.runs[name], self.fleet.usd_per_s()
        cost = {} if usd_per_s is None else {"cost_usd": usd_per_s * run.makespan_s}
        return {**super()._policy(name), **cost, "trust": self.trust.to_json(name)}

    def gain(self, name: str, framework: str | None = None) -> dict[str, Any]:
        """With an interval that covers the profile's uncertainty too, both parts of it, and the mark of law 11."""
        found = super().gain(name, framework)
        over_workflows, over_draws = found["speedup_ci95"], self._over_draws(name, framework)
        if over_draws is not None:
            half = math.log(over_workflows[1] / over_workflows[0]) / 2 if over_workflows else 0.0
            found["speedup_ci95"] = around(found["speedup"], math.hypot(half, over_draws))
        return {
            **found,
            "speedup_ci95_workflows": over_workflows,
            "speedup_ci95_profile": None if over_draws is None else around(found["speedup"], over_draws),
            "extrapolated": self._is_extrapolated(name, framework),
        }

    def _over_draws(self, name: str, framework: str | None) -> float | None:
        """Half-width of the speed-up's logarithm over the draws, of the workflows that finished with all of them."""
        paired = self.pairs(name, framework)
        sides = [(draw[self.baseline], draw[name]) for draw in self.drawn]
        done = [one for one in paired if all(one in side for pair in sides for side in pair)]
        if not done or not sides:
            return None
        return half_width([sum(base[one] for one in done) / sum(other[one] for one in done) for base, other in sides])

    def _is_extrapolated(self, name: str, framework: str | None) -> bool:
        """Whether calls or steps on which the speed-up depends are beyond what was measured, or nothing was."""
        alone = isinstance(self.load, Alone)
        steps = any(self.runs[one].engine.outside_s for one in (self.baseline, name))
        derived = any(pool.profile.derived for pool in self.fleet.pools)
        return derived or steps or self.extrapolated(framework if alone else None) > 0


def line_up(names: Sequence[str], baseline: str | None) -> tuple[dict[str, Policy], str]:
    """The policies to run by the names given, and which of them is the baseline.

    Without ``baseline`` it is `sequential` if named, else the first. Raises PolicyError.
    """
    policies = {name: parse_policy(name) for name in names}
    if len(policies) < len(names) or len(set(policies.values())) < len(policies):
        raise PolicyError(f"policies {', '.join(names)}: the same one twice; name each once")
    wanted = parse_policy(baseline) if baseline is not None else SEQUENTIAL
    named = next((name for name, policy in policies.items() if policy == wanted), None)
    if named is None and baseline is not None:
        return {baseline: wanted, **policies}, baseline
    return policies, named or names[0]


def compare(
    workflows: Sequence[Workflow],
    policies: Mapping[str, Policy],
    baseline: str,
    engine: Profile | Fleet,
    load: Load,
    seed: int,
    choices: Choices = DEFAULT,
    bounds: Mapping[str, Bound] | None = None,
    draws: int = 0,
) -> Predicted:
    """Run every policy on the same workflows and arrivals; ``choices`` says how the workflows were made.

    ``bounds`` are those of another comparison of the same workflows on the same profile, where there is one. With
    ``draws`` all is simulated again with so many draws of the profile's coefficients, and intervals cover them.

    Raises RunError where no workflow can finish on the engine, or the profile has not so many draws; BoundError where
    a result cannot be true.
    """
    fleet = fleet_of(engine)
    check_fit(workflows, fleet)
    possible = _drawn(fleet, draws)
    runs = {name: simulate(workflows, policy, fleet, load, seed) for name, policy in policies.items()}
    if bounds is None:
        done = (runs[name] for name, policy in policies.items() if isinstance(load, Alone) and policy == SEQUENTIAL)
        bounds = _bounds(workflows, fleet, next(done, None) or simulate(workflows, SEQUENTIAL, fleet, Alone(), seed))
    comparison = Predicted(
        workflows=workflows,
        policies=policies,
        baseline=baseline,
        fleet=fleet,
        load=load,
        seed=seed,
        runs=runs,
        bounds=bounds,
        choices=choices,
        drawn=[
            {name: latencies(simulate(workflows, policy, drawn, load, seed)) for name, policy in policies.items()}
            for drawn in possible
        ],
    )
    comparison.check_bound()
    return comparison


def _drawn(fleet: Fleet, number: int) -> list[Fleet]:
    """The fleet with each of so many draws of its profiles; a further profile without draws stays as it is."""
    drawn = [
        drawn_profiles(pool.profile, number) if pool.profile.draws or not index else [pool.profile] * number
        for index, pool in enumerate(fleet.pools)
    ]
    return [fleet.with_profiles(profiles) for profiles in zip(*drawn, strict=True)]


def _bounds(workflows: Sequence[Workflow], fleet: Fleet, alone: RunResult) -> dict[str, Bound]:
    """Work and span of the workflows that finish; ``alone``: each by itself, one node at a time."""
    works = latencies(alone)
    found = (workflow for workflow in workflows if workflow.id in works)
    return {workflow.id: Bound(works[workflow.id], workflow.span(fleet.least_times_s(workflow))) for workflow in found}


def _times(replicas: int) -> str:
    return f" x {replicas}" if replicas > 1 else ""


def check_fit(workflows: Sequence[Workflow], fleet: Fleet) -> None:
    """Raise RunError if every workflow has a call that can never run; where only some do, those calls fail."""
    reasons = [_refusal(workflow, fleet) for workflow in workflows]
    if all(reasons):
        raise RunError(
            f"profile {fleet.pools[0].profile.name}: no workflow can finish on this engine; {workflows[0].id}, longest"
            f" call: {reasons[0]}; take a larger engine, or shorter traces"
        )


def _refusal(workflow: Workflow, fleet: Fleet) -> str:
    longest = sorted(workflow.calls, key=workflow.num_tokens, reverse=True)
    reasons = (fleet.profile(call.agent).engine.refusal(workflow.num_tokens(call)) for call in longest)
    return next(filter(None, reasons), "")
