"""How long a step takes and on which engine: the `Profile`, read from YAML."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sim import yamlfile
from sim.errors import ProfileError, nearest

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

_SHIPPED = Path(__file__).parent / "profiles"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StepTime(_Strict):
    """Seconds one engine step takes. Positive for every batch, no less for a larger one.

    ``const_s + prefill_token_s * prefill tokens + decode_seq_s * decoding requests
    + kv_token_s * KV tokens read + attention_pair_s * pairs of prefill attention``;
    `sim.scheduler.Batch` says how each is counted.
    """

    const_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    prefill_token_s: Seconds
    decode_seq_s: Seconds
    kv_token_s: Seconds
    attention_pair_s: Seconds

    def __call__(self, prefill_tokens: int, decode_seqs: int, kv_tokens: int, attention_pairs: int) -> float:
        """Seconds of the step with these sums."""
        return (
            self.const_s
            + self.prefill_token_s * prefill_tokens
            + self.decode_seq_s * decode_seqs
            + self.kv_token_s * kv_tokens
            + self.attention_pair_s * attention_pairs
        )


class EngineSettings(_Strict):
    """vLLM's settings under vLLM's names. ``num_gpu_blocks`` includes the null block, as vLLM's does.

    ``watermark`` is the share of the blocks that admission leaves free while something runs.
    """

    vllm_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    max_num_seqs: Count
    max_num_batched_tokens: Count
    max_model_len: Count
    num_gpu_blocks: Annotated[int, Field(ge=2)]
    block_size: Count = 16
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: Annotated[int, Field(ge=0)] = 0
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool = False
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scheduler_reserve_full_isl: bool = True

    @model_validator(mode="after")
    def _vllm_would_start(self) -> Self:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError("without chunked prefill max_num_batched_tokens must be at least max_model_len")
        return self

    @property
    def frees_unhashed_first(self) -> bool:
        """Whether this version reuses blocks without cached content first (0.20.2 did not, 0.26.0 does)."""
        return self._version() >= (0, 26, 0)

    @property
    def exempts_lone_prefill(self) -> bool:
        """Whether a request that is alone may ignore `long_prefill_token_threshold` (0.26.0 no, 0.32.0 yes)."""
        return self._version() >= (0, 32, 0)

    def _version(self) -> tuple[int, ...]:
        return tuple(map(int, self.vllm_version.split(".")))


class Profile(_Strict):
    """A step-time model, the engine it was measured on, and how far it can be trusted.

    ``accuracy`` is in percent. A request of more than ``max_measured_tokens``, prompt and answer together, is
    outside the range that was measured.
    """

    name: str
    hardware: str
    model: str
    source: str
    method: str
    accuracy: dict[str, float]
    max_measured_tokens: Count
    engine: EngineSettings
    step_time: StepTime

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change whenever a number does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


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
    data = yamlfile.load(path, ProfileError)
    if not isinstance(data, dict):
        raise ProfileError(f"{path}: not a mapping of the parts of a profile (name, engine, step_time, ..)")
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg'].lower()}" for e in error.errors())
        raise ProfileError(f"{path}: {'; '.join(problems)}") from error
