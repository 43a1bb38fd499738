"""A point of a study as what can be simulated: engines, load, tool times and policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.arrivals import ArrivalFile
from sim.errors import RunError
from sim.fleet import Fleet, fleet_of, load_fleet
from sim.latency import Profile, load_profile
from sim.load import Alone, ConcurrentSessions, Load, Recorded, SessionRate
from sim.policies import Policy, parse_policy
from sim.rules import Informed, Router
from sim.settings import EngineSettings
from sim.study.spec import RECORDED, Offered, Server, Settings, tool_times
from sim.tool_time import ToolTime, parse_tool_times
from sim.trust import held_out_pct


@dataclass(frozen=True)
class Files:
    """Where the files are that a study names: ``kept`` ones are copies in a folder of results."""

    base: Path = Path()
    kept: Mapping[str, Path] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The file of that name, which is relative to the study's own."""
        return self.kept.get(name, self.base / name)


@dataclass(frozen=True)
class Point:
    """One server under one load. ``varied``: its values of what the grid varies; ``policies`` by typed name."""

    varied: Mapping[str, Any]
    settings: Settings
    fleet: Fleet
    load: Load
    tools: tuple[ToolTime, ...]
    policies: Mapping[str, Policy]

    def columns(self) -> dict[str, Any]:
        """What tells it from others, for tables: one value each."""
        server, load = self.settings.server, self.settings.load
        engine = self.fleet.pools[0].profile.engine
        return {
            "profile": self.fleet.pools[0].profile.name,
            "replicas": len(self.fleet.replicas),
            "router": server.router,
            "fleet": server.fleet,
            "max_num_seqs": engine.max_num_seqs,
            "max_num_batched_tokens": engine.max_num_batched_tokens,
            "num_gpu_blocks": engine.num_gpu_blocks,
            "enable_prefix_caching": engine.enable_prefix_caching,
            "load": str(self.load),
            "session_rate": load.session_rate,
            "burstiness": load.burstiness if load.session_rate and not load.arrivals else None,
            "concurrent_sessions": load.concurrent_sessions,
            "arrivals": load.arrivals,
            "tool_time": ", ".join(tool_times(self.settings.tool_time)),
            "information_error": self.settings.information_error,
            "held_out_error_pct": _error_pct(self.fleet),
        }


def _error_pct(fleet: Fleet) -> float | None:
    """The held-out error in percent, of several profiles the worst; None: unknown."""
    errors = [held_out_pct(pool.profile) for pool in fleet.pools]
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) else None


class Resolver:
    """Makes points; what several of them have in common is one object, made once."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._fleets: dict[str, Fleet] = {}
        self._loads: dict[str, Load] = {}
        self._files_of_arrivals: dict[str, ArrivalFile] = {}
        self._policies: dict[tuple[str, str | None, float | None], Policy] = {}

    def point(self, varied: Mapping[str, Any], settings: Settings, policies: list[str]) -> Point:
        """Raises PolicyError, ProfileError or RunError for what cannot be run."""
        fleet = self._fleet(settings.server)
        named = {name: self._policy(name, settings.server.router, settings.information_error) for name in policies}
        for policy in named.values():
            fleet.set_for(policy)
        tools = parse_tool_times(tool_times(settings.tool_time))
        return Point(varied, settings, fleet, self._load(settings.load), tools, named)

    def _fleet(self, server: Server) -> Fleet:
        key = server.model_dump_json()
        if key not in self._fleets:
            profile = server.profile
            if profile.endswith((".yaml", ".yml")):
                profile = str(self._files.path(profile))
            if server.fleet:
                fleet = load_fleet(self._files.path(server.fleet), profile)
            else:
                fleet = fleet_of(load_profile(profile), server.replicas)
            self._fleets[key] = fleet.with_profiles([_set(pool.profile, server.settings) for pool in fleet.pools])
        return self._fleets[key]

    def _load(self, load: Offered) -> Load:
        key = load.model_dump_json()
        if key not in self._loads:
            self._loads[key] = self._new_load(load)
        return self._loads[key]

    def _new_load(self, load: Offered) -> Load:
        if load.concurrent_sessions:
            return ConcurrentSessions(load.concurrent_sessions)
        if load.arrivals == RECORDED:
            return Recorded()
        if load.arrivals:
            return dataclasses.replace(self._arrivals(load.arrivals), per_s=load.session_rate)
        return SessionRate(load.session_rate, load.burstiness) if load.session_rate else Alone()

    def _arrivals(self, name: str) -> ArrivalFile:
        if name not in self._files_of_arrivals:
            # By the name in the study: a copy of the file may be called otherwise.
            found = ArrivalFile.read(self._files.path(name))
            self._files_of_arrivals[name] = dataclasses.replace(found, name=Path(name).name)
        return self._files_of_arrivals[name]

    def _policy(self, name: str, router: str | None, error: float | None) -> Policy:
        key = name, router, error
        if key not in self._policies:
            policy = parse_policy(name)
            if router and not policy.rule(Router):
                policy = Policy((*policy.rules, *parse_policy(router).rules))
            if error is not None:
                policy = Policy(tuple(_with_error(rule, error) for rule in policy.rules))
            self._policies[key] = policy
        return self._policies[key]


def _set(profile: Profile, settings: Mapping[str, object]) -> Profile:
    """The profile on an engine with these settings. Draws of coefficients are no part of a study."""
    try:
        engine = EngineSettings(**{**profile.engine.model_dump(), **settings})
    except ValidationError as error:
        named = ", ".join(f"{name} {value}" for name, value in settings.items())
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RunError(f"server: profile {profile.name} with {named}: {problem}") from error
    return profile.model_copy(update={"engine": engine, "draws": None})


def _with_error(rule: Any, error: float) -> Any:
    if isinstance(rule, Informed) and rule.information == "noisy":
        return dataclasses.replace(rule, error=error)
    return rule
