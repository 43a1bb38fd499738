"""Runs of the same workflows under several policies, whatever executed them: speed-ups, held against work / span."""

from __future__ import annotations

import hashlib
import platform
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim import __version__
from sim.bounds import Bound
from sim.choices import DEFAULT, Choices, unknown_tokens
from sim.errors import BoundError
from sim.failure_cost import Aborts, summary_of_aborts
from sim.latency import Profile
from sim.load import Alone, Load, generator
from sim.metrics import speedup, summary
from sim.policies import SEQUENTIAL, Policy, own_sources
from sim.record import RunResult
from sim.rules import Verdict
from sim.traces import jsonl
from sim.workflow import Workflow, origin_of

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
            **({"rules_of_your_own": own} if (own := own_sources(self.policies.values())) else {}),
            "workspan": __version__,
            "python": platform.python_version(),
            "workflows": len(self.workflows),
            "workflows_digest": digest(self.workflows),
            "tokenizers": sorted({workflow.tokenizer for workflow in self.workflows}),
            **self.choices.to_json(),
            "load": str(self.load),
            "policies": list(self.policies),
            "needs": {name: value for policy in self.policies.values() for name, value in policy.needs.items()},
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
        return name_of_bound(isinstance(self.load, Alone))

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
        if not isinstance(self.load, Alone) or self.policies[self.baseline] != SEQUENTIAL:
            return
        for name in (name for name, policy in self.policies.items() if policy.is_bounded):
            for workflow, (base, other) in self.pairs(name).items():
                bound = self.bounds[workflow].speedup
                if base / other > bound * (1 + _ROUNDING):
                    raise BoundError(
                        f"{workflow} under {name} is {base / other:.6f}x faster than under {self.baseline}; "
                        f"work / span allows {bound:.6f}x"
                    )

    def _policy(self, name: str) -> dict[str, Any]:
        aborts = self.aborts(name)
        return {
            "policy": str(self.policies[name]),
            **self.gain(name),
            **summary(self.runs[name]),
            **({"aborts": aborts.to_json()} if aborts else {}),
            "by_framework": {framework: self.gain(name, framework) for framework in self.frameworks()},
        }

    def aborts(self, name: str) -> Aborts | None:
        """What a policy that stops workflows has stopped; None for one that does not."""
        verdict = self.policies[name].rule(Verdict)
        return summary_of_aborts(self.runs[name], self.workflows, self.clock) if verdict and verdict.aborts else None

    @property
    def clock(self) -> Profile | None:
        """The profile that tells how long a call takes alone, where there is one."""
        return None

    def gain(self, name: str, framework: str | None = None) -> dict[str, Any]:
        """Speed-up over the baseline with its interval, and the bound: pooled work / pooled span."""
        pairs = self.pairs(name, framework)
        if not pairs:
            return {"speedup": None, "speedup_ci95": None, "bound": None, "workflows": 0}
        ratio, interval = self.speedup(name, pairs)
        bounds = [self.bounds[workflow] for workflow in pairs if workflow in self.bounds]
        # Work / span bounds what is gained over one node at a time, and nothing else.
        bounded = self.policies[self.baseline] == SEQUENTIAL and self.policies[name].is_bounded
        bounded = bounded and len(bounds) == len(pairs)
        return {
            "speedup": ratio,
            "speedup_ci95": interval,
            "bound": sum(bound.work_s for bound in bounds) / sum(bound.span_s for bound in bounds) if bounded else None,
            "workflows": len(pairs),
        }

    def speedup(self, name: str, pairs: Mapping[str, tuple[float, float]]) -> tuple[float, tuple[float, float] | None]:
        """Ratio of mean latencies over these workflows' pairs, and its 95 % interval where there is one."""
        base, other = zip(*by_origin(pairs), strict=True)
        return speedup(base, other, generator(self.seed, "bootstrap over workflows"))


def name_of_bound(alone: bool) -> str:
    """What work / span is to workflows that run alone, or that do not."""
    return "bound: work / span" if alone else "bound when alone: work / span"


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


def by_origin(pairs: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
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
