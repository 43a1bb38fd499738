"""A calibration for people, and as files: the profile and, beside it, what was fitted."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from calibration.inverse import Calibration
from calibration.recorded import RecordedRun
from sim.errors import RunError
from sim.latency import Profile
from sim.report import console
from sim.results import write_whole

#: Normal quantile of a 95 % interval.
_TWO_SIDED = 1.96

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


def files(output: Path) -> tuple[Path, Path]:
    """The profile and its samples. Raises RunError where one is there already or could not be read back."""
    samples = output.with_name(f"{output.stem}.samples.jsonl.gz")
    if output.suffix not in (".yaml", ".yml"):
        raise RunError(f"{output}: a profile is a .yaml file; give it such a name")
    for path in (output, samples):
        if path.exists():
            raise RunError(f"{path}: is there already; give another name")
    if not output.parent.is_dir():
        raise RunError(f"{output}: no folder {output.parent}; make it first")
    return output, samples


def write(profile: Profile, run: RecordedRun, output: Path) -> Profile:
    """The profile as written: with the name of its samples, lengths and instants of each request, and their digest."""
    path, beside = files(output)
    packed = samples(run)
    named = profile.model_copy(update={"samples": {beside.name: hashlib.sha256(packed).hexdigest()}})
    data: dict[str, Any] = named.model_dump()
    for part in ("step_time", "overheads"):
        data[part] = {name: _short(value) for name, value in data[part].items()}
    try:
        beside.write_bytes(packed)
        write_whole(path, yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True, default_flow_style=None))
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    return named


def samples(run: RecordedRun) -> bytes:
    """Lengths and instants of every request as JSON lines, compressed; the same bytes for the same run."""
    rows = (
        {
            "prompt_tokens": sum(part.num_tokens for part in one.prompt),
            "output_tokens": one.num_output_tokens,
            **{key: round(getattr(one, key), 6) for key in ("sent_s", "first_token_s", "last_token_s")},
        }
        for one in run.requests
    )
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def show(found: Calibration) -> None:
    """Coefficients with intervals, accuracy, regimes, models, and what would help."""
    out = console()
    out.print(_coefficients(found))
    out.print(_accuracy(found.profile.accuracy))
    for regime, (number, error) in found.regimes.items():
        out.print(f"held out, {regime}: {number} requests, {error:.2f} % end to end per request")
    out.print(f"\nmodel: {found.model}; held-out loss inside the first half, times 10000:")
    for name, loss in found.losses.items():
        out.print(f"  {1e4 * loss:8.2f}  {name}")
    for name in undetermined(found):
        out.print(f"{name} is not determined by this run; it would take {_HELPS[name]}")


def undetermined(found: Calibration) -> list[str]:
    """Coefficients that the run leaves open."""
    return [name for name in _ALWAYS if name not in found.deviations]


def _coefficients(found: Calibration) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("coefficient", "value", "95 % interval", "determined"):
        table.add_column(name, justify="left" if name == "coefficient" else "right")
    values = {**found.profile.step_time.model_dump(), **found.profile.overheads.model_dump()}
    for name, deviation in found.deviations.items():
        reach = _TWO_SIDED * deviation
        low, high = (values[name] * max(0.0, 1 + sign * reach) for sign in (-1, 1))
        table.add_row(name, f"{values[name]:.4g}", f"{low:.4g} .. {high:.4g}", "yes")
    for name in undetermined(found):
        table.add_row(name, "0", "", "no")
    return table


def _accuracy(accuracy: dict[str, float]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("error, %")
    table.add_column("in sample", justify="right")
    table.add_column("held out", justify="right")
    for name, value in accuracy.items():
        if not name.startswith("held_out_"):
            table.add_row(name.removesuffix("_pct"), f"{value:+.2f}", f"{accuracy[f'held_out_{name}']:+.2f}")
    return table


def _short(value: float) -> float:
    """Six digits; whole numbers as they are."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
