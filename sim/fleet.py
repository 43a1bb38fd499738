"""The engines that a study runs on: pools of equal replicas, which agents they serve, and how many tools may run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sim import yamlfile
from sim.bounds import least_times_s
from sim.errors import PolicyError, ProfileError, RunError, nearest
from sim.latency import Profile, load_profile
from sim.policies import Policy
from sim.retention import CpuTier
from sim.rules import Router
from sim.settings import Count, Strict
from sim.workflow import Workflow

#: More engines than anybody simulates in one process.
MOST_REPLICAS = 1024


@dataclass(frozen=True)
class Pool:
    """Replicas of one engine. ``usd_per_hour`` is the price of one of them."""

    name: str
    profile: Profile
    replicas: int = 1
    usd_per_hour: float | None = None
    cpu_tier: CpuTier | None = None

    def __str__(self) -> str:
        return self.profile.name if self.replicas == 1 else f"{self.replicas} x {self.profile.name}"


@dataclass(frozen=True)
class Fleet:
    """Pools, the first of which serves every agent that ``agents`` (pattern -> pool, first match) does not name.

    ``tool_limits``: how many runs of a tool there may be at once, over all workflows.
    """

    pools: tuple[Pool, ...]
    agents: Mapping[str, str] = field(default_factory=dict)
    tool_limits: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def replicas(self) -> list[Pool]:
        """The pool of each replica, by its number."""
        return [pool for pool in self.pools for _ in range(pool.replicas)]

    def pool(self, agent: str) -> Pool:
        """The pool that serves an agent."""
        name = next((name for pattern, name in self.agents.items() if fnmatchcase(agent, pattern)), self.pools[0].name)
        return next(pool for pool in self.pools if pool.name == name)

    def profile(self, agent: str) -> Profile:
        """The profile of the engines that serve an agent."""
        return self.pool(agent).profile

    def numbers(self, agent: str) -> Sequence[int]:
        """The replicas that can take an agent's calls."""
        if agent not in self._numbers:
            pool = self.pool(agent)
            self._numbers[agent] = [number for number, one in enumerate(self.replicas) if one is pool]
        return self._numbers[agent]

    @cached_property
    def _numbers(self) -> dict[str, Sequence[int]]:
        return {}

    def least_times_s(self, workflow: Workflow) -> Mapping[str, float]:
        """Node id -> its best-case seconds (`sim.bounds.least_times_s`) on the engines that serve its agent."""
        first = self.pools[0]
        seconds = dict(least_times_s(workflow, first.profile))
        for pool in self.pools[1:]:
            theirs = [call.id for call in workflow.calls if self.pool(call.agent) is pool]
            if theirs:
                found = least_times_s(workflow, pool.profile)
                seconds |= {call: found[call] for call in theirs}
        return seconds

    def usd_per_s(self) -> float | None:
        """What all replicas cost per second; None where a price is not known."""
        prices = [pool.usd_per_hour for pool in self.replicas]
        known = [price for price in prices if price is not None]
        return sum(known) / 3600 if len(known) == len(prices) else None

    def set_for(self, policy: Policy) -> Fleet:
        """The engines as they are started for the policy. Raises PolicyError where it could do nothing there."""
        if policy.rule(Router) and all(pool.replicas == 1 for pool in self.pools):
            raise PolicyError(f"policy {policy}: a router needs several replicas; give --replicas N")
        needs = dict(policy.needs)
        if needs.pop("enable_prefix_caching", False):
            for pool in self.pools:
                if not pool.profile.engine.enable_prefix_caching:
                    raise PolicyError(f"policy {policy}: {pool.profile.name} has no prefix cache; take another profile")
        if not needs:
            return self
        return self.with_profiles([pool.profile.with_engine(needs) for pool in self.pools])

    def without_effect(self, workflows: Sequence[Workflow]) -> list[str]:
        """A sentence for each agent and tool that it names and none of the workflows has."""
        agents = {call.agent for workflow in workflows for call in workflow.calls}
        tools = {tool.name for workflow in workflows for tool in workflow.tools}
        idle = [f"agent {p!r}" for p in self.agents if not any(fnmatchcase(agent, p) for agent in agents)]
        idle += [f"tool {name!r}" for name in self.tool_limits if name not in tools]
        return [f"The fleet names {name}, which none of these workflows has." for name in idle]

    def with_profiles(self, profiles: Sequence[Profile]) -> Fleet:
        """The same with other profiles, one for each pool."""
        pairs = zip(self.pools, profiles, strict=True)
        return replace(self, pools=tuple(replace(pool, profile=profile) for pool, profile in pairs))

    def to_json(self) -> dict[str, Any]:
        """Pools, agents and limits, for provenance."""
        return {
            "pools": [
                {
                    "name": pool.name,
                    "profile": pool.profile.name,
                    "profile_digest": pool.profile.digest,
                    "replicas": pool.replicas,
                    "usd_per_hour": pool.usd_per_hour,
                    "cpu_tier": pool.cpu_tier and pool.cpu_tier.to_json(),
                }
                for pool in self.pools
            ],
            "agents": dict(self.agents),
            "tool_limits": dict(self.tool_limits),
        }

    def __str__(self) -> str:
        return " + ".join(map(str, self.pools))


def fleet_of(engine: Profile | Fleet, replicas: int = 1) -> Fleet:
    """Equal replicas of one profile, or the fleet itself."""
    return engine if isinstance(engine, Fleet) else Fleet((Pool("all", engine, replicas),))


class _Tier(Strict):
    num_blocks: Count
    load_token_s: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Pool(Strict):
    profile: str | None = None
    replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 1
    usd_per_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    cpu_tier: _Tier | None = None


class _File(Strict):
    pools: Annotated[dict[str, _Pool], Field(min_length=1)]
    agents: dict[str, str] = Field(default_factory=dict)
    tools: dict[str, Count] = Field(default_factory=dict)


def load_fleet(path: Path, profile: str) -> Fleet:
    """A fleet's file; a pool without a profile has this one. Raises RunError or ProfileError."""
    told = yamlfile.load(path, _File, RunError)
    for pattern, name in told.agents.items():
        if name not in told.pools:
            raise RunError(f"{path}: agents, {pattern}: no pool {name!r}{nearest(name, told.pools)}")
    pools = tuple(
        Pool(
            name,
            _profile(path, name, pool.profile) if pool.profile is not None else load_profile(profile),
            pool.replicas,
            pool.usd_per_hour,
            CpuTier(pool.cpu_tier.num_blocks, pool.cpu_tier.load_token_s) if pool.cpu_tier else None,
        )
        for name, pool in told.pools.items()
    )
    return Fleet(pools, told.agents, told.tools)


def _profile(path: Path, pool: str, profile: str) -> Profile:
    try:
        return load_profile(profile)
    except ProfileError as error:
        raise ProfileError(f"{path}: pools, {pool}, profile: {error}") from error
