"""The replica that has seen most of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sim.errors import PolicyError
from sim.policies.least_loaded import least_loaded
from sim.rules import Replica, Router, Submission, View


@dataclass(slots=True)
class _Seen:
    """Prefixes that were sent, as a tree of segments: (path, segment) -> path, and who has seen which path."""

    paths: dict[tuple[int, str], int] = field(default_factory=dict)
    replicas: dict[int, set[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class PrefixAffinity(Router):
    """A call goes to the replica that was sent most of its prompt before, if that is at least ``min_share`` of it.

    Otherwise, and among equals, to the least loaded one. What a replica has evicted since is not known. Information:
    the prompts that were sent. Source: cache-aware routing, as in SGLang's router (Zheng et al. 2024).
    """

    name = "prefix_affinity"

    min_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.min_share <= 1:
            raise PolicyError(f"policy prefix_affinity: min_share={self.min_share:g}; give 0 to 1")

    def begin(self) -> _Seen:
        """Nothing was sent yet."""
        return _Seen()

    def route(self, submission: Submission, view: View, replicas: Sequence[Replica], memory: _Seen) -> int:
        """The replica with the longest known prefix."""
        known = dict.fromkeys((replica.number for replica in replicas), 0)
        path, tokens, steps = 0, 0, []
        for segment in submission.call.prompt:
            path = memory.paths.setdefault((path, segment.segment_id), len(memory.paths) + 1)
            tokens += segment.num_tokens
            steps.append(path)
            for number in memory.replicas.get(path, ()):
                if number in known:
                    known[number] = tokens
        longest = max(known.values())
        best = [one for one in replicas if known[one.number] == longest]
        chosen = least_loaded(best if longest >= self.min_share * tokens else replicas)
        for path in steps:
            memory.replicas.setdefault(path, set()).add(chosen)
        return chosen
