"""Where policies start to matter: best speed-up over a baseline by load and KV capacity, with what is only noise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from sim import paired
from sim.ceilings import saturation
from sim.comparison import latencies
from sim.errors import RunError
from sim.latency import Profile
from sim.load import SessionRate
from sim.paired import ALPHA, holm
from sim.policies import Policy
from sim.resample import resample
from sim.rules import Router
from sim.simulate import simulate
from sim.workflow import Workflow, origin_of

Pairs = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Axes:
    """What the map spans.

    ``loads``: offered sessions per second as shares of what the server sustains with the most KV blocks;
    ``kv_shares``: of the profile's blocks; ``slots``: max_num_seqs, one map for each.
    """

    loads: Sequence[float]
    kv_shares: Sequence[float]
    slots: Sequence[int]


@dataclass(frozen=True)
class Gain:
    """A policy in one cell: ratio of mean session latencies, its 95 % interval, and Holm's p over the map."""

    policy: str
    speedup: float
    ci95: tuple[float, float]
    p_holm: float

    @property
    def is_real(self) -> bool:
        """Faster than the baseline, and more than noise."""
        return self.speedup > 1 and self.p_holm < ALPHA

    @property
    def is_worse(self) -> bool:
        """Slower than the baseline, and more than noise."""
        return self.speedup < 1 and self.p_holm < ALPHA


@dataclass(frozen=True)
class Cell:
    """One load on one server. ``saturated``: more is offered than it sustains, so the backlog grows with the run."""

    slots: int
    kv_share: float
    num_gpu_blocks: int
    load: float
    rate: float
    saturated: bool
    sessions: int
    gains: Sequence[Gain]

    @property
    def best(self) -> Gain | None:
        """The fastest policy, of those that are faster by more than noise if there are any; None without gains."""
        return max(self.gains, key=lambda gain: (gain.is_real, gain.speedup), default=None)


@dataclass(frozen=True)
class RegimeMap:
    """All cells, and how they were made."""

    baseline: str
    policies: Sequence[str]
    axes: Axes
    cells: Sequence[Cell]
    sessions: int
    seeds: int
    saturation_rate: float
    profile: str
    #: Workflows with a call that the smallest engine refuses.
    left_out: int = 0
    profile_digest: str = ""

    def at(self, slots: int, kv_share: float, load: float) -> Cell:
        """The cell there."""
        return next(c for c in self.cells if (c.slots, c.kv_share, c.load) == (slots, kv_share, load))

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Task:
    """One cell with one seed."""

    cell: tuple[int, float, float]
    seed: int
    rate: float
    profile: Profile


def map_regimes(
    workflows: Sequence[Workflow],
    policies: Mapping[str, Policy],
    baseline: str,
    profile: Profile,
    axes: Axes,
    sessions: int,
    seeds: int,
    jobs: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> RegimeMap:
    """Simulate every cell with every seed: ``sessions`` workflows drawn anew from these, all policies on the same ones.

    Workflows that cannot finish on the smallest engine are left out everywhere. Raises RunError where none is left, or
    there is nothing to compare.
    """
    _check_policies(policies, baseline)
    engines = {(slots, share): _engine(profile, slots, share) for slots, share in product(axes.slots, axes.kv_shares)}
    kept = _that_fit(workflows, engines.values())
    if len({origin_of(workflow.id) for workflow in kept}) < 2:
        raise RunError("one workflow tells nothing of others, which a map is about; give traces of several")
    drawn = {seed: resample(kept, sessions, seed) for seed in range(seeds)}
    sustained = {place: saturation(drawn[0], engine, 0) for place, engine in engines.items()}
    largest = max(rate for (slots, share), rate in sustained.items() if share == max(axes.kv_shares))
    tasks = [
        _Task((slots, share, load), seed, load * largest, engine)
        for ((slots, share), engine), load, seed in product(engines.items(), axes.loads, range(seeds))
    ]
    found: dict[tuple[int, float, float], list[dict[str, Pairs]]] = {}
    for task, pairs in _done(tasks, drawn, policies, baseline, jobs):
        found.setdefault(task.cell, []).append(pairs)
        progress()
    names = [name for name in policies if name != baseline]
    gains = _gains(found, names)
    cells = [
        Cell(
            slots,
            share,
            engines[slots, share].engine.num_gpu_blocks,
            load,
            load * largest,
            load * largest >= sustained[slots, share],
            sum(len(one[names[0]]) for one in found[slots, share, load]),
            gains[slots, share, load],
        )
        for slots, share, load in product(axes.slots, axes.kv_shares, axes.loads)
    ]
    left_out = len(workflows) - len(kept)
    return RegimeMap(baseline, names, axes, cells, sessions, seeds, largest, profile.name, left_out, profile.digest)


def _done(
    tasks: Sequence[_Task],
    drawn: Mapping[int, Sequence[Workflow]],
    policies: Mapping[str, Policy],
    baseline: str,
    jobs: int,
) -> Iterator[tuple[_Task, dict[str, Pairs]]]:
    """Each task with its result, in their order."""
    from joblib import Parallel, delayed

    # One process: the workflows need not travel.
    work = (delayed(_pairs)(task, drawn[task.seed], policies, baseline) for task in tasks)
    yield from zip(tasks, Parallel(jobs, return_as="generator")(work), strict=True)


def _pairs(
    task: _Task, workflows: Sequence[Workflow], policies: Mapping[str, Policy], baseline: str
) -> dict[str, Pairs]:
    """Policy -> workflow id -> latency under the baseline and under the policy, of those that finish under both."""
    load = SessionRate(task.rate)
    times = {
        name: latencies(simulate(workflows, policy, task.profile, load, task.seed)) for name, policy in policies.items()
    }
    base = times.pop(baseline)
    return {name: {one: (base[one], other[one]) for one in base if one in other} for name, other in times.items()}


def _gains(
    found: Mapping[tuple[int, float, float], Sequence[Mapping[str, Pairs]]], names: Sequence[str]
) -> dict[tuple[int, float, float], list[Gain]]:
    """Cell -> gains; p-values are Holm's over all policies of all cells."""
    raw = {
        (cell, name): effect
        for cell, seeds in found.items()
        for name in names
        if (effect := _effect([one[name] for one in seeds]))
    }
    adjusted = holm([effect.p for effect in raw.values() if effect.p is not None])
    gains: dict[tuple[int, float, float], list[Gain]] = {cell: [] for cell in found}
    for ((cell, name), effect), p in zip(raw.items(), adjusted, strict=True):
        assert effect.ci95
        gains[cell].append(Gain(name, effect.speedup, effect.ci95, p))
    return gains


def _effect(seeds: Sequence[Pairs]) -> paired.Effect | None:
    """What a policy does to these sessions of each seed; None where nobody finished with some seed."""
    if len(seeds) < 2:
        raise RunError("--seeds 1: a map needs several to tell a difference from noise; give 2 or more")
    if not all(seeds):
        return None
    codes: dict[str, int] = {}
    rows = [
        (codes.setdefault(origin_of(one), len(codes)), seed, *pair)
        for seed, pairs in enumerate(seeds)
        for one, pair in pairs.items()
    ]
    origins, arrivals, base, other = map(np.array, zip(*rows, strict=True))
    return paired.effect(origins, arrivals, base, other)


def _engine(profile: Profile, slots: int, share: float) -> Profile:
    engine = profile.engine
    blocks = max(2, round(share * (engine.num_gpu_blocks - 1)) + 1)
    budget = max(engine.max_num_batched_tokens, slots)
    settings = {"max_num_seqs": slots, "num_gpu_blocks": blocks, "max_num_batched_tokens": budget}
    return profile.with_engine(settings)


def _check_policies(policies: Mapping[str, Policy], baseline: str) -> None:
    if len(policies) < 2:
        raise RunError(f"--policy {baseline}: there is only the baseline; give another policy")
    for name, policy in policies.items():
        if policy.rule(Router):
            raise RunError(f"--policy {name}: a router needs several replicas, a map is of one; take it out")


def _that_fit(workflows: Sequence[Workflow], engines: Collection[Profile]) -> list[Workflow]:
    smallest = min(engines, key=lambda profile: profile.engine.num_gpu_blocks).engine
    longest = [max(map(workflow.num_tokens, workflow.calls)) for workflow in workflows]
    kept = [workflow for workflow, tokens in zip(workflows, longest, strict=True) if not smallest.refusal(tokens)]
    if not kept:
        reason = smallest.refusal(min(longest))
        raise RunError(f"--kv: no workflow can finish on the smallest engine ({reason}); give a larger share")
    return kept
