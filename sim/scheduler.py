"""How vLLM's V1 scheduler composes a step: plain Python, no clock.

Rules and names are those of vLLM 0.32.0, ``vllm/v1/core/sched/scheduler.py`` (S), ``async_scheduler.py`` and
``kv_cache_manager.py``; where 0.26.0 or older differs, the version is named. Speculative decoding, LoRA,
multi-modal inputs and KV connectors are left out.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field, replace

from sim.kv import BlockPool, Prefixes
from sim.latency import EngineSettings
from sim.workflow import Segment


@dataclass(slots=True, eq=False)
class Request:
    """One call inside the engine. ``num_tokens`` counts the prompt and the tokens that have come back.

    ``keys`` name the full blocks of prompt and answer; ``num_cached_tokens`` is None before admission. With
    asynchronous scheduling ``num_output_placeholders`` tokens are computed but not back yet, and after a
    preemption ``num_stale_tokens`` of the tokens in flight belong to the time before it.
    """

    prompt: tuple[Segment, ...]
    answer: Segment
    priority: int = 0
    arrival_s: float = 0.0
    number: int = 0
    num_prompt_tokens: int = field(init=False)
    num_tokens: int = field(init=False)
    keys: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_output_tokens: int = 0
    num_output_placeholders: int = 0
    num_in_flight_tokens: int = 0
    num_stale_tokens: int = 0
    num_cached_tokens: int | None = None
    num_preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    num_registered: int = 0
    running: bool = False

    def __post_init__(self) -> None:
        self.num_prompt_tokens = self.num_tokens = sum(segment.num_tokens for segment in self.prompt)

    def __lt__(self, other: Request) -> bool:
        """Sooner in the queue of `--scheduling-policy priority` (``Request.__lt__``)."""
        return (self.priority, self.arrival_s, self.number) < (other.priority, other.arrival_s, other.number)

    @property
    def max_num_tokens(self) -> int:
        """Prompt and whole answer."""
        return self.num_prompt_tokens + self.answer.num_tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One request's share of a step: tokens to compute, tokens computed before, and whether one comes out."""

    request: Request
    num_new: int
    num_computed: int
    samples: bool

    @property
    def is_decode(self) -> bool:
        """Feeds back the newest token; every other row computes known tokens, which is prefill."""
        return self.num_new == 1 and self.num_computed >= self.request.num_prompt_tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: its rows in order, who was preempted for it, and the sums that its time depends on.

    Each row reads the KV of its context once; a prefill chunk of n tokens after c computed ones attends to
    n * c + n * (n + 1) / 2 pairs.
    """

    rows: tuple[Row, ...]
    preempted: tuple[Request, ...]
    prefill_tokens: int
    decode_seqs: int
    kv_tokens: int
    attention_pairs: int


class Queue:
    """The waiting requests: first come, first served, or by priority (``request_queue.py``)."""

    def __init__(self, by_priority: bool) -> None:
        self._by_priority = by_priority
        self._fcfs: deque[Request] = deque()
        self._heap: list[Request] = []

    def __len__(self) -> int:
        return len(self._fcfs) + len(self._heap)

    def head(self) -> Request:
        """The next request."""
        return self._heap[0] if self._by_priority else self._fcfs[0]

    def pop(self) -> Request:
        """Take the next request."""
        return heapq.heappop(self._heap) if self._by_priority else self._fcfs.popleft()

    def add(self, request: Request) -> None:
        """A request arrives."""
        if self._by_priority:
            heapq.heappush(self._heap, request)
        else:
            self._fcfs.append(request)

    def put_back(self, request: Request) -> None:
        """A request returns to the front; under priority to where it belongs."""
        if self._by_priority:
            heapq.heappush(self._heap, request)
        else:
            self._fcfs.appendleft(request)

    def remove(self, request: Request) -> None:
        """A request ends while it waits."""
        if self._by_priority:
            self._heap.remove(request)
            heapq.heapify(self._heap)
        else:
            self._fcfs.remove(request)


class Scheduler:
    """The waiting and the running requests of one engine, and its KV blocks.

    `schedule` composes a step, `update` takes in its result. Without asynchronous scheduling they alternate;
    with it the next step is scheduled before the result of the one that runs is in.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._by_priority = settings.scheduling_policy == "priority"
        self.prefixes = Prefixes(settings.block_size)
        self.pool = BlockPool(settings.num_gpu_blocks, settings.frees_unhashed_first)
        self._watermark = int(settings.watermark * settings.num_gpu_blocks)
        self.waiting = Queue(self._by_priority)
        self.running: list[Request] = []

    def refusal(self, request: Request) -> str | None:
        """Why the request can never run, or None."""
        total, limit = request.max_num_tokens, self._settings.max_model_len
        if total > limit:
            return f"prompt and answer have {total} tokens, max_model_len is {limit}"
        # The last token's KV is never written. The watermark never holds back a request that is alone.
        blocks, usable = self._num_blocks(total - 1), self.pool.num_usable_blocks
        if blocks > usable:
            return f"needs {blocks} KV blocks, the pool has {usable}"
        return None

    def add(self, request: Request) -> None:
        """Queue a request that `refusal` has nothing against."""
        if self._settings.enable_prefix_caching:
            request.keys = self.prefixes.keys((*request.prompt, request.answer))
        self.waiting.add(request)

    def schedule(self) -> Batch:
        """Compose the next step (``S.schedule``); its tokens count as computed from now on."""
        rows: dict[Request, tuple[int, int]] = {}
        preempted: list[Request] = []
        threshold = self._long_prefill_threshold()
        budget = self._schedule_running(rows, preempted, threshold)
        # S.schedule: a step that preempted a request admits none.
        if not preempted:
            self._schedule_waiting(rows, budget, threshold)
        return self._batch(rows, preempted)

    def update(self, batch: Batch) -> tuple[list[Request], list[Request]]:
        """The step is done (``S.update_from_output``): who got a token, and who of them has finished."""
        grown = [row.request for row in batch.rows if self._take_output(row)]
        finished = [request for request in grown if request.num_output_tokens == request.answer.num_tokens]
        for request in finished:
            if request.running:
                self.running.remove(request)
                self._free(request)
            else:
                self.waiting.remove(request)
        return grown, finished

    def repeats(self, batch: Batch) -> int:
        """How many more times `schedule` would compose the batch just scheduled, if nothing arrives.

        Zero unless every running request decodes in it. Then it ends with the first answer that ends, with the
        blocks, or where a waiting request could get in.
        """
        if batch.prefill_tokens or batch.preempted or len(batch.rows) < len(self.running) or self._can_admit():
            return 0
        requests = [row.request for row in batch.rows]
        left = min(r.max_num_tokens - r.num_tokens - r.num_output_placeholders for r in requests)
        return self._with_blocks(requests, left)

    def repeat(self, batch: Batch, count: int) -> Batch:
        """The batch after `update` and `schedule` so many times; not more than `repeats` said.

        Blocks are alike once they are taken, so it does not matter which request takes which. Which of two with
        the same content is found first does depend on the order in which they filled up.
        """
        size = self._settings.block_size
        filled = []
        for index, row in enumerate(batch.rows):
            request = row.request
            request.num_tokens += count
            request.num_output_tokens += count
            request.num_computed_tokens += count
            needed = self._num_blocks(request.num_computed_tokens) - len(request.blocks)
            if needed:
                request.blocks += self.pool.take(needed)
            for end in range((request.num_registered + 1) * size, request.num_tokens + 1, size):
                filled.append((end - request.num_tokens, index, request, end))
        for _, _, request, end in sorted(filled, key=lambda item: item[:2]):
            self._register(request, end)
        return replace(batch, kv_tokens=batch.kv_tokens + count * len(batch.rows))

    def _can_admit(self) -> bool:
        """Whether a waiting request may get in although nobody ends.

        One that lacks blocks does not, as free blocks only get fewer; unless somebody generates a block of its
        prompt, so that it needs fewer.
        """
        settings = self._settings
        if not self.waiting or len(self.running) >= min(settings.max_num_seqs, settings.max_num_batched_tokens):
            return False
        wanted = self.waiting.head().keys
        following = ((request.keys, request.num_registered) for request in self.running)
        return any(keys[at : at + 1] == wanted[at : at + 1] != [] for keys, at in following)

    def _with_blocks(self, requests: list[Request], steps: int) -> int:
        """The most steps, at most so many, for which there are blocks."""
        free, size = self.pool.num_free_blocks, self._settings.block_size
        if len(requests) * (steps // size + 1) <= free:
            return steps

        def enough(count: int) -> bool:
            return sum(self._num_blocks(r.num_computed_tokens + count) - len(r.blocks) for r in requests) <= free

        return bisect_left(range(1, steps + 1), True, key=lambda count: not enough(count))

    def _long_prefill_threshold(self) -> int:
        # S.schedule: a request that is alone starves nobody and gets the whole budget (not so in 0.26.0).
        alone = self._settings.exempts_lone_prefill and len(self.running) + len(self.waiting) == 1
        return 0 if alone else self._settings.long_prefill_token_threshold

    def _schedule_running(self, rows: dict[Request, tuple[int, int]], preempted: list[Request], threshold: int) -> int:
        """Running requests first, in the order of their admission; returns the budget that is left."""
        budget, index = self._settings.max_num_batched_tokens, 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            index += 1
            num_new = self._num_new(request, budget, threshold)
            if num_new == 0:
                continue
            while not self._allocate(request, num_new):
                victim = self._preempt()
                preempted.append(victim)
                if victim is request:
                    return budget
                given_back, _ = rows.pop(victim, (0, 0))
                budget += given_back
                # Only a victim that stood before the request moves it; one already scheduled always did.
                index = self.running.index(request) + 1
            rows[request] = (num_new, request.num_computed_tokens)
            budget -= num_new
        return budget

    def _num_new(self, request: Request, budget: int, threshold: int) -> int:
        in_flight = request.num_output_placeholders
        if in_flight and request.num_tokens + in_flight >= request.max_num_tokens:
            # Async scheduling: the step under way brings the last token.
            return 0
        num_new = request.num_tokens + in_flight - request.num_computed_tokens
        return min(num_new, threshold or num_new, budget)

    def _preempt(self) -> Request:
        """Preemption by recompute (``S._preempt_request``): all blocks back, nothing computed, head of the queue.

        The victim is the request admitted last, or under priority the one that is least urgent.
        """
        last = max(self.running, key=lambda r: (r.priority, r.arrival_s)) if self._by_priority else self.running[-1]
        self.running.remove(last)
        self._free(last)
        last.num_computed_tokens = 0
        last.num_stale_tokens = last.num_in_flight_tokens
        last.num_output_placeholders = 0
        last.num_preemptions += 1
        self.waiting.put_back(last)
        return last

    def _schedule_waiting(self, rows: dict[Request, tuple[int, int]], budget: int, threshold: int) -> None:
        """Admit from the head of the queue; the first that does not fit stops all behind it."""
        settings = self._settings
        while self.waiting and budget > 0 and len(self.running) < settings.max_num_seqs:
            request = self.waiting.head()
            # The step that preempts admits none, so with two batches in the queue its tokens from before the
            # preemption have all come back; vLLM's rule for a deeper queue is not needed.
            assert not request.num_stale_tokens
            found = self.pool.find(request.keys, (request.num_tokens - 1) // settings.block_size)
            computed = len(found) * settings.block_size
            num_new = request.num_tokens - computed
            num_new = min(num_new, threshold or num_new)
            if num_new > budget and not settings.enable_chunked_prefill:
                break
            num_new = min(num_new, budget)
            if not self._admit(request, found, computed, num_new):
                break
            self.running.append(self.waiting.pop())
            rows[request] = (num_new, computed)
            budget -= num_new

    def _admit(self, request: Request, found: list[int], computed: int, num_new: int) -> bool:
        """``KVCacheManager.allocate_slots`` for a waiting request."""
        # scheduler_reserve_full_isl: all tokens known so far must fit, not only the first chunk.
        reserved = request.num_tokens if self._settings.scheduler_reserve_full_isl else computed + num_new
        needed = self._num_blocks(reserved) - len(found) + self.pool.num_unheld(found)
        if needed + (self._watermark if self.running else 0) > self.pool.num_free_blocks:
            return False
        self.pool.share(found)
        request.blocks = found
        request.num_registered = len(found)
        request.num_computed_tokens = computed
        request.running = True
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
        # A block can be found from the moment it is scheduled, before it is computed, so that a later
        # request of the same step hits it already.
        self._register(request, min(total, request.num_tokens))
        return True

    def _register(self, request: Request, num_tokens: int) -> None:
        full = min(num_tokens // self._settings.block_size, len(request.keys))
        for index in range(request.num_registered, full):
            self.pool.register(request.blocks[index], request.keys[index])
        request.num_registered = max(request.num_registered, full)

    def _batch(self, computed: dict[Request, tuple[int, int]], preempted: list[Request]) -> Batch:
        """Count the step's tokens as computed (``S._update_after_schedule``) and add up its sums."""
        rows = tuple(_advance(request, *counts) for request, counts in computed.items())
        prefills = [row for row in rows if not row.is_decode]
        return Batch(
            rows,
            tuple(preempted),
            prefill_tokens=sum(row.num_new for row in prefills),
            decode_seqs=len(rows) - len(prefills),
            kv_tokens=sum(row.num_computed + row.num_new for row in rows),
            attention_pairs=sum(
                row.num_new * row.num_computed + row.num_new * (row.num_new + 1) // 2 for row in prefills
            ),
        )

    def _take_output(self, row: Row) -> bool:
        request = row.request
        request.num_in_flight_tokens -= row.num_new
        stale = request.num_stale_tokens > 0
        if stale:
            request.num_stale_tokens -= row.num_new
        if not row.samples:
            return False
        request.num_tokens += 1
        request.num_output_tokens += 1
        if not stale:
            request.num_output_placeholders -= 1
        if request.running:
            # AsyncScheduler: a generated token can be cached only now; otherwise it was when scheduled.
            self._register(request, request.num_computed_tokens - request.num_output_placeholders)
        return True

    def _free(self, request: Request) -> None:
        self.pool.free(request.blocks)
        request.blocks = []
        request.num_registered = 0
        request.running = False

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._settings.block_size)


def _advance(request: Request, num_new: int, num_computed: int) -> Row:
    request.num_computed_tokens += num_new
    request.num_in_flight_tokens += num_new
    samples = request.num_computed_tokens == request.num_tokens + request.num_output_placeholders
    if samples:
        request.num_output_placeholders += 1
    return Row(request, num_new, num_computed, samples)
