"""How vLLM's V1 scheduler composes a step: plain Python, no clock.

Rules and names are those of vLLM 0.32.0, ``vllm/v1/core/sched/scheduler.py`` (S), ``async_scheduler.py`` and
``kv_cache_manager.py``; where 0.26.0 or older differs, the version is named. Speculative decoding, LoRA,
multi-modal inputs and KV connectors are left out. What `sim.retention` adds is not in vLLM.
"""

from __future__ import annotations

import heapq
from collections import deque
from operator import attrgetter

from sim.decoding import Decoding
from sim.kv import BlockPool, Found, Prefixes
from sim.request import Batch, Request, Row
from sim.retention import LRU, CpuTier, FarthestFirst, Offloaded, Pins, Retention, TtlPin, Upcoming
from sim.settings import EngineSettings

#: Where two requests do the same thing in one step, the one admitted first comes first.
_by_admission = attrgetter("admitted")


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


class _WatchedQueue(Queue):
    """A queue that tells what those who wait in it will read."""

    def __init__(self, by_priority: bool, upcoming: Upcoming) -> None:
        super().__init__(by_priority)
        self._upcoming = upcoming

    def pop(self) -> Request:
        request = super().pop()
        self._upcoming.leave(request.keys)
        return request

    def add(self, request: Request) -> None:
        self._upcoming.wait(request.keys)
        super().add(request)

    def put_back(self, request: Request) -> None:
        self._upcoming.wait(request.keys)
        super().put_back(request)

    def remove(self, request: Request) -> None:
        super().remove(request)
        self._upcoming.leave(request.keys)


class Scheduler:
    """The waiting and the running requests of one engine, and its KV blocks.

    `schedule` composes a step, `update` takes in its result. Without asynchronous scheduling they alternate;
    with it the next step is scheduled before the result of the one that runs is in. ``pins`` and ``upcoming`` are
    None unless the retention has them. ``prefix_queries`` and ``prefix_hits`` are those of `sim.signals`.
    """

    def __init__(self, settings: EngineSettings, retention: Retention = LRU, cpu_tier: CpuTier | None = None) -> None:
        self._settings = settings
        self._block_size = settings.block_size
        self._by_priority = settings.scheduling_policy == "priority"
        self.prefixes = Prefixes(settings.block_size)
        self.pins = Pins(retention.tau_s) if isinstance(retention, TtlPin) and retention.tau_s > 0 else None
        self.upcoming = Upcoming() if isinstance(retention, FarthestFirst) else None
        self._cpu_tier = cpu_tier
        self._empty_cache()
        self._watermark = int(settings.watermark * settings.num_gpu_blocks)
        self.waiting = (
            _WatchedQueue(self._by_priority, self.upcoming) if self.upcoming is not None else Queue(self._by_priority)
        )
        self.running: list[Request] = []
        self._lag = int(settings.async_scheduling)
        self._decoding = Decoding(settings.block_size, self._lag)
        self._others: dict[Request, None] = {}
        self._under_way: list[Batch] = []
        self._num_admitted = 0
        self.prefix_queries = self.prefix_hits = 0

    def add(self, request: Request) -> None:
        """Queue a request that `EngineSettings.refusal` has nothing against."""
        if self._settings.enable_prefix_caching:
            if request.content:
                request.keys = self.prefixes.keys(request.content)
            else:
                request.keys = self.prefixes.keys((*request.prompt, request.answer))
        self.waiting.add(request)

    def schedule(self) -> Batch:
        """Compose the next step (``S.schedule``); its tokens count as computed from now on."""
        preempted: list[Request] = []
        threshold = self._long_prefill_threshold()
        for request in self._decoding.ending():
            self._leave(request)
        rows = self._plan(threshold)
        if rows is None:
            rows, budget = self._schedule_running(preempted, threshold)
        else:
            budget = self._carry_out(rows)
        decoding = self._decoding
        batch = Batch(preempted, len(decoding), decoding.clock, len(decoding), decoding.kv_tokens, 0)
        # S.schedule: a step that preempted a request admits none.
        if self.waiting and not preempted:
            batch.loaded_tokens = self._schedule_waiting(rows, budget, threshold)
        self._fill(batch, rows)
        self._under_way.append(batch)
        return batch

    def update(self, batch: Batch, now_s: float = 0.0) -> tuple[list[Request], list[Request]]:
        """The step is done (``S.update_from_output``): whose counters grew, and who has finished.

        Members of `Decoding` grow too, without being named: none of them gets its first or its last token.
        """
        self._under_way.remove(batch)
        grown = [row.request for row in batch.rows if self._take_output(row.request, row.num_new, row.samples)]
        grown += [request for request in batch.loose if self._take_output(request, 1, True)]
        finished = [request for request in grown if request.num_output_tokens == request.answer.num_tokens]
        for request in sorted(finished, key=_by_admission):
            if request.running:
                self.running.remove(request)
                del self._others[request]
                if self.pins is not None:
                    self.pins.pin(self.pool, request.session, request.blocks, now_s)
                self._free(request)
            else:
                self.waiting.remove(request)
        return grown, finished

    def unnamed(self, batch: Batch) -> list[Request]:
        """The members of `Decoding` that got a token in the batch just updated, which `update` does not name."""
        return [r for r in self.running if r in self._decoding and r.joined < batch.clock]

    def abort(self, request: Request) -> None:
        """Forget a request that was added and has not finished (``S.finish_requests``); call it before `schedule`.

        Its blocks are free at once; what a step under way computes for it is computed in vain.
        """
        # Those who stay join again in the next step, as after a preemption.
        for member in self._decoding.leave_all():
            self._leave(member)
        for batch in self._under_way:
            rows = [row for row in batch.rows if row.request is not request]
            batch.num_gone += len(batch.rows) - len(rows)
            batch.rows = rows
            batch.loose = [loose for loose in batch.loose if loose is not request]
        if request.running:
            self.running.remove(request)
            del self._others[request]
            self._free(request)
        else:
            self.waiting.remove(request)

    def reset_prefix_cache(self) -> bool:
        """Let nothing that is cached be found any more; False, and nothing done, while a request runs."""
        if self.running:
            return False
        self._empty_cache()
        if not self.waiting and not self.upcoming:
            self.prefixes = Prefixes(self._block_size)
        return True

    def release(self, session: int) -> None:
        """The session is over: nothing is kept for it any more."""
        if self.pins is not None:
            self.pins.end(self.pool, session)
        if self.upcoming is not None:
            self.upcoming.forget(session)

    def all_rows(self, batch: Batch) -> list[tuple[Request, int, int]]:
        """(request, tokens, tokens computed before) of the batch just scheduled, in vLLM's order."""
        rows = {row.request: (row.request, row.num_new, row.num_computed) for row in batch.rows}
        decoding = ((r, 1, r.offset + batch.clock - 1) for r in self.running if r in self._decoding and r not in rows)
        rows |= {row[0]: row for row in decoding}
        return [rows[request] for request in self.running if request in rows]

    def repeats(self, batch: Batch) -> int:
        """How many more times `schedule` would compose the batch just scheduled, if nothing arrives.

        Zero unless every running request decodes in it. Then it ends with the first answer that ends, with the
        blocks, or where a waiting request could get in.
        """
        if batch.rows or self._others or not batch.num_decoding or self._can_admit():
            return 0
        return self._decoding.steps_until(self.pool.num_free_blocks)

    def skip(self, batch: Batch, count: int) -> Batch:
        """The batch after `update` and `schedule` so many times more; not more than `repeats` said."""
        filled = self._decoding.advance(count - 1, self.pool)
        # Where several fill the same block of the same prefix, who got there first comes first.
        for request in sorted(filled, key=lambda request: (-request.offset, request.admitted)):
            self._register(request, self._decoding.num_known_tokens(request))
        batch.clock = self._decoding.clock
        self._under_way = [batch] * self._lag
        return self.schedule()

    def _empty_cache(self) -> None:
        """A pool in which nothing is held, cached or pinned, and an empty tier."""
        settings, tier = self._settings, self._cpu_tier
        self._offloaded = Offloaded(tier.num_blocks) if tier else None
        on_evicted = self._offloaded.put if self._offloaded is not None else None
        self.pool = BlockPool(settings.num_gpu_blocks, settings.frees_unhashed_first, self.upcoming, on_evicted)
        if self.pins is not None:
            self.pins.clear()

    def _can_admit(self) -> bool:
        """Whether a waiting request may get in although nobody ends.

        One that lacks blocks does not, as free blocks only get fewer; unless somebody generates a block of its
        prompt, so that it needs fewer.
        """
        settings = self._settings
        if not self.waiting or len(self.running) >= min(settings.max_num_seqs, settings.max_num_batched_tokens):
            return False
        wanted = self.waiting.head().keys
        for request in self.running:
            following = request.keys.path(request.blocks.num_registered)
            if following and following == wanted.path(request.blocks.num_registered):
                return True
        return False

    def _long_prefill_threshold(self) -> int:
        # S.schedule: a request that is alone starves nobody and gets the whole budget (not so in 0.26.0).
        threshold = self._settings.long_prefill_token_threshold
        if threshold and self._settings.exempts_lone_prefill and len(self.running) + len(self.waiting) == 1:
            return 0
        return threshold

    def _plan(self, threshold: int) -> dict[Request, tuple[int, int]] | None:
        """Rows of the running requests that are no members of `Decoding`; None where blocks do not suffice for all.

        The members need not wait for their turn: a request is admitted only if all before it got what they wanted,
        and no running request ever wants more than it did, so a member always gets its one token.
        """
        rows, needed = {}, self._decoding.blocks_needed()
        budget = self._settings.max_num_batched_tokens - len(self._decoding)
        for request in sorted(self._others, key=_by_admission) if self._others else ():
            num_new = self._num_new(request, budget, threshold)
            if num_new:
                rows[request] = (num_new, request.num_computed_tokens)
                budget -= num_new
                needed += self._num_blocks(request.num_computed_tokens + num_new) - request.blocks.num_blocks
        while self.pins and needed > self.pool.num_free_blocks:
            self.pins.end_first(self.pool)
        return rows if needed <= self.pool.num_free_blocks else None

    def _carry_out(self, rows: dict[Request, tuple[int, int]]) -> int:
        """Blocks for all members of `Decoding` and for the planned rows; returns the budget that is left."""
        budget = self._settings.max_num_batched_tokens - len(self._decoding)
        known: dict[Request, int] = {}
        for request, (num_new, computed) in rows.items():
            taken = self._take_blocks(request, num_new)
            assert taken
            known[request] = min(num_new + computed, request.num_tokens)
            budget -= num_new
        for request in self._decoding.advance(1, self.pool):
            known[request] = self._decoding.num_known_tokens(request)
        # Which of two blocks with the same content is found depends on who came first.
        for request in sorted(known, key=_by_admission):
            self._register(request, known[request])
        return budget

    def _leave(self, request: Request) -> None:
        """The counters of a request that was a member of `Decoding` until now."""
        request.num_computed_tokens = request.offset + self._decoding.clock
        request.num_output_placeholders = self._lag
        request.num_tokens = request.num_computed_tokens + 1 - self._lag
        request.num_output_tokens = request.num_tokens - request.num_prompt_tokens
        for batch in self._under_way:
            if request.joined < batch.clock:
                batch.loose.append(request)
                request.num_in_flight_tokens += 1
        self._others[request] = None

    def _schedule_running(self, preempted: list[Request], threshold: int) -> tuple[dict[Request, tuple[int, int]], int]:
        """Running requests first, one by one in the order of their admission; returns rows and the budget left."""
        for request in self._decoding.leave_all():
            self._leave(request)
        self._decoding.clock += 1
        rows: dict[Request, tuple[int, int]] = {}
        budget, index = self._settings.max_num_batched_tokens, 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            index += 1
            num_new = self._num_new(request, budget, threshold)
            if num_new == 0:
                continue
            while not self._allocate(request, num_new):
                victim = self._victim()
                came_before = self.running.index(victim) < index - 1
                self._preempt(victim)
                preempted.append(victim)
                if victim is request:
                    return rows, budget
                given_back, _ = rows.pop(victim, (0, 0))
                budget += given_back
                if given_back or (came_before and not self._settings.skips_after_idle_victim):
                    index -= 1
            rows[request] = (num_new, request.num_computed_tokens)
            budget -= num_new
        return rows, budget

    def _num_new(self, request: Request, budget: int, threshold: int) -> int:
        in_flight = request.num_output_placeholders
        if in_flight and request.num_tokens + in_flight >= request.max_num_tokens:
            # Async scheduling: the step under way brings the last token.
            return 0
        num_new = request.num_tokens + in_flight - request.num_computed_tokens
        return min(num_new, threshold or num_new, budget)

    def _victim(self) -> Request:
        """Who is preempted: the request admitted last, or under priority the one that is least urgent."""
        return max(self.running) if self._by_priority else self.running[-1]

    def _preempt(self, victim: Request) -> None:
        """Preemption by recompute (``S._preempt_request``): all blocks back, nothing computed, head of the queue."""
        self.running.remove(victim)
        del self._others[victim]
        self._free(victim)
        victim.num_computed_tokens = 0
        victim.num_stale_output_tokens = victim.num_in_flight_tokens
        victim.num_output_placeholders = 0
        victim.num_preemptions += 1
        self.waiting.put_back(victim)

    def _schedule_waiting(self, rows: dict[Request, tuple[int, int]], budget: int, threshold: int) -> int:
        """Admit from the head of the queue; the first that does not fit stops all behind it.

        Returns how many tokens are to be loaded from the CPU tier.
        """
        settings, loaded_blocks = self._settings, 0
        while self.waiting and budget > 0 and len(self.running) < settings.max_num_seqs:
            request = self.waiting.head()
            # The step that preempts admits none, so with two batches in the queue its tokens from before the
            # preemption have all come back; vLLM's rule for a deeper queue is not needed.
            assert not request.num_stale_output_tokens
            limit = (request.num_tokens - 1) // self._block_size
            found, offloaded = self.pool.find(request.keys, limit), 0
            if self._offloaded is not None:
                offloaded = self._offloaded.num_found(request.keys, found.num_blocks, limit)
            computed = (found.num_blocks + offloaded) * self._block_size
            num_new = request.num_tokens - computed
            num_new = min(num_new, threshold or num_new)
            # Without chunked prefill a prompt waits until it fits whole.
            if num_new > budget and not settings.enable_chunked_prefill:
                break
            num_new = min(num_new, budget)
            if not self._admit(request, found, offloaded, num_new):
                if self.running or not self.pins:
                    break
                self.pins.end_first(self.pool)
                continue
            loaded_blocks += offloaded
            if self.pins is not None:
                self.pins.end(self.pool, request.session)
            self.running.append(self.waiting.pop())
            self._others[request] = None
            request.admitted = self._num_admitted = self._num_admitted + 1
            rows[request] = (num_new, computed)
            budget -= num_new
        return loaded_blocks * self._block_size

    def _admit(self, request: Request, found: Found, offloaded: int, num_new: int) -> bool:
        """``KVCacheManager.allocate_slots`` for a waiting request; ``offloaded`` of its blocks are in the CPU tier."""
        computed = (found.num_blocks + offloaded) * self._block_size
        # scheduler_reserve_full_isl: all tokens known so far must fit, not only the first chunk.
        reserved = request.num_tokens if self._settings.scheduler_reserve_full_isl else computed + num_new
        needed = self._num_blocks(reserved) - found.num_blocks + found.num_free
        if needed + (self._watermark if self.running else 0) > self.pool.num_free_blocks:
            return False
        self.pool.share(request.blocks, found)
        if self._offloaded is not None and offloaded:
            stop = found.num_blocks + offloaded
            # They leave the tier first: what is evicted for them could push them out.
            self._offloaded.remove(request.keys, found.num_blocks, stop)
            self.pool.take(request.blocks, offloaded)
            self.pool.register(request.blocks, request.keys, stop)
        if self._settings.enable_prefix_caching and not request.num_preemptions:
            # S.schedule, `record_prefix_cache_stats`: what a connector loads is counted elsewhere.
            self.prefix_queries += request.num_tokens
            self.prefix_hits += found.num_blocks * self._block_size
        request.num_computed_tokens = computed
        request.running = True
        if request.num_cached_tokens is None:
            request.num_cached_tokens = computed
        allocated = self._allocate(request, num_new)
        assert allocated
        return True

    def _allocate(self, request: Request, num_new: int) -> bool:
        """Blocks for the tokens computed after this step, or False if the pool has too few."""
        if not self._take_blocks(request, num_new):
            return False
        # A block can be found from the moment it is scheduled, before it is computed, so that a later
        # request of the same step hits it already.
        self._register(request, min(request.num_computed_tokens + num_new, request.num_tokens))
        return True

    def _take_blocks(self, request: Request, num_new: int) -> bool:
        needed = self._num_blocks(request.num_computed_tokens + num_new) - request.blocks.num_blocks
        if needed > self.pool.num_free_blocks:
            return False
        if needed > 0:
            self.pool.take(request.blocks, needed)
        return True

    def _register(self, request: Request, num_tokens: int) -> None:
        """Let the blocks that are full with the first ``num_tokens`` be found from now on."""
        full = num_tokens // self._block_size
        if request.blocks.num_registered < full <= request.keys.num_blocks:
            self.pool.register(request.blocks, request.keys, full)

    def _fill(self, batch: Batch, computed: dict[Request, tuple[int, int]]) -> None:
        """Count the rows' tokens as computed (``S._update_after_schedule``) and add up the step's sums."""
        batch.distinct_kv_tokens = -self._block_size * self._num_shared(computed)
        for request, (num_new, before) in computed.items():
            row = _advance(request, num_new, before)
            batch.rows.append(row)
            batch.kv_tokens += before + num_new
            if row.is_decode:
                batch.decode_seqs += 1
            else:
                batch.prefill_tokens += num_new
                batch.attention_pairs += num_new * before + num_new * (num_new + 1) // 2
            if row.samples and request.num_computed_tokens < request.max_num_tokens - 1:
                self._decoding.join(request)
                del self._others[request]
        batch.distinct_kv_tokens += batch.kv_tokens

    def _num_shared(self, rows: dict[Request, tuple[int, int]]) -> int:
        """Blocks that rows of the step read beyond the first row that reads each."""
        if not self.pool.num_shared or len(rows) == len(self._others):
            return self.pool.num_shared
        return self.pool.num_shared_without(request.blocks for request in self._others if request not in rows)

    def _take_output(self, request: Request, num_new: int, samples: bool) -> bool:
        request.num_in_flight_tokens -= num_new
        stale = request.num_stale_output_tokens > 0
        if stale:
            request.num_stale_output_tokens -= num_new
        if not samples:
            return False
        request.num_tokens += 1
        request.num_output_tokens += 1
        if not stale:
            request.num_output_placeholders -= 1
        if request.running and request in self._others:
            # AsyncScheduler: a generated token can be cached only now; otherwise it was when scheduled.
            self._register(request, request.num_computed_tokens - request.num_output_placeholders)
        return True

    def _free(self, request: Request) -> None:
        self.pool.free(request.blocks)
        request.running = False

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)


def _advance(request: Request, num_new: int, num_computed: int) -> Row:
    request.num_computed_tokens += num_new
    request.num_in_flight_tokens += num_new
    samples = request.num_computed_tokens == request.num_tokens + request.num_output_placeholders
    if samples:
        request.num_output_placeholders += 1
    return Row(request, num_new, num_computed, samples)
