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
        self.pins = defaultdict(int)

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
            if not self.holders[block] and not self.pins[block]:
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
            if self.holders[block] or self.pins[block]:
                continue
            if self.unhashed_first and block not in self.content:
                self.queue.insert(0, block)
            else:
                self.queue.append(block)

    def unpin(self, blocks):
        for block in reversed(blocks):
            self.pins[block] -= 1
            if not self.holders[block] and not self.pins[block]:
                self.queue.append(block)


class Both:
    """Requests in both pools at once; every step asserts that one cannot be told from the other."""

    def __init__(self, num_gpu_blocks, unhashed_first):
        self.prefixes = Prefixes(BLOCK)
        self.pool = BlockPool(num_gpu_blocks, unhashed_first)
        self.blocks = Blocks(num_gpu_blocks, unhashed_first)
        self.requests = []
        self.pins = []

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

    def pin(self, number, which):
        """The pin of that number, a new one where there are not so many, holds what the request has registered too."""
        _, holding, blocks = self.requests[number]
        if which >= len(self.pins):
            self.pins.append((Holding(), []))
        pin, pinned = self.pins[min(which, len(self.pins) - 1)]
        self.pool.pin(pin, holding)
        more = [block for block in blocks[: holding.num_registered] if block not in pinned]
        pinned += more
        for block in more:
            self.blocks.pins[block] += 1

    def unpin(self, number):
        pin, pinned = self.pins.pop(number)
        self.pool.unpin(pin)
        self.blocks.unpin(pinned)

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


with_pins = st.lists(st.tuples(kinds | st.sampled_from(["pin", "unpin"]), *[st.integers(0, 8)] * 3), min_size=10)


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.integers(2, 30), with_pins)
def test_a_pin_holds_blocks_as_a_request_does_but_reads_none(unhashed_first, num_gpu_blocks, drawn):
    both = Both(num_gpu_blocks, unhashed_first)
    for kind, which, one, other in drawn:
        if kind == "admit":
            both.admit(SEQUENCES[which % len(SEQUENCES)], one, other)
        elif kind == "unpin":
            if both.pins:
                both.unpin(which % len(both.pins))
        elif both.requests:
            which %= len(both.requests)
            both.free(which) if kind == "free" else getattr(both, kind)(which, one)
        both.assert_equal(SEQUENCES)
    while both.requests:
        both.free(0)
    while both.pins:
        both.unpin(0)
    both.assert_equal(SEQUENCES)
    assert both.pool.num_free_blocks == both.pool.num_usable_blocks


class Drawn:
    """Next uses as they are drawn, a prefix no later than what extends it."""

    def __init__(self, prefixes):
        self.version = 0
        self.chains = [prefixes.keys(segments).paths for segments in SEQUENCES]
        self.uses = {}

    def draw(self, uses):
        self.version += 1
        self.uses = {}
        for chain, use in zip(self.chains, uses, strict=True):
            self.uses |= {path: min(use, self.uses.get(path, use)) for path in chain}

    def next_use(self, path):
        return self.uses.get(path, float("inf"))


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.integers(2, 30), steps)
def test_what_is_read_again_last_is_lost_first_and_a_prefix_after_what_extends_it(unhashed_first, num_blocks, drawn):
    prefixes = Prefixes(BLOCK)
    upcoming = Drawn(prefixes)

    def evicted(path, first, stop):
        free, extent = [], pool._queue.after
        while extent is not pool._queue:
            free.append(extent)
            extent = extent.after
        assert all(other.path for other in free)
        assert upcoming.next_use(path) == max(upcoming.next_use(other.path) for other in free)
        assert not [other for other in free if other.path == path and other.first > stop - 1]

    pool, requests = BlockPool(num_blocks, unhashed_first, upcoming, evicted), []
    for kind, which, one, other in drawn:
        if kind == "admit":
            keys = prefixes.keys(SEQUENCES[which % len(SEQUENCES)])
            # Finding asserts that nothing is cached without what comes before it.
            found = pool.find(keys, one)
            if found.num_free + other <= pool.num_free_blocks:
                requests.append(Holding())
                pool.share(requests[-1], found)
                pool.take(requests[-1], other)
                stop = min(requests[-1].num_blocks, keys.num_blocks)
                if stop > requests[-1].num_registered:
                    pool.register(requests[-1], keys, stop)
        elif kind == "free" and requests:
            pool.free(requests.pop(which % len(requests)))
        else:
            upcoming.draw([which, one, other])
    for request in requests:
        pool.free(request)
    assert pool.num_free_blocks == pool.num_usable_blocks


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
