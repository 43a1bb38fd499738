"""The KV cache: blocks, who holds them, and which prefixes can be found in them again.

Follows vLLM's ``v1/core/block_pool.py`` and ``kv_cache_manager.py`` (0.32.0 where no version is named), block by block
in effect but not in cost: blocks that follow each other are one `Extent`, and blocks without content, of which any is
as good as another, are a number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from sim.workflow import Segment


@dataclass(slots=True)
class Keys:
    """What each full block of a sequence contains: block i the path ``paths[n]``, n the first with i < ``ends[n]``.

    Two blocks have the same content exactly if they have the same path and the same index.
    """

    paths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    num_blocks: int = 0

    def path(self, index: int) -> int:
        """The path of a full block; 0, which is no path, where there is none."""
        return self.paths[bisect_right(self.ends, index)] if index < self.num_blocks else 0

    def num_common(self, other: Keys) -> int:
        """How many leading blocks have the same content."""
        blocks = 0
        for path, end, its_path, its_end in zip(self.paths, self.ends, other.paths, other.ends, strict=False):
            if path != its_path:
                break
            blocks = min(end, its_end)
        return blocks

    def runs(self, first: int, stop: int) -> list[tuple[int, int, int]]:
        """(path, first, stop) of the blocks from ``first`` on, as far as ``stop``, one run per path."""
        runs = []
        number = bisect_right(self.ends, first)
        while first < stop and number < len(self.ends):
            end = self.ends[number]
            if end > stop:
                end = stop
            runs.append((self.paths[number], first, end))
            first = end
            number += 1
        return runs


class Prefixes:
    """Names for prefixes: two sequences get the same key for block i exactly if their segments agree so far.

    A tree over segments stands in for vLLM's chained block hashes: the same equality, without hashing
    tokens. Each path of segments is a number; a block is the path that reaches its last token, and its index.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._paths: dict[tuple[int, str, int], int] = {}

    def keys(self, segments: Iterable[Segment]) -> Keys:
        """The keys of the full blocks of the sequence that the segments make."""
        keys = Keys()
        path = tokens = 0
        for segment in segments:
            step = (path, segment.segment_id, segment.num_tokens)
            path = self._paths.setdefault(step, len(self._paths) + 1)
            tokens += segment.num_tokens
            if tokens // self._block_size > keys.num_blocks:
                keys.num_blocks = tokens // self._block_size
                keys.paths.append(path)
                keys.ends.append(keys.num_blocks)
        return keys


class Extent:
    """Blocks ``first`` to ``stop`` of one path, all held by the same requests and ``pins``, or all free.

    ``path`` is 0 for free blocks without content. ``before`` and ``after`` are neighbours in the free queue.
    """

    __slots__ = ("after", "before", "first", "holders", "path", "pins", "stop")

    def __init__(self, path: int, first: int, stop: int) -> None:
        self.path = path
        self.first = first
        self.stop = stop
        self.holders: list[Holding] = []
        self.pins: tuple[Holding, ...] = ()
        self.before = self.after = self

    def __len__(self) -> int:
        return self.stop - self.first

    def queue_before(self, other: Extent) -> None:
        """Enter the free queue in front of the other."""
        self.before, self.after = other.before, other
        self.before.after = other.before = self

    def leave_queue(self) -> None:
        """Leave the free queue."""
        self.before.after, self.after.before = self.after, self.before
        self.before = self.after = self


@dataclass(slots=True, eq=False)
class Holding:
    """The blocks of one request: of ``num_blocks`` the first ``num_registered``, in ``extents``, can be found."""

    extents: list[Extent] = field(default_factory=list)
    num_blocks: int = 0
    num_registered: int = 0


@dataclass(slots=True)
class Found:
    """A cached prefix: which blocks of which extents, how many they are, and how many of them nobody holds."""

    parts: list[tuple[Extent, int, int]] = field(default_factory=list)
    num_blocks: int = 0
    num_free: int = 0

    def add(self, extent: Extent, first: int, stop: int) -> None:
        """The prefix goes on with these blocks."""
        self.parts.append((extent, first, stop))
        self.num_blocks = stop
        self.num_free += 0 if extent.holders or extent.pins else stop - first


class NextUse(Protocol):
    """How soon content is read again; the numbers stay the same as long as ``version`` does."""

    version: int

    def next_use(self, path: int) -> float:
        """How far off the next reader of the path is: no farther than that of a path it is a prefix of; inf: none."""
        ...


class BlockPool:
    """Blocks that are free or held, and the cached content of both.

    The free queue begins with blocks without content: those freed to its front, and those never used. Then come the
    extents freed to its end; each loses its last block first. ``unhashed_first``: blocks without cached content go
    to the front and so are reused first (``BlockPool.free_blocks``, in 0.26.0 and 0.32.0, not yet in 0.19.0).
    ``num_shared`` counts the holders of every block beyond its first; a pin holds blocks but reads none, so it is no
    holder. With ``upcoming`` the free content that is read again last is lost first, and ``on_evicted`` is told
    (path, first, stop) of what is lost: both are more than vLLM has.
    """

    def __init__(
        self,
        num_gpu_blocks: int,
        unhashed_first: bool = True,
        upcoming: NextUse | None = None,
        on_evicted: Callable[[int, int, int], None] | None = None,
    ) -> None:
        # One is vLLM's null block.
        self.num_usable_blocks = self.num_free_blocks = self._num_empty = num_gpu_blocks - 1
        self.num_shared = 0
        self._unhashed_first = unhashed_first
        self._queue = Extent(0, 0, 0)
        self._cached: dict[int, list[Extent]] = {}
        self._upcoming, self._on_evicted = upcoming, on_evicted
        self._ranked: list[Extent] = []
        self._ranked_at = -1

    def find(self, keys: Keys, limit: int) -> Found:
        """The longest cached prefix of at most ``limit`` blocks; nothing is taken."""
        found = Found()
        for path, first, stop in keys.runs(0, limit):
            for extent in self._cached.get(path, ()):
                if first == stop:
                    break
                if extent.stop > first:
                    # A block is freed before those in front of it, so no extent begins beyond what was found so far.
                    assert extent.first <= first
                    end = min(stop, extent.stop)
                    found.add(extent, first, end)
                    first = end
            if first < stop:
                break
        return found

    def share(self, holding: Holding, found: Found) -> None:
        """Hold the blocks found; those nobody held leave the free queue."""
        for extent, first, end in found.parts:
            if extent.first < first:
                extent = self._cut(extent, first)
            if extent.stop > end:
                self._cut(extent, end)
            if extent.holders:
                self.num_shared += len(extent)
            elif not extent.pins:
                extent.leave_queue()
                self.num_free_blocks -= len(extent)
            extent.holders.append(holding)
            holding.extents.append(extent)
        holding.num_blocks = holding.num_registered = found.num_blocks
        self._ranked_at = -1

    def take(self, holding: Holding, count: int) -> None:
        """``count`` blocks more, from the front of the free queue; what they had cached is lost now."""
        assert count <= self.num_free_blocks
        self.num_free_blocks -= count
        holding.num_blocks += count
        short = count - self._num_empty
        self._num_empty = max(-short, 0)
        while short > 0:
            extent = self._queue.after if self._upcoming is None else self._farthest(self._upcoming)
            lost = min(short, len(extent))
            extent.stop -= lost
            short -= lost
            if self._on_evicted and extent.path:
                self._on_evicted(extent.path, extent.stop, extent.stop + lost)
            if extent.first == extent.stop:
                extent.leave_queue()
                self._forget(extent)

    def register(self, holding: Holding, keys: Keys, stop: int) -> None:
        """From now on the blocks before ``stop`` can be found; of several with one content the first registered is."""
        last = holding.extents[-1] if holding.extents else None
        copies = self._cached.get(keys.path(stop - 1))
        if last and copies and copies[-1] is last and len(last.holders) == 1 and not last.pins:
            # More of a path that nobody else has: nearly always the case.
            last.stop = holding.num_registered = stop
            return
        for path, first, end in keys.runs(holding.num_registered, stop):
            extent = Extent(path, first, end)
            extent.holders.append(holding)
            holding.extents.append(extent)
            self._cached.setdefault(path, []).append(extent)
        holding.num_registered = stop

    def free(self, holding: Holding) -> None:
        """Give back a request's blocks, last one first, so that its prefix stays longest."""
        empty = holding.num_blocks - holding.num_registered
        self.num_free_blocks += empty
        if self._unhashed_first:
            self._num_empty += empty
        elif empty:
            Extent(0, 0, empty).queue_before(self._queue)
        for extent in reversed(holding.extents):
            extent.holders.remove(holding)
            if extent.holders:
                self.num_shared -= len(extent)
            elif not extent.pins:
                self.num_free_blocks += len(extent)
                extent.queue_before(self._queue)
        holding.extents.clear()
        holding.num_blocks = holding.num_registered = 0
        self._ranked_at = -1

    def pin(self, pin: Holding, holding: Holding) -> None:
        """Let the pin hold what can be found of a request's blocks, beside what it holds already."""
        for extent in holding.extents:
            if pin not in extent.pins:
                extent.pins += (pin,)
                pin.extents.append(extent)

    def unpin(self, pin: Holding) -> None:
        """The pin ends; what nobody else holds is free, as if it had been used until now."""
        for extent in reversed(pin.extents):
            extent.pins = tuple(other for other in extent.pins if other is not pin)
            if not extent.holders and not extent.pins:
                self.num_free_blocks += len(extent)
                extent.queue_before(self._queue)
        pin.extents.clear()
        self._ranked_at = -1

    def num_shared_without(self, absent: Iterable[Holding]) -> int:
        """`num_shared` if these held nothing."""
        left: dict[Extent, int] = {}
        for holding in absent:
            for extent in holding.extents:
                if len(extent.holders) > 1:
                    left[extent] = left.get(extent, len(extent.holders)) - 1
        return self.num_shared - sum(len(e) * (len(e.holders) - max(count, 1)) for e, count in left.items())

    def _cut(self, extent: Extent, index: int) -> Extent:
        """Split the extent before that block; returns the upper part."""
        upper = Extent(extent.path, index, extent.stop)
        extent.stop = index
        copies = self._cached[extent.path]
        copies.insert(copies.index(extent) + 1, upper)
        upper.holders += extent.holders
        upper.pins = extent.pins
        for holding in (*extent.holders, *extent.pins):
            holding.extents.insert(holding.extents.index(extent) + 1, upper)
        if not extent.holders and not extent.pins:
            upper.queue_before(extent)
        return upper

    def _farthest(self, upcoming: NextUse) -> Extent:
        """The free extent to lose blocks next: without content, or read again last; then the deepest, then LRU.

        What extends a prefix lies deeper, so it is lost before the prefix.
        """
        if self._ranked_at != upcoming.version:
            self._ranked_at = upcoming.version
            self._ranked = []
            extent = self._queue.before
            while extent is not self._queue:
                self._ranked.append(extent)
                extent = extent.before
            self._ranked.sort(key=lambda one: (not one.path, upcoming.next_use(one.path), one.first))
        while self._ranked[-1].first == self._ranked[-1].stop:
            self._ranked.pop()
        return self._ranked[-1]

    def _forget(self, extent: Extent) -> None:
        copies = self._cached.get(extent.path)
        if copies:
            copies.remove(extent)
            if not copies:
                del self._cached[extent.path]
