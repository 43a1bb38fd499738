"""The same workflows under several policies on the simulated engine, and how far the prediction can be trusted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sim.bounds import Bound, span_s
from sim.choices import DEFAULT, Choices
from sim.comparison import Comparison, latencies
from sim.errors import PolicyError, RunError
from sim.latency import Profile
from sim.load import Alone, Load
from sim.policies import Policy, parse_policy
from sim.policies.sequential import Sequential
from sim.record import RunResult
from sim.simulate import simulate
from sim.trust import Trust, around, drawn_profiles, half_width, kind, profile_title
from sim.workflow import Workflow


@dataclass(frozen=True, kw_only=True)
class Predicted(Comparison):
    """A comparison on the simulated engine of a profile.

    ``drawn``: for each draw of the profile's coefficients, policy -> workflow id -> latency.
    """

    profile: Profile
    drawn: Sequence[Mapping[str, Mapping[str, float]]] = ()

    @property
    def engine(self) -> str:
        """The profile, marked where nobody measured it."""
        return f"profile {profile_title(self.profile)}"

    def engine_facts(self) -> dict[str, Any]:
        """The profile, its digest and settings, and how far it is to be trusted here."""
        return {
            "engine": "simulated",
            "profile": self.profile.name,
            "profile_kind": kind(self.profile),
            "profile_digest": self.profile.digest,
            "engine_settings": self.profile.engine.model_dump(),
            "calls_outside_the_measured_range": self.extrapolated(),
            "trust": {name: self.trust.to_json(name) for name in self.runs},
            "draws": len(self.drawn),
        }

    @property
    def trust(self) -> Trust:
        """What the numbers rest on."""
        calls = sum(len(workflow.calls) for workflow in self.workflows)
        return Trust(self.profile, self.extrapolated(), calls, {name: run.engine for name, run in self.runs.items()})

    def limits(self) -> list[str]:
        """What is beyond what was measured, how wrong the profile was, and what an interval covers."""
        return [*self.trust.sentences(), self._covered()]

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
        longest = self.profile.measured.request_tokens
        return Counter(
            workflow.framework
            for workflow in self.workflows
            for call in workflow.calls
            if workflow.num_tokens(call) > longest
        )

    def _policy(self, name: str) -> dict[str, Any]:
        return {**super()._policy(name), "trust": self.trust.to_json(name)}

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
        return bool(self.profile.derived) or steps or self.extrapolated(framework if alone else None) > 0


def line_up(names: Sequence[str], baseline: str | None) -> tuple[dict[str, Policy], str]:
    """The policies to run by the names given, and which of them is the baseline.

    Without ``baseline`` it is `sequential` if named, else the first. Raises PolicyError.
    """
    policies = {name: parse_policy(name) for name in names}
    if len(policies) < len(names) or len(set(policies.values())) < len(policies):
        raise PolicyError(f"policies {', '.join(names)}: the same one twice; name each once")
    wanted = parse_policy(baseline) if baseline is not None else Sequential()
    named = next((name for name, policy in policies.items() if policy == wanted), None)
    if named is None and baseline is not None:
        return {baseline: wanted, **policies}, baseline
    return policies, named or names[0]


def compare(
    workflows: Sequence[Workflow],
    policies: Mapping[str, Policy],
    baseline: str,
    profile: Profile,
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
    _check_fit(workflows, profile)
    possible = drawn_profiles(profile, draws)
    runs = {name: simulate(workflows, policy, profile, load, seed) for name, policy in policies.items()}
    if bounds is None:
        done = (runs[name] for name, policy in policies.items() if isinstance(load, Alone) and policy == Sequential())
        bounds = _bounds(
            workflows, profile, next(done, None) or simulate(workflows, Sequential(), profile, Alone(), seed)
        )
    comparison = Predicted(
        workflows=workflows,
        policies=policies,
        baseline=baseline,
        profile=profile,
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


def _bounds(workflows: Sequence[Workflow], profile: Profile, alone: RunResult) -> dict[str, Bound]:
    """Work and span of the workflows that finish; ``alone``: each by itself, one node at a time."""
    works = latencies(alone)
    found = (workflow for workflow in workflows if workflow.id in works)
    return {workflow.id: Bound(works[workflow.id], span_s(workflow, profile)) for workflow in found}


def _check_fit(workflows: Sequence[Workflow], profile: Profile) -> None:
    """Raise RunError if every workflow has a call that can never run; where only some do, those calls fail."""
    longest = (max(map(workflow.num_tokens, workflow.calls)) for workflow in workflows)
    reasons = [profile.engine.refusal(num_tokens) for num_tokens in longest]
    if all(reasons):
        raise RunError(
            f"profile {profile.name}: no workflow can finish on this engine; {workflows[0].id}, longest call: "
            f"{reasons[0]}; take a larger engine, or shorter traces"
        )
