"""What a policy that ranks calls by the future is told of it: the truth, truth with an error, or others' means."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt

from sim.errors import PolicyError, nearest
from sim.load import generator
from sim.workflow import Workflow, origin_of

#: oracle: exact. noisy: exact but for one factor per workflow. mean: learned from workflows of other tasks.
Information = Literal["oracle", "noisy", "mean"]
INFORMATION: tuple[Information, ...] = get_args(Information)

#: A workflow is foretold by those of the other folds.
_FOLDS = 5

#: Node id -> best-case seconds of every node of the workflow (`sim.bounds.least_times_s`).
Seconds = Callable[[Workflow], Mapping[str, float]]


class Estimate(NamedTuple):
    """What is left of a workflow when one of its calls is about to be sent.

    ``work_s``: the sum of the nodes that have not finished, in best-case seconds. ``path_s``: the longest path from the
    call on, itself included, in best-case seconds: the upward rank of HEFT (Topcuoglu, Hariri and Wu 2002). ``depth``:
    the same in nodes. ``cost``: of the whole workflow, p*d + d*d/2 summed over its calls of p prompt and d output
    tokens: how long how much KV is held, in token-steps (Justitia).
    """

    work_s: float
    path_s: float
    depth: float
    cost: float


class Forecast(Protocol):
    """The estimates of one workflow that runs."""

    def finished(self, node_id: str) -> None:
        """A node is done."""

    def estimate(self, call_id: str) -> Estimate:
        """What is left when the call is about to be sent."""


class Foresight(Protocol):
    """Where forecasts come from."""

    def of(self, workflow: Workflow) -> Forecast:
        """A fresh forecast for a session of the workflow."""


def foresight(
    information: Information, error: float, workflows: Sequence[Workflow], seconds: Seconds, seed: int
) -> Foresight:
    """The source of that name; ``error``, from 0 to 1, is that of `noisy`. Nothing is computed before it is needed.

    Raises PolicyError for an error out of range, and where nothing could be learned for `mean`.
    """
    if information == "oracle":
        return Oracle(seconds)
    if information == "noisy":
        return Noisy(seconds, error, seed)
    if information == "mean":
        return Means(workflows, seconds)
    raise PolicyError(f"no information {information!r}{nearest(information, INFORMATION)}")


@dataclass(frozen=True, slots=True)
class _Future:
    """A workflow's best-case seconds, node by node, and of each node the longest path that begins with it."""

    seconds: Mapping[str, float]
    path_s: Mapping[str, float]
    depth: Mapping[str, int]
    work_s: float
    cost: float


def _future(workflow: Workflow, seconds: Mapping[str, float]) -> _Future:
    path_s: dict[str, float] = {}
    depth: dict[str, int] = {}
    for node in reversed(workflow.order):
        children = workflow.children[node]
        path_s[node] = seconds[node] + max((path_s[child] for child in children), default=0.0)
        depth[node] = 1 + max((depth[child] for child in children), default=0)
    return _Future(seconds, path_s, depth, workflow.work(seconds), _cost(workflow))


def _cost(workflow: Workflow) -> float:
    lengths = ((call.num_prompt_tokens, workflow.tape.output_tokens[call.id]) for call in workflow.calls)
    return sum(prompt * output + output * output / 2 for prompt, output in lengths)


@dataclass(slots=True)
class _Known:
    """The forecast of one whose future is known but for a factor."""

    future: _Future
    factor: float
    done_s: float = 0.0

    def finished(self, node_id: str) -> None:
        """A node is done."""
        self.done_s += self.future.seconds[node_id]

    def estimate(self, call_id: str) -> Estimate:
        """The truth times the factor."""
        future, factor = self.future, self.factor
        # The difference of two sums may be less than the call itself by a rounding.
        left_s = max(future.work_s - self.done_s, future.seconds[call_id])
        return Estimate(
            factor * left_s, factor * future.path_s[call_id], factor * future.depth[call_id], factor * future.cost
        )


class Oracle:
    """Knows every workflow's graph and tape: no policy of a real server does."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds = seconds
        self._futures: dict[str, _Future] = {}

    def of(self, workflow: Workflow) -> Forecast:
        """The exact forecast."""
        return _Known(self._future(workflow), factor=1.0)

    def _future(self, workflow: Workflow) -> _Future:
        if workflow.id not in self._futures:
            self._futures[workflow.id] = _future(workflow, self._seconds(workflow))
        return self._futures[workflow.id]


class Noisy(Oracle):
    """Knows everything but for a factor, one for each workflow, uniform between 1 - error and 1 + error."""

    def __init__(self, seconds: Seconds, error: float, seed: int) -> None:
        if not 0 <= error <= 1:
            raise PolicyError(f"error {error:g} of the estimates: give 0 to 1")
        super().__init__(seconds)
        self._error, self._seed = error, seed

    def of(self, workflow: Workflow) -> Forecast:
        """The exact forecast times the workflow's factor."""
        draws = generator(self._seed, f"error of the estimates of {workflow.id}")
        factor = 1 + self._error * float(draws.uniform(-1, 1))
        return _Known(self._future(workflow), factor)


@dataclass(frozen=True, slots=True)
class _Means:
    """What others had left: row k after k finished nodes; work and path in seconds, depth in nodes. And their cost."""

    left: npt.NDArray[np.float64]
    cost: float


@dataclass(slots=True)
class _Blind:
    """The forecast of one of which only its framework is known, and how many of its nodes have finished."""

    means: _Means
    done: int = 0

    def finished(self, node_id: str) -> None:
        """A node is done."""
        self.done += 1

    def estimate(self, call_id: str) -> Estimate:
        """What others had left after as many nodes; beyond the longest of them, what it had left at its last."""
        work_s, path_s, depth = self.means.left[min(self.done, len(self.means.left) - 1)].tolist()
        return Estimate(work_s, path_s, depth, self.means.cost)


class Means:
    """Learned from the workflows of other tasks: cross-fitting, so that none is foretold by itself or its repetitions.

    The tasks of each framework are dealt to five folds in the order of their SHA-256, and a workflow is foretold by the
    other folds: by those of its framework, or by all where it has only this task. Each history gives what was left
    after k of its nodes, in topological order; means are over the histories that got further than k. Copies of one
    workflow are one history.
    """

    def __init__(self, workflows: Sequence[Workflow], seconds: Seconds) -> None:
        self._seconds = seconds
        self._folds = _folds(workflows)
        if len(self._folds) < 2:
            raise PolicyError(
                "estimates from means have nothing to learn from; give at least two workflows of different tasks"
            )
        self._histories: dict[str, Workflow] = {}
        for workflow in workflows:
            self._histories.setdefault(origin_of(workflow.id), workflow)
        self._left: dict[str, npt.NDArray[np.float64]] = {}
        self._means: dict[tuple[int | None, str], _Means] = {}

    def of(self, workflow: Workflow) -> Forecast:
        """The forecast of a workflow of its framework."""
        fold = self._folds.get(_task(workflow))
        key = fold, workflow.framework
        if key not in self._means:
            self._means[key] = self._learn(fold, workflow.framework)
        return _Blind(self._means[key])

    def _learn(self, fold: int | None, framework: str) -> _Means:
        others = [other for other in self._histories.values() if self._folds[_task(other)] != fold]
        alike = [other for other in others if other.framework == framework] or others
        left = [self._left_of(other) for other in alike]
        total, count = np.zeros((max(map(len, left)), 3)), np.zeros((max(map(len, left)), 1))
        for history in left:
            total[: len(history)] += history
            count[: len(history)] += 1
        return _Means(total / count, sum(map(_cost, alike)) / len(alike))

    def _left_of(self, workflow: Workflow) -> npt.NDArray[np.float64]:
        if workflow.id not in self._left:
            future = _future(workflow, self._seconds(workflow))
            self._left[workflow.id] = _left(workflow, future)
        return self._left[workflow.id]


def _left(workflow: Workflow, future: _Future) -> npt.NDArray[np.float64]:
    """Row k: work, longest path and its nodes of what is left after the first k nodes."""
    nodes = list(reversed(workflow.order))
    work_s = np.cumsum([future.seconds[node] for node in nodes])
    path_s = np.maximum.accumulate([future.path_s[node] for node in nodes])
    depth = np.maximum.accumulate([float(future.depth[node]) for node in nodes])
    return np.column_stack((work_s, path_s, depth))[::-1]


def _task(workflow: Workflow) -> tuple[str, str, str]:
    """What repetitions of one task have in common: framework and task, or where no task is named, the origin."""
    return workflow.framework, workflow.task, "" if workflow.task else origin_of(workflow.id)


def _folds(workflows: Sequence[Workflow]) -> dict[tuple[str, str, str], int]:
    """Task -> its fold. Dealt, not drawn, so that the tasks of a framework never all share one fold."""
    tasks = {_task(workflow) for workflow in workflows}
    order = sorted(tasks, key=lambda task: (task[0], hashlib.sha256("\n".join(task).encode()).digest()))
    return {task: number % _FOLDS for number, task in enumerate(order)}
