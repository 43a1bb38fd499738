"""Speed-ups and orders of policies, predicted and measured: what decisions rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from sim.agreement.data import Side
from sim.agreement.join import Array, Joint, Values
from sim.agreement.stats import Number, of_run
from sim.metrics import ratio

Interval = tuple[float, float] | None
#: Natural logarithm of a ratio of latencies; less than this is no difference, only rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Order:
    """Two policies: log of the ratio of their mean session latencies, negative where ``one`` is the faster.

    ``framework``: of which workflows; None for all. ``above_noise``: the 95 % interval of the measured logarithm over
    the repetitions (Student's t) excludes nought; None where one repetition cannot tell.
    """

    one: str
    other: str
    framework: str | None
    predicted: float
    measured: float
    above_noise: bool | None

    @property
    def wrong(self) -> bool:
        """The measurement shows a winner, and the prediction names the other. No winner is not a wrong one."""
        reversed_ = self.predicted * self.measured < 0 and abs(self.predicted) > _ROUNDING
        return bool(self.above_noise) and reversed_

    def __str__(self) -> str:
        where = f" ({self.framework})" if self.framework else ""
        one, other = (math.exp(value) for value in (self.predicted, self.measured))
        return f"{self.one} / {self.other}{where}: ratio of latencies predicted {one:.3f}, measured {other:.3f}"


@dataclass(frozen=True, slots=True)
class Speedup:
    """Of one policy over the baseline, with what each side states as its 95 % interval; ``numbers`` as `of_run`."""

    order: Order
    predicted_ci95: Interval
    measured_ci95: Interval
    workflows: int
    numbers: dict[str, Number]

    def to_json(self) -> dict[str, Any]:
        """Flat numbers; an interval is its two ends."""
        ends = {
            f"{side}_{end}": interval[index] if interval else None
            for side, interval in (("predicted", self.predicted_ci95), ("measured", self.measured_ci95))
            for index, end in enumerate(("low", "high"))
        }
        return {**self.numbers, **ends, "workflows": self.workflows}


def speedups(sides: tuple[Side, Side], sessions: Joint, framework: str | None = None) -> dict[str, Speedup]:
    """By policy. Only workflows count that finished under policy and baseline on both sides."""
    baseline = sides[1].baseline
    found = {}
    for name in sides[1].runs:
        base, other, workflows = _totals(sessions, baseline, name, framework)
        if name == baseline or not workflows:
            continue
        pooled = _pooled(base, other)
        numbers = of_run(Values(base.predicted / other.predicted, base.measured / other.measured))
        bias = pooled.predicted / pooled.measured - 1
        numbers |= {**pooled._asdict(), "bias": bias, "error": abs(bias)}
        numbers["error_over_noise"] = ratio(abs(bias), numbers["noise"])
        one, two = (_stated(side, baseline, name, framework, workflows) for side in sides)
        found[name] = Speedup(_order(baseline, name, framework, base, other), one, two, workflows, numbers)
    return found


def orders(sides: tuple[Side, Side], sessions: Joint, framework: str | None = None) -> list[Order]:
    """Of every pair of policies."""
    found = []
    for one, other in combinations(sides[1].runs, 2):
        first, second, workflows = _totals(sessions, one, other, framework)
        if workflows:
            found.append(_order(one, other, framework, first, second))
    return found


def winners(pairs: Sequence[Order]) -> dict[str, Number]:
    """How often the prediction names the wrong winner of those that the measurement can tell; None if it cannot."""
    told = [pair for pair in pairs if pair.above_noise is not None]
    decided = sum(bool(pair.above_noise) for pair in pairs)
    wrong = sum(pair.wrong for pair in pairs)
    known = len(told) == len(pairs)
    return {
        "pairs": len(pairs),
        "pairs_above_noise": decided if known else None,
        "wrong_winners": wrong if known else None,
        # Where no difference is larger than the noise, no winner can be wrong.
        "wrong_winner_rate": wrong / max(1, decided) if known and pairs else None,
    }


def ranks(gains: Sequence[Speedup]) -> dict[str, Number]:
    """Agreement of (policy, framework) pairs; each framework's baseline is among the ranked, with its 1.00.

    ``sign_agreement``: share of the speed-ups on the same side of 1; where noise is known only of those above it.
    """
    from scipy.stats import kendalltau  # a second to load

    counted = [gain.order for gain in gains if gain.order.above_noise in (None, True)]
    same = sum(_sign(order.predicted) == _sign(order.measured) for order in counted)
    # Every framework brings its baseline, whose speed-up is 1 on both sides.
    ones = [1.0] * len({gain.order.framework for gain in gains})
    predicted, measured = ([*ones, *(gain.numbers[side] for gain in gains)] for side in ("predicted", "measured"))
    tau = float(kendalltau(predicted, measured).statistic) if len(predicted) > 1 else math.nan
    return {
        "sign_agreement": ratio(same, len(counted)),
        "sign_counted": len(counted),
        "kendall_tau": None if math.isnan(tau) else tau,
    }


def _sign(value: float) -> int:
    return 0 if abs(value) <= _ROUNDING else 1 if value > 0 else -1


def _totals(sessions: Joint, one: str, other: str, framework: str | None) -> tuple[Values, Values, int]:
    """Latencies of both policies, summed over the workflows that both have; arrays of shape (repetitions,)."""
    places: dict[str, dict[str, int]] = {one: {}, other: {}}
    for index, (policy, workflow) in enumerate(sessions.keys):
        if policy in places and framework in (None, sessions.labels["framework"][index]):
            places[policy][workflow] = index
    both = [workflow for workflow in places[one] if workflow in places[other]]
    latency = sessions.values["session_latency"]
    chosen = (np.array([places[name][workflow] for workflow in both], dtype=int) for name in (one, other))
    first, second = (latency.of(index).map(lambda side: side.sum(axis=1)) for index in chosen)
    return first, second, len(both)


class _Ratio(NamedTuple):
    predicted: float
    measured: float


def _pooled(base: Values, other: Values) -> _Ratio:
    """Ratio of the latencies summed over workflows and repetitions."""
    predicted, measured = (float(one.sum() / two.sum()) for one, two in zip(base, other, strict=True))
    return _Ratio(predicted, measured)


def _order(one: str, other: str, framework: str | None, first: Values, second: Values) -> Order:
    predicted, measured = map(math.log, _pooled(first, second))
    logs = np.log(first.measured / second.measured)
    return Order(one, other, framework, predicted, measured, _above_noise(logs))


def _above_noise(logs: Array) -> bool | None:
    from scipy.special import stdtrit  # a second to load

    if len(logs) < 2:
        return None
    half = float(stdtrit(len(logs) - 1, 0.975) * logs.std(ddof=1)) / math.sqrt(len(logs))
    return abs(float(logs.mean())) > max(half, _ROUNDING)


def _stated(side: Side, baseline: str, name: str, framework: str | None, workflows: int) -> Interval:
    """What the result says, if it says it of the same workflows over the same baseline."""
    row = side.stated[name]
    row = row if framework is None else row["by_framework"][framework]
    interval = row["speedup_ci95"] if side.baseline == baseline and row["workflows"] == workflows else None
    return (interval[0], interval[1]) if interval else None
