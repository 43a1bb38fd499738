"""A calibration for people: coefficients with intervals, how the models compare, and what remains open."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rich.table import Table

from calibration.candidates import TIES
from calibration.fit import Calibration as FromSteps
from calibration.from_server import Plan
from calibration.inverse import Calibration
from sim.latency import Profile
from sim.report import console, new_table

#: Percent: a profile that is farther off in some regime predicts nothing.
_TOO_FAR_PCT = 25.0

#: What would determine a coefficient that a run leaves open.
_HELPS = {
    "decode_seq_s": "answers decoded at several batch sizes",
    "kv_token_s": "equally many requests decoded with short and with long contexts",
    "distinct_kv_token_s": "requests that share a long prefix decoded together, and as many that share none",
    "attention_pair_s": "prompts of other lengths, some of thousands of tokens",
    "host_s": "a single request decoded with a short context",
    "host_seq_s": "many requests decoded with short contexts",
    "input_s": "single requests on an idle server, by the client's clock",
    "output_s": "single requests on an idle server, by the client's clock",
}
#: Linear in what every step has; those of other models are open only where that model was chosen.
_ALWAYS = ("const_s", "prefill_token_s", "decode_seq_s", "kv_token_s", "distinct_kv_token_s", "attention_pair_s")


def show_run(found: Calibration) -> None:
    """Of a recorded run: coefficients with intervals, accuracy, regimes, models, and what would help."""
    out = console()
    out.print(_with_draws(found.profile, lambda name: "yes" if name in found.deviations else _tie(name)))
    out.print(_accuracy(found.profile.accuracy))
    for regime, (number, error) in found.regimes.items():
        out.print(f"held out, {regime}: {number} requests, {error:.2f} % end to end per request")
    out.print(f"\nmodel: {found.model}; held-out loss inside the first half, times 10000:")
    for name, loss in found.losses.items():
        out.print(f"  {1e4 * loss:8.2f}  {name}")
    for name in undetermined(found):
        out.print(f"{name} is not determined by this run; it would take {_HELPS[name]}")


def show_server(profile: Profile, found: FromSteps, plan: Plan) -> None:
    """Of a server: coefficients with intervals, the error of each regime, and how the models compare."""
    out = console()
    out.print(_with_draws(profile))
    noise = profile.accuracy["repeat_noise_pct"]
    out.print(f"\nerror of a step on held-out cells (repeats of one cell scatter by {noise:.1f} %):")
    for name, value in profile.accuracy.items():
        if name.startswith("held_out_"):
            out.print(f"  {value:6.2f} %  {name.removeprefix('held_out_').removesuffix('_pct')}")
    out.print(f"\nmodel: {found.fitted.model}; all that were tried, by their error on held-out cells:")
    for name, value in found.held_out.items():
        out.print(f"  {value:6.2f} %  {name}")
    measured, engine = profile.measured, profile.engine
    out.print(
        f"\nmeasured up to {measured.request_tokens:,} tokens in a request, {measured.batch_size} requests and"
        f" {measured.kv_tokens:,} KV tokens in a step; the engine holds {engine.max_num_seqs} requests and"
        f" {engine.block_size * (engine.num_gpu_blocks - 1):,} KV tokens"
    )
    worst = max(value for name, value in profile.accuracy.items() if name.startswith("held_out_"))
    if worst > _TOO_FAR_PCT:
        out.print(
            f"NOT TO BE TRUSTED: up to {worst:.0f} % off on held-out cells. Was the server idle otherwise? Does it do"
            " something that the model lacks (speculative decoding, several GPUs)?"
        )
    if plan.left_out:
        largest = ", ".join(sorted({f"{cell.batch} x {cell.context + cell.prompt}" for cell in plan.left_out}))
        out.print(f"left out, as they would have taken too long: {largest} tokens")


def _with_draws(profile: Profile, determined: Callable[[str], str] | None = None) -> Table:
    """Coefficients with the interval of their draws, and what is said of each."""
    assert profile.draws is not None
    table = new_table("coefficient", "value", "95 % interval", *(["determined"] if determined else []))
    values = {**profile.step_time.model_dump(), **profile.overheads.model_dump()}
    low, high = np.percentile(np.array(profile.draws.rows), (2.5, 97.5), axis=0)
    for name, least, most in zip(profile.draws.names, low, high, strict=True):
        said = [determined(name)] if determined else []
        table.add_row(name, f"{values[name]:.4g}", f"{least:.4g} .. {most:.4g}", *said)
    return table


def undetermined(found: Calibration) -> list[str]:
    """Coefficients that the run leaves open."""
    return [name for name in _ALWAYS if name not in found.deviations]


def _tie(name: str) -> str:
    other, share = TIES.get(name, ("", 0.0))
    return f"no: taken as {share:g} x {other}" if other else "no"


def _accuracy(accuracy: dict[str, float]) -> Table:
    table = new_table("error, %", "in sample", "held out")
    for name, value in accuracy.items():
        if not name.startswith("held_out_"):
            table.add_row(name.removesuffix("_pct"), f"{value:+.2f}", f"{accuracy[f'held_out_{name}']:+.2f}")
    return table
