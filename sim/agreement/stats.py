"""The statistics of agreement; arrays of shape (repetitions, n), or (repetitions,) where a repetition has one number.

Noise is always the same statistic of error, computed between one repetition of the measurement and the mean of the
others, and averaged over the repetitions. One repetition has none: it is None, not nought.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sim.agreement.join import Array, Values
from sim.metrics import ratio

Number = float | None

STATISTICS: dict[str, Callable[[Array], Any]] = {
    "mean": partial(np.mean, axis=1),
    **{f"p{percent}": partial(np.percentile, q=percent, axis=1) for percent in (50, 90, 99)},
}


def times(values: Values, each: str) -> dict[str, Any]:
    """Mean, p50, p90 and p99 of one metric in seconds, and its errors one by one under the name ``each``."""
    known = values.known()
    empty = known.measured.shape[1] == 0
    found: dict[str, Any] = {}
    for name, statistic in STATISTICS.items():
        found[name] = of_run(None if empty else known.map(statistic), "_s")
    found[each] = one_by_one(known)
    return found


def of_run(values: Values | None, unit: str = "") -> dict[str, Number]:
    """One number per repetition on both sides. ``bias``: predicted / measured - 1; ``error``: its magnitude."""
    one, other = (None, None) if values is None else (float(side.mean()) for side in values)
    share = ratio(one, other)
    bias = None if share is None else share - 1
    error = None if bias is None else abs(bias)
    noise = of_repetitions(_relative, values.measured) if values is not None else None
    return {
        f"predicted{unit}": one,
        f"measured{unit}": other,
        "bias": bias,
        "error": error,
        "noise": noise,
        "error_over_noise": ratio(error, noise),
    }


def of_repetitions(statistic: Callable[[Array, Array], Number], measured: Array) -> Number:
    """A statistic of (one repetition, the mean of the others), averaged; None where there is but one."""
    number = len(measured)
    if number < 2:
        return None
    found = [statistic(one, (measured.sum(axis=0) - one) / (number - 1)) for one in measured]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if len(known) == number else None


def one_by_one(values: Values) -> dict[str, Number]:
    """Errors of each thing against the mean of its repetitions; ``bias`` is the mean of the relative errors.

    A thing that took no time has no relative error and is not among the ``count``.
    """
    predicted, measured = values.predicted.mean(axis=0), values.measured.mean(axis=0)
    error = mape(predicted, measured)
    noise = of_repetitions(mape, values.measured)
    some = measured > 0
    return {
        "count": int(some.sum()),
        "mape": error,
        "bias": float(np.mean(predicted[some] / measured[some] - 1)) if some.any() else None,
        "correlation": correlation(predicted, measured),
        "mape_noise": noise,
        "correlation_noise": of_repetitions(correlation, values.measured),
        "mape_over_noise": ratio(error, noise),
    }


def mape(predicted: Array, measured: Array) -> Number:
    """Mean absolute relative error, the measured value 1; None where there is nothing to measure."""
    some = measured > 0
    return float(np.mean(np.abs(predicted[some] / measured[some] - 1))) if some.any() else None


def correlation(predicted: Array, measured: Array) -> Number:
    """Pearson's; None where one side does not vary beyond rounding."""
    if any(side.size < 2 or np.ptp(side) <= 1e-9 * np.abs(side).max() for side in (predicted, measured)):
        return None
    return float(np.corrcoef(predicted, measured)[0, 1])


def exact(values: Values) -> dict[str, Number]:
    """Tokens that must agree call by call. Equal: the same number in every repetition on both sides.

    ``varying``: the repetitions differ among themselves, so that no prediction can be equal. ``unknown``: the server
    did not tell. ``predicted`` and ``measured`` are totals of a repetition, over the calls of which both are known.
    """
    known = values.known()
    calls = known.measured.shape[1]
    equal = (known.predicted == known.predicted[:1]).all(axis=0) & (known.measured == known.predicted[:1]).all(axis=0)
    return {
        "calls": calls,
        "unknown": values.measured.shape[1] - calls,
        "equal": int(equal.sum()),
        "equal_share": ratio(int(equal.sum()), calls),
        "varying": int((known.measured != known.measured[:1]).any(axis=0).sum()),
        **of_run(known.map(lambda side: side.sum(axis=1))),
    }


def _relative(one: Array, others: Array) -> Number:
    share = ratio(float(one), float(others))
    return None if share is None else abs(share - 1)
