"""Step-time coefficients from samples of known steps, the model among several that predicts best, and how certain.

Non-negative least squares on the relative error (Lawson and Hanson 1974), then the same with a loss that outliers move
little (soft L1 of Triggs et al. 2000). Models are compared on cells that they were not fitted to; intervals are a
percentile bootstrap over cells (Efron 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from calibration.experiment import Sample, Samples
from calibration.grid import Cell
from sim.errors import RunError
from sim.latency import Draws, rounded
from sim.load import generator

Array = NDArray[np.float64]

DEVICE = ("const_s", "prefill_token_s", "decode_seq_s", "kv_token_s", "distinct_kv_token_s", "attention_pair_s")
HOST = ("host_s", "host_seq_s")
FREE_TOKENS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)

_FOLDS = 5
_DRAWS = 40
_SMALLEST_CONST_S = 1e-6
#: Share of a sample's time below which a coefficient is nought.
_NOTHING = 1e-5
#: A relative error of this size begins to count as an outlier.
_OUTLIER = 0.05
#: A fit of six coefficients needs that many cells, and some of each of these kinds.
_FEWEST, _NEEDED = 8, ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Model:
    """A candidate. ``graph_sizes``: batches are padded to these; ``overhead``: requests have a way in and out."""

    free_tokens: int = 0
    graph_sizes: tuple[int, ...] = ()
    overhead: bool = True

    def __str__(self) -> str:
        parts = [f"{self.free_tokens} free tokens"] if self.free_tokens else []
        parts += ["graph padding"] if self.graph_sizes else []
        return " and ".join(parts or ["linear"]) + ("" if self.overhead else ", no overhead outside the steps")

    @property
    def complexity(self) -> int:
        """How much it assumes beyond a line through the origin."""
        return bool(self.free_tokens) + bool(self.graph_sizes) + self.overhead


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model with its coefficients by name."""

    model: Model
    coefficients: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an experiment tells. ``held_out``: per model the mean absolute error in percent on cells it did not see.

    ``accuracy`` is that of the chosen model, also by regime; its ``repeat_noise_pct`` is the scatter between repeats of
    a cell, which no model can explain.
    """

    fitted: Fitted
    draws: Draws
    accuracy: Mapping[str, float]
    held_out: Mapping[str, float]
    residuals: Sequence[tuple[Sample, float]]


class Data:
    """Samples as arrays: the sums of each step, and which sample it belongs to."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.logged = [sample for sample in samples if sample.logged_s is not None]
        every = [*samples, *self.logged]
        self.owner = np.repeat(np.arange(len(every)), [len(sample.steps) for sample in every])
        self.steps = np.array([step for sample in every for step in sample.steps], float).reshape(-1, 5)
        client = np.arange(len(every)) < len(samples)
        self.overhead = np.array([sample.with_overhead for sample in every], bool) & client
        self.client = client.astype(float)
        self.seconds = np.array([*(one.seconds for one in samples), *(one.logged_s or 0.0 for one in self.logged)])

    def columns(self, model: Model, cheaper: str) -> tuple[tuple[str, ...], Array]:
        """Names, and the sum of each over a sample's steps; padding and free tokens count as the ``cheaper`` token."""
        prefill, decode, kv, distinct, pairs = self.steps.T
        padded = _padded(prefill + decode, model.graph_sizes)
        charged = np.maximum(padded, model.free_tokens) - model.free_tokens - prefill - decode
        prefill = prefill + charged * (cheaper == "prefill_token_s")
        decode = decode + charged * (cheaper == "decode_seq_s")
        columns = [self._sum(column) for column in (np.ones_like(kv), prefill, decode, kv, distinct, pairs)]
        names = list(DEVICE)
        if self.logged:
            rows = np.maximum(self.steps[:, 1], 1)
            columns += [self._sum(np.ones_like(kv)) * self.client, self._sum(rows) * self.client]
            names += HOST
        if model.overhead:
            columns.append(self.overhead.astype(float))
            names.append("input_s")
        return tuple(names), np.column_stack(columns)

    def _sum(self, values: Array) -> Array:
        return np.asarray(np.bincount(self.owner, values, len(self.seconds)), float)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """The number of each row's cell."""
        number = {cell: index for index, cell in enumerate(dict.fromkeys(one.cell for one in self.samples))}
        return np.array([number[one.cell] for one in (*self.samples, *self.logged)])


def _padded(tokens: Array, sizes: Sequence[int]) -> Array:
    if not sizes:
        return tokens
    index = np.searchsorted(sizes, tokens)
    return np.where(index < len(sizes), np.array([*sizes, 0])[index], tokens)


def fit(data: Data, model: Model, rows: NDArray[np.int64] | None = None) -> Fitted:
    """The coefficients of a model, from these rows or all."""
    some = np.arange(len(data.seconds)) if rows is None else rows
    fits = [_solve(data, model, cheaper, some) for cheaper in ("prefill_token_s", "decode_seq_s")]
    return Fitted(model, min(fits, key=lambda one: one[0])[1])


def _solve(data: Data, model: Model, cheaper: str, rows: NDArray[np.int64]) -> tuple[float, Mapping[str, float]]:
    """Loss and coefficients, where the cheaper token is the one that is said to be; else that one is made so."""
    from scipy.optimize import least_squares, nnls  # a second to load, which `workspan --help` need not wait for

    names, columns = data.columns(model, cheaper)
    dearer = "decode_seq_s" if cheaper == "prefill_token_s" else "prefill_token_s"
    # The dearer token is the cheaper one and something more: so none can get cheaper than the cheaper one.
    both = columns.copy()
    both[:, names.index(cheaper)] += columns[:, names.index(dearer)]
    # Free tokens hide behind the weights: the constant is what they take, and something more.
    both[:, names.index(cheaper)] += model.free_tokens * columns[:, 0]
    design = both[rows] / data.seconds[rows, None]
    scale = np.maximum(design.max(axis=0), 1e-12)
    design = design / scale
    start, _ = nnls(design, np.ones(len(rows)))
    found = least_squares(
        lambda values: design @ values - 1,
        np.maximum(start, 1e-9),
        jac=lambda values: design,
        bounds=(0, np.inf),
        loss="soft_l1",
        f_scale=_OUTLIER,
    )
    # What adds nothing to any sample is nought, not the last digits of a search.
    found_x = np.where(found.x < _NOTHING, 0.0, found.x)
    values = dict(zip(names, (found_x / scale).tolist(), strict=True))
    values[dearer] += values[cheaper]
    values["const_s"] = max(values["const_s"] + model.free_tokens * values[cheaper], _SMALLEST_CONST_S)
    return float(found.cost), values


def predict(data: Data, fitted: Fitted) -> Array:
    """Seconds of every row."""
    values = fitted.coefficients
    cheaper = min(("prefill_token_s", "decode_seq_s"), key=values.__getitem__)
    names, columns = data.columns(fitted.model, cheaper)
    return np.asarray(columns @ np.array([values[name] for name in names]))


def held_out_errors(data: Data, model: Model) -> Array:
    """Relative error of every row, predicted by a fit that did not see its cell."""
    folds = generator(0, "folds").permutation(data.cells.max() + 1)[data.cells] % _FOLDS
    errors = np.zeros(len(data.seconds))
    for fold in range(_FOLDS):
        out = folds == fold
        errors[out] = (predict(data, fit(data, model, np.flatnonzero(~out))) / data.seconds - 1)[out]
    return errors


def models(graph_sizes: Sequence[int]) -> list[Model]:
    """The candidates, simplest first."""
    sizes = tuple(graph_sizes)
    shapes = [Model(free, padding) for padding in dict.fromkeys([(), sizes]) for free in (0, *FREE_TOKENS)]
    return sorted([Model(overhead=False), *shapes], key=lambda model: (model.complexity, model.free_tokens))


def choose(data: Data, candidates: Sequence[Model]) -> tuple[Model, Array, Mapping[str, float]]:
    """The simplest model that is not worse than the best by more than a standard error, and its held-out errors.

    Of equally simple ones the best. Errors are averaged over the repeats of a cell first.
    """
    client = slice(len(data.samples))
    errors = {model: held_out_errors(data, model)[client] for model in candidates}
    cells = data.cells[client]
    sizes = np.bincount(cells)
    by_cell = {model: np.bincount(cells, np.abs(some)) / sizes for model, some in errors.items()}
    best = min(candidates, key=lambda model: by_cell[model].mean())

    def not_worse(model: Model) -> bool:
        more = by_cell[model] - by_cell[best]
        return bool(more.mean() <= more.std(ddof=1) / np.sqrt(len(more)))

    chosen = min(filter(not_worse, candidates), key=lambda model: (model.complexity, by_cell[model].mean()))
    named: dict[str, float] = {}
    for model in candidates:
        name = str(Model(int(model.free_tokens > 0), model.graph_sizes, model.overhead)).replace("1 free", "free")
        named[name] = min(named.get(name, np.inf), round(100 * float(by_cell[model].mean()), 2))
    return chosen, errors[chosen], named


def calibrate(samples: Samples, graph_sizes: Sequence[int], seed: int = 0) -> Calibration:
    """Everything that the samples tell. Raises RunError where they are too few."""
    check_enough([sample.cell for sample in samples.samples])
    data = Data(samples.samples)
    model, errors, held_out = choose(data, models(graph_sizes))
    fitted = fit(data, model)
    rng = generator(seed, "bootstrap over cells")
    rows = [_resampled(data, rng) for _ in range(_DRAWS)]
    drawn = [fit(data, model, some).coefficients for some in rows]
    names = list(fitted.coefficients)
    draws = Draws(names=names, rows=_widened(drawn, fitted, data))
    residuals = list(zip(samples.samples, errors.tolist(), strict=True))
    return Calibration(fitted, draws, _accuracy(data, fitted, residuals), held_out, residuals)


def check_enough(cells: Sequence[Cell]) -> None:
    """Raise RunError where so few different batches cannot tell the coefficients."""
    kinds, number = {cell.kind for cell in cells}, len(set(cells))
    if not kinds.issuperset(_NEEDED) or number < _FEWEST:
        raise RunError(
            f"{number} different batches ({', '.join(sorted(kinds)) or 'none'}) cannot tell the coefficients;"
            f" {_FEWEST} or more are needed, {' and '.join(_NEEDED)} among them: give the server more slots, KV blocks"
            " or a longer max_model_len"
        )


def _resampled(data: Data, rng: np.random.Generator) -> NDArray[np.int64]:
    cells = rng.integers(data.cells.max() + 1, size=data.cells.max() + 1)
    return np.concatenate([np.flatnonzero(data.cells == cell) for cell in cells])


def _widened(drawn: Sequence[Mapping[str, float]], fitted: Fitted, data: Data) -> list[list[float]]:
    """Draws moved from their mean: a bootstrap of n cells and k coefficients is too narrow by sqrt((n - k) / n)."""
    names, cells = list(fitted.coefficients), int(data.cells.max()) + 1
    values = np.array([[one[name] for name in names] for one in drawn])
    middle = values.mean(axis=0)
    wide = np.maximum(middle + (values - middle) * np.sqrt(cells / max(1, cells - len(names))), 0.0)
    columns = {name: wide[:, index] for index, name in enumerate(names)}
    cheaper = np.minimum(columns["prefill_token_s"], columns["decode_seq_s"])
    # Free tokens stay free, and rounding to six digits must not change that.
    least = np.maximum(_SMALLEST_CONST_S, fitted.model.free_tokens * cheaper * (1 + 1e-5))
    columns["const_s"] = np.maximum(columns["const_s"], least)
    return [[rounded(float(columns[name][row])) for name in names] for row in range(len(drawn))]


def regime(sample: Sample, coefficients: Mapping[str, float]) -> str:
    """What the time of the sample's steps is spent on; the words are those of the simulated engine."""
    step = sample.steps[-1]
    if step.prefill_tokens:
        return "mixed" if step.decode_seqs else "prefill"
    kv_s = coefficients["kv_token_s"] * step.kv_tokens + coefficients["distinct_kv_token_s"] * step.distinct_kv_tokens
    return "kv" if kv_s > sample.seconds / 2 else "decode"


def _accuracy(data: Data, fitted: Fitted, residuals: Sequence[tuple[Sample, float]]) -> dict[str, float]:
    by_regime: dict[str, list[float]] = {}
    for sample, error in residuals:
        by_regime.setdefault(regime(sample, fitted.coefficients), []).append(abs(error))
    found = {f"held_out_{name}_pct": float(np.mean(some)) for name, some in sorted(by_regime.items())}
    overall = float(np.mean([abs(error) for _, error in residuals]))
    fit_error = np.abs(predict(data, fitted) / data.seconds - 1)[: len(data.samples)].mean()
    shares = {"step_pct": float(fit_error), "held_out_step_pct": overall, **found, "repeat_noise_pct": _noise(data)}
    return {name: round(100 * value, 2) for name, value in shares.items()}


def _noise(data: Data) -> float:
    """Median over cells of the coefficient of variation between repeats; 0 where there are none."""
    client = slice(len(data.samples))
    groups = [data.seconds[client][data.cells[client] == cell] for cell in range(data.cells.max() + 1)]
    several = [group.std(ddof=1) / group.mean() for group in groups if len(group) > 1]
    return float(np.median(several)) if several else 0.0
