"""vLLM's settings under vLLM's names, and what differs between its versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]


def _check_graph_sizes(value: object) -> object:
    """One error for both forms that the value may have."""
    if value == "default" or (isinstance(value, list) and all(type(size) is int and size > 0 for size in value)):
        return value
    raise ValueError("give default, or a list of whole numbers from 1")


class Strict(BaseModel):
    """Part of a file of settings: unknown names and values of another type are errors.

    What follows from the values is computed each time: ``model_copy`` would keep what was cached.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EngineSettings(Strict):
    """Settings of one engine. ``num_gpu_blocks`` includes the null block, as vLLM's does.

    ``watermark`` is the share of the blocks that admission leaves free while something runs.
    ``cudagraph_capture_sizes``: a step of fewer tokens than the largest is padded to the next; ``default`` is the
    list that vLLM makes itself, none means ``--enforce-eager``.
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
    cudagraph_capture_sizes: Annotated[Literal["default"] | list[int], BeforeValidator(_check_graph_sizes)] = []

    @model_validator(mode="after")
    def _vllm_would_start(self) -> Self:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError("without chunked prefill max_num_batched_tokens must be at least max_model_len")
        return self

    @property
    def frees_unhashed_first(self) -> bool:
        """Whether this version reuses blocks without cached content first (0.19.0 did not, 0.26.0 does)."""
        return self._version() >= (0, 26, 0)

    @property
    def exempts_lone_prefill(self) -> bool:
        """Whether a request that is alone may ignore `long_prefill_token_threshold` (0.26.0 no, 0.32.0 yes)."""
        return self._version() >= (0, 32, 0)

    @property
    def skips_after_idle_victim(self) -> bool:
        """Whether a step passes over one running request if the victim before it had no row (0.26.0 yes, 0.32.0 no)."""
        return self._version() < (0, 32, 0)

    @property
    def graph_sizes(self) -> tuple[int, ...]:
        """Batch sizes with a CUDA graph, ascending (``VllmConfig._set_cudagraph_sizes``).

        The default is that of GPUs other than data-centre Blackwell, whose largest size is 1,024. 0.32.0 adds
        ``max_num_seqs`` to it, 0.26.0 does not.
        """
        budget = self.max_num_batched_tokens
        if self.cudagraph_capture_sizes != "default":
            return tuple(sorted({size for size in self.cudagraph_capture_sizes if size <= budget}))
        largest = min(2 * self.max_num_seqs, 512, budget)
        sizes = {1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16), budget}
        if self._version() >= (0, 32, 0):
            sizes.add(self.max_num_seqs)
        return tuple(sorted(size for size in sizes if size <= largest))

    def refusal(self, num_tokens: int) -> str:
        """Why a call of so many tokens, prompt and answer, can never run here; empty where it can."""
        if num_tokens > self.max_model_len:
            return f"prompt and answer have {num_tokens} tokens, max_model_len is {self.max_model_len}"
        # The last token's KV is never written, one block is the null block, and the watermark is no hindrance to a
        # request that is alone.
        needed, usable = -(-(num_tokens - 1) // self.block_size), self.num_gpu_blocks - 1
        return f"needs {needed} KV blocks, the pool has {usable}" if needed > usable else ""

    def _version(self) -> tuple[int, ...]:
        return tuple(map(int, self.vllm_version.split(".")))


def flag(setting: str, value: object) -> str:
    """What vLLM is started with to have the setting."""
    name = f"--{setting.replace('_', '-')}"
    return name if value is True else f"{name} {value}"


def from_vllm(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of what vLLM calls its settings, those of `EngineSettings` that are given, under their names there."""
    named = {**told, "scheduling_policy": told.get("policy")}
    found = {name: named[name] for name in EngineSettings.model_fields if named.get(name) is not None}
    # A version may go on: 0.11.1rc2, 0.32.0+cpu.
    version = re.match(r"\d+\.\d+\.\d+", str(found.pop("vllm_version", "")))
    return {**({"vllm_version": version.group()} if version else {}), **found}
