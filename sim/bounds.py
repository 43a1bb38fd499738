"""Work and span of a workflow in seconds on a given engine: what no schedule can beat."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sim.kv import Prefixes
from sim.latency import Profile
from sim.workflow import Call, Segment, Workflow


@dataclass(frozen=True, slots=True)
class Bound:
    """``work_s``: the workflow alone, one node at a time. ``span_s``: its longest path at best-case times."""

    work_s: float
    span_s: float

    @property
    def speedup(self) -> float:
        """The most any schedule can gain over one node at a time."""
        return self.work_s / self.span_s


def span_s(workflow: Workflow, profile: Profile) -> float:
    """Seconds of the longest path, each call at batch 1 with every reusable prefix cached, tools included.

    Tools of unknown duration count as 0 s, as in the simulation.
    """
    seconds = {tool: duration or 0.0 for tool, duration in workflow.tape.tool_s.items()}
    cached = reusable_tokens(workflow, profile)
    for call in workflow.calls:
        seconds[call.id] = _best_s(
            profile, call.num_prompt_tokens, cached[call.id], workflow.tape.output_tokens[call.id]
        )
    return workflow.span(seconds)


def _best_s(profile: Profile, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
    """Least seconds of the call with at most so many tokens cached.

    Of a prefill in one step more cached is never slower. With several chunks it can be, by a little:
    where the chunks end decides how often the first ones are read again. So all hits are tried then.
    """
    engine = profile.engine
    least = cached_tokens if prompt_tokens - cached_tokens <= engine.max_num_batched_tokens else 0
    hits = range(least, cached_tokens + 1, engine.block_size)
    return min(alone_s(profile, prompt_tokens, hit, output_tokens) for hit in hits)


def alone_s(profile: Profile, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
    """Seconds of one call on an idle engine: its prefill chunks and ``output_tokens - 1`` decode steps."""
    step, budget = profile.step_time, profile.engine.max_num_batched_tokens
    total = 0.0
    for computed in range(cached_tokens, prompt_tokens, budget):
        new = min(budget, prompt_tokens - computed)
        total += step(new, 0, computed + new, new * computed + new * (new + 1) // 2)
    decodes = output_tokens - 1
    # Decode j reads prompt_tokens + j tokens; the sum over all of them, with the other terms once each.
    total += decodes * step(0, 1, 0, 0) + step.kv_token_s * (decodes * prompt_tokens + decodes * (decodes + 1) // 2)
    return total


def reusable_tokens(workflow: Workflow, profile: Profile) -> Mapping[str, int]:
    """Call id -> prompt tokens that could be cached, in full blocks, when the call starts.

    Any call that is no descendant may have run before. The last token is always computed.
    """
    if not profile.engine.enable_prefix_caching:
        return {call.id: 0 for call in workflow.calls}
    size = profile.engine.block_size
    prefixes = Prefixes(size)
    prompts = {call.id: prefixes.keys(call.prompt)[: (call.num_prompt_tokens - 1) // size] for call in workflow.calls}
    written = {call.id: _written(workflow, call, prefixes, size) for call in workflow.calls}
    after = _descendants(workflow)
    return {
        call: size * max((_common(keys, written[other]) for other in prompts if other not in after[call]), default=0)
        for call, keys in prompts.items()
    }


def _written(workflow: Workflow, call: Call, prefixes: Prefixes, size: int) -> frozenset[int]:
    """Keys of the blocks that the call leaves behind; the KV of its last token is never written."""
    output = workflow.tape.output_tokens[call.id]
    keys = prefixes.keys((*call.prompt, Segment(call.answer_id, output)))
    return frozenset(keys[: (call.num_prompt_tokens + output - 1) // size])


def _common(keys: Sequence[int], written: frozenset[int]) -> int:
    """How many leading keys were written: a key names its whole prefix, so the hits come first."""
    return bisect_left(keys, True, key=lambda key: key not in written)


def _descendants(workflow: Workflow) -> Mapping[str, frozenset[str]]:
    """Node id -> the node itself and everything that waits for it."""
    after: dict[str, frozenset[str]] = {}
    for node in reversed(workflow.order):
        after[node] = frozenset((node,)).union(*(after[child] for child in workflow.children[node]))
    return after
