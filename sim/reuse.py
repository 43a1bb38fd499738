"""Which prompt tokens could be found in a cache that never forgets, and which blocks calls could hold together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from sim.kv import Keys, Prefixes
from sim.settings import EngineSettings
from sim.workflow import Call, Segment, Workflow

#: Stands for an owner where a path has more than one.
_SEVERAL = -1


class Writers:
    """The calls of one workflow that write the blocks of each path: sets of calls are the bits of a number.

    Sequences that have a path agree on its blocks. One that ends there may leave the last of them incomplete, as the KV
    of a call's last token is never written.
    """

    def __init__(self, workflow: Workflow, prefixes: Prefixes, block_size: int) -> None:
        self._keys = {call.id: prefixes.keys((*call.prompt, _answer(workflow, call))) for call in workflow.calls}
        num_written = {call.id: (workflow.num_tokens(call) - 1) // block_size for call in workflow.calls}
        self._bits = {call.id: 1 << number for number, call in enumerate(workflow.calls)}
        self._whole: defaultdict[int, int] = defaultdict(int)
        self._but_last: defaultdict[int, int] = defaultdict(int)
        for call_id, keys in self._keys.items():
            for path, end in zip(keys.paths, keys.ends, strict=True):
                writers = self._whole if end <= num_written[call_id] else self._but_last
                writers[path] |= self._bits[call_id]
        self._workflow = workflow

    @cached_property
    def _after(self) -> Mapping[str, int]:
        """Node id -> itself and the calls that wait for it."""
        return self._reachable(reversed(self._workflow.order), self._workflow.children)

    @cached_property
    def _before(self) -> Mapping[str, int]:
        """Node id -> itself and the calls it waits for."""
        return self._reachable(self._workflow.order, self._workflow.parents)

    def paths(self) -> tuple[Iterable[int], Iterable[int]]:
        """The paths of which a call writes all blocks, and those of which one writes all but the last."""
        return self._whole.keys(), self._but_last.keys()

    def keys(self, call_id: str) -> Keys:
        """The keys of the full blocks of the call's prompt and answer."""
        return self._keys[call_id]

    def num_earlier(self, call_id: str) -> int:
        """Leading blocks of the call that one that is no descendant writes: it may have run before."""
        return self._num_common(call_id, ~self._after[call_id])

    def num_beside(self, call_id: str) -> int:
        """Leading blocks of the call that one writes which may run at the same time."""
        return self._num_common(call_id, ~(self._after[call_id] | self._before[call_id]))

    def _num_common(self, call_id: str, others: int) -> int:
        whole, but_last = self._whole, self._but_last
        return _num_leading(
            self._keys[call_id], lambda path: bool(whole[path] & others), lambda path: bool(but_last[path] & others)
        )

    def _reachable(self, order: Iterable[str], following: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Node id -> the calls that are reached from it, itself included."""
        reached: dict[str, int] = {}
        for node in order:
            reached[node] = self._bits.get(node, 0)
            for other in following[node]:
                reached[node] |= reached[other]
        return reached


class SharedCache:
    """What sessions that share a server could find in its cache, or hold together, at best: nothing is ever evicted.

    A session is named by its place among the workflows: one that runs twice finds everything of its other run.
    """

    def __init__(self, workflows: Sequence[Workflow], settings: EngineSettings) -> None:
        self._settings = settings
        self._prefixes = Prefixes(settings.block_size)
        self._workflows = workflows
        self._whole: dict[int, int] = {}
        self._but_last: dict[int, int] = {}
        for session in range(len(workflows)) if settings.enable_prefix_caching else ():
            whole, but_last = self._writers(session).paths()
            _claim(self._whole, whole, session)
            _claim(self._but_last, but_last, session)

    def tokens(self, session: int) -> dict[str, tuple[int, int]]:
        """Call id -> prompt tokens that could be cached when it starts, and tokens another could hold meanwhile.

        Both in full blocks. The last token of a prompt is always computed.
        """
        workflow, size = self._workflows[session], self._settings.block_size
        if not self._settings.enable_prefix_caching:
            return {call.id: (0, 0) for call in workflow.calls}
        writers = self._writers(session)
        found = {}
        for call in workflow.calls:
            elsewhere = self._num_elsewhere(writers.keys(call.id), session)
            cached = max(elsewhere, writers.num_earlier(call.id))
            held = max(elsewhere, writers.num_beside(call.id))
            found[call.id] = (size * min((call.num_prompt_tokens - 1) // size, cached), size * held)
        return found

    def _writers(self, session: int) -> Writers:
        return Writers(self._workflows[session], self._prefixes, self._settings.block_size)

    def _num_elsewhere(self, keys: Keys, session: int) -> int:
        """Leading blocks that another session writes."""
        whole, but_last = self._whole, self._but_last
        return _num_leading(
            keys,
            lambda path: whole.get(path, session) != session,
            lambda path: but_last.get(path, session) != session,
        )


def _claim(owners: dict[int, int], paths: Iterable[int], session: int) -> None:
    for path in paths:
        owners[path] = session if owners.get(path, session) == session else _SEVERAL


def _num_leading(keys: Keys, is_whole: Callable[[int], bool], is_but_last: Callable[[int], bool]) -> int:
    """How many leading blocks are written, if it is known of each path whether it is, whole or but for its last block.

    Whoever writes a path has written those that lead to it.
    """
    blocks = 0
    for path, end in zip(keys.paths, keys.ends, strict=True):
        if not is_whole(path):
            return end - 1 if is_but_last(path) else blocks
        blocks = end
    return blocks


def _answer(workflow: Workflow, call: Call) -> Segment:
    return Segment(call.answer_id, workflow.tape.output_tokens[call.id])
