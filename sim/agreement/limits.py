"""Conditions on the numbers of an agreement: ``METRIC OP NUMBER[%]``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sim.errors import RunError, nearest

_FORM = re.compile(r"\s*(\S|\S.*?\S)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What must not be: a metric on the wrong side of a number."""

    text: str
    metric: str
    is_wrong: Callable[[float, float], bool]
    number: float

    def violated(self, metrics: Mapping[str, float | None]) -> str:
        """One line if it is so, or if it cannot be told; else nothing. Raises RunError for an unknown metric."""
        if self.metric not in metrics:
            raise RunError(f"--fail-if {self.text!r}: no metric {self.metric!r}{_near(self.metric, metrics)}")
        value = metrics[self.metric]
        if value is None:
            return f"{self.text}: {self.metric} is not known"
        return f"{self.text}: it is {value:.4g}" if self.is_wrong(value, self.number) else ""


def parse_condition(text: str) -> Condition:
    """Raises RunError for what is not of that form."""
    match = _FORM.fullmatch(text)
    if not match:
        raise RunError(f"--fail-if {text!r}: write METRIC OP NUMBER, as in 'session_latency.mean.error>4%'")
    metric, op, number, percent = match.groups()
    return Condition(text.strip(), metric, _OPERATORS[op], float(number) / (100 if percent else 1))


def _near(metric: str, metrics: Mapping[str, float | None]) -> str:
    hint = nearest(metric, metrics)
    return hint if hint.startswith("; did") else "; --json shows their names"
