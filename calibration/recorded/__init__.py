"""Runs of a server that somebody recorded, in any of several formats: one file per format, found by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.workflow import Segment


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was answered. Instants in seconds of one clock that starts with the run.

    ``prompt``: equal segments are equal tokens, so two requests share a prefix as far as their segments agree.
    """

    id: str
    prompt: tuple[Segment, ...]
    num_output_tokens: int
    sent_s: float
    first_token_s: float
    last_token_s: float


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run: its requests by the instant of sending, and what its record tells of the engine.

    ``engine``: fields of `sim.settings.EngineSettings` that the record names. ``facts``: model, hardware and the like,
    for people. ``assumptions``: sentences about what the record does not tell and was assumed. ``skipped``: reason ->
    number of requests that were left out, such as those that failed.
    """

    format: str
    requests: tuple[Request, ...]
    engine: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
