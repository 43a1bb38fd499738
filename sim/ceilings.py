"""What no order of the calls can beat under load, and which limit binds: the chain, the queue, or the server."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from sim.bounds import times_s
from sim.fleet import Fleet, fleet_of
from sim.latency import Profile
from sim.load import ConcurrentSessions
from sim.policies import parse_policy
from sim.record import RunResult
from sim.reuse import SharedCache
from sim.simulate import simulate
from sim.workflow import Workflow

#: Up to here a mean latency counts as one without a queue.
_NO_QUEUE = 1.05
#: Of fewer sessions most are under way only while the server runs empty.
_FEW = 20
#: What is left of the work when the server begins to run empty.
_DRAIN = 0.1
#: A server whose rate has fallen to this part of its best has too few sessions.
_TOO_FEW = 0.8


def no_queue_s(workflows: Sequence[Workflow], profile: Profile) -> dict[str, float]:
    """Workflow id -> seconds of its longest path on a GPU without end, which sessions of all these workflows share.

    No call waits, each takes as long as in a batch of its own, and every prefix is cached that another session, or a
    call of its own that is no descendant, ever writes. No policy that sends every call once is faster at any load.
    """
    cache = SharedCache(workflows, profile.engine)
    seconds = {}
    for session, workflow in enumerate(workflows):
        cached = {call: cached for call, (cached, _) in cache.tokens(session).items()}
        seconds[workflow.id] = workflow.span(times_s(workflow, profile, cached))
    return seconds


@dataclass(frozen=True, slots=True)
class Demand:
    """What calls need of the GPU at least, however they are batched.

    ``rows`` and ``tokens`` in steps; ``kv_tokens``: KV that no other call can hold meanwhile, summed over the steps
    that read it; ``extra_s``: seconds of the device beyond those that every step and every token takes.
    """

    rows: int = 0
    tokens: int = 0
    kv_tokens: int = 0
    extra_s: float = 0.0

    def __add__(self, other: Demand) -> Demand:
        return Demand(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.kv_tokens + other.kv_tokens,
            self.extra_s + other.extra_s,
        )

    def least_s(self, profile: Profile) -> float:
        """Seconds that no schedule can beat: as few steps as rows, tokens and KV blocks of full batches allow."""
        step, engine = profile.step_time, profile.engine
        steps = max(
            self.rows / engine.max_num_seqs,
            self.tokens / engine.max_num_batched_tokens,
            self.kv_tokens / ((engine.num_gpu_blocks - 1) * engine.block_size),
        )
        charged = max(0.0, self.tokens - steps * step.free_tokens)
        device_s = steps * step.const_s + charged * _token_s(profile) + self.extra_s
        host_s = steps * step.host_s + self.rows * step.host_seq_s
        return max(device_s, host_s) if engine.async_scheduling else device_s + host_s


def demand(prompt: int, cached: int, held: int, output: int, profile: Profile) -> Demand:
    """Of one call of so many tokens, of which so many could be cached, or held by another call while it runs.

    Each output token is a row that reads the KV of all before it. One that follows a preemption comes out of a prefill,
    which could be cheaper than a decode.
    """
    step, new, decodes = profile.step_time, prompt - cached, output - 1
    context = output * prompt + output * decodes // 2
    # Terms of an arithmetic series, from the first step on in which the call has KV of its own.
    first = max(0, held - prompt)
    own = sum((prompt - held + first, prompt - held + decodes)) * max(0, output - first) // 2
    prefill_s, decode_s = step.prefill_token_s, step.decode_seq_s
    decode_s = min(decode_s, prefill_s + step.attention_pair_s * (prompt + 1))
    extra_s = (
        prefill_s * new
        + decode_s * decodes
        - _token_s(profile) * (new + decodes)
        + step.attention_pair_s * (new * cached + new * (new + 1) // 2)
        + step.kv_token_s * context
        + step.distinct_kv_token_s * own
    )
    return Demand(output, new + decodes, own, extra_s)


def demands(workflows: Sequence[Workflow], profile: Profile) -> list[dict[str, Demand]]:
    """For each session call id -> its demand; empty where the engine refuses a call, as the session then fails."""
    cache = SharedCache(workflows, profile.engine)
    return [_of_session(cache, session, workflow, profile) for session, workflow in enumerate(workflows)]


def capacity_rate(workflows: Sequence[Workflow], profile: Profile) -> float:
    """Sessions per second that no policy can exceed on one server, in sessions of these workflows that can finish.

    Every call is sent once, every batch is full, every reusable prefix cached, no token padded, none computed twice.
    """
    sessions = [session for session in demands(workflows, profile) if session]
    total = sum((call for session in sessions for call in session.values()), Demand())
    calls = sum(map(len, sessions))
    # One thread reads all requests; before the first it need not wait.
    read_s = (calls - 1) * profile.overheads.input_gap_s
    return len(sessions) / max(total.least_s(profile), read_s) if sessions else 0.0


def saturation(workflows: Sequence[Workflow], engine: Profile | Fleet, seed: int) -> float:
    """Sessions per second at which a server that always has more to do ends them: of plain `async`, of no other policy.

    Or equal servers: together they sustain less than each by itself where calls of a session go to any of them.

    Simulated: the best `sustained` rate over closed loops of all sessions at once, half as many, a quarter, and so on.
    All at once it would be that of a server whose cache is overrun, which is less than it sustains.
    """
    found, sessions, fleet = [0.0], len(workflows), fleet_of(engine)
    profile = fleet.pools[0].profile
    weights = [{call: demand.least_s(profile) for call, demand in one.items()} for one in demands(workflows, profile)]
    while sessions and (len(found) < 2 or found[-1] >= _TOO_FEW * max(found)):
        result = simulate(workflows, parse_policy("async"), fleet, ConcurrentSessions(sessions), seed)
        found.append(sustained(result, weights))
        sessions //= 2
    return max(found)


def sustained(result: RunResult, weights: Sequence[dict[str, float]]) -> float:
    """Sessions per second of a closed loop before it runs empty.

    That is the share of their work that is done when it first is nine tenths, as that share of the sessions that
    finish, over the seconds until then: calls count when they end, by their weight. With fewer than 20 sessions it is
    all of them over all the time.
    """
    finished = {session.session for session in result.sessions if session.status == "finished"}
    if len(finished) < _FEW:
        return len(finished) / result.makespan_s if finished else 0.0
    calls = [call for call in result.records if call.session in finished and call.finished_s is not None]
    ends = sorted((call.finished_s or 0.0, weights[call.session][call.call_id]) for call in calls)
    done = list(accumulate(weight for _, weight in ends))
    drains_s = ends[bisect_left(done, (1 - _DRAIN) * done[-1])][0]
    # All that ended at that instant, as the calls of a batch do.
    share = done[bisect_right(ends, (drains_s, math.inf)) - 1] / done[-1]
    return share * len(finished) / drains_s


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The limits of one cell of a study.

    ``work_span``: pooled work / pooled span, the most that one workflow alone can gain over one node at a time.
    ``no_queue``: the baseline's mean latency over the mean of `no_queue_s`, the most any policy can gain at this load.
    Rates in sessions per second; ``offered_rate`` is None in a closed loop and where all arrive at once, the others
    where nobody computed them.
    """

    work_span: float | None
    no_queue: float | None
    offered_rate: float | None
    saturation_rate: float | None
    capacity_rate: float | None

    def binds(self) -> str:
        """Which of them binds, as a sentence."""
        return self._server() or self._queue()

    def to_json(self) -> dict[str, Any]:
        """All of them, and which binds."""
        return {**asdict(self), "binds": self.binds()}

    def _server(self) -> str:
        """What is said where the server can't keep up; empty where it can, or where nobody knows."""
        offered = self.offered_rate
        if offered is None:
            return ""
        if self.capacity_rate is not None and offered >= self.capacity_rate:
            return (
                f"beyond capacity: {offered:.3g} sessions/s are offered and no policy can serve more than "
                f"{self.capacity_rate:.3g}; the backlog grows as long as sessions arrive"
            )
        if self.saturation_rate is not None and offered >= self.saturation_rate:
            return (
                f"beyond saturation: {offered:.3g} sessions/s are offered and async sustains "
                f"{self.saturation_rate:.3g}; its backlog grows as long as sessions arrive"
            )
        return ""

    def _queue(self) -> str:
        if self.no_queue is None:
            return "unknown: no session finished"
        if self.no_queue <= _NO_QUEUE:
            return (
                f"chain-bound: an infinite GPU would be only {self.no_queue:.2f}x as fast, "
                "so no order of the calls gains more"
            )
        return (
            f"queueing-bound: calls wait and share batches; an infinite GPU would be {self.no_queue:.2f}x as fast, "
            "the most that any order of the calls can gain"
        )


def _of_session(cache: SharedCache, session: int, workflow: Workflow, profile: Profile) -> dict[str, Demand]:
    if any(profile.engine.refusal(workflow.num_tokens(call)) for call in workflow.calls):
        return {}
    tokens, outputs = cache.tokens(session), workflow.tape.output_tokens
    return {
        call.id: demand(call.num_prompt_tokens, *tokens[call.id], outputs[call.id], profile) for call in workflow.calls
    }


def _token_s(profile: Profile) -> float:
    """Seconds on the device that a token takes at least, if it is none of the free ones."""
    return min(profile.step_time.prefill_token_s, profile.step_time.decode_seq_s)
