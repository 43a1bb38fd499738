"""What a comparison on real servers has shown: speed-ups with the scatter between repetitions, and what limits them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from live.server import ServerInfo
from sim.comparison import Comparison, latencies
from sim.metrics import distribution
from sim.record import RunResult

#: Seconds. A run whose calls were sent later than that, at the 99th percentile, did not replay what it was to.
MAX_LAG_S = 0.1


@dataclass(frozen=True)
class Repetition:
    """One run of all workflows under one policy, and how much later than due its calls were sent."""

    policy: str
    number: int
    run: RunResult
    lags_s: Sequence[float]
    malformed: Sequence[str] = ()
    tool_failures: Sequence[str] = ()
    ahead_failures: Sequence[str] = ()
    #: Requests that the servers finished and that were not ours; None where one does not count.
    foreign: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measured(Comparison):
    """A comparison on real servers, of which each is a replica; ``runs`` are the repetitions of a policy joined."""

    servers: Sequence[ServerInfo]
    repetitions: Sequence[Repetition]
    interrupted: bool
    texts_digest: str = ""
    hardware: str = "unknown"

    @property
    def engine(self) -> str:
        """The servers' model and version."""
        first = self.servers[0]
        times = f"{len(self.servers)} x " if len(self.servers) > 1 else ""
        fake = any(server.engine != "vllm" for server in self.servers)
        kind = times + ("fake vLLM, no measurement:" if fake else "vLLM")
        rounds = max((one.number for one in self.repetitions), default=-1) + 1
        together = f", {rounds} repetitions together" if rounds > 1 else ""
        return f"{kind} {first.version}, {first.model}{together}"

    def engine_facts(self) -> dict[str, Any]:
        """What the servers say of themselves, the first one's at the top, and how well the replay kept its times."""
        told = [server.to_json() for server in self.servers]
        fake = [one for one in told if one["engine"] != "vllm"]
        return {
            **told[0],
            "engine": (fake or told)[0]["engine"],
            "replicas": len(told),
            "servers": told,
            "repetitions": max((one.number for one in self.repetitions), default=-1) + 1,
            "replay_lag_s": distribution(self._lags()),
            "malformed_tool_calls": len(self._malformed),
            "failed_tools": len(self._failed),
            "failed_prefills_ahead": len(self._failed_ahead),
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
            ("prefills ahead of a call failed", self._failed_ahead),
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
    def _failed_ahead(self) -> list[str]:
        return [line for one in self.repetitions for line in one.ahead_failures]

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


def _whole(repetition: Repetition) -> bool:
    """Everything of it ended as it should."""
    return all(session.status in ("finished", "aborted") for session in repetition.run.sessions)
