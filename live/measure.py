"""Policies compared on a real server: the same workflows, arrivals and seed, interleaved, several times."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import product

from live.check import probe
from live.client import CallError, Client
from live.measured import Measured, Repetition
from live.refusals import check_policies, check_servers
from live.replay import Replay
from live.server import Counters, Server, ServerInfo, engine_stats, growth
from live.signals import Looks
from live.text import Texts
from live.tools import Executor, ToolRun
from sim.bounds import least_times_s
from sim.choices import Choices
from sim.errors import RunError
from sim.latency import Profile
from sim.load import Alone, Load, OpenLoop, in_order
from sim.policies import Policy
from sim.record import EngineStats, RunResult, joined
from sim.workflow import Workflow
from sim.world import World

Progress = Callable[[], None]


@dataclass(frozen=True)
class Setup:
    """How to replay. ``timeout_s``: seconds without a token after which a call has failed.

    ``texts`` are sent as chats instead of token ids, and ``executor`` carries out the tools that they offer.
    ``hardware`` is for the records: a server does not tell on what it runs. ``profile`` gives the seconds in which
    policies estimate what is to come.
    """

    repetitions: int = 1
    timeout_s: float = 300.0
    texts: Texts = field(default_factory=dict)
    texts_digest: str = ""
    hardware: str = "unknown"
    executor: Executor | None = None
    profile: Profile | None = None
    progress: Progress = lambda: None


def measure(
    workflows: Sequence[Workflow],
    policies: Mapping[str, Policy],
    baseline: str,
    servers: Sequence[Server],
    load: Load,
    seed: int,
    choices: Choices,
    setup: Setup,
) -> Measured:
    """Replay every policy several times, in turn, so that drift of the machine hits all alike.

    Every run begins with an empty prefix cache: its requests carry a salt of their own. Raises RunError where the
    servers cannot do what a policy or the replay needs.
    """
    check_policies(policies, len(servers), setup.profile, setup.texts, setup.executor)
    infos = [server.info() for server in servers]
    check_servers(policies, servers, infos)
    for server, info in zip(servers, infos, strict=True):
        _warm_up(server, info, setup.timeout_s)
    done: list[Repetition] = []
    interrupted = False
    for number, name in product(range(setup.repetitions), policies):
        replays: list[Replay] = []
        before: list[Counters] = []
        after: list[Counters] = []
        try:
            before = [server.counters() for server in servers]
            for replay in _replays(workflows, policies[name], infos, load, seed, setup, f"{name}/{number}"):
                replays.append(replay)
                _play(replay, load, workflows, seed)
            after = [server.counters() for server in servers]
        except KeyboardInterrupt:
            interrupted = True
        # Who is interrupted has read no counters, or not all.
        pairs = list(zip(before, after, strict=True)) if after else [({}, {})]
        done.append(_repetition(name, number, replays, pairs))
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
        servers=infos,
        repetitions=done,
        interrupted=interrupted,
        texts_digest=setup.texts_digest,
        hardware=setup.hardware,
    )


def _repetition(
    name: str, number: int, replays: Sequence[Replay], counters: Sequence[tuple[Counters, Counters]]
) -> Repetition:
    """``counters``: each server's before and after."""
    engine = reduce(operator.add, (engine_stats(*pair) for pair in counters))
    # The counters are of the whole repetition: they stand with its first part.
    parts = [replay.result(EngineStats() if index else engine) for index, replay in enumerate(replays)]
    run = joined(parts)
    return Repetition(
        policy=name,
        number=number,
        run=run,
        lags_s=[lag for replay in replays for lag in replay.lags_s()],
        malformed=[line for replay in replays for line in replay.malformed()],
        tool_failures=[_failure(one) for replay in replays for one in replay.tool_runs() if one.result.reason],
        ahead_failures=[line for replay in replays for line in replay.failed_ahead()],
        foreign=_foreign(run, counters),
    )


def _foreign(run: RunResult, counters: Sequence[tuple[Counters, Counters]]) -> int | None:
    served = [growth(before, after, "vllm:request_success_total") for before, after in counters]
    known = [one for one in served if one is not None]
    ours = sum(record.status == "finished" for record in run.records) + run.extras.ahead_calls
    return max(0, round(sum(known)) - ours) if len(known) == len(served) else None


@dataclass(frozen=True)
class _Servers:
    """So many replicas, each of which takes every agent's calls; the profile says how long a call would take alone."""

    number: int
    profile: Profile | None
    tool_limits: Mapping[str, int] = field(default_factory=dict)

    def numbers(self, agent: str) -> Sequence[int]:
        """All of them."""
        return range(self.number)

    def least_times_s(self, workflow: Workflow) -> Mapping[str, float]:
        """Best-case seconds of each node; a policy that asks for them is refused where there is no profile."""
        assert self.profile
        return least_times_s(workflow, self.profile)


def _replays(
    workflows: Sequence[Workflow],
    policy: Policy,
    infos: Sequence[ServerInfo],
    load: Load,
    seed: int,
    setup: Setup,
    name: str,
) -> Iterator[Replay]:
    """One replay of all workflows, or of each by itself; each finds an empty prefix cache."""
    numbered = in_order(workflows, load, seed)
    world = World(policy, _Servers(len(infos), setup.profile), numbered, seed)
    connect = [partial(Client, info.url, info.model, setup.timeout_s) for info in infos]
    alone = [{number: workflow} for number, workflow in numbered.items()]
    for some in alone if isinstance(load, Alone) else [numbered]:
        run, salt = world.run(), {"cache_salt": secrets.token_hex(8)}
        observe = Looks([info.url for info in infos]) if run.every_s else lambda: None
        yield Replay(some, run, connect, salt, setup.progress, setup.texts, setup.executor, name, observe)


def _failure(run: ToolRun) -> str:
    return f"{run.job.workflow.id}, {run.job.tool.id}: {run.result.reason}"


def _play(replay: Replay, load: Load, workflows: Sequence[Workflow], seed: int) -> None:
    """Let the workflows arrive as the load says."""
    if isinstance(load, OpenLoop):
        replay.open_loop(load.arrivals(workflows, seed))
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
