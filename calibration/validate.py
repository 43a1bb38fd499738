"""The proof: a server is calibrated, workflows are replayed on it, and what was predicted is held against that.

The server is calibrated before the replays and once more after them, and both experiments are fitted together: a
machine drifts, and the replays lie in between. No workflow takes part in the calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.experiment import Samples
from calibration.fit import Data, Fitted, predict
from calibration.from_server import Bench, Plan
from calibration.profile_file import sample_row, write_profile, write_samples
from live.measure import Setup, measure
from live.measured import Measured
from sim.agreement import Agreement, compare_results
from sim.agreement.report import write_agreement
from sim.choices import Choices
from sim.compare import Predicted, compare
from sim.latency import Profile
from sim.load import Load
from sim.policies import Policy
from sim.results import write
from sim.trust import num_draws
from sim.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Replayed:
    """One load: what was measured, what was predicted, and how well they agree."""

    load: Load
    measured: Measured
    predicted: Predicted
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Validation:
    """``drift``: by how much the steps after the replays took longer than before; of a machine at rest 0."""

    profile: Profile
    samples: Samples
    replays: Sequence[Replayed]
    drift: float


@dataclass(frozen=True, slots=True)
class Study:
    """What is replayed: the same workflows, policies and seed under every load."""

    workflows: Sequence[Workflow]
    policies: Mapping[str, Policy]
    baseline: str
    loads: Sequence[Load]
    seed: int
    choices: Choices
    setup: Setup


def validate(
    bench: Bench,
    plan: Plan,
    study: Study,
    name: str,
    output: Path,
    say: Callable[[str], None],
    played: Callable[[Any], None],
) -> Validation:
    """All of it. What was measured is written to ``output`` load by load, so that an end from outside loses little."""
    say("calibrating")
    before = bench.measure(plan.cells, played)
    output.mkdir(parents=True, exist_ok=True)
    write_samples(map(sample_row, before.samples), output / "before.samples.jsonl.gz")
    measured = []
    for load in study.loads:
        say(f"replaying, {load}")
        measured.append(_measure(bench, study, load))
        write(measured[-1], output / folder(load))
        if measured[-1].interrupted:
            raise KeyboardInterrupt
    say("calibrating again")
    after = bench.measure(plan.cells, played)
    samples = before + after
    profile, found = bench.profile(name, study.setup.hardware, samples)
    profile = write_profile(profile, map(sample_row, samples.samples), output / "profile.yaml")
    drift = _drift(before, after, found.fitted)
    say("predicting")
    replays = [_replayed(one, profile, study) for one in measured]
    for one in replays:
        write(one.predicted, output / folder(one.load) / "predicted")
        write_agreement(one.agreement, output / folder(one.load) / "agreement")
    return Validation(profile, samples, replays, drift)


def folder(load: Load) -> str:
    """The name of a load's folder."""
    return str(load).replace("/", " per ").replace(" ", "-").replace("(", "").replace(")", "").lower()


def _measure(bench: Bench, study: Study, load: Load) -> Measured:
    return measure(
        study.workflows,
        study.policies,
        study.baseline,
        [bench.server],
        load,
        study.seed,
        study.choices,
        study.setup,
    )


def _replayed(measured: Measured, profile: Profile, study: Study) -> Replayed:
    predicted = compare(
        study.workflows,
        study.policies,
        study.baseline,
        profile,
        measured.load,
        study.seed,
        study.choices,
        draws=num_draws(profile, None),
    )
    return Replayed(measured.load, measured, predicted, compare_results(predicted, measured))


def _drift(before: Samples, after: Samples, fitted: Fitted) -> float:
    """Median over the samples of measured over fitted, after against before."""
    ratios = []
    for samples in (before, after):
        data = Data(samples.samples)
        ratios.append(float(np.median((data.seconds / predict(data, fitted))[: len(samples.samples)])))
    return ratios[1] / ratios[0] - 1
