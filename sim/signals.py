"""What an engine tells of its load while it runs, as vLLM does at ``/metrics``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Signals(NamedTuple):
    """The state of an engine at an instant.

    ``kv_use``: the share of the blocks that requests or pins hold; what is only cached counts as free
    (``vllm:kv_cache_usage_perc``). ``kv_tokens``: how many tokens all blocks have room for. ``prefix_queries`` and
    ``prefix_hits``: tokens of the requests admitted so far, and those of them found cached on the GPU, without
    requests that had been preempted (``vllm:prefix_cache_queries``, ``_hits``).
    """

    kv_use: float = 0.0
    kv_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    num_running: int = 0
    num_waiting: int = 0


def pooled(signals: Sequence[Signals]) -> Signals:
    """Several engines as one: their use of blocks by their room for tokens, the rest summed."""
    kv_tokens = sum(one.kv_tokens for one in signals)
    used = sum(one.kv_use * one.kv_tokens for one in signals)
    return Signals(
        kv_use=used / kv_tokens if kv_tokens else 0.0,
        kv_tokens=kv_tokens,
        prefix_queries=sum(one.prefix_queries for one in signals),
        prefix_hits=sum(one.prefix_hits for one in signals),
        num_running=sum(one.num_running for one in signals),
        num_waiting=sum(one.num_waiting for one in signals),
    )
