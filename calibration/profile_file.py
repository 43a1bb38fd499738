"""A profile as a YAML file, and beside it the raw measurements that it was made from."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from calibration.experiment import Sample
from calibration.recorded import Request
from sim.errors import RunError
from sim.latency import Profile, rounded
from sim.results import write_whole


def check_new(path: Path) -> None:
    """Raise RunError unless a profile can be written there, over no other."""
    if path.suffix not in (".yaml", ".yml"):
        raise RunError(f"-o {path}: a profile is a .yaml file; name it so")
    for place in (path, samples_path(path)):
        if place.exists():
            raise RunError(f"{place}: exists already; name another file")
    if not path.parent.is_dir():
        raise RunError(f"-o {path}: no folder {path.parent}; make it, or name another file")


def write_profile(profile: Profile, rows: Iterable[Mapping[str, Any]], path: Path) -> Profile:
    """The profile as written: it names the file of its samples beside it, JSON lines in gzip, and their digest."""
    beside = samples_path(path)
    digest = write_samples(rows, beside)
    written = profile.model_copy(update={"samples": {beside.name: digest}})
    fields: dict[str, Any] = written.model_dump()
    for part in ("step_time", "overheads"):
        fields[part] = {name: rounded(value) for name, value in fields[part].items()}
    try:
        write_whole(path, yaml.dump(fields, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True))
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    return written


def write_samples(rows: Iterable[Mapping[str, Any]], path: Path) -> str:
    """JSON lines in gzip, the same bytes for the same rows; returns their SHA-256. Raises RunError."""
    data = gzip.compress("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode(), mtime=0)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
    return hashlib.sha256(data).hexdigest()


def samples_path(path: Path) -> Path:
    """Where the samples of the profile in this file are."""
    return path.with_name(f"{path.stem}.samples.jsonl.gz")


def sample_row(sample: Sample) -> dict[str, Any]:
    """A sample as plain data."""
    cell = sample.cell
    return {
        "kind": cell.kind,
        "batch": cell.batch,
        "context": cell.context,
        "prompt": cell.prompt,
        "steps": [list(step) for step in sample.steps],
        "seconds": rounded(sample.seconds),
        "with_overhead": sample.with_overhead,
        "logged_s": sample.logged_s,
    }


def request_row(request: Request) -> dict[str, Any]:
    """Lengths and instants of a recorded request as plain data; no token of it."""
    return {
        "prompt_tokens": sum(part.num_tokens for part in request.prompt),
        "output_tokens": request.num_output_tokens,
        **{name: round(getattr(request, name), 6) for name in ("sent_s", "first_token_s", "last_token_s")},
    }


class _Dumper(yaml.SafeDumper):
    """Rows of numbers stand on one line each."""


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    flat = not any(isinstance(one, list | dict) for one in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)


_Dumper.add_representer(list, _list)
