"""Policies compared on a real server: the same workflows, arrivals and seed, interleaved, several times."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from live.client import CallError, Client
from live.prompts import segment_ids
from live.replay import Replay
from live.server import Server, ServerInfo, engine_stats
from sim.choices import Choices
from sim.compare import Comparison
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
class Repetition:
    """One run of all workflows under one policy, and how much later than due its calls were sent."""

    policy: str
    number: int
    run: RunResult
    lags_s: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Measured(Comparison):
    """A comparison on a real server; ``runs`` are the repetitions of a policy joined."""

    server: ServerInfo
    repetitions: Sequence[Repetition]
    interrupted: bool

    @property
    def engine(self) -> str:
        """The server's model and version."""
        kind = "vLLM" if self.server.engine == "vllm" else "fake vLLM, no measurement:"
        return f"{kind} {self.server.version}, {self.server.model}"

    def engine_facts(self) -> dict[str, Any]:
        """What the server says of itself, and how well the replay kept its times."""
        return {
            **self.server.to_json(),
            "repetitions": max((one.number for one in self.repetitions), default=-1) + 1,
            "replay_lag_s": distribution(self._lags()),
            "degraded": self.degraded,
            "interrupted": self.interrupted,
        }

    @property
    def degraded(self) -> bool:
        """Calls were sent too late for the run to be what it was to be."""
        lags = self._lags()
        return bool(lags) and float(np.percentile(lags, 99)) > MAX_LAG_S

    def limits(self) -> list[str]:
        """Noise between repetitions, replay lag, and whether the run is whole."""
        lines = [line for name in self.policies if (line := self._noise(name))]
        if lags := self._lags():
            p50, p99 = np.percentile(lags, (50, 99))
            lines.append(f"Calls were sent {1000 * p50:.1f} ms after they were due (p50), {1000 * p99:.1f} ms (p99).")
        if self.degraded:
            lines.append(f"DEGRADED: more than {1000 * MAX_LAG_S:.0f} ms at the 99th percentile; lower the load.")
        if self.interrupted:
            lines.append("Interrupted: only what had finished by then is counted.")
        return lines

    def parts(self) -> Iterator[tuple[dict[str, Any], RunResult]]:
        """Every repetition."""
        for one in self.repetitions:
            yield {"policy": one.policy, "repetition": one.number}, one.run

    def _lags(self) -> list[float]:
        return [lag for one in self.repetitions for lag in one.lags_s]

    def _noise(self, name: str) -> str:
        spans = [one.run.makespan_s for one in self.repetitions if one.policy == name and one.run.makespan_s > 0]
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
    repetitions: int,
    timeout_s: float,
    progress: Progress,
) -> Measured:
    """Replay every policy ``repetitions`` times, in turn, so that drift of the machine hits all alike.

    Every run begins with an empty prefix cache: its requests carry a salt of their own. Raises RunError where the
    server cannot do what a policy or the replay needs.
    """
    info = server.info()
    check_policies(policies, info)
    _warm_up(server, info, timeout_s)
    done: list[Repetition] = []
    interrupted = False
    for number, name in product(range(repetitions), policies):
        about = f"{name}/{number}"
        replays = list(_replays(workflows, policies[name], info, load, seed, timeout_s, progress, about))
        before = server.counters()
        interrupted = not all(_play(replay, load, len(workflows), seed) for replay in replays)
        engine = engine_stats(before, server.counters())
        # The counters are of the whole repetition: they stand with its first part.
        parts = [replay.result(EngineStats() if index else engine) for index, replay in enumerate(replays)]
        lags = [lag for replay in replays for lag in replay.lags_s()]
        done.append(Repetition(name, number, joined(parts), lags))
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
    )


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
    timeout_s: float,
    progress: Progress,
    name: str,
) -> Iterator[Replay]:
    """One replay of all workflows, or of each by itself; each finds an empty prefix cache."""
    alone = [{number: workflow} for number, workflow in enumerate(workflows)]
    for some in alone if isinstance(load, Alone) else [in_order(workflows, seed)]:
        extra = {"cache_salt": secrets.token_hex(8)}
        yield Replay(some, policy, lambda: Client(info.url, info.model, timeout_s), extra, progress, name=name)


def _play(replay: Replay, load: Load, sessions: int, seed: int) -> bool:
    """Let the workflows arrive as the load says; false if it was interrupted."""
    if isinstance(load, SessionRate):
        replay.open_loop(load.instants(sessions, seed))
    else:
        replay.closed_loop(1 if isinstance(load, Alone) else load.sessions)
    return not replay.interrupted


def _warm_up(server: Server, info: ServerInfo, timeout_s: float) -> None:
    """A call that nobody counts: it also shows that the server takes token ids, salts and exact lengths."""
    try:
        Client(info.url, info.model, timeout_s).complete(segment_ids("warm-up", 64), 8, cache_salt="warm-up")
    except CallError as error:
        raise RunError(f"--server {server.url}: a first call failed: {error}") from error
