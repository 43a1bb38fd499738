"""The requests that decode in every step, advanced as one.

A step adds one token to each of them, so what a step costs does not have to grow with their number, nor what a run of
steps costs with its length: a clock counts steps, a request's computed tokens are its offset plus the clock, and only
those are looked at that need a block, fill one, or end.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

from sim.kv import BlockPool
from sim.request import Request

#: Members by the step, modulo the block size, in which it is their turn.
_Ring = defaultdict[int, dict[Request, None]]


class Decoding:
    """Members by the step in which they need a block, fill one, and end.

    ``lag``: how many of a request's tokens are under way when a step is composed (1 with asynchronous scheduling); its
    full blocks can be found that much later. ``kv_tokens`` is the sum of the members' computed tokens.
    """

    def __init__(self, block_size: int, lag: int) -> None:
        self.clock = 0
        self.kv_tokens = 0
        self._size = block_size
        self._lag = lag
        self._members: dict[Request, None] = {}
        self._grow: _Ring = defaultdict(dict)
        self._fill: _Ring = defaultdict(dict)
        self._ends: list[tuple[int, int, Request]] = []

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, request: Request) -> bool:
        return request in self._members

    def join(self, request: Request) -> None:
        """From the next step on the request decodes one token a step."""
        request.joined = self.clock
        request.offset = offset = request.num_computed_tokens - self.clock
        self._members[request] = None
        self._grow[(1 - offset) % self._size][request] = None
        if request.keys.num_blocks:
            self._fill[(self._lag - offset) % self._size][request] = None
        heapq.heappush(self._ends, (request.max_num_tokens - 1 - offset, request.admitted, request))
        self.kv_tokens += request.num_computed_tokens

    def ending(self) -> list[Request]:
        """The members whose last token the next step brings, in order of admission; they leave."""
        ending = []
        while self._ends and self._ends[0][0] == self.clock + 1:
            ending.append(heapq.heappop(self._ends)[2])
            self._remove(ending[-1])
        return ending

    def leave_all(self) -> list[Request]:
        """All members leave."""
        members = list(self._members)
        for request in members:
            self._remove(request)
        self._ends.clear()
        return members

    def blocks_needed(self) -> int:
        """Blocks that the members need for the next step."""
        return len(self._grow.get((self.clock + 1) % self._size, ()))

    def steps_until(self, free_blocks: int) -> int:
        """Steps up to the one that ends the first answer, as far as there are blocks."""
        steps = self._ends[0][0] - self.clock
        # In block_size steps every member needs one block.
        rounds = min(steps // self._size, free_blocks // len(self))
        free_blocks -= rounds * len(self)
        for step in range(rounds * self._size + 1, steps + 1):
            free_blocks -= len(self._grow.get((self.clock + step) % self._size, ()))
            if free_blocks < 0:
                return step - 1
        return steps

    def advance(self, steps: int, pool: BlockPool) -> list[Request]:
        """So many steps for all members, with their blocks; returns those with full blocks to register."""
        after = self.clock + 1
        self.clock += steps
        self.kv_tokens += steps * len(self._members)
        for members, count in self._turns(self._grow, after, steps):
            for request in members:
                pool.take(request.blocks, count)
        return [request for members, _ in self._turns(self._fill, after, steps) for request in members]

    def num_known_tokens(self, request: Request) -> int:
        """Tokens of a member whose blocks can be found: those whose content is known."""
        return request.offset + self.clock - self._lag

    def _turns(self, ring: _Ring, after: int, steps: int) -> Iterator[tuple[dict[Request, None], int]]:
        """Members whose turn comes in the steps from ``after`` on, and how often."""
        rounds, rest = divmod(steps, self._size)
        for step in range(self._size if rounds else rest):
            members = ring.get((after + step) % self._size)
            if members:
                yield members, rounds + (step < rest)

    def _remove(self, request: Request) -> None:
        del self._members[request]
        del self._grow[(1 - request.offset) % self._size][request]
        self._fill[(self._lag - request.offset) % self._size].pop(request, None)
        self.kv_tokens -= request.offset + self.clock
