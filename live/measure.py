"""Policies compared on a real server: the same workflows, arrivals and seed, interleaved, several times."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from live.check import probe
from live.client import CallError, Client
from live.replay import Replay
from live.server import Counters, Server, ServerInfo, engine_stats, growth
from live.text import Texts
from live.tools import Executor, ToolRun
from sim.choices import Choices
from sim.comparison import Comparison, latencies
from sim.errors import RunError
from sim.load import Alone, Load, SessionRate, in_order
from sim.metrics import distribution
from sim.policies import Policy
from sim.record import EngineStats, RunResult, joined
from sim.workflow import Workflow

#: Seconds. A run whose calls were sent later than that, at the 99th percentile, did not replay what it was to.
MAX_LAG_S = 0.1

Progress = Callable[[], None]


@dataclass(frozen=True)
class Setup:
    """How to replay. ``timeout_s``: seconds without a token after which a call has failed.

    ``texts`` are sent as chats instead of token ids, and ``executor`` carries out the tools that they offer.
    ``hardware`` is for the records: a server does not tell on what it runs.
    """

    repetitions: int = 1
    timeout_s: float = 300.0
    texts: Texts = field(default_factory=dict)
    texts_digest: str = ""
    hardware: str = "unknown"
    executor: Executor | None = None
    progress: Progress = lambda: None


@dataclass(frozen=True)
class Repetition:
    """One run of all workflows under one policy, and how much later than due its calls were sent."""

    policy: str
    number: int
    run: RunResult
    lags_s: Sequence[float]
    malformed: Sequence[str] = ()
    tool_failures: Sequence[str] = ()
    #: Requests that the server finished and that were not ours; None where it does not count.
    foreign: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measured(Comparison):
    """A comparison on a real server; ``runs`` are the repetitions of a policy joined."""

    server: ServerInfo
    repetitions: Sequence[Repetition]
    interrupted: bool
    texts_digest: str = ""
    hardware: str = "unknown"

    @property
    def engine(self) -> str:
        """The server's model and version."""
        kind = "vLLM" if self.server.engine == "vllm" else "fake vLLM, no measurement:"
        times = max((one.number for one in self.repetitions), default=-1) + 1
        together = f", {times} repetitions together" if times > 1 else ""
        return f"{kind} {self.server.version}, {self.server.model}{together}"

    def engine_facts(self) -> dict[str, Any]:
        """What the server says of itself, and how well the replay kept its times."""
        return {
            **self.server.to_json(),
            "repetitions": max((one.number for one in self.repetitions), default=-1) + 1,
            "replay_lag_s": distribution(self._lags()),
            "malformed_tool_calls": len(self._malformed),
            "failed_tools": len(self._failed),
            "hardware": self.hardware,
            "texts_digest": self.texts_digest,
            "requests_of_others": self._foreign,
            "degraded": self.degraded,
            "interrupted": self.interrupted,
        }

    @property
    def degraded(self) -> bool:
        """Calls were sent too late for the run to be what it was to be."""
        lags = self._lags()
        return bool(lags) and float(np.percentile(lags, 99)) > MAX_LAG_S

    def pairs(self, name: str, framework: str | None = None) -> dict[str, tuple[float, float]]:
        """Workflow id -> mean latencies over the repetitions in which it finished under both policies."""
        found: dict[str, list[tuple[float, float]]] = {}
        for base, other in self._both(name):
            for workflow in base:
                found.setdefault(workflow, []).append((base[workflow], other[workflow]))
        kept = {one.id for one in self.workflows if framework in (None, one.framework)}
        means = {workflow: np.mean(pairs, axis=0).tolist() for workflow, pairs in found.items()}
        return {workflow: (mean[0], mean[1]) for workflow, mean in means.items() if workflow in kept}

    def _both(self, name: str) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
        """For each repetition the latencies, under baseline and policy, of the workflows that finished under both."""
        runs = {(one.policy, one.number): latencies(one.run) for one in self.repetitions}
        for number in sorted({one.number for one in self.repetitions}):
            base, other = (runs.get((policy, number), {}) for policy in (self.baseline, name))
            if common := [workflow for workflow in base if workflow in other]:
                yield {one: base[one] for one in common}, {one: other[one] for one in common}

    def speedup(self, name: str, pairs: Mapping[str, tuple[float, float]]) -> tuple[float, tuple[float, float] | None]:
        """Ratio of mean latencies, and an interval for other workflows and for other repetitions on this machine.

        Two half-widths of the logarithm, added as squares: over workflows from the bootstrap, over repetitions from
        their scatter (Student's t). One repetition has none, as it cannot tell a difference from the machine's noise.
        """
        from scipy.special import stdtrit  # a second to load, which only a result needs

        ratio, interval = super().speedup(name, pairs)
        logs = [math.log(one) for one in self._ratios(name, pairs)]
        if len(logs) < 2:
            return ratio, None
        over_workflows = math.log(interval[1] / interval[0]) / 2 if interval else 0.0
        scatter = float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
        half = math.hypot(over_workflows, float(stdtrit(len(logs) - 1, 0.975)) * scatter)
        return ratio, (ratio * math.exp(-half), ratio * math.exp(half))

    def _ratios(self, name: str, workflows: Collection[str]) -> list[float]:
        """For each repetition in which any of the workflows finished under both policies: the ratio of latencies."""
        ratios = []
        for base, other in self._both(name):
            if some := [workflow for workflow in workflows if workflow in base]:
                ratios.append(sum(base[one] for one in some) / sum(other[one] for one in some))
        return ratios

    def limits(self) -> list[str]:
        """Noise between repetitions, replay lag, and whether the run is whole."""
        lines = [line for name in self.policies if (line := self._noise(name))]
        if len(self.policies) > 1 and len({one.number for one in self.repetitions}) < 2:
            lines.append("One repetition cannot tell a difference from the machine's noise: take --repeat 5.")
        if lags := self._lags():
            p50, p99 = np.percentile(lags, (50, 99))
            lines.append(f"Calls were sent {1000 * p50:.1f} ms after they were due (p50), {1000 * p99:.1f} ms (p99).")
        for what, found in (
            ("tool calls of the model were malformed", self._malformed),
            ("tools failed", self._failed),
        ):
            if found:
                lines.append(f"{len(found)} {what}, the first: {found[0]}")
        if self._foreign:
            lines.append(f"{self._foreign} requests of others were served meanwhile: the load was not only this one.")
        if self.degraded:
            lines.append(f"DEGRADED: more than {1000 * MAX_LAG_S:.0f} ms at the 99th percentile; lower the load.")
        if self.interrupted:
            lines.append("Interrupted: only what had finished by then is counted.")
        return lines

    def parts(self) -> Iterator[tuple[dict[str, Any], RunResult]]:
        """Every repetition."""
        for one in self.repetitions:
            yield {"policy": one.policy, "repetition": one.number}, one.run

    @property
    def _malformed(self) -> list[str]:
        return [line for one in self.repetitions for line in one.malformed]

    @property
    def _failed(self) -> list[str]:
        return [line for one in self.repetitions for line in one.tool_failures]

    @property
    def _foreign(self) -> int | None:
        known = [one.foreign for one in self.repetitions if one.foreign is not None]
        return sum(known) if known else None

    def _lags(self) -> list[float]:
        return [lag for one in self.repetitions for lag in one.lags_s]

    def _noise(self, name: str) -> str:
        spans = [one.run.makespan_s for one in self.repetitions if one.policy == name and _whole(one)]
        if len(spans) < 2:
            return ""
        variation = float(np.std(spans, ddof=1) / np.mean(spans))
        return f"{name}: makespan varies by {variation:.1%} between {len(spans)} repetitions (standard deviation)."


def measure(
    workflows: Sequence[Workflow],
    policies: Mapping[str, Policy],
    baseline: str,
    server: Server,
    load: Load,
    seed: int,
    choices: Choices,
    setup: Setup,
) -> Measured:
    """Replay every policy several times, in turn, so that drift of the machine hits all alike.

    Every run begins with an empty prefix cache: its requests carry a salt of their own. Raises RunError where the
    server cannot do what a policy or the replay needs.
    """
    info = server.info()
    check_policies(policies, info)
    _warm_up(server, info, setup.timeout_s)
    done: list[Repetition] = []
    interrupted = False
    for number, name in product(range(setup.repetitions), policies):
        replays: list[Replay] = []
        before: Counters = {}
        after: Counters = {}
        try:
            before = server.counters()
            for replay in _replays(workflows, policies[name], info, load, seed, setup, f"{name}/{number}"):
                replays.append(replay)
                _play(replay, load, len(workflows), seed)
            after = server.counters()
        except KeyboardInterrupt:
            interrupted = True
        done.append(_repetition(name, number, replays, before, after))
        if interrupted:
            break
    return Measured(
        workflows=workflows,
        policies=policies,
        baseline=baseline,
        load=load,
        seed=seed,
        runs={name: joined([one.run for one in done if one.policy == name]) for name in policies},
        bounds={},
        choices=choices,
        server=info,
        repetitions=done,
        interrupted=interrupted,
        texts_digest=setup.texts_digest,
        hardware=setup.hardware,
    )


def _repetition(name: str, number: int, replays: Sequence[Replay], before: Counters, after: Counters) -> Repetition:
    engine = engine_stats(before, after)
    # The counters are of the whole repetition: they stand with its first part.
    parts = [replay.result(EngineStats() if index else engine) for index, replay in enumerate(replays)]
    run = joined(parts)
    served = growth(before, after, "vllm:request_success_total")
    ours = sum(record.status == "finished" for record in run.records)
    return Repetition(
        policy=name,
        number=number,
        run=run,
        lags_s=[lag for replay in replays for lag in replay.lags_s()],
        malformed=[line for replay in replays for line in replay.malformed()],
        tool_failures=[_failure(one) for replay in replays for one in replay.tool_runs() if one.result.reason],
        foreign=None if served is None else max(0, round(served) - ours),
    )


def _whole(repetition: Repetition) -> bool:
    """Everything of it finished."""
    return all(session.status == "finished" for session in repetition.run.sessions)


def check_policies(policies: Mapping[str, Policy], info: ServerInfo) -> None:
    """Raise RunError for a policy that needs a setting which the server says it does not have."""
    for name, policy in policies.items():
        for setting, value in policy.needs.items():
            actual = info.scheduler.get({"scheduling_policy": "policy"}.get(setting, setting))
            if actual is not None and actual != value:
                flag = f"--{setting.replace('_', '-')} {value}"
                raise RunError(f"policy {name}: the server runs with {setting} {actual}; restart it with {flag}")


def _replays(
    workflows: Sequence[Workflow],
    policy: Policy,
    info: ServerInfo,
    load: Load,
    seed: int,
    setup: Setup,
    name: str,
) -> Iterator[Replay]:
    """One replay of all workflows, or of each by itself; each finds an empty prefix cache."""
    alone = [{number: workflow} for number, workflow in enumerate(workflows)]
    for some in alone if isinstance(load, Alone) else [in_order(workflows, seed)]:
        extra = {"cache_salt": secrets.token_hex(8)}
        yield Replay(
            some,
            policy,
            lambda: Client(info.url, info.model, setup.timeout_s),
            extra,
            setup.progress,
            setup.texts,
            setup.executor,
            name,
        )


def _failure(run: ToolRun) -> str:
    return f"{run.job.workflow.id}, {run.job.tool.id}: {run.result.reason}"


def _play(replay: Replay, load: Load, sessions: int, seed: int) -> None:
    """Let the workflows arrive as the load says."""
    if isinstance(load, SessionRate):
        replay.open_loop(load.instants(sessions, seed))
    else:
        replay.closed_loop(1 if isinstance(load, Alone) else load.sessions)


def _warm_up(server: Server, info: ServerInfo, timeout_s: float) -> None:
    """Calls that nobody counts. They also show that the server takes token ids, salts and exact lengths."""
    try:
        _, _, salted = probe(Client(info.url, info.model, timeout_s))
    except CallError as error:
        raise RunError(f"--server {server.url}: a first call failed: {error}") from error
    if salted.num_cached_tokens:
        raise RunError(
            f"--server {server.url}: it finds a prompt cached under another cache_salt, so no repetition would begin"
            " with an empty cache; take a vLLM that knows cache_salt, or restart it with --no-enable-prefix-caching"
        )
