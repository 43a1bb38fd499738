"""What a vLLM's metrics say of it now, as a gate sees it."""

from __future__ import annotations

from collections.abc import Sequence

from live.server import Reading, Server
from sim.signals import Signals, pooled


class Looks:
    """Looks at the servers, one after the other; tokens looked up in prefix caches are counted from when it was made.

    None while a server does not tell.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._servers = [Server(url) for url in urls]
        self._before = self._read()

    def __call__(self) -> Signals | None:
        """All of them together, now."""
        now = self._read()
        if now is None or self._before is None:
            return None
        queries, hits = self._before.prefix_queries, self._before.prefix_hits
        return now._replace(prefix_queries=now.prefix_queries - queries, prefix_hits=now.prefix_hits - hits)

    def _read(self) -> Signals | None:
        found = [signals(one) for server in self._servers for one in server.readings() or [Reading()]]
        told = [one for one in found if one is not None]
        return pooled(told) if len(told) == len(found) else None


def signals(reading: Reading) -> Signals | None:
    """One engine's signals; None where its /metrics lacks what they are made of.

    A server without a prefix cache counts no look-ups: they are 0.
    """
    values, cache = reading.values, reading.cache
    try:
        return Signals(
            kv_use=values["vllm:kv_cache_usage_perc"],
            # One block is the null block, which holds nothing.
            kv_tokens=(int(cache["num_gpu_blocks"]) - 1) * int(cache["block_size"]),
            prefix_queries=round(values.get("vllm:prefix_cache_queries_total", 0)),
            prefix_hits=round(values.get("vllm:prefix_cache_hits_total", 0)),
            num_running=round(values["vllm:num_requests_running"]),
            num_waiting=round(values["vllm:num_requests_waiting"]),
        )
    except (KeyError, ValueError):
        return None
