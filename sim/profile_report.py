"""What a profile says, as plain data and as text: what it costs, how certain that is, and two of them side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sim.latency import Profile, StepClock
from sim.metrics import ratio
from sim.report import console, new_table
from sim.trust import held_out_pct, kind

MEANING = {
    "const_s": "every step, whatever is in it",
    "prefill_token_s": "a prompt token",
    "decode_seq_s": "a request that decodes",
    "kv_token_s": "a token of context that a request reads",
    "distinct_kv_token_s": "the same, once for all requests that share it",
    "attention_pair_s": "a pair of tokens in a prompt's attention",
    "free_tokens": "first tokens of a step that cost nothing",
    "host_s": "CPU time of a step",
    "host_seq_s": "CPU time of a request in a step",
    "input_s": "from the client to the scheduler",
    "input_gap_s": "at least between two requests that get there",
    "output_s": "from the end of a step to the client",
}
_SI = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


class _Step(NamedTuple):
    """A step to compare engines by: tokens of a new prompt, and requests that decode after so many tokens."""

    prefill: int
    decodes: int
    context: int

    @property
    def name(self) -> str:
        prefill = f"prefill of {self.prefill:,} tokens" if self.prefill else ""
        requests = f"{self.decodes} request{'s'[: self.decodes != 1]} of {self.context:,} tokens"
        return " beside ".join(filter(None, (prefill, f"decode of {requests}" if self.decodes else "")))

    @property
    def kv_tokens(self) -> int:
        return self.prefill + self.decodes * self.context

    @property
    def rows(self) -> int:
        return self.decodes + (self.prefill > 0)

    def fits(self, profile: Profile) -> bool:
        settings = profile.engine
        return (
            self.rows <= settings.max_num_seqs
            and self.prefill + self.decodes <= settings.max_num_batched_tokens
            and self.kv_tokens <= kv_capacity(profile)
        )

    def seconds(self, profile: Profile) -> float:
        clock, kv = StepClock(profile), self.kv_tokens
        device_s = clock.device_s(self.prefill, self.decodes, kv, kv, self.prefill * (self.prefill + 1) // 2)
        return clock.steps_s(device_s, self.rows, 1)


_STEPS = (_Step(1024, 0, 0), _Step(0, 1, 1024), _Step(0, 16, 1024), _Step(0, 64, 1024), _Step(512, 16, 1024))


def kv_capacity(profile: Profile) -> int:
    """Tokens whose KV fits into memory; the null block holds none."""
    return (profile.engine.num_gpu_blocks - 1) * profile.engine.block_size


def facts(profile: Profile) -> dict[str, Any]:
    """Everything that the profile says, and what some steps take by it; intervals of 95 % where it has draws."""
    return {
        "name": profile.name,
        "kind": kind(profile),
        "derived": profile.derived,
        **{name: getattr(profile, name) for name in ("hardware", "model", "source", "method", "digest", "samples")},
        "kv_tokens": kv_capacity(profile),
        "held_out_error_pct": held_out_pct(profile),
        "accuracy": profile.accuracy,
        "measured": profile.measured.model_dump(),
        "engine": profile.engine.model_dump(),
        "draws": len(profile.draws.rows) if profile.draws else 0,
        "coefficients": _coefficients(profile),
        "steps": {step.name: _step(step, profile) for step in _STEPS},
    }


def difference(one: Profile, other: Profile) -> dict[str, Any]:
    """Numbers of two profiles as [one, other, other / one], and the settings in which they differ as [one, other]."""
    sides = facts(one), facts(other)
    return {
        "profiles": [{name: side[name] for name in ("name", "kind", "hardware", "model", "digest")} for side in sides],
        "steps": {step.name: _ratio(*(_at(side["steps"][step.name], "seconds") for side in sides)) for step in _STEPS},
        "coefficients": {name: _ratio(*(side["coefficients"][name]["value"] for side in sides)) for name in MEANING},
        "kv_tokens": _ratio(*(side["kv_tokens"] for side in sides)),
        "engine": _unequal(*(side["engine"] for side in sides)),
        "measured": _unequal(*(side["measured"] for side in sides)),
        "held_out_error_pct": [side["held_out_error_pct"] for side in sides],
    }


def print_list(profiles: Iterable[Profile]) -> None:
    """A line for each."""
    table = new_table("name", "hardware", "model", "", "held-out error", "KV tokens", "max_num_seqs", left=4)
    for one in profiles:
        numbers = (_percent(held_out_pct(one)), f"{kv_capacity(one):,}", f"{one.engine.max_num_seqs:,}")
        table.add_row(one.name, one.hardware, one.model.partition(" (")[0], kind(one), *numbers)
    console().print(table)


def print_facts(profile: Profile) -> None:
    """All of `facts`, in words."""
    out, said = console(), facts(profile)
    out.print(f"{profile.name}: {kind(profile)}, {profile.digest}\n")
    for name in ("derived", "hardware", "model", "source", "method"):
        if said[name]:
            out.print(f"{name:9} {said[name]}")
    for file, digest in profile.samples.items():
        out.print(f"samples   {file}, SHA-256 {digest}")
    table = new_table("\nwhat a step takes", "\ntime", "\n95 % interval", "\ntokens/s")
    for name, step in said["steps"].items():
        table.add_row(name, *(_step_cells(step) if step else ("does not fit", "", "")))
    out.print(table)
    if any(step and step["extrapolated"] for step in said["steps"].values()):
        out.print("* extrapolated: more requests or KV tokens than measured, or nothing measured at all")
    table = new_table("\ncoefficient", "\nvalue", "\n95 % interval", "\nfor", left=1)
    for name, found in said["coefficients"].items():
        table.add_row(name, _unit(name, found["value"]), _interval(name, found["ci95"]), MEANING[name])
    table.columns[3].justify = "left"
    out.print(table)
    _print_engine(said)


def _print_engine(said: dict[str, Any]) -> None:
    out = console()
    out.print(f"\nengine    KV for {said['kv_tokens']:,} tokens")
    out.print(f"          {', '.join(f'{name} {value}' for name, value in said['engine'].items())}")
    ranges = ", ".join(
        f"{name} {'unknown' if most is None else f'{most:,}'}" for name, most in said["measured"].items()
    )
    out.print(f"measured  {'its base, ' * bool(said['derived'])}up to {ranges}")
    accuracy = ", ".join(f"{name.removesuffix('_pct')} {value:g} %" for name, value in said["accuracy"].items())
    out.print(f"accuracy  {accuracy or 'unknown'}")
    out.print(f"draws     {said['draws'] or 'none: how certain the coefficients are is not known'}")


def print_difference(one: Profile, other: Profile) -> None:
    """All of `difference`; a ratio above 1 means that the second has more."""
    out, found = console(), difference(one, other)
    names = [f"{side.name} ({kind(side)})" for side in (one, other)]
    table = new_table("what a step takes", *names, "ratio")
    for name, values in found["steps"].items():
        table.add_row(
            name, *("does not fit" if value is None else _time(value) for value in values[:2]), _by(values[2])
        )
    table.add_section()
    for name, values in found["coefficients"].items():
        table.add_row(name, *(_unit(name, value) for value in values[:2]), _by(values[2]))
    table.add_section()
    table.add_row("KV tokens", *(f"{value:,}" for value in found["kv_tokens"][:2]), _by(found["kv_tokens"][2]))
    for part in ("engine", "measured"):
        for name, values in found[part].items():
            table.add_row(name, *map(str, values), "")
    table.add_row("held-out error", *map(_percent, found["held_out_error_pct"]), "")
    out.print(table)


def _coefficients(profile: Profile) -> dict[str, dict[str, Any]]:
    values = {**profile.step_time.model_dump(), **profile.overheads.model_dump()}
    drawn: dict[str, Sequence[float]] = {}
    if profile.draws:
        drawn = dict(zip(profile.draws.names, zip(*profile.draws.rows, strict=True), strict=True))
    return {name: {"value": values[name], "ci95": _ci95(drawn.get(name, ()))} for name in MEANING}


def _step(step: _Step, profile: Profile) -> dict[str, Any] | None:
    """Seconds of the step; None where the engine cannot have it."""
    if not step.fits(profile):
        return None
    drawn = [step.seconds(profile.drawn(index)) for index in range(len(profile.draws.rows) if profile.draws else 0)]
    most = profile.measured
    return {
        "seconds": step.seconds(profile),
        "ci95": _ci95(drawn),
        "tokens_per_s": (step.prefill + step.decodes) / step.seconds(profile),
        "extrapolated": bool(profile.derived)
        or step.rows > (most.batch_size or step.rows)
        or step.kv_tokens > (most.kv_tokens or step.kv_tokens),
    }


def _step_cells(step: dict[str, Any]) -> tuple[str, str, str]:
    mark = "*" if step["extrapolated"] else ""
    return f"{_time(step['seconds'])}{mark}", _interval("s", step["ci95"]), f"{step['tokens_per_s']:,.0f}{mark}"


def _ci95(values: Sequence[float]) -> list[float] | None:
    return np.percentile(values, (2.5, 97.5)).tolist() if len(values) > 1 else None


def _ratio(one: float | None, other: float | None) -> list[float | None]:
    return [one, other, ratio(other, one)]


def _at(values: dict[str, Any] | None, name: str) -> Any:
    return values[name] if values else None


def _unequal(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [one[name], other[name]] for name in one if one[name] != other[name]}


def _unit(name: str, value: float) -> str:
    return f"{value:g}" if name == "free_tokens" else _time(value)


def _time(seconds: float) -> str:
    """Three digits and a unit."""
    if seconds == 0:
        return "0"
    size, unit = next(((size, unit) for size, unit in _SI if seconds >= size), _SI[-1])
    return f"{seconds / size:.3g} {unit}"


def _interval(name: str, ends: Sequence[float] | None) -> str:
    return " to ".join(_unit(name, end) for end in ends) if ends else "-"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} %"


def _by(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
