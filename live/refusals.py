"""What of a policy cannot be replayed, and the mend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from live.server import Server, ServerInfo, engine_fields
from live.signals import signals
from live.text import Texts
from live.tools import Executor, RecordedTime
from sim.errors import RunError
from sim.latency import Profile
from sim.policies import Policy, str_of
from sim.rules import Ahead, Gate, Informed, Order, Router, Speculation
from sim.settings import flag


def check_policies(
    policies: Mapping[str, Policy], replicas: int, profile: Profile | None, texts: Texts, executor: Executor | None
) -> None:
    """Raise RunError for a policy that cannot be replayed so, whatever the servers are."""
    for name, policy in policies.items():
        for reason in _refusals(policy, replicas, profile):
            raise RunError(f"policy {name}: {reason}")
        for reason in _refusals_of_chats(policy, texts, executor):
            raise RunError(f"policy {name}: {reason}")


def _refusals(policy: Policy, replicas: int, profile: Profile | None) -> Iterator[str]:
    for rule in policy.rules:
        if rule.runs_on == "simulation only":
            yield (
                f"{str_of(rule)}: only the simulator can run it: stock vLLM has nothing like it; leave it out, or use"
                " workspan run"
            )
    if policy.rule(Router) and replicas < 2:
        yield "a router needs several replicas; give --server several times"
    if isinstance(policy.rule(Order), Informed) and not profile:
        yield "it estimates how long calls will take; give --profile NAME, whose seconds it takes"


def _refusals_of_chats(policy: Policy, texts: Texts, executor: Executor | None) -> Iterator[str]:
    if policy.rule(Speculation) and not isinstance(executor, RecordedTime | None):
        yield "a tool that is really carried out cannot be guessed; give --tools recorded, or leave the rule out"
    if texts and (policy.rule(Speculation) or policy.rule(Ahead)):
        yield "what comes next in a chat is not known before; leave out --texts, or the rule"


def check_servers(policies: Mapping[str, Policy], servers: Sequence[Server], infos: Sequence[ServerInfo]) -> None:
    """Raise RunError where the servers are not replicas of one model, or not what a policy needs."""
    for number, info in enumerate(infos):
        if info.url in [other.url for other in infos[:number]]:
            raise RunError(f"--server {info.url}: given twice; name each once")
        if info.model != infos[0].model:
            raise RunError(
                f"--server {info.url}: serves {info.model}, {infos[0].url} serves {infos[0].model}; replicas need one"
                " model: give servers of the same"
            )
    for name, policy in policies.items():
        for info in infos:
            _check_settings(name, policy, info)
        if policy.rule(Gate):
            _check_metrics(name, servers)


def _check_settings(name: str, policy: Policy, info: ServerInfo) -> None:
    """A setting that the server does not tell is taken for what it should be."""
    told = engine_fields(info.to_json())
    for setting, value in policy.needs.items():
        actual = told.get(setting, value)
        if actual != value:
            mend = f"restart it with {flag(setting, value)}"
            raise RunError(f"policy {name}: the server {info.url} runs with {setting} {actual}; {mend}")


def _check_metrics(name: str, servers: Sequence[Server]) -> None:
    for server in servers:
        readings = server.readings()
        if not readings or None in map(signals, readings):
            raise RunError(
                f"policy {name}: --server {server.url} does not show its KV cache in /metrics; restart it without"
                " --disable-log-stats"
            )
