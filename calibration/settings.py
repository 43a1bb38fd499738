"""The engine that a run was recorded on: what the record tells, what a base profile adds, what the user says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from calibration.recorded import RecordedRun
from sim.errors import ProfileError, nearest
from sim.latency import Measured, Profile, StepTime, load_profile
from sim.settings import EngineSettings

#: Settings without which a simulated run says nothing about a real one.
NEEDED = (*(name for name, field in EngineSettings.model_fields.items() if field.is_required()), "block_size")
_METHOD = "workspan calibrate --from: simulated with these coefficients, the run has the measured times"


def profile_for(
    run: RecordedRun, path: Path, base: str | None, changes: Sequence[str], name: str
) -> tuple[Profile, list[str]]:
    """A profile to be fitted, and notes on settings that nobody told. Raises ProfileError naming what is missing.

    ``changes`` (``KEY=VALUE``) count more than the record, and the record more than the base.
    """
    known = load_profile(base) if base else None
    told: dict[str, Any] = {**(known.engine.model_dump() if known else {}), **run.engine, **read_settings(changes)}
    if missing := [setting for setting in NEEDED if setting not in told]:
        raise ProfileError(
            f"{path}: does not tell {', '.join(missing)}; give --set {missing[0]}=.. (for each), or --profile BASE"
        )
    try:
        engine = EngineSettings(**told)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = ".".join(map(str, first["loc"])) or "engine"
        raise ProfileError(f"{path}: {where}: {first['msg'].lower()}; give --set {where}=.. as it was") from invalid
    untold = [setting for setting in EngineSettings.model_fields if setting not in told]
    notes = [f"nobody tells {setting}; taken to be {getattr(engine, setting)} (--set changes it)" for setting in untold]
    found = Profile(
        name=name,
        hardware=run.facts.get("hardware", known.hardware if known else "unknown"),
        model=run.facts.get("model", known.model if known else "unknown"),
        source=f"{len(run.requests)} requests, recorded in the form of {run.format}",
        method=_METHOD,
        accuracy={},
        measured=Measured(request_tokens=1),
        engine=engine,
        step_time=StepTime(const_s=1.0, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0),
    )
    return found, notes


def read_settings(changes: Sequence[str]) -> dict[str, Any]:
    """Engine settings given as ``KEY=VALUE``. Raises ProfileError."""
    told = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in EngineSettings.model_fields or not value:
            raise ProfileError(
                f"--set {change}: give KEY=VALUE of an engine setting{nearest(name, EngineSettings.model_fields)}"
            )
        # A version such as 0.19.0 is no number, but 1.0 would be.
        try:
            told[name] = value if name == "vllm_version" else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ProfileError(
                f"--set {change}: the value cannot be read; give a number, true, false or a word"
            ) from error
    return told
