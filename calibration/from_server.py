"""A profile from a running vLLM: the experiment, the fit, and what the server says of itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.experiment import Experiment, Sample, Samples, shuffled
from calibration.fit import Calibration, calibrate, check_enough
from calibration.grid import Cell, cells
from calibration.step_log import StepLog
from live.client import Client
from live.server import Server, ServerInfo
from sim.errors import RunError
from sim.latency import Measured, Overheads, Profile, StepTime, rounded
from sim.settings import EngineSettings

#: Seconds that the experiment may take, by ``quick``, and how often each cell is played in it.
BUDGET_S = {True: 110.0, False: 480.0}
_REPEATS, _MOST_REPEATS = 2, 6
#: What the pilot times: two prompts, and a request that decodes.
_SHORT, _LONG, _DECODE = Cell("prefill", 1, 0, 16), Cell("prefill", 1, 0, 400), Cell("decode", 1, 48, 0)
_TIMEOUT_S = 300.0
#: Share of the client's time that the steps in the log take at least; the rest is overhead.
_LEAST_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Plan:
    """Cells in the order of their playing, what each will take in seconds, and how many were too much."""

    cells: Sequence[Cell]
    seconds: Mapping[Cell, float]
    left_out: Sequence[Cell]

    @property
    def total_s(self) -> float:
        """Seconds of all cells."""
        return sum(self.seconds[cell] for cell in self.cells)


class Bench:
    """One server, ready for experiments."""

    def __init__(self, url: str, given: Mapping[str, Any], log: Path | None = None) -> None:
        self.server = Server(url)
        self.info: ServerInfo = self.server.info()
        self.engine: EngineSettings = self.info.settings(given)
        # The first call of a server is slow; its step is the first that can be in the log.
        Experiment(self._connect, self.engine, secrets.token_hex(8)).run([_SHORT])
        self._log = StepLog(log) if log else None

    def plan(self, quick: bool, seed: int) -> Plan:
        """What fits into the time, as a few first cells tell how fast the server is."""
        design = cells(self.engine, quick)
        check_enough(design)
        pair = (_SHORT, replace(_LONG, prompt=min(_LONG.prompt, self.engine.max_model_len // 2)))
        pilot = self.measure((*pair, _DECODE)).samples
        self._check_log(pilot)
        if len(pilot) < len((*pair, _DECODE)):
            raise RunError(f"--server {self.server.url}: a first batch was not what it should be: is the server idle?")
        short, long, decode = (one.seconds for one in pilot)
        token_s = max(long - short, 0.0) / (pair[1].prompt - pair[0].prompt)
        seconds = {cell: _seconds(cell, token_s, max(decode, 1e-3)) for cell in design}
        kept, left_out = list(design), []
        while (once_s := sum(seconds[cell] for cell in kept)) * _REPEATS > BUDGET_S[quick]:
            left_out.append(max(kept, key=seconds.__getitem__))
            kept.remove(left_out[-1])
        check_enough(kept)
        repeats = min(_MOST_REPEATS, int(BUDGET_S[quick] / once_s))
        return Plan(shuffled(kept, repeats, seed), seconds, left_out)

    def measure(self, some: Sequence[Cell], done: Callable[[Cell], None] = lambda cell: None) -> Samples:
        """A sample of each cell; nothing of it was cached before but what the experiment itself sends twice."""
        return Experiment(self._connect, self.engine, secrets.token_hex(8), self._log).run(some, done)

    def _check_log(self, pilot: Sequence[Sample]) -> None:
        """Raise RunError where the times in the log cannot be those of the steps."""
        shares = [one.logged_s / one.seconds for one in pilot if one.logged_s is not None]
        if self._log and (not shares or min(shares) < _LEAST_SHARE):
            raise RunError(
                f"--step-log: of the time that the client sees, the log has {min(shares, default=0):.0%}; it is right"
                " only with the engine in a process of its own (without VLLM_ENABLE_V1_MULTIPROCESSING=0) and without"
                " asynchronous scheduling; leave the option out"
            )

    def profile(self, name: str, hardware: str, samples: Samples) -> tuple[Profile, Calibration]:
        """The profile that the samples give. Raises RunError where they cannot tell the coefficients."""
        found = calibrate(samples, self.engine.graph_sizes)
        sizes = self.engine.graph_sizes if found.fitted.model.graph_sizes else ()
        engine = self.engine.model_copy(update={"cudagraph_capture_sizes": list(sizes)})
        values = {key: rounded(value) for key, value in found.fitted.coefficients.items()}
        steps = {key: value for key, value in values.items() if key in StepTime.model_fields}
        gap_s = float(np.median(samples.gaps_s)) if samples.gaps_s else 0.0
        profile = Profile(
            name=name,
            hardware=hardware,
            model=self.info.model,
            source=f"{len(samples.samples)} samples of known batches on vLLM {self.info.version}",
            method=f"workspan calibrate --server: {found.fitted.model}, the simplest model no worse on held-out cells",
            accuracy=dict(found.accuracy),
            measured=_measured(samples),
            engine=engine,
            step_time=StepTime(**steps, free_tokens=found.fitted.model.free_tokens),
            # From outside only the sum of the ways in and out can be seen; it stands with the way in.
            overheads=Overheads(input_s=values.get("input_s", 0.0), input_gap_s=rounded(gap_s)),
            draws=found.draws,
        )
        return profile, found

    def _connect(self) -> Client:
        return Client(self.info.url, self.info.model, _TIMEOUT_S)


def _seconds(cell: Cell, token_s: float, step_s: float) -> float:
    """What a cell will take, at first sight: contexts that are new once, and steps longer than a single request's."""
    contexts = cell.context if cell.kind in ("shared", "cached") else cell.context * cell.batch
    grown = 1 + cell.batch / 24 + cell.batch * cell.context / 20_000
    return 0.05 + (cell.prompt + contexts / _REPEATS) * token_s + cell.output_tokens * step_s * grown


def _measured(samples: Samples) -> Measured:
    if not samples.samples:
        raise RunError("no cell gave a sample")
    steps = [step for sample in samples.samples for step in sample.steps]
    return Measured(
        request_tokens=max(one.cell.context + one.cell.prompt + one.cell.output_tokens for one in samples.samples),
        batch_size=max(step.decode_seqs + bool(step.prefill_tokens) for step in steps),
        # Of a shared prefix many requests read the same tokens: that is no measurement of so many.
        kv_tokens=max(step.distinct_kv_tokens for step in steps),
    )
