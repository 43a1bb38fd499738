"""stub"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from sim.workflow import Workflow

Information = Literal["oracle", "noisy", "mean"]


class Estimate(NamedTuple):
    work_s: float
    path_s: float
    depth: float
    cost: float


class Forecast(Protocol):
    def finished(self, node_id: str) -> None: ...
    def estimate(self, call_id: str) -> Estimate: ...


class Foresight(Protocol):
    def of(self, workflow: Workflow) -> Forecast: ...


def foresight(
    information: Information,
    error: float,
    workflows: Sequence[Workflow],
    seconds: Callable[[Workflow], Mapping[str, float]],
    seed: int,
) -> Foresight: ...
