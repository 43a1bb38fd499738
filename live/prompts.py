"""Segments as token ids: the same segment gives the same ids in every process, on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from sim.workflow import Segment

#: Ids that are drawn from: above the special tokens at the low end, below the vocabulary of any model in use.
FIRST_ID, NUM_IDS = 256, 7680


def prompt_ids(prompt: Iterable[Segment], answers: Mapping[str, Sequence[int]]) -> list[int]:
    """The token ids of a prompt; where it contains an answer that was really given, that answer's own ids.

    ``answers``: answer id -> ids as the server returned them.
    """
    ids: list[int] = []
    for segment in prompt:
        ids += answers.get(segment.segment_id) or segment_ids(segment.segment_id, segment.num_tokens)
    return ids


@lru_cache(maxsize=16384)
def segment_ids(segment_id: str, num_tokens: int) -> tuple[int, ...]:
    """Token ids that stand for a segment: SHA-256 of its name and a counter, 16 ids a digest."""
    ids: list[int] = []
    while len(ids) < num_tokens:
        digest = hashlib.sha256(f"{segment_id}\n{len(ids)}".encode()).digest()
        ids += (FIRST_ID + int.from_bytes(digest[i : i + 2], "big") % NUM_IDS for i in range(0, 32, 2))
    return tuple(ids[:num_tokens])
