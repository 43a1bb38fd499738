"""The experiment by which the steps of a server are timed: which batches, and what each takes to set up.

Every kind of cell shows the client another part of a step's time:

- ``prefill``: one new prompt on an idle server; its first token ends the last of its chunks.
- ``cached``: the same behind a prefix that is cached, so that few tokens attend to many.
- ``decode``: requests that generate together; the gaps between their tokens are steps.
- ``shared``: the same behind one common prefix. Only this tells logical from distinct KV tokens.
- ``mixed``: a new prompt while others generate; the gap that it makes in their streams is a step of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sim.settings import EngineSettings

Kind = Literal["prefill", "cached", "decode", "shared", "mixed"]

#: Steps in which all requests of a cell generate together, at least.
STEPS = 20
#: Tokens of a ``shared`` request behind the common prefix.
TAIL = 30
#: Share of the KV blocks that the requests of one cell may take.
_ROOM = 0.8


@dataclass(frozen=True, slots=True)
class Cell:
    """A batch: ``batch`` requests generate behind ``context`` tokens each, ``prompt`` tokens are new to the cache."""

    kind: Kind
    batch: int
    context: int
    prompt: int

    @property
    def output_tokens(self) -> int:
        """Tokens that each generating request gets: they start one after the other, and all must overlap."""
        return 1 if self.kind in ("prefill", "cached") else STEPS + self.batch // 2 + 10 * (self.kind == "mixed")

    @property
    def request_tokens(self) -> int:
        """Tokens of the longest request, prompt and answer."""
        return self.context + self.prompt + self.output_tokens + TAIL

    @property
    def kv_tokens(self) -> int:
        """KV tokens in memory at once, at most."""
        each = self.output_tokens + TAIL
        shared = self.kind == "shared"
        return self.prompt + (self.context if shared else self.context * self.batch) + each * self.batch


def cells(engine: EngineSettings, quick: bool) -> list[Cell]:
    """The design, in order of size: what the engine can hold of it."""
    wanted = dict.fromkeys((*_prompts(engine, quick), *_batches(quick)))
    return [cell for cell in wanted if _fits(cell, engine)]


def _fits(cell: Cell, engine: EngineSettings) -> bool:
    room = _ROOM * engine.block_size * (engine.num_gpu_blocks - 1)
    caches = engine.enable_prefix_caching or cell.kind not in ("cached", "shared")
    alone = cell.batch + (cell.kind == "mixed")
    return (
        caches
        and alone <= min(engine.max_num_seqs, engine.max_num_batched_tokens)
        and cell.kv_tokens <= room
        and cell.request_tokens <= engine.max_model_len
    )


def _prompts(engine: EngineSettings, quick: bool) -> Iterator[Cell]:
    """Lengths up to the token budget, and prompts of several chunks."""
    budget = engine.max_num_batched_tokens
    lengths: Iterable[int] = (16, 128, 512) if quick else (16, 32, 64, 128, 256, 512, 1024)
    for length in (*(one for one in lengths if one < budget), budget - 8, 2 * budget - 300):
        yield Cell("prefill", 1, 0, length)
    for context in (1024,) if quick else (512, 2048, 6144):
        for length in (64, 384) if quick else (64, 256, 768):
            yield Cell("cached", 1, context, length)


def _batches(quick: bool) -> Iterator[Cell]:
    sizes = (1, 2, 4, 8, 16, 32, 96, 256) if quick else (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    for size in sizes:
        yield from (Cell("decode", size, context, 0) for context in ((48, 700) if quick else (48, 300, 1000, 3000)))
    for size in (2, 4, 8, 16, 32, 64, 128)[1 :: 2 if quick else 1]:
        yield from (Cell("shared", size, context, 0) for context in ((1024,) if quick else (640, 1920)))
    for size in (1, 4, 16, 64)[:: 2 if quick else 1]:
        yield from (Cell("mixed", size, 300, length) for length in ((96, 600) if quick else (64, 256, 1000)))
