"""Work and span of a workflow in seconds on a given engine: what no schedule can beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sim.kv import Prefixes
from sim.latency import Profile, StepClock
from sim.reuse import Writers
from sim.workflow import Workflow


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
    """Seconds of the longest path, each node at its best-case time."""
    return workflow.span(least_times_s(workflow, profile))


def least_times_s(workflow: Workflow, profile: Profile) -> Mapping[str, float]:
    """Node id -> its best-case time: a call at batch 1 with every reusable prefix cached, a tool its duration.

    Tools of unknown duration count as 0 s, as in the simulation.
    """
    return times_s(workflow, profile, reusable_tokens(workflow, profile))


def times_s(workflow: Workflow, profile: Profile, cached: Mapping[str, int]) -> Mapping[str, float]:
    """Node id -> its best-case time if at most so many tokens of each call's prompt are cached."""
    seconds = {tool: duration or 0.0 for tool, duration in workflow.tape.tool_s.items()}
    clock = StepClock(profile)
    for call in workflow.calls:
        output = workflow.tape.output_tokens[call.id]
        seconds[call.id] = least_s(clock, call.num_prompt_tokens, cached[call.id], output)
    return seconds


def least_s(clock: StepClock, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
    """Seconds that no schedule can beat for one call of which at most so many tokens are cached.

    As few steps as the token budget allows, and in each no more work than the call needs. A prompt in several chunks
    is read least often when the first chunk is the short one, and can save padding only at the price of a step. A
    token that follows a preemption comes out of a prefill, which could be cheaper than a decode. For a prompt that
    fits into one step and a prefill that costs more than a decode this is exactly the call's time on an idle engine.
    """
    new, decodes = prompt_tokens - cached_tokens, output_tokens - 1
    ends = range(prompt_tokens, cached_tokens, -clock.engine.max_num_batched_tokens)
    pairs = new * cached_tokens + new * (new + 1) // 2
    padded_s = clock.device_s(new, 0, sum(ends), sum(ends), pairs)
    padding_s, const_s = clock.padding_s(new), clock.step.const_s
    # Each chunk has free tokens of its own; of the first chunk `device_s` has taken them off.
    further_s = const_s - clock.hidden_s(new)
    prefill_s = padded_s - padding_s + min(padding_s, const_s) + (len(ends) - 1) * further_s
    decode_s = min(
        clock.device_s(0, 1, prompt_tokens + 1, prompt_tokens + 1, 0),
        clock.device_s(1, 0, prompt_tokens + 1, prompt_tokens + 1, prompt_tokens),
    )
    return (
        clock.overheads.input_s
        + clock.least_s(prefill_s, len(ends))
        + clock.steps_s(decode_s, 1, decodes)
        + clock.overheads.output_s
    )


def reusable_tokens(workflow: Workflow, profile: Profile) -> Mapping[str, int]:
    """Call id -> prompt tokens that could be cached, in full blocks, when the call starts.

    Any call that is no descendant may have run before. The last token is always computed.
    """
    if not profile.engine.enable_prefix_caching:
        return {call.id: 0 for call in workflow.calls}
    size = profile.engine.block_size
    writers = Writers(workflow, Prefixes(size), size)
    return {
        call.id: size * min((call.num_prompt_tokens - 1) // size, writers.num_earlier(call.id))
        for call in workflow.calls
    }
