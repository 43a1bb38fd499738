"""The same workflows under several policies: speed-ups over a baseline, held against work / span."""

from __future__ import annotations

import hashlib
import math
import platform
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sim import __version__
from sim.bounds import Bound, span_s
from sim.choices import DEFAULT, Choices, unknown_tokens
from sim.errors import BoundError, PolicyError, RunError
from sim.latency import Profile
from sim.load import Alone, Load, generator
from sim.metrics import speedup, summary
from sim.policies import Policy, parse_policy
from sim.policies.sequential import Sequential
from sim.record import RunResult
from sim.simulate import simulate
from sim.traces import jsonl
from sim.trust import Trust, around, drawn_profiles, half_width, kind, profile_title
from sim.workflow import COPY, Workflow

#: Speed-up and bound are sums of the same floats in other orders; more than this is no rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Comparison(ABC):
    """Runs of the same workflows, arrivals and seed under several policies, by the name the user gave.

    ``bounds``: work and span of each workflow where they are known.
    """

    workflows: Sequence[Workflow]
    policies: Mapping[str, Policy]
    baseline: str
    load: Load
    seed: int
    runs: Mapping[str, RunResult]
    bounds: Mapping[str, Bound]
    choices: Choices = DEFAULT

    @property
    @abstractmethod
    def engine(self) -> str:
        """What executed the calls, in a few words."""

    @abstractmethod
    def engine_facts(self) -> dict[str, Any]:
        """What executed the calls, for provenance; ``engine`` first."""

    @abstractmethod
    def limits(self) -> list[str]:
        """Sentences about what the numbers can't be trusted for."""

    def parts(self) -> Iterator[tuple[dict[str, Any], RunResult]]:
        """The runs, each with the columns that tell its rows from others'."""
        for name, run in self.runs.items():
            yield {"policy": name}, run

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain data, with their provenance."""
        return {
            "provenance": self.provenance(),
            "baseline": self.baseline,
            "policies": {name: self._policy(name) for name in self.runs},
        }

    def provenance(self) -> dict[str, Any]:
        """What the numbers were made from; the same inputs give the same bytes."""
        return {
            **self.engine_facts(),
            "workspan": __version__,
            "python": platform.python_version(),
            "workflows": len(self.workflows),
            "workflows_digest": digest(self.workflows),
            "tokenizers": sorted({workflow.tokenizer for workflow in self.workflows}),
            **self.choices.to_json(),
            "load": str(self.load),
            "policies": list(self.policies),
            "baseline": self.baseline,
            "seed": self.seed,
            "tools_of_unknown_duration_at_0_s": unknown_tools(self.workflows),
        }

    def frameworks(self) -> list[str]:
        """Every framework among the workflows, by name."""
        return sorted({workflow.framework for workflow in self.workflows})

    @property
    def bound_name(self) -> str:
        """What to call work / span, which bounds nothing once a workflow shares the server."""
        return "bound: work / span" if isinstance(self.load, Alone) else "bound when alone: work / span"

    def pairs(self, name: str, framework: str | None = None) -> dict[str, tuple[float, float]]:
        """Workflow id -> its latency under the baseline and under the policy, where it finished under both."""
        base, other = latencies(self.runs[self.baseline]), latencies(self.runs[name])
        return {
            workflow.id: (base[workflow.id], other[workflow.id])
            for workflow in self.workflows
            if framework in (None, workflow.framework) and workflow.id in base and workflow.id in other
        }

    def check_bound(self) -> None:
        """Law: alone on the server, no workflow gains more over `sequential` than work / span."""
        if not isinstance(self.load, Alone) or self.policies[self.baseline] != Sequential():
            return
        for name in self.runs:
            for workflow, (base, other) in self.pairs(name).items():
                bound = self.bounds[workflow].speedup
                if base / other > bound * (1 + _ROUNDING):
                    raise BoundError(
                        f"{workflow} under {name} is {base / other:.6f}x faster than under {self.baseline}; "
                        f"work / span allows {bound:.6f}x"
                    )

    def _policy(self, name: str) -> dict[str, Any]:
        return {
            "policy": str(self.policies[name]),
            **self.gain(name),
            **summary(self.runs[name]),
            "by_framework": {framework: self.gain(name, framework) for framework in self.frameworks()},
        }

    def gain(self, name: str, framework: str | None = None) -> dict[str, Any]:
        """Speed-up over the baseline with its interval, and the bound: pooled work / pooled span."""
        pairs = self.pairs(name, framework)
        if not pairs:
            return {"speedup": None, "speedup_ci95": None, "bound": None, "workflows": 0}
        ratio, interval = self.speedup(name, pairs)
        bounds = [self.bounds[workflow] for workflow in pairs if workflow in self.bounds]
        # Work / span bounds what is gained over one node at a time, and nothing else.
        bounded = self.policies[self.baseline] == Sequential() and len(bounds) == len(pairs)
        return {
            "speedup": ratio,
            "speedup_ci95": interval,
            "bound": sum(bound.work_s for bound in bounds) / sum(bound.span_s for bound in bounds) if bounded else None,
            "workflows": len(pairs),
        }

    def speedup(self, name: str, pairs: Mapping[str, tuple[float, float]]) -> tuple[float, tuple[float, float] | None]:
        """Ratio of mean latencies over these workflows' pairs, and its 95 % interval where there is one."""
        base, other = zip(*_by_origin(pairs), strict=True)
        return speedup(base, other, generator(self.seed, "bootstrap over workflows"))


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


def digest(workflows: Sequence[Workflow]) -> str:
    """Twelve hexadecimal digits that change whenever a workflow does."""
    return hashlib.sha256("".join(jsonl.dump(workflows, {})).encode()).hexdigest()[:12]


def unknown_shares(workflows: Sequence[Workflow]) -> tuple[float, float]:
    """Which share of all prompt tokens, and of all output tokens, are estimates of what was not recorded."""
    unknown = [unknown_tokens(workflow) for workflow in workflows]
    prompts = sum(call.num_prompt_tokens for workflow in workflows for call in workflow.calls)
    outputs = sum(sum(workflow.tape.output_tokens.values()) for workflow in workflows)
    return sum(one for one, _ in unknown) / prompts, sum(one for _, one in unknown) / outputs


def unknown_tools(workflows: Sequence[Workflow]) -> int:
    """Tools whose duration nobody recorded."""
    return sum(seconds is None for workflow in workflows for seconds in workflow.tape.tool_s.values())


def origin_of(workflow_id: str) -> str:
    """The id of the workflow that a resampled one is a copy of, or its own."""
    return workflow_id.partition(COPY)[0]


def _by_origin(pairs: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
    """Latencies under both policies, summed over the copies of one workflow, which are not independent."""
    sums: dict[str, tuple[float, float]] = {}
    for workflow, (base, other) in pairs.items():
        origin = origin_of(workflow)
        before = sums.get(origin, (0.0, 0.0))
        sums[origin] = before[0] + base, before[1] + other
    return list(sums.values())


def latencies(result: RunResult) -> dict[str, float]:
    """Workflow id -> its latency, the mean where it ran several times."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for session in result.sessions:
        if session.status == "finished":
            found[session.workflow_id].append(session.latency_s)
    return {workflow: sum(latencies) / len(latencies) for workflow, latencies in found.items()}
