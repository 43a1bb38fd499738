"""What becomes of cached KV blocks that nobody reads now, where it is not what vLLM does.

vLLM keeps them until their blocks are needed, least recently used first. All else here exists in simulation only.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.kv import BlockPool, Holding, Keys, Prefixes
from sim.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Lru:
    """vLLM's rule: the block freed longest ago loses its content first."""


@dataclass(frozen=True, slots=True)
class TtlPin:
    """A finished call's blocks stay held for its session's next call, ``tau_s`` seconds at most (Continuum).

    Waiting calls get none of them. Nobody is preempted for a pin and the engine never idles for one: pins end first.
    """

    tau_s: float


@dataclass(frozen=True, slots=True)
class FarthestFirst:
    """What is read again last loses its content first (Belady 1966; by steps of the workflow: KVFlow)."""


Retention = Lru | TtlPin | FarthestFirst

LRU = Lru()


@dataclass(frozen=True, slots=True)
class CpuTier:
    """Memory of the host for ``num_blocks`` blocks that lost their place on the GPU; back they take that long a token.

    vLLM's own (``--kv-offloading-size``, OffloadingConnector of 0.32.0) copies full blocks out as soon as they are
    computed and keeps them there when they return; it loads while other requests compute, and the one that waits for
    its blocks is passed over meanwhile. Here blocks go out when they are evicted, free of charge, and leave the
    tier when they return; the step that admits their reader waits for the copy, overlapping nothing, which is
    pessimistic.
    """

    num_blocks: int
    load_token_s: float

    def to_json(self) -> dict[str, float]:
        """The tier as result files name it."""
        return {"num_blocks": self.num_blocks, "load_token_s": self.load_token_s}


class Offloaded:
    """The content of a `CpuTier`: (path, index) of its blocks, the one that came in longest ago first.

    A block comes after what extends it, because it left the GPU after that: so what is dropped is a tail.
    """

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._blocks: OrderedDict[tuple[int, int], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def put(self, path: int, first: int, stop: int) -> None:
        """These blocks of the path left the GPU, last one first."""
        blocks = self._blocks
        for index in range(stop - 1, first - 1, -1):
            blocks[path, index] = None
            blocks.move_to_end((path, index))
            if len(blocks) > self._num_blocks:
                blocks.popitem(last=False)

    def num_found(self, keys: Keys, first: int, limit: int) -> int:
        """How many blocks of the sequence, from ``first`` on and before ``limit``, are here without a gap."""
        count = 0
        for path, start, stop in keys.runs(first, limit):
            for index in range(start, stop):
                if (path, index) not in self._blocks:
                    return count
                count += 1
        return count

    def remove(self, keys: Keys, first: int, stop: int) -> None:
        """These blocks of the sequence return to the GPU."""
        for path, start, end in keys.runs(first, stop):
            for index in range(start, end):
                del self._blocks[path, index]


@dataclass(slots=True)
class _Pin:
    expires_s: float
    blocks: Holding = field(default_factory=Holding)


class Pins:
    """One pin per session, on what its finished calls have cached since it was last admitted."""

    def __init__(self, tau_s: float) -> None:
        self.tau_s = tau_s
        self._pins: dict[int, _Pin] = {}

    def __len__(self) -> int:
        return len(self._pins)

    def pin(self, pool: BlockPool, session: int, blocks: Holding, now_s: float) -> None:
        """A call of the session finishes now with these blocks: they are pinned too, and the time begins anew."""
        if not blocks.extents:
            return
        pin = self._pins.setdefault(session, _Pin(now_s))
        pin.expires_s = now_s + self.tau_s
        pool.pin(pin.blocks, blocks)

    def end(self, pool: BlockPool, session: int) -> None:
        """The session's pin, if there is one, ends."""
        pin = self._pins.pop(session, None)
        if pin:
            pool.unpin(pin.blocks)

    def expire(self, pool: BlockPool, session: int, expires_s: float) -> None:
        """The pin that was to end at that instant ends, unless it has been renewed."""
        if session in self._pins and self._pins[session].expires_s == expires_s:
            self.end(pool, session)

    def end_first(self, pool: BlockPool) -> None:
        """The pin that would expire first ends."""
        self.end(pool, min(self._pins, key=lambda session: (self._pins[session].expires_s, session)))

    def clear(self) -> None:
        """Forget all pins, as the pool they were made in is gone."""
        self._pins.clear()


class Upcoming:
    """Which paths calls will read, and how far off they are: of waiting requests 0, of calls to come what was told.

    Distances have any unit, the same for all sessions. A session's progress is taken off its distances; a negative
    one moves it off.
    """

    def __init__(self) -> None:
        self.version = 0
        self._paths: dict[int, dict[str, list[int]]] = {}
        self._distances: dict[int, Mapping[str, float]] = {}
        self._progress: dict[int, float] = {}
        #: Path -> session -> distances of the calls to come that read it, farthest first.
        self._readers: dict[int, dict[int, list[float]]] = {}
        self._waiting: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def next_use(self, path: int) -> float:
        """The least distance of a reader of the path; infinite where nobody is known to read it again."""
        if path in self._waiting:
            return 0.0
        readers, progress = self._readers.get(path, {}), self._progress
        return min((max(0.0, left[-1] - progress[session]) for session, left in readers.items()), default=math.inf)

    def expect(self, prefixes: Prefixes, session: int, workflow: Workflow, distances: Mapping[str, float]) -> None:
        """The session will make these calls of the workflow, so far off; what was told of it before is void."""
        self.forget(session)
        self._progress[session] = 0.0
        self._distances[session] = distances
        calls = [call for call in workflow.calls if call.id in distances]
        paths = self._paths[session] = {call.id: prefixes.keys(call.prompt).paths for call in calls}
        for call_id in sorted(paths, key=distances.__getitem__, reverse=True):
            for path in paths[call_id]:
                self._readers.setdefault(path, {}).setdefault(session, []).append(distances[call_id])

    def advance(self, session: int, progress: float) -> None:
        """The session's calls are nearer by that much than they were told to be."""
        self.version += 1
        if session in self._progress:
            self._progress[session] = progress

    def sent(self, session: int, call_id: str) -> None:
        """The call is no more to come."""
        self.version += 1
        for path in self._paths.get(session, {}).pop(call_id, ()):
            readers = self._readers[path]
            readers[session].remove(self._distances[session][call_id])
            if not readers[session]:
                del readers[session]
            if not readers:
                del self._readers[path]

    def forget(self, session: int) -> None:
        """The session makes no more calls."""
        self.version += 1
        for call_id in list(self._paths.get(session, ())):
            self.sent(session, call_id)
        for known in (self._paths, self._distances, self._progress):
            known.pop(session, None)

    def wait(self, keys: Keys) -> None:
        """A request with this content waits."""
        self.version += 1
        for path in keys.paths:
            self._waiting[path] = self._waiting.get(path, 0) + 1

    def leave(self, keys: Keys) -> None:
        """A request with this content waits no more."""
        self.version += 1
        for path in keys.paths:
            self._waiting[path] -= 1
            if not self._waiting[path]:
                del self._waiting[path]
