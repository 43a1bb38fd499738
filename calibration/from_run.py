"""A profile from a recorded run: the step-time coefficients with which the simulated run matches the measured one.

    python -m calibration.from_run RUN_DIR --workload REQUESTS.jsonl.gz --profile sim/profiles/NAME.yaml

RUN_DIR holds LLMServingSim's ``requests.jsonl``: per request the instants, in seconds, at which vLLM queued it and
returned its first and last token. The workload has the token ids, so prefixes are shared as they were. The profile
file gives everything but the coefficients and their accuracy, which are written into it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from sim.cli import execute
from sim.errors import RunError, TraceError
from sim.latency import Measured, Profile, StepTime, load_profile
from sim.policies.async_ import Async
from sim.simulate import serve
from sim.traces import text_of
from sim.workflow import Call, Segment, Tape, Workflow

Array = NDArray[np.float64]

#: What is read of a request; the instants are in seconds, and before the end of time.
_REQUEST = {"output_toks": int, **dict.fromkeys(("queued_ts", "first_token_ts", "last_token_ts"), (int, float))}
_NEVER = 1e15
#: Requests, with two errors each, that determine five coefficients.
_FEWEST = 3

#: A coefficient of an engine is at most so many times another's.
_FARTHEST = 1e4

#: Where the search starts, in seconds: an 8B model on a recent GPU, within a factor of ten.
_START = {
    "const_s": 1e-2,
    "prefill_token_s": 5e-5,
    "decode_seq_s": 5e-5,
    "kv_token_s": 1e-7,
    "attention_pair_s": 1e-9,
}


@dataclass(frozen=True)
class Run:
    """Requests in the order they were queued, and three instants of each in seconds; arrays of shape (n,)."""

    workflows: dict[int, Workflow]
    queued: Array
    first_token: Array
    last_token: Array


def read_run(folder: Path, workload: Path, block_size: int) -> Run:
    """The measured run; a prompt is cut into blocks named by their token ids. Raises TraceError."""
    path = folder / "requests.jsonl"
    requests = _rows(path, _REQUEST)
    prompts = [row["input_tok_ids"] for row in _rows(workload, {"input_tok_ids": list})]
    if len(requests) != len(prompts):
        raise TraceError(
            f"{path}: {len(requests)} requests, but {workload} has {len(prompts)}; give this run's workload"
        )
    for number, row in enumerate(requests, start=1):
        if not (row["output_toks"] > 0 <= row["queued_ts"] < row["first_token_ts"] <= row["last_token_ts"] < _NEVER):
            raise TraceError(f"{path}, request {number}: no answer, or instants out of order; record the run again")
    rows = sorted(zip(requests, prompts, strict=True), key=lambda pair: pair[0]["queued_ts"])
    workflows = {
        number: _request(number, ids, row["output_toks"], block_size) for number, (row, ids) in enumerate(rows)
    }
    instants = np.array([[row[f"{name}_ts"] for name in ("queued", "first_token", "last_token")] for row, _ in rows])
    return Run(workflows, *(instants - instants.min()).T)


def _rows(path: Path, kinds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line, each with these keys of these types."""
    try:
        lines = text_of(path).strip("\n").split("\n")
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not (isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in kinds.items())):
            raise TraceError(f"{path}, line {number}: no JSON object with {', '.join(kinds)}; copy the file again")
        rows.append(row)
    return rows


def _request(number: int, ids: list[int], output_tokens: int, size: int) -> Workflow:
    blocks = (ids[start : start + size] for start in range(0, len(ids), size))
    prompt = tuple(Segment(hashlib.sha256(str(block).encode()).hexdigest(), len(block)) for block in blocks)
    call = Call("call", "user", prompt, f"answer-{number}")
    return Workflow(f"request-{number}", "requests", "", (call,), (), Tape({"call": output_tokens}, {}))


def predict(run: Run, profile: Profile) -> tuple[Array, Array]:
    """First and last token instants of every request in the simulated run. Raises RunError where one cannot run."""
    result = serve(run.workflows, Async(), profile, run.queued.tolist())
    records = sorted(result.records, key=lambda record: record.session)
    for record in records:
        if record.reason:
            raise RunError(
                f"{record.workflow_id} {record.reason}; give the profile the settings of the recorded engine"
            )
    instants = np.array([(record.first_token_s, record.finished_s) for record in records])
    return instants[:, 0], instants[:, 1]


def fit(run: Run, profile: Profile, judged: slice) -> StepTime:
    """Coefficients with the least error of first and last token, relative to the request's latency.

    Only the ``judged`` requests count; all are simulated. The search is over logarithms, so none gets negative:
    Levenberg and Marquardt's least squares to come near, then the simplex of Nelder and Mead (1965) for the mean
    absolute error, which jumps wherever a request changes its batch.
    """
    start = np.log(list(_START.values()))

    def coefficients(logs: Array) -> StepTime:
        # A step of the search can lead anywhere; what is farther off is no engine's.
        near = np.clip(logs, start - np.log(_FARTHEST), start + np.log(_FARTHEST))
        return StepTime(**dict(zip(_START, np.exp(near).tolist(), strict=True)))

    def errors(logs: Array) -> Array:
        first, last = predict(run, profile.model_copy(update={"step_time": coefficients(logs)}))
        scale = (run.last_token - run.queued)[judged]
        return np.concatenate([(last - run.last_token)[judged] / scale, (first - run.first_token)[judged] / scale])

    near = least_squares(errors, start, method="lm", diff_step=1e-2, max_nfev=120).x
    # A coefficient that the run does not determine can have gone anywhere; the start is as good as any value.
    near = np.maximum(near, start - np.log(100))
    corners = np.vstack([near, near + 0.03 * np.eye(len(near))])
    search = {"initial_simplex": corners, "maxfev": 120}
    best = minimize(lambda logs: float(np.abs(errors(logs)).mean()), near, method="Nelder-Mead", options=search)
    return coefficients(best.x)


def accuracy(run: Run, profile: Profile, judged: slice) -> dict[str, float]:
    """Errors in percent: per request end to end (mean absolute), and of the means of e2el, ttft and tpot."""
    predicted, measured = (
        (first - run.queued, last - run.queued, last - first)
        for first, last in (predict(run, profile), (run.first_token, run.last_token))
    )
    outputs = np.array([workflow.tape.output_tokens["call"] for workflow in run.workflows.values()])
    several = outputs > 1
    (ttft, e2el, rest), (ttft_m, e2el_m, rest_m) = ([part[judged] for part in parts] for parts in (predicted, measured))
    gaps = np.maximum(outputs - 1, 1)[judged]
    tpot, tpot_m = ((times / gaps)[several[judged]].mean() for times in (rest, rest_m))
    errors = {
        "e2el_mape_pct": float(np.abs(e2el / e2el_m - 1).mean()),
        "e2el_mean_error_pct": e2el.mean() / e2el_m.mean() - 1,
        "ttft_mean_error_pct": ttft.mean() / ttft_m.mean() - 1,
        "tpot_mean_error_pct": tpot / tpot_m - 1,
    }
    return {name: round(100 * float(error), 3) for name, error in errors.items()}


def calibrate(run: Run, profile: Profile) -> Profile:
    """The profile with coefficients fitted on all requests and its accuracy, in sample and held out.

    Held out: fitted on the first half by arrival, judged on the other half of the same run. Raises RunError where
    the run is too short for that.
    """
    half = len(run.queued) // 2
    first, second, everything = slice(half), slice(half, None), slice(None)
    if half < _FEWEST or not all((run.last_token > run.first_token)[part].any() for part in (first, second)):
        raise RunError(f"{len(run.queued)} requests are too few to fit; record {2 * _FEWEST} or more with long answers")
    on_half = profile.model_copy(update={"step_time": fit(run, profile, first)})
    on_all = profile.model_copy(update={"step_time": fit(run, profile, everything)})
    held_out = {f"held_out_{name}": error for name, error in accuracy(run, on_half, second).items()}
    tokens = (workflow.num_tokens(call) for workflow in run.workflows.values() for call in workflow.calls)
    known = {"accuracy": accuracy(run, on_all, everything) | held_out, "measured": Measured(request_tokens=max(tokens))}
    return on_all.model_copy(update=known)


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--workload", required=True, type=click.Path(exists=True, path_type=Path), help="Token ids of the prompts."
)
@click.option(
    "--profile", required=True, type=click.Path(exists=True, path_type=Path), help="Profile file to complete."
)
def main(run_dir: Path, workload: Path, profile: Path) -> None:
    """Fit the step-time coefficients of PROFILE to the recorded run."""
    known = load_profile(str(profile))
    found = calibrate(read_run(run_dir, workload, known.engine.block_size), known)
    data: dict[str, Any] = found.model_dump()
    data["step_time"] = {name: float(f"{value:.6g}") for name, value in data["step_time"].items()}
    profile.write_text(yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True))
    click.echo(yaml.safe_dump({"step_time": data["step_time"], "accuracy": data["accuracy"]}, sort_keys=False))


if __name__ == "__main__":
    execute(main)
