"""Inverse calibration: the coefficients with which the simulated run has the times of the recorded one.

The simulator is in the loop: a step of the search reruns the whole run. The loss is soft-L1 of relative errors
(`calibration.rerun.errors`), so that a request that the machine disturbed counts little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calibration.candidates import CORE, START, TIES, Candidate, candidates, simplest, tied
from calibration.recorded import RecordedRun
from calibration.rerun import Array, Judged, Recorded, Rerun, accuracy, errors, measured, regime_errors, rerun
from sim.errors import RunError
from sim.latency import Draws, Profile, rounded

#: Relative error from which on the loss grows linearly.
_SOFT = 0.01
#: A difference quotient moves the errors by about so much, and a coefficient by at least that share.
_MOVED, _NARROWEST = 0.005, 0.03
#: A step takes a coefficient down to that share at most.
_LEAST = 0.02
#: Requests in a row that a bootstrap draws together, and how many draws a profile has.
_BLOCK, _DRAWS, _RESAMPLES = 10, 40, 1000
#: Blocks that are held out in turn to compare models.
_HELD_OUT = 5
#: Fewest requests for two halves.
_FEWEST = 20
#: Steps of the first search, of one that starts near its end, and points of the simplex.
_TURNS, _AGAIN, _POLISH = 10, 3, 100
#: How steps are held back until one helps.
_DAMPINGS = (0.0, 0.1, 3.0)
#: A coefficient with a larger relative standard error could as well be 0.
_UNKNOWN = 0.5
#: Relative error that a rerun has in any case, as a request catches one step or the next.
_GRAIN = 1e-4
#: Column of `Rerun.steps`.
_ROWS = 3
#: Where all steps are equally large, a request that decodes is taken to cost what a prompt token does.
MERGED = "decode_seq_s"

Values = dict[str, float]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients of a candidate, and how the errors of the judged requests depend on them.

    ``errors`` has shape (judged, 3), ``slopes`` (judged, 3, coefficients) is their change by a relative change of each
    coefficient.
    """

    candidate: Candidate
    values: Values
    errors: Array
    slopes: Array

    def profile(self, base: Profile) -> Profile:
        """The base with what was found."""
        return self.candidate.profile(base, self.values)

    def changes(self, weights: Array) -> Array:
        """Relative changes of the coefficients if requests counted so often: one Gauss-Newton step.

        ``weights``: shape (judged,). The step that is left at equal weights is taken off, so that changes are from
        what was found.
        """
        found: Array = self._step(weights) - self._step(np.ones_like(weights))
        return found

    def bootstrap(self, draws: int) -> Array:
        """Relative changes of the coefficients, shape (draws, coefficients): blocks of requests drawn anew."""
        rng, count = np.random.default_rng(0), len(self.errors)
        blocks = -(-count // _BLOCK)
        times = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=draws)
        return np.array([self.changes(np.repeat(row, _BLOCK)[:count].astype(float)) for row in times])

    def deviations(self) -> Array:
        """Relative standard error of each coefficient.

        That of the bootstrap, or of the normal equations where it is larger: no draw shows that two coefficients
        could be exchanged for each other.
        """
        normal, _, counted = self._normal(np.ones(len(self.errors)))
        noise = max(_GRAIN, float(np.sqrt((counted * self.errors.ravel() ** 2).sum() / counted.sum())))
        sizes, vectors = np.linalg.eigh(normal)
        spread = (vectors**2 / np.maximum(sizes, 1e-12 * sizes.max(initial=1e-12))).sum(axis=1)
        found: Array = np.maximum(self.bootstrap(_RESAMPLES).std(axis=0), noise * np.sqrt(spread))
        return found

    def held_out(self, blocks: int) -> Array:
        """Loss on each of so many blocks by arrival if it had not been fitted, shape (blocks,)."""
        found = []
        for block in np.array_split(np.arange(len(self.errors)), blocks):
            weights = np.ones(len(self.errors))
            weights[block] = 0
            found.append(loss(self.errors[block] + self.slopes[block] @ self.changes(weights)).mean())
        return np.array(found)

    def _step(self, weights: Array) -> Array:
        normal, slopes, counted = self._normal(weights)
        back = slopes.T @ (counted * self.errors.ravel())
        found: Array = -np.linalg.pinv(normal, rcond=1e-10, hermitian=True) @ back
        return found

    def _normal(self, weights: Array) -> tuple[Array, Array, Array]:
        """Normal matrix, slopes in one row per error, and what each error counts (soft-L1)."""
        slopes = self.slopes.reshape(-1, self.slopes.shape[2])
        counted = np.repeat(weights, 3) / np.sqrt(1 + (self.errors.ravel() / _SOFT) ** 2)
        return slopes.T @ (slopes * counted[:, None]), slopes, counted


def loss(off: Array) -> Array:
    """Soft-L1 of each relative error, in units of the error where it is large."""
    soft: Array = _SOFT * (np.sqrt(1 + (off / _SOFT) ** 2) - 1)
    return soft


class _Search:
    """A candidate's coefficients in units of `START`, and the errors of the judged requests at any of them."""

    def __init__(self, run: Recorded, base: Profile, candidate: Candidate, judged: Judged) -> None:
        self.run, self.base, self.candidate, self.judged = run, base, candidate, judged
        self.units = np.array([START[name] for name in candidate.fitted])
        self.steps = np.zeros(len(self.units))

    def values(self, at: Array) -> Values:
        return dict(zip(self.candidate.fitted, (at * self.units).tolist(), strict=True))

    def errors(self, at: Array) -> Array:
        again = rerun(self.run, self.candidate.profile(self.base, self.values(at)), self.judged)
        return errors(self.run, again)[self.judged]

    def loss(self, at: Array) -> float:
        return float(loss(self.errors(np.abs(at))).mean())

    def slopes(self, at: Array) -> Array:
        """Shape (judged, 3, coefficients), by central differences, one-sided where a coefficient is nearly nought.

        As wide as changes the errors noticeably: they jump wherever a request changes its batch.
        """
        self.steps = np.clip(self.steps, np.maximum(_NARROWEST * at, 0.01), np.maximum(at / 2, 0.3))
        columns = []
        for step in np.diag(self.steps):
            above, below = at + step, np.maximum(at - step, _LEAST * at)
            columns.append((self.errors(above) - self.errors(below)) / (above - below).sum())
        sizes = [max(1e-6, float(np.sqrt((column**2).mean()))) for column in columns]
        self.steps = _MOVED / np.array(sizes)
        return np.stack(columns, axis=2)


def fit(
    run: Recorded, base: Profile, candidate: Candidate, judged: Judged, start: Values, turns: int, polish: int = 0
) -> Fit:
    """The candidate's coefficients with the least loss over the judged requests; all requests are simulated.

    Levenberg's and Marquardt's steps, at most ``turns``, none below nought, errors weighted anew each time: far from
    the end all are large, and only what stands out among them counts less. Where no step makes the loss less, up to
    ``polish`` points of the simplex of Nelder and Mead (1965) do, as it needs no slopes.
    """
    from scipy.optimize import minimize  # a second to load, which `workspan --help` need not wait for

    search = _Search(run, base, candidate, judged)
    at = np.array([max(start.get(name, 0.0) / START[name], 0.03) for name in candidate.fitted])
    off, slopes = search.errors(at), search.slopes(at)
    for _ in range(turns):
        for damping in _DAMPINGS:
            tried = np.maximum(0, at + _step(off, slopes, at, damping))
            found = search.errors(tried)
            if loss(found).mean() < loss(off).mean():
                break
        else:
            break
        at, off = tried, found
        slopes = search.slopes(at)
    if polish:
        corners = np.vstack([at, at + np.diag(np.maximum(0.04 * at, 0.01))])
        options = {"initial_simplex": corners, "maxfev": polish, "xatol": 1e-4, "fatol": 1e-8}
        at = np.abs(minimize(search.loss, at, method="Nelder-Mead", options=options).x)
        off, slopes = search.errors(at), search.slopes(at)
    return Fit(candidate, search.values(at), off, slopes * at)


def _step(off: Array, slopes: Array, at: Array, damping: float) -> Array:
    """The step towards less loss; ``damping`` holds back what matters little."""
    from scipy.optimize import lsq_linear  # as above

    soft = max(_SOFT, 2 * float(np.median(np.abs(off))))
    root = (1 + (off.ravel() / soft) ** 2) ** -0.25
    rows = slopes.reshape(-1, len(at)) * root[:, None]
    sizes = (rows**2).sum(axis=0)
    held = np.diag(np.sqrt(damping * (sizes + 1e-3 * sizes.sum())))
    wanted = np.concatenate([-off.ravel() * root, np.zeros(len(at))])
    limits = ((_LEAST - 1) * at - 1e-9, at + 1)
    step: Array = lsq_linear(np.vstack([rows, held]), wanted, limits).x
    return step


def determined(run: Recorded, base: Profile, found: Fit, judged: Judged) -> Fit:
    """The fit without the coefficients that the run does not determine, the least certain first.

    Raises RunError where nothing is left that could predict.
    """
    if MERGED in found.candidate.fitted and rerun(run, found.profile(base)).steps[:, _ROWS].max() == 1:
        # What a step of several takes would be read off prefills alone.
        found = fit(run, base, found.candidate.without(MERGED), judged, found.values, _AGAIN, _POLISH)
    while (deviations := found.deviations()).max() > _UNKNOWN:
        names = found.candidate.fitted
        order = [names[number] for number in deviations.argsort()[::-1] if deviations[number] > _UNKNOWN]
        # The constant and the prefill never go, and what a prompt token can stand for goes last.
        name = next((name for name in order if name not in CORE), MERGED if MERGED in order else "")
        if not name:
            raise RunError(
                f"the run does not determine {order[0]}; record requests with prompts and answers of many lengths, "
                "some alone and some many at a time"
            )
        found = fit(run, base, found.candidate.without(name), judged, found.values, _AGAIN, _POLISH)
    return found


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found: the profile, its fit to all requests, and how the models compared.

    ``deviations``: relative standard error per coefficient. ``losses``: name of a model -> its held-out loss inside
    the first half. ``regimes``: regime -> number of held-out requests and their error in percent.
    """

    profile: Profile
    model: str
    deviations: dict[str, float]
    losses: dict[str, float]
    regimes: dict[str, tuple[int, float]]


def calibrate(recorded: RecordedRun, base: Profile, say: Say = lambda _: None) -> Calibration:
    """A profile for the recorded run on the engine of ``base``, whose coefficients do not matter.

    The model is chosen and fitted on the first half of the requests by arrival and judged on the other; then it is
    fitted to all. Raises RunError where the run does not suffice.
    """
    run = Recorded.of(recorded)
    count = len(run.sent)
    if count < _FEWEST or not (run.outputs > 1).any():
        raise RunError(
            f"{count} requests are too few, or none has two tokens; record {_FEWEST} or more with long answers"
        )
    everything, half = np.ones(count, dtype=bool), np.arange(count) < count // 2
    fits: list[Fit] = []
    for candidate in candidates(base.engine):
        say(f"fitting the model: {candidate.name}")
        start, turns, polish = (fits[0].values, _AGAIN, 0) if fits else (START, _TURNS, _POLISH)
        fits.append(fit(run, base, candidate, half, start, turns, polish))
    losses = np.array([one.held_out(_HELD_OUT) for one in fits])
    chosen = fits[simplest(losses)]
    say(f"chosen: {chosen.candidate.name}; fitting it to all requests")
    on_half, on_all = (
        determined(run, base, fit(run, base, chosen.candidate, part, chosen.values, _AGAIN, _POLISH), part)
        for part in (half, everything)
    )
    before, after = rerun(run, on_half.profile(base)), rerun(run, on_all.profile(base))
    by_regime = regime_errors(run, before, ~half)
    held_out = accuracy(run, before, ~half) | {f"{name}_pct": off for name, (_, off) in by_regime.items()}
    known = {
        "accuracy": accuracy(run, after, everything) | {f"held_out_{name}": off for name, off in held_out.items()},
        "measured": measured(run, after),
        "draws": _draws(on_all, after),
    }
    return Calibration(
        on_all.profile(base).model_copy(update=known),
        on_all.candidate.name,
        dict(zip(on_all.candidate.fitted, on_all.deviations().tolist(), strict=True)),
        {one.candidate.name: float(row.mean()) for one, row in zip(fits, losses, strict=True)},
        by_regime,
    )


def _draws(found: Fit, again: Rerun) -> Draws:
    """Bootstrap draws with six digits, none negative, and free tokens still free.

    What the run does not determine is anything from nought to twice what it is taken to be; the constant has the rest
    of what the mean step takes.
    """
    names, rng = found.candidate.fitted, np.random.default_rng(1)
    seconds, sizes = again.steps[:, 1], again.steps[:, 3:5]
    mean = dict(zip(TIES, (seconds @ sizes / seconds.sum()).tolist(), strict=True))
    rows: list[dict[str, float]] = []
    for change in found.bootstrap(_DRAWS):
        row = {
            name: max(0.0, found.values[name] * (1 + more)) for name, more in zip(names, change.tolist(), strict=True)
        }
        row = tied(row, row)
        for name in TIES:
            if name not in names:
                value = row[name] * float(rng.uniform(0, 2))
                row["const_s"] += (row[name] - value) * mean[name]
                row[name] = value
        least_s = min(row["prefill_token_s"], row[MERGED])
        row["const_s"] = max(row["const_s"], 1e-6, least_s * found.candidate.free_tokens * (1 + 1e-5))
        rows.append(row)
    return Draws(names=list(rows[0]), rows=[[rounded(value) for value in row.values()] for row in rows])
