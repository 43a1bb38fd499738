"""How vLLM's V1 scheduler composes a step: plain Python, no clock.

Rules and names are those of ``vllm/v1/core/sched/scheduler.py``, read in 0.32.0 (``Scheduler.schedule``);
synchronous scheduling, ``--scheduling-policy fcfs``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sim.kv import BlockPool, Prefixes
from sim.latency import EngineSettings
from sim.workflow import Segment


@dataclass(slots=True, eq=False)
class Request:
    """One call inside the engine. ``num_tokens`` counts the prompt and what has been generated so far.

    ``keys`` name the full blocks of prompt and answer; ``num_cached_tokens`` is None before admission.
    """

    prompt: tuple[Segment, ...]
    answer: Segment
    num_prompt_tokens: int = field(init=False)
    num_tokens: int = field(init=False)
    keys: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int | None = None
    num_preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    num_registered: int = 0

    def __post_init__(self) -> None:
        self.num_prompt_tokens = self.num_tokens = sum(segment.num_tokens for segment in self.prompt)

    @property
    def max_num_tokens(self) -> int:
        """Prompt and whole answer."""
        return self.num_prompt_tokens + self.answer.num_tokens


@dataclass(slots=True)
class Batch:
    """One step: ``rows`` are (request, tokens to compute, tokens computed before), and their sums."""

    rows: list[tuple[Request, int, int]]
    preempted: list[Request]
    prefill_tokens: int = 0
    decode_seqs: int = 0
    kv_tokens: int = 0
    attention_pairs: int = 0

    def add_up(self) -> Batch:
        """Fill in the sums that the step time depends on.

        A row that feeds back its newest token is a decode; every other one computes known tokens: prefill.
        Each row reads the KV of its context once; a prefill chunk of n tokens after c computed ones
        attends to n * c + n * (n + 1) / 2 pairs.
        """
        for request, num_new, computed in self.rows:
            self.kv_tokens += computed + num_new
            if request.num_output_tokens and num_new == 1:
                self.decode_seqs += 1
            else:
                self.prefill_tokens += num_new
                self.attention_pairs += num_new * computed + num_new * (num_new + 1) // 2
        return self


class Scheduler:
    """The waiting and the running requests of one engine, and its KV blocks."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.prefixes = Prefixes(settings.block_size)
        self.pool = BlockPool(settings.num_gpu_blocks, settings.frees_unhashed_first)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def refusal(self, request: Request) -> str | None:
        """Why the request can never run, or None."""
        total, limit = request.max_num_tokens, self._settings.max_model_len
        if total > limit:
            return f"prompt and answer have {total} tokens, max_model_len is {limit}"
        # The last token's KV is never written.
        blocks, usable = self._num_blocks(total - 1), self.pool.num_usable_blocks
        if blocks > usable:
            return f"needs {blocks} KV blocks, the pool has {usable}"
        return None

    def add(self, request: Request) -> None:
        """Queue a request that `refusal` has nothing against."""
        if self._settings.enable_prefix_caching:
            request.keys = self.prefixes.keys((*request.prompt, request.answer))
        self.waiting.append(request)

    def schedule(self) -> Batch:
        """Compose the next step and count its tokens as computed (``_update_after_schedule``)."""
        batch = Batch([], [])
        budget = self._schedule_running(batch, self._settings.max_num_batched_tokens)
        # vLLM admits no waiting request in a step that preempted one.
        if not batch.preempted:
            self._schedule_waiting(batch, budget)
        batch.add_up()
        for request, num_new, _ in batch.rows:
            request.num_computed_tokens += num_new
        return batch

    def update(self, batch: Batch) -> tuple[list[Request], list[Request]]:
        """The step is done (``update_from_output``): who got a token, and who of them has finished."""
        grown = [request for request, _, _ in batch.rows if request.num_computed_tokens == request.num_tokens]
        for request in grown:
            request.num_tokens += 1
            request.num_output_tokens += 1
        finished = [request for request in grown if request.num_output_tokens == request.answer.num_tokens]
        for request in finished:
            self.running.remove(request)
            self._free(request)
        return grown, finished

    def _schedule_running(self, batch: Batch, budget: int) -> int:
        """Running requests first, in the order of their admission; returns the budget that is left."""
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            num_new = min(request.num_tokens - request.num_computed_tokens, budget)
            if not self._grow(request, num_new, batch):
                break
            batch.rows.append((request, num_new, request.num_computed_tokens))
            budget -= num_new
            index += 1
        return budget

    def _grow(self, request: Request, num_new: int, batch: Batch) -> bool:
        """Give a running request its blocks; preempt from the back until they are there or it is gone."""
        while not self._allocate(request, num_new):
            victim = self.running.pop()
            self._preempt(victim)
            batch.preempted.append(victim)
            if victim is request:
                return False
        return True

    def _schedule_waiting(self, batch: Batch, budget: int) -> None:
        """Admit from the head of the queue; the first that does not fit stops all behind it."""
        settings = self._settings
        while self.waiting and budget > 0 and len(self.running) < settings.max_num_seqs:
            request = self.waiting[0]
            found = self.pool.find(request.keys, (request.num_tokens - 1) // settings.block_size)
            computed = len(found) * settings.block_size
            num_new = min(request.num_tokens - computed, budget)
            if not self._admit(request, found, computed, num_new):
                break
            self.running.append(self.waiting.popleft())
            batch.rows.append((request, num_new, computed))
            budget -= num_new

    def _admit(self, request: Request, found: list[int], computed: int, num_new: int) -> bool:
        reserved = request.num_tokens if self._settings.scheduler_reserve_full_isl else computed + num_new
        needed = self._num_blocks(reserved) - len(found) + self.pool.num_unheld(found)
        if needed > self.pool.num_free_blocks:
            return False
        self.pool.share(found)
        request.blocks = found
        request.num_registered = len(found)
        request.num_computed_tokens = computed
        if request.num_cached_tokens is None:
            request.num_cached_tokens = computed
        allocated = self._allocate(request, num_new)
        assert allocated
        return True

    def _allocate(self, request: Request, num_new: int) -> bool:
        """Blocks for the tokens computed after this step, or False if the pool has too few."""
        total = request.num_computed_tokens + num_new
        needed = self._num_blocks(total) - len(request.blocks)
        if needed > self.pool.num_free_blocks:
            return False
        if needed > 0:
            request.blocks += self.pool.take(needed)
        self._register(request, total)
        return True

    def _register(self, request: Request, num_tokens: int) -> None:
        # A block can be found from the moment it is scheduled, before it is computed, so that a later
        # request of the same step hits it already.
        full = min(num_tokens // self._settings.block_size, len(request.keys))
        for index in range(request.num_registered, full):
            self.pool.register(request.blocks[index], request.keys[index])
        request.num_registered = max(request.num_registered, full)

    def _preempt(self, request: Request) -> None:
        """Preemption by recompute: all blocks back, nothing computed, head of the queue."""
        self._free(request)
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        self.waiting.appendleft(request)

    def _free(self, request: Request) -> None:
        self.pool.free(request.blocks)
        request.blocks = []
        request.num_registered = 0

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._settings.block_size)
