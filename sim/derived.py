"""Profiles of hardware that nobody measured, from one that was, by the roofline: a guess, and marked as one.

What is bound by memory takes as much longer as the memory is slower, what is bound by arithmetic as much as the tensor
cores are (Williams, Waterman and Patterson 2009). docs/trust.md says how wrong that is where it can be checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from sim.errors import ProfileError
from sim.latency import Profile, StepTime, load_profile, rounded


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a data sheet says of a GPU: GB/s of memory, dense BF16 TFLOP/s (FP32 sums), bytes of memory; which sheet."""

    name: str
    memory_gb_s: float
    bf16_tflops: float
    memory_bytes: int
    sheet: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model takes of the memory: bytes of its weights, and of the KV of a token."""

    weight_bytes: int
    kv_token_bytes: int


#: 8,030,261,248 parameters; 32 layers of 8 KV heads of 128, keys and values; 2 bytes each (the model's config.json).
LLAMA_8B = Shape(2 * 8_030_261_248, 2 * 32 * 8 * 128 * 2)

#: A data sheet's GB of memory are 2^30 bytes, or nearly so.
_GB = 2**30
RTX_4090 = Hardware("NVIDIA GeForce RTX 4090, 24 GB", 1008, 165.2, 24 * _GB, "NVIDIA's white paper on Ada GPUs")
#: The workstation edition; of which edition the recorded run was is not known (the server edition has 1,597 GB/s).
RTX_PRO_6000 = Hardware(
    "NVIDIA RTX PRO 6000, 96 GB", 1792, 503.8, 96 * _GB, "NVIDIA's white paper on RTX Blackwell PRO GPUs"
)
A100 = Hardware("NVIDIA A100 SXM, 80 GB", 2039, 312, 80 * _GB, "NVIDIA's A100 data sheet")
H100 = Hardware("NVIDIA H100 SXM, 80 GB", 3350, 989.5, 80 * _GB, "NVIDIA's H100 data sheet, half of the sparse figure")
H200 = Hardware(
    "NVIDIA H200 SXM, 141 GB", 4800, 989.5, 141 * _GB, "NVIDIA's H200 data sheet, half of the sparse figure"
)

BASE = "rtxpro6000-llama-3.1-8b"
SHIPPED = {"a100-llama-3.1-8b": A100, "h100-llama-3.1-8b": H100, "h200-llama-3.1-8b": H200}
#: By so much the rule, from the RTX PRO 6000, misses the mean end-to-end time of the run recorded on an RTX 4090.
RULE_ERROR_PCT = 38
#: Memory that neither weights nor KV had in that run: 2,588 blocks were left of nine tenths of 24 GB.
_BESIDE_BYTES = 1.7e9


def derive(base: Profile, had: Hardware, new: Hardware, shape: Shape, name: str) -> Profile:
    """The profile as it might be on other hardware; the engine's settings stay, but for the KV blocks.

    Scaled with memory: what a step takes whatever is in it, and the reading of KV. Scaled with arithmetic: prompt
    tokens, requests that decode, attention. The CPU's time and that outside the steps stay. Raises ProfileError where
    the weights leave no room for KV.
    """
    slower, weaker = had.memory_gb_s / new.memory_gb_s, had.bf16_tflops / new.bf16_tflops
    old = base.step_time
    step = StepTime(
        const_s=old.const_s * slower,
        prefill_token_s=old.prefill_token_s * weaker,
        decode_seq_s=old.decode_seq_s * weaker,
        kv_token_s=old.kv_token_s * slower,
        distinct_kv_token_s=old.distinct_kv_token_s * slower,
        attention_pair_s=old.attention_pair_s * weaker,
        # As many as take no longer than loading the weights.
        free_tokens=int(old.free_tokens * slower / weaker),
        host_s=old.host_s,
        host_seq_s=old.host_seq_s,
    )
    engine = base.engine.model_copy(update={"num_gpu_blocks": _num_blocks(base, new, shape)})
    return base.model_copy(
        update={
            "name": name,
            "hardware": new.name,
            "source": f"profile {base.name} ({base.digest}); {had.sheet}; {new.sheet}",
            "method": "roofline (sim/derived.py)",
            "accuracy": {},
            "engine": engine,
            "step_time": step,
            # Those of the base say nothing about the rule, which is what is uncertain here.
            "draws": None,
            "samples": {},
            "derived": (
                f"from {base.name} by the roofline (memory {1 / slower:.2f} times, arithmetic {1 / weaker:.2f} times as"
                f" fast). A GUESS: on an RTX 4090 the same rule missed the measured mean latency by {RULE_ERROR_PCT} %"
                " (docs/trust.md)."
            ),
        }
    )


def _num_blocks(base: Profile, new: Hardware, shape: Shape) -> int:
    """KV blocks in nine tenths of the memory (vLLM's default), less the weights and what a real run needed beside them.

    Raises ProfileError where no block is left.
    """
    left = 0.9 * new.memory_bytes - shape.weight_bytes - _BESIDE_BYTES
    blocks = int(left / (shape.kv_token_bytes * base.engine.block_size))
    if blocks < 2:
        raise ProfileError(f"{new.name}: no room for KV beside the weights; take a GPU with more memory")
    return blocks


def main() -> None:
    """Write the derived profiles that come with workspan: ``python -m sim.derived``, after their base was changed."""
    base = load_profile(BASE)
    for name, new in SHIPPED.items():
        data = derive(base, RTX_PRO_6000, new, LLAMA_8B, name).model_dump()
        data["step_time"] = {key: rounded(value) for key, value in data["step_time"].items()}
        text = yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True)
        (Path(__file__).parent / "profiles" / f"{name}.yaml").write_text(text)


if __name__ == "__main__":
    main()
