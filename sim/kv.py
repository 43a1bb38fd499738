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
        self._paths: dict[tuple[int, Segment], int] = {}

    def keys(self, segments: Iterable[Segment]) -> list[int]:
        """One key per full block of the sequence that the segments make."""
        keys: list[int] = []
        path = end = 0
        for segment in segments:
            path = self._paths.setdefault((path, segment), len(self._paths) + 1)
            end += segment.num_tokens
            first = path << _INDEX_BITS
            keys.extend(range(first + len(keys), first + end // self._block_size))
        return keys


class BlockPool:
    """Blocks that are free or held, and the cached content of both. Block 0 is vLLM's null block.

    ``unhashed_first``: blocks without cached content are freed to the front of the queue and so reused
    first (``BlockPool.free_blocks``, in 0.26.0 and 0.32.0, not yet in 0.20.2).
    """

    def __init__(self, num_gpu_blocks: int, unhashed_first: bool = True) -> None:
        self.num_usable_blocks = num_gpu_blocks - 1
        self._unhashed_first = unhashed_first
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_gpu_blocks))
        self._holders = [0] * num_gpu_blocks
        self._key: list[int | None] = [None] * num_gpu_blocks
        self._cached: dict[int, dict[int, None]] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks nobody holds; those with cached content count too."""
        return len(self._free)

    def find(self, keys: Sequence[int], limit: int) -> list[int]:
        """The blocks of the longest cached prefix, at most ``limit`` of them; nothing is taken."""
        found = []
        for key in keys[:limit]:
            blocks = self._cached.get(key)
            if blocks is None:
                break
            found.append(next(iter(blocks)))
        return found

    def num_unheld(self, blocks: Iterable[int]) -> int:
        """How many of the blocks are in the free queue: taking them shrinks it."""
        return sum(self._holders[block] == 0 for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Hold found blocks; those nobody held leave the free queue."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def take(self, count: int) -> list[int]:
        """``count`` blocks from the front of the free queue; what they had cached is lost now."""
        assert count <= len(self._free)
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._forget(block)
            self._holders[block] = 1
        return blocks

    def register(self, block: int, key: int) -> None:
        """From now on the block can be found under the key."""
        self._key[block] = key
        self._cached.setdefault(key, {})[block] = None

    def free(self, blocks: Sequence[int]) -> None:
        """Give back a request's blocks, last one first, so that its prefix stays longest."""
        unhashed = []
        for block in reversed(blocks):
            self._holders[block] -= 1
            assert self._holders[block] >= 0
            if self._holders[block]:
                continue
            if self._key[block] is None and self._unhashed_first:
                unhashed.append(block)
            else:
                self._free[block] = None
        for block in reversed(unhashed):
            self._free[block] = None
            self._free.move_to_end(block, last=False)

    def _forget(self, block: int) -> None:
        key = self._key[block]
        if key is None:
            return
        self._key[block] = None
        del self._cached[key][block]
        if not self._cached[key]:
            del self._cached[key]
