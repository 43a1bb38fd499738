"""What of a server works for a replay, tried out, and the flag that would enable what does not."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from live.client import Answer, CallError, Client
from live.prompts import segment_ids
from live.server import Counters, Server, ServerInfo

#: Long enough for several KV blocks of any size in use, short enough for any model.
_TOKENS, _OUTPUT = 600, 8


@dataclass(frozen=True, slots=True)
class Finding:
    """``works``: None where it cannot be told. ``needed``: without it nothing can be replayed."""

    what: str
    works: bool | None
    detail: str
    mend: str = ""
    needed: bool = False


def check(server: Server, timeout_s: float) -> tuple[ServerInfo, list[Finding]]:
    """Try everything. Raises RunError where there is no server, or no model."""
    info = server.info()
    return info, list(_findings(server, info, Client(info.url, info.model, timeout_s)))


def as_told(server: Server, info: ServerInfo) -> list[Finding]:
    """What it tells of itself: nothing is generated, so that nobody's run is disturbed."""
    return [_settings(info), _priority(info), _counters(server.counters())]


def probe(client: Client) -> tuple[Answer, Answer, Answer]:
    """One prompt that nobody sent before, sent three times: new, again, and under another salt. Raises CallError."""
    prompt = segment_ids(f"probe {secrets.token_hex(8)}", _TOKENS)
    first, again, salted = (client.complete(prompt, _OUTPUT, cache_salt=salt) for salt in ("a", "a", "b"))
    return first, again, salted


def _findings(server: Server, info: ServerInfo, client: Client) -> Iterator[Finding]:
    try:
        first, again, salted = probe(client)
    except CallError as error:
        yield Finding("token ids in and out, exact lengths", False, str(error), "take vLLM 0.19 or newer", needed=True)
        return
    yield _ids(first)
    yield _cached(first, again)
    yield _salt(again, salted)
    told = first.prefill_s is not None
    yield Finding(
        "queue and prefill time of each call", told, "told" if told else "not told", "--enable-per-request-metrics"
    )
    yield from as_told(server, info)


def _ids(answer: Answer) -> Finding:
    exact = len(answer.token_ids) == _OUTPUT and answer.num_prompt_tokens in (None, _TOKENS)
    detail = f"{answer.num_prompt_tokens} tokens in, {len(answer.token_ids)} out"
    return Finding("token ids in and out, exact lengths", exact, detail, "take vLLM 0.19 or newer", needed=True)


def _cached(first: Answer, again: Answer) -> Finding:
    what = "cached tokens of each call"
    if again.num_cached_tokens is None:
        return Finding(what, False, "not told", "--enable-prompt-tokens-details")
    detail = f"{first.num_cached_tokens} of {_TOKENS} at first, {again.num_cached_tokens} when sent again"
    return Finding(what, again.num_cached_tokens > 0, detail, "--enable-prefix-caching")


def _salt(again: Answer, salted: Answer) -> Finding:
    what = "an empty cache for each repetition (cache_salt)"
    if salted.num_cached_tokens is None or not again.num_cached_tokens:
        return Finding(what, None, "cannot be told")
    return Finding(what, salted.num_cached_tokens == 0, f"{salted.num_cached_tokens} cached under another salt")


def _settings(info: ServerInfo) -> Finding:
    scheduler = info.scheduler
    names = ("max_num_seqs", "max_num_batched_tokens", "async_scheduling")
    detail = ", ".join(f"{name} {scheduler.get(name)}" for name in names) if scheduler else "not told"
    return Finding("the scheduler's settings", bool(scheduler), detail, "environment VLLM_SERVER_DEV_MODE=1")


def _priority(info: ServerInfo) -> Finding:
    policy = info.scheduler.get("policy")
    works = None if policy is None else policy == "priority"
    return Finding("priorities", works, str(policy or "cannot be told"), "--scheduling-policy priority")


def _counters(counters: Counters) -> Finding:
    steps = counters.get("vllm:iteration_tokens_total_count")
    detail = "not told" if steps is None else f"{steps:,.0f} steps so far"
    return Finding("steps and preemptions (/metrics)", steps is not None, detail, "do not pass --disable-log-stats")
