"""The KV cache: blocks, who holds them, and which prefixes can be found in them again.

Follows vLLM's ``v1/core/block_pool.py`` and ``kv_cache_manager.py`` (0.32.0 where no version is named).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from sim.workflow import Segment

#: Bits of a block key that hold the block's index in its sequence; the rest names the prefix.
_INDEX_BITS = 32


class Prefixes:
    """Names for prefixes: two sequences get the same key for block i exactly if their segments agree so far.

    A tree over segments stands in for vLLM's chained block hashes: the same equality, without hashing
    tokens. Each path of segments is a number; a block is the path that reaches its last token, and its index.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._paths: dict[tuple[int, str, int], int] = {}

    def keys(self, segments: Iterable[Segment]) -> list[int]:
        """One key per full block of the sequence that the segments make."""
        keys: list[int] = []
        path = end = 0
        for segment in segments:
            step = (path, segment.segment_id, segment.num_tokens)
            path = self._paths.setdefault(step, len(self._paths) + 1)
            end += segment.num_tokens
            first = path << _INDEX_BITS
            keys.extend(range(first + len(keys), first + end // self._block_size))
        return keys


class BlockPool:
    """Blocks that are free or held, and the cached content of both. Block 0 is vLLM's null block.

    The free queue is in three parts: blocks freed to its front, blocks never used yet, and blocks freed to its end.
    ``unhashed_first``: blocks without cached content go to the front and so are reused first
    (``BlockPool.free_blocks``, in 0.26.0 and 0.32.0, not yet in 0.20.2). ``num_shared`` counts the holders of every
    block beyond its first.
    """

    def __init__(self, num_gpu_blocks: int, unhashed_first: bool = True) -> None:
        self.num_usable_blocks = self.num_free_blocks = num_gpu_blocks - 1
        self.num_shared = 0
        self._unhashed_first = unhashed_first
        self._front: list[int] = []
        self._end: OrderedDict[int, None] = OrderedDict()
        # Of every block used so far; a pool can be large and its blocks never touched.
        self._holders = [0]
        self._key: list[int | None] = [None]
        self._cached: dict[int, int] = {}
        self._more: dict[int, list[int]] = {}

    def find(self, keys: Sequence[int], limit: int) -> list[int]:
        """The blocks of the longest cached prefix, at most ``limit`` of them; nothing is taken."""
        found = []
        for key in keys[:limit]:
            block = self._cached.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def num_unheld(self, blocks: Iterable[int]) -> int:
        """How many of the blocks are in the free queue: taking them shrinks it."""
        return sum(self._holders[block] == 0 for block in blocks)

    def num_shared_without(self, absent: Iterable[Sequence[int]]) -> int:
        """`num_shared` if these lists of blocks were not held."""
        left: dict[int, int] = {}
        for blocks in absent:
            for block in blocks:
                if self._holders[block] > 1:
                    left[block] = left.get(block, self._holders[block]) - 1
        return self.num_shared - sum(self._holders[block] - max(count, 1) for block, count in left.items())

    def share(self, blocks: Iterable[int]) -> None:
        """Hold found blocks; those nobody held leave the free queue."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._end[block]
                self.num_free_blocks -= 1
            else:
                self.num_shared += 1
            self._holders[block] += 1

    def take(self, count: int) -> list[int]:
        """``count`` blocks from the front of the free queue; what they had cached is lost now."""
        assert count <= self.num_free_blocks
        self.num_free_blocks -= count
        blocks = []
        while count and self._front:
            blocks.append(self._front.pop())
            count -= 1
        for block in blocks:
            self._holders[block] = 1
        if count:
            known = len(self._holders)
            unused = range(known, min(known + count, self.num_usable_blocks + 1))
            self._holders += [1] * len(unused)
            self._key += [None] * len(unused)
            blocks += unused
            count -= len(unused)
        for _ in range(count):
            block, _ = self._end.popitem(last=False)
            if self._key[block] is not None:
                self._forget(block)
            self._holders[block] = 1
            blocks.append(block)
        return blocks

    def register(self, blocks: Sequence[int], keys: Sequence[int]) -> None:
        """From now on each block can be found under its key; of several the first registered is."""
        for block, key in zip(blocks, keys, strict=True):
            self._key[block] = key
            if self._cached.setdefault(key, block) != block:
                self._more.setdefault(key, []).append(block)

    def free(self, blocks: Sequence[int]) -> None:
        """Give back a request's blocks, last one first, so that its prefix stays longest."""
        holders = self._holders
        for block in reversed(blocks):
            assert holders[block] > 0
            holders[block] -= 1
            if holders[block]:
                self.num_shared -= 1
                continue
            self.num_free_blocks += 1
            if self._key[block] is None and self._unhashed_first:
                self._front.append(block)
            else:
                self._end[block] = None

    def _forget(self, block: int) -> None:
        key = self._key[block]
        assert key is not None
        self._key[block] = None
        more = self._more.get(key)
        if more is None:
            del self._cached[key]
            return
        if self._cached[key] == block:
            self._cached[key] = more.pop(0)
        else:
            more.remove(block)
        if not more:
            del self._more[key]
