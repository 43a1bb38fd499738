"""How long a step takes and on which engine: the `Profile`, read from YAML."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from sim import yamlfile
from sim.errors import ProfileError, nearest
from sim.settings import Count, EngineSettings, Strict

Seconds = Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)]

#: The profile where none is named.
DEFAULT_PROFILE = "rtxpro6000-llama-3.1-8b"

_SHIPPED = Path(__file__).parent / "profiles"


class StepTime(Strict):
    """Coefficients of the seconds that one step takes; `StepClock` puts them together.

    KV tokens read are logical ones, each row's context, and distinct ones: a block that several rows share is in
    memory once. The first ``free_tokens`` of a step cost nothing, because computing them takes no longer than loading
    the weights, which ``const_s`` has (the roofline of Williams, Waterman and Patterson 2009). ``host_s`` and
    ``host_seq_s`` (per row) are the CPU's time to schedule the step and take in its result.
    """

    # Shorter steps would be lost in the rounding of a clock that has run for long.
    const_s: Annotated[float, Field(ge=1e-6, le=1e4, allow_inf_nan=False)]
    prefill_token_s: Seconds
    decode_seq_s: Seconds
    kv_token_s: Seconds
    distinct_kv_token_s: Seconds = 0.0
    attention_pair_s: Seconds
    free_tokens: Annotated[int, Field(ge=0)] = 0
    host_s: Seconds = 0.0
    host_seq_s: Seconds = 0.0

    @model_validator(mode="after")
    def _free_tokens_hide_behind_the_weights(self) -> Self:
        if min(self.prefill_token_s, self.decode_seq_s) * self.free_tokens > self.const_s:
            raise ValueError("free_tokens take longer than const_s, so they cannot be free; lower them")
        return self


class Overheads(Strict):
    """Seconds of a request outside its steps.

    ``input_s``: from the client to the scheduler. ``input_gap_s``: the least time between two requests that reach the
    scheduler, as one thread of the API server reads them all. ``output_s``: from the end of a step to the client.
    """

    input_s: Seconds = 0.0
    input_gap_s: Seconds = 0.0
    output_s: Seconds = 0.0


class Measured(Strict):
    """The largest that was measured: tokens of a request (prompt and answer), requests and KV tokens of a step.

    ``least_batch_size``: the fewest requests of a step, but for a hundredth of the time. Beyond, a prediction is
    extrapolated. None: not known.
    """

    request_tokens: Count
    batch_size: Count | None = None
    least_batch_size: Count = 1
    kv_tokens: Count | None = None


class Draws(Strict):
    """Coefficients as they could have been found: one bootstrap draw a row, by the names of the columns.

    Names are those of `StepTime` and `Overheads`; what is not named was not fitted.
    """

    names: list[str]
    rows: list[list[float]]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = {*StepTime.model_fields, *Overheads.model_fields}
        if strangers := [name for name in self.names if name not in known]:
            raise ValueError(f"{strangers[0]} is no coefficient; names are {', '.join(sorted(known))}")
        if any(len(row) != len(self.names) for row in self.rows):
            raise ValueError(f"a row has not {len(self.names)} numbers")
        return self


class Profile(Strict):
    """A step-time model, the engine it was measured on, and how far it can be trusted.

    ``accuracy`` is in percent. ``draws`` tell how certain the coefficients are. ``derived``: from what, and how, where
    the profile was not measured. ``samples``: the file beside this one that has the raw measurements, and its SHA-256.
    """

    name: str
    hardware: str
    model: str
    source: str
    method: str
    accuracy: dict[str, float]
    measured: Measured
    engine: EngineSettings
    step_time: StepTime
    overheads: Overheads = Overheads()
    draws: Draws | None = None
    derived: str = ""
    samples: dict[str, str] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change whenever a number does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def with_coefficients(self, values: Mapping[str, float]) -> Profile:
        """The same with other coefficients, by their names in `StepTime` and `Overheads`. Raises ValidationError."""
        # A draw is a row of floats, and tokens are counted.
        step = {name: int(value) if name == "free_tokens" else value for name, value in values.items()}
        step = {name: value for name, value in step.items() if name in StepTime.model_fields}
        outside = {name: value for name, value in values.items() if name not in step}
        return self.model_copy(
            update={
                "step_time": StepTime(**{**self.step_time.model_dump(), **step}),
                "overheads": Overheads(**{**self.overheads.model_dump(), **outside}),
            }
        )

    def with_engine(self, settings: Mapping[str, object]) -> Profile:
        """The same on an engine with other settings, which are not checked, by their names in `EngineSettings`."""
        return self.model_copy(update={"engine": self.engine.model_copy(update=dict(settings))})

    def drawn(self, number: int) -> Profile:
        """The profile as it could have been found: with the coefficients of one bootstrap draw."""
        assert self.draws is not None
        return self.with_coefficients(dict(zip(self.draws.names, self.draws.rows[number], strict=True)))


def rounded(value: float) -> float:
    """Six significant digits, as profiles are written; a whole number as it is."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


class StepClock:
    """Seconds that steps take on the engine of a profile. Positive for every batch, no less for a larger one."""

    def __init__(self, profile: Profile) -> None:
        self.step, self.engine, self.overheads = profile.step_time, profile.engine, profile.overheads
        self._overlaps = profile.engine.async_scheduling
        self._graph_sizes = profile.engine.graph_sizes
        # What a token costs at least, so that padding never makes a batch slower than one that is as large.
        self._least_token_s = min(self.step.prefill_token_s, self.step.decode_seq_s)
        self._free_tokens = self.step.free_tokens
        self._growth_s = self.step.kv_token_s + self.step.distinct_kv_token_s

    def device_s(
        self, prefill_tokens: int, decode_seqs: int, kv_tokens: int, distinct_kv_tokens: int, attention_pairs: int
    ) -> float:
        """Seconds on the GPU of the step with these sums; `sim.request.Batch` says how each is counted."""
        step = self.step
        return (
            step.const_s
            + step.prefill_token_s * prefill_tokens
            + step.decode_seq_s * decode_seqs
            + step.kv_token_s * kv_tokens
            + step.distinct_kv_token_s * distinct_kv_tokens
            + step.attention_pair_s * attention_pairs
            + self.padding_s(prefill_tokens + decode_seqs)
            - self.hidden_s(prefill_tokens + decode_seqs)
        )

    def padding_s(self, num_tokens: int) -> float:
        """Seconds by which the batch is filled up to a CUDA graph; 0 where it is larger than every graph."""
        index = bisect_left(self._graph_sizes, num_tokens)
        if index == len(self._graph_sizes):
            return 0.0
        return self._least_token_s * (
            max(self._graph_sizes[index], self._free_tokens) - max(num_tokens, self._free_tokens)
        )

    def hidden_s(self, num_tokens: int) -> float:
        """Seconds that a step's first tokens would take if loading the weights did not take longer."""
        return self._least_token_s * min(num_tokens, self._free_tokens)

    def steps_s(self, device_s: float, num_rows: int, count: int) -> float:
        """Seconds of ``count`` steps, the first ``device_s`` on the GPU, in each of which the same rows read one more.

        With asynchronous scheduling the CPU works while the GPU does, and a step takes as long as the slower of them.
        """
        host_s, growth_s = self._host_s(num_rows), self._growth_s * num_rows
        rest_s = growth_s * (count * (count - 1) // 2)
        if not self._overlaps:
            return count * (device_s + host_s) + rest_s
        if device_s >= host_s:
            return count * device_s + rest_s
        if device_s + growth_s * (count - 1) < host_s:
            return count * host_s
        slow = math.ceil((host_s - device_s) / growth_s)
        return slow * host_s + (count - slow) * device_s + rest_s - growth_s * (slow * (slow - 1) // 2)

    def least_s(self, device_s: float, count: int) -> float:
        """Seconds that ``count`` steps of one row take at least, if all together take ``device_s`` on the GPU."""
        host_s = count * self._host_s(1)
        return max(device_s, host_s) if self._overlaps else device_s + host_s

    def _host_s(self, num_rows: int) -> float:
        return self.step.host_s + self.step.host_seq_s * num_rows


def shipped() -> list[str]:
    """Names of the profiles that come with workspan."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """A shipped profile by name, or any by the path of its file. Raises ProfileError."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in shipped():
            raise ProfileError(f"no profile {name!r}{nearest(name, shipped())} (or the path of a .yaml file)")
        path = _SHIPPED / f"{name}.yaml"
    return yamlfile.load(path, Profile, ProfileError)
