"""The models of step time that a recorded run may choose from, and the choice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.latency import Overheads, Profile, StepTime
from sim.settings import EngineSettings

Array = NDArray[np.float64]

#: Where a search starts, in seconds: an 8B model on a recent GPU, within a factor of ten.
START = {
    "const_s": 1e-2,
    "prefill_token_s": 5e-5,
    "decode_seq_s": 5e-5,
    "kv_token_s": 1e-7,
    "attention_pair_s": 1e-9,
    "host_s": 5e-3,
    "host_seq_s": 5e-5,
    "input_s": 3e-3,
    "output_s": 3e-3,
}
#: Without these there is no step time.
CORE = ("const_s", "prefill_token_s", "decode_seq_s")
_LINEAR = (*CORE, "kv_token_s", "attention_pair_s")

#: Free tokens that are tried: few as on a CPU, and what a GPU computes while it loads the weights.
_FREE = (8, 64, 256)

#: A model with more to it must be better by so many standard errors of the difference.
_NOISE = 2.0


#: What a coefficient is taken to be where a run does not determine it: so many times another. A request that decodes
#: costs what a prompt token does; reading a token's KV takes as much less than reading the weights as it is smaller: in
#: Llama-3.1-8B 131,072 of 16.06e9 bytes. With 0 the constant would have them, and a single request would be as slow as
#: many are.
TIES = {"decode_seq_s": ("prefill_token_s", 1.0), "kv_token_s": ("const_s", 8.2e-6)}


def tied(named: dict[str, float], values: dict[str, float]) -> dict[str, float]:
    """Coefficients by name, with those that ``values`` lacks in their proportion to others."""
    return named | {name: share * named[other] for name, (other, share) in TIES.items() if name not in values}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of step time: the coefficients that it fits, the rest being 0, and the tokens of a step that are free.

    ``padded`` False: a step costs the tokens it has, though CUDA graphs pad it.
    """

    name: str
    fitted: tuple[str, ...] = _LINEAR
    free_tokens: int = 0
    padded: bool = True

    def profile(self, base: Profile, values: dict[str, float]) -> Profile:
        """The base with these coefficients and no others; free tokens are no more than ``const_s`` allows."""
        named = dict.fromkeys((*StepTime.model_fields, *Overheads.model_fields), 0.0) | values
        named = tied(named, values)
        named["const_s"] = max(named["const_s"], 1e-6)
        least_s = min(named["prefill_token_s"], named["decode_seq_s"])
        most = int(named["const_s"] / least_s * (1 - 1e-9)) if least_s else self.free_tokens
        engine = base.engine if self.padded else base.engine.model_copy(update={"cudagraph_capture_sizes": []})
        found = base.model_copy(update={"engine": engine})
        return found.with_coefficients({**named, "free_tokens": min(self.free_tokens, most)})

    def without(self, name: str) -> Candidate:
        """The same with one coefficient less."""
        fitted = tuple(other for other in self.fitted if other != name)
        return Candidate(self.name, fitted, self.free_tokens, self.padded)


def candidates(engine: EngineSettings) -> list[Candidate]:
    """The models that the engine may follow, simplest first: linear with the engine's own settings is the simplest."""
    found = [Candidate("linear")]
    if engine.graph_sizes:
        found.append(Candidate("linear, padding costs nothing", padded=False))
    found += [Candidate(f"roofline, {free} tokens free", free_tokens=free) for free in _FREE]
    found.append(Candidate("linear, seconds outside steps", (*_LINEAR, "input_s", "output_s")))
    if engine.async_scheduling:
        found.append(Candidate("linear, slower of host and device", (*_LINEAR, "host_s", "host_seq_s")))
    return found


def simplest(losses: Array) -> int:
    """The first candidate that none beats by more than noise.

    ``losses``: held-out loss of each candidate on each block, shape (candidates, blocks). The noise is the standard
    error of the mean of paired differences.
    """
    best = int(losses.mean(axis=1).argmin())
    for number in range(best):
        more = losses[number] - losses[best]
        if more.mean() <= _NOISE * more.std(ddof=1) / np.sqrt(len(more)):
            return number
    return best
