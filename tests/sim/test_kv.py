"""The pool by extents does what a pool block by block does."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.kv import BlockPool, Holding, Prefixes
from sim.workflow import Segment

BLOCK = 2


class Blocks:
    """vLLM's pool as its source tells it: one queue of blocks, each with what it contains and how many hold it."""

    def __init__(self, num_gpu_blocks, unhashed_first):
        self.unhashed_first = unhashed_first
        self.queue = list(range(1, num_gpu_blocks))
        self.content = {}
        self.cached = defaultdict(list)
        self.holders = defaultdict(int)

    def find(self, keys, limit):
        found = []
        for index in range(min(limit, keys.num_blocks)):
            copies = self.cached[keys.path(index), index]
            if not copies:
                break
            found.append(copies[0])
        return found

    def share(self, blocks):
        for block in blocks:
            if not self.holders[block]:
                self.queue.remove(block)
            self.holders[block] += 1

    def take(self, count):
        taken = [self.queue.pop(0) for _ in range(count)]
        for block in taken:
            self.holders[block] = 1
            if block in self.content:
                self.cached[self.content.pop(block)].remove(block)
        return taken

    def register(self, block, path, index):
        self.content[block] = (path, index)
        self.cached[path, index].append(block)

    def free(self, blocks):
        for block in reversed(blocks):
            self.holders[block] -= 1
            if self.holders[block]:
                continue
            if self.unhashed_first and block not in self.content:
                self.queue.insert(0, block)
            else:
                self.queue.append(block)


class Both:
    """Requests in both pools at once; every step asserts that one cannot be told from the other."""

    def __init__(self, num_gpu_blocks, unhashed_first):
        self.prefixes = Prefixes(BLOCK)
        self.pool = BlockPool(num_gpu_blocks, unhashed_first)
        self.blocks = Blocks(num_gpu_blocks, unhashed_first)
        self.requests = []

    def admit(self, segments, limit, more):
        """A request that computes again what lies beyond its hits, at most ``limit`` of them, and so has copies."""
        keys = self.prefixes.keys(segments)
        found = self.blocks.find(keys, limit)
        free = sum(block in self.blocks.queue for block in found)
        extents = self.pool.find(keys, limit)
        assert (extents.num_blocks, extents.num_free) == (len(found), free)
        if free + more > self.pool.num_free_blocks:
            return
        holding = Holding()
        self.pool.share(holding, extents)
        self.blocks.share(found)
        self.requests.append((keys, holding, found))
        self.take(len(self.requests) - 1, more)
        self.register(len(self.requests) - 1, more)

    def take(self, number, count):
        _, holding, blocks = self.requests[number]
        count = min(count, self.pool.num_free_blocks)
        self.pool.take(holding, count)
        blocks += self.blocks.take(count)

    def register(self, number, count):
        keys, holding, blocks = self.requests[number]
        stop = min(holding.num_registered + count, len(blocks), keys.num_blocks)
        for index in range(holding.num_registered, stop):
            self.blocks.register(blocks[index], keys.path(index), index)
        if stop > holding.num_registered:
            self.pool.register(holding, keys, stop)

    def free(self, number):
        _, holding, blocks = self.requests.pop(number)
        self.pool.free(holding)
        self.blocks.free(blocks)

    def assert_equal(self, sequences):
        assert self.pool.num_free_blocks == len(self.blocks.queue)
        assert self.pool.num_shared == sum(max(0, count - 1) for count in self.blocks.holders.values())
        for segments in sequences:
            keys = self.prefixes.keys(segments)
            found = self.blocks.find(keys, 100)
            extents = self.pool.find(keys, 100)
            free = sum(block in self.blocks.queue for block in found)
            assert (extents.num_blocks, extents.num_free) == (len(found), free)
        absent = self.requests[::2]
        held = defaultdict(int)
        for _, _, blocks in self.requests[1::2]:
            for block in blocks:
                held[block] += 1
        left = sum(count - 1 for count in held.values())
        assert self.pool.num_shared_without(holding for _, holding, _ in absent) == left


SEQUENCES = [
    tuple(Segment(name, tokens) for name, tokens in segments)
    for segments in (
        [("a", 11)],
        [("a", 11), ("b", 6)],
        [("c", 2), ("a", 11)],
    )
]
kinds = st.sampled_from(["admit", "admit", "take", "register", "free", "free"])
steps = st.lists(st.tuples(kinds, *[st.integers(0, 8)] * 3), min_size=10, max_size=100)


@pytest.mark.parametrize("unhashed_first", [True, False])
@settings(max_examples=1000, deadline=None)
@given(st.integers(2, 30), steps)
def test_a_pool_of_extents_is_a_pool_of_blocks(unhashed_first, num_gpu_blocks, drawn):
    both = Both(num_gpu_blocks, unhashed_first)
    for kind, which, one, other in drawn:
        if kind == "admit":
            both.admit(SEQUENCES[which % len(SEQUENCES)], one, other)
        elif both.requests:
            which %= len(both.requests)
            both.free(which) if kind == "free" else getattr(both, kind)(which, one)
        both.assert_equal(SEQUENCES)
    while both.requests:
        both.free(0)
    both.assert_equal(SEQUENCES)
    assert both.pool.num_free_blocks == both.pool.num_usable_blocks
