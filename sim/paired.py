"""Two policies on the same sessions: how much faster one is, and how much of that could be other workflows or arrivals.

Arrays are one-dimensional, those of a function of equal length, with an entry for each session.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Level: of questions asked at once, with so much probability at most any is answered by a difference that is none.
ALPHA = 0.05
#: A workflow that gets less than this part faster has gained nothing.
LEAST_GAIN = 0.01
#: A backlog that gets less than this part larger from the middle third of the arrivals to the last is steady,
LEAST_GROWTH = 0.1
#: and so is one that gets larger by fewer standard deviations of what chance does (5 %, one-sided).
_NOISE = 1.645
#: Sessions. 0.29 * 100 is a little less than 29.
_ROUNDING = 1e-6

Codes = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Effect:
    """A policy against the baseline: ratio of mean session latencies, its 95 % interval and its two-sided p.

    Both are over other workflows, and over other arrivals if there are several; None of a single workflow.
    ``without_gain``: share of the ``workflows`` originals whose latency, summed over their sessions, gets less
    than 1 % faster.
    """

    speedup: float
    ci95: tuple[float, float] | None
    p: float | None
    workflows: int
    seeds: int
    without_gain: float


def effect(origins: Codes, seeds: Codes, base: Floats, other: Floats) -> Effect | None:
    """What the policy does to these sessions; None without any.

    ``origins``: code of the original workflow, which its copies share; ``seeds``: code of the arrivals; ``base`` and
    ``other``: latencies in s under the baseline and under the policy.

    Two variances of the ratio's logarithm add up, over original workflows and over seeds, with the degrees of freedom
    of Welch and Satterthwaite. What is neither of a workflow nor of a seed counts twice, which is the safe side.
    """
    if not origins.size:
        return None
    workflows, arrivals = _summed(origins, base, other), _summed(seeds, base, other)
    ratio = float(workflows[0].sum() / workflows[1].sum())
    over_workflows = _over_workflows(*workflows)
    # Of a single workflow nothing can be said about others, however often it ran.
    parts = [part for part in (_over_seeds(*arrivals), over_workflows) if part] if over_workflows else []
    ci95, p = _tested(ratio, parts) if parts else (None, None)
    without = float(np.mean(workflows[0] < (1 + LEAST_GAIN) * workflows[1]))
    return Effect(ratio, ci95, p, workflows[0].size, arrivals[0].size, without)


def _summed(codes: Codes, base: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Latencies under both policies, summed over the sessions of each code."""
    places = np.unique(codes, return_inverse=True)[1]
    return np.bincount(places, base).astype(float), np.bincount(places, other).astype(float)


def _over_seeds(base: Floats, other: Floats) -> tuple[float, float] | None:
    """Variance of the ratio's logarithm and its degrees of freedom, from the scatter over seeds."""
    if base.size < 2:
        return None
    return float(np.var(np.log(base / other), ddof=1)) / base.size, base.size - 1


def _over_workflows(base: Floats, other: Floats) -> tuple[float, float] | None:
    """The same over original workflows: each left out in turn (jackknife; Efron & Stein 1981).

    A few long workflows can make most of a mean, so the degrees of freedom are of Kish's (1965) effective number of
    workflows. A bootstrap's interval is too narrow then: it covers 80 to 90 % instead of 95 %.
    """
    if base.size < 2:
        return None
    without = np.log((base.sum() - base) / (other.sum() - other))
    share = (base / base.sum() + other / other.sum()) / 2
    return float(np.var(without)) * (base.size - 1), max(1.0, 1 / float(share @ share) - 1)


def _tested(ratio: float, parts: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], float]:
    """95 % interval of a ratio and the p of its being 1, from variances of its logarithm with degrees of freedom."""
    from scipy.special import stdtr, stdtrit

    variance = sum(part for part, _ in parts)
    if not variance:
        return (ratio, ratio), float(ratio == 1)
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, 0.975)) * error
    p = 2 * float(stdtr(freedom, -abs(math.log(ratio)) / error))
    return (ratio * math.exp(-half), ratio * math.exp(half)), p


def holm(values: Sequence[float]) -> list[float]:
    """p-values as they must be when so many questions are asked at once (Holm 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, least = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = least
    return adjusted


def backlog_grows(arrived: Floats, finished: Floats, seeds: Codes) -> bool:
    """Whether ever more sessions are under way as long as sessions arrive: the server does not sustain their rate.

    Or the run is too short to tell. Of one policy at one rate: the instants in s at which its sessions arrive and end,
    NaN for one that never ends, and the code of their arrivals.

    The mean number under way in the last third of the arrivals is held against that in the middle third, summed over
    the seeds. How far apart they are by chance is as if every session that is in one of them only came by itself
    (Poisson), which holds for few sessions as for many, with one seed as with several.
    """
    thirds = [_thirds(arrived[seeds == seed], finished[seeds == seed]) for seed in np.unique(seeds)]
    middle, last = np.concatenate(thirds, axis=1) if thirds else np.zeros((2, 0))
    growth, noise = float((last - middle).sum()), math.sqrt(abs(last - middle).sum())
    return growth > max(LEAST_GROWTH * float(middle.sum()), _NOISE * noise)


def _thirds(arrived: Floats, finished: Floats) -> Floats:
    """For each session of which part of the middle third and of the last third of the arrivals it is under way."""
    first, last = arrived.min(), arrived.max()
    third = (last - first) / 3
    if not third:
        return np.zeros((2, arrived.size))
    starts = np.array([[first + third], [first + 2 * third]])
    # fmin: of a number and NaN it is the number.
    parts: Floats = (np.fmin(finished, starts + third) - np.maximum(arrived, starts)) / third
    return parts.clip(0)


def counted(places: Codes, sessions: int, warm_up: float, drain: float) -> NDArray[np.bool_]:
    """Which sessions count, by their place from 0 in the order in which so many arrive.

    The first ``warm_up`` and the last ``drain`` of them, shares rounded down to whole sessions, do not. One counts in
    any case: the first after the warm-up, or the last of all.
    """
    first = min(_whole(warm_up * sessions), sessions - 1)
    end = max(sessions - _whole(drain * sessions), first + 1)
    return (first <= places) & (places < end)


def _whole(share: float) -> int:
    return math.floor(share + _ROUNDING)
