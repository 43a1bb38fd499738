"""A call inside the engine, its share of a step, and the step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from sim.kv import Holding, Keys
from sim.workflow import Segment


@dataclass(slots=True, eq=False)
class Request:
    """One call inside the engine. ``num_tokens`` counts the prompt and the tokens that have come back.

    ``content``: prompt and answer cut into other segments, where their own would not show which tokens are the same.
    ``keys`` name the full blocks of prompt and answer; ``num_cached_tokens`` is None before admission. A server
    says of which ``session`` it is. With
    asynchronous scheduling ``num_output_placeholders`` tokens are computed but not back yet, and after a
    preemption ``num_stale_output_tokens`` of the tokens in flight belong to the time before it. While the request is a
    member of `Decoding`, its counters of tokens stand still.
    """

    prompt: tuple[Segment, ...]
    answer: Segment
    priority: int = 0
    arrival_s: float = 0.0
    number: int = 0
    content: tuple[Segment, ...] = ()
    session: int = 0
    num_prompt_tokens: int = field(init=False)
    num_tokens: int = field(init=False)
    max_num_tokens: int = field(init=False)
    keys: Keys = field(default_factory=Keys)
    num_computed_tokens: int = 0
    num_output_tokens: int = 0
    num_output_placeholders: int = 0
    num_in_flight_tokens: int = 0
    num_stale_output_tokens: int = 0
    num_cached_tokens: int | None = None
    num_preemptions: int = 0
    blocks: Holding = field(default_factory=Holding)
    running: bool = False
    admitted: int = -1
    joined: int = -1
    offset: int = 0

    def __post_init__(self) -> None:
        self.num_prompt_tokens = self.num_tokens = sum(segment.num_tokens for segment in self.prompt)
        self.max_num_tokens = self.num_prompt_tokens + self.answer.num_tokens

    def __lt__(self, other: Request) -> bool:
        """Sooner in the queue of `--scheduling-policy priority` (``Request.__lt__``).

        Calls sent at one simulated instant reach a real server one after the other: ``number`` tells which was first.
        """
        return (self.priority, self.arrival_s, self.number) < (other.priority, other.arrival_s, other.number)


class Row(NamedTuple):
    """One request's share of a step: tokens to compute, tokens computed before, and whether one comes out."""

    request: Request
    num_new: int
    num_computed: int
    samples: bool

    @property
    def is_decode(self) -> bool:
        """Feeds back the newest token; every other row computes known tokens, which is prefill."""
        return self.num_new == 1 and self.num_computed >= self.request.num_prompt_tokens


@dataclass(slots=True, eq=False)
class Batch:
    """One step: ``num_decoding`` members of `Decoding`, rows of other requests, and the sums its time depends on.

    Each row reads the KV of its context once; of ``distinct_kv_tokens`` a block that several rows share is one. A
    prefill chunk of n tokens after c computed ones attends to n * c + n * (n + 1) / 2 pairs. ``loaded_tokens`` come
    from the CPU tier. ``clock`` is that of `Decoding` after the step was composed; ``loose`` are members that left
    while the step was under way, ``num_gone`` rows are computed in vain, as their requests were aborted then.
    """

    preempted: list[Request]
    num_decoding: int
    clock: int
    decode_seqs: int
    kv_tokens: int
    distinct_kv_tokens: int
    prefill_tokens: int = 0
    attention_pairs: int = 0
    loaded_tokens: int = 0
    num_gone: int = 0
    rows: list[Row] = field(default_factory=list)
    loose: list[Request] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Requests in the step."""
        return self.num_decoding + len(self.rows) + self.num_gone

    @property
    def num_tokens(self) -> int:
        """Tokens computed in the step."""
        return self.prefill_tokens + self.decode_seqs
