"""Every policy that can be replayed, through both drivers: the simulated one and that of real servers.

A replay's clock is the wall's. So what it reports to its `Run` is taken in the order, and with the times and signals,
of the simulation, whenever it comes (`InOrder`): from there on every decision must be the same.
"""

from collections import deque
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
from strategies import profile, roomy

import sim.world
from live.client import Client
from live.fake import FakeServer
from live.refusals import check_policies
from live.replay import Replay
from sim.errors import RunError
from sim.fleet import Fleet, Pool
from sim.latency import StepTime
from sim.policies import parse_policy, policies
from sim.record import EngineStats
from sim.rules import Ahead, Gate, Order, Router, Speculation, Verdict
from sim.run import Run
from sim.simulate import serve
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow
from sim.world import World

SETTINGS = roomy(max_num_seqs=4, num_gpu_blocks=60, scheduling_policy="priority")
STEP = StepTime(const_s=0.003, prefill_token_s=1e-5, decode_seq_s=1e-4, kv_token_s=1e-7, attention_pair_s=1e-9)
PROFILE = profile(SETTINGS, STEP)
#: Values with which something happens in a run of some tenths of a second.
PARAMETERS = {
    "async": "max_parallel=1",
    "plas": "quantum_s=0.02",
    "atlas": "quantum_s=0.02",
    "program_gate": "window=3,high=0.2,least_hits=0.9,every_s=0.03",
    "pause": "high=0.4,low=0.4,every_s=0.01",
    "prefill_ahead": "min_tokens=16",
    "sticky": "min_tokens=200",
    "prefix_affinity": "min_share=0.95",
    "early_abort_oracle": "at=0.3",
    "demote_oracle": "at=0.3",
}
INSTANTS = [0.0, 0.011, 0.023, 0.038]
TASK = [Segment("system", 120), Segment("task", 40)]


def flow(name, nodes, edges, outputs, tools=None, success=True):
    pairs = tuple(Edge(*edge.split(), "visible") for edge in edges)
    return Workflow(name, f"from {name}", name, tuple(nodes), pairs, Tape(outputs, tools or {}), success=success)


def call(name, *prompt, agent="agent", answer=""):
    return Call(name, agent, (*TASK, *prompt), answer or f"answer-{name}")


def chain(name, seconds):
    """Three calls with a search before the second and the third; each prompt goes on where the last one ended."""
    said = [Segment(f"answer-{name}-a", 9), Segment(f"found-{name}", 30), Segment(f"answer-{name}-b", 14)]
    calls = [call(f"{name}-{one}", *said[:length]) for one, length in zip("abc", (0, 2, 3), strict=True)]
    tools = [Tool(f"{name}-t", "search"), Tool(f"{name}-u", "search")]
    nodes = calls[0], tools[0], calls[1], tools[1], calls[2]
    edges = [f"{name}-{pair[0]} {name}-{pair[1]}" for pair in ("at", "tb", "bu", "uc")]
    outputs = dict(zip((one.id for one in calls), (9, 14, 6), strict=True))
    return flow(name, nodes, edges, outputs, dict(zip((one.id for one in tools), seconds, strict=True)))


def fan():
    """A plan, four workers, of which one searches before, and who joins what they found."""
    workers = [call(f"w{number}", Segment("answer-plan", 12), Segment(f"part-{number}", 17)) for number in range(4)]
    found = [Segment(f"answer-w{number}", 7 + 5 * number) for number in range(4)]
    nodes = (call("plan"), Tool("look", "search"), *workers, call("join", *found))
    edges = ["plan look", "look w0", *(f"plan w{number}" for number in (1, 2, 3)), *(f"w{n} join" for n in range(4))]
    outputs = {"plan": 12, **{f"w{number}": 7 + 5 * number for number in range(4)}, "join": 8}
    return flow("fan", nodes, edges, outputs, {"look": 0.035})


def stuck():
    """Somebody who says the same six times."""
    nodes = [call(f"r{number}", Segment(f"turn-{number}", 10 + number), answer="same") for number in range(6)]
    return flow("stuck", nodes, [f"r{n} r{n + 1}" for n in range(5)], {one.id: 5 for one in nodes}, success=False)


CROWD = dict(enumerate([chain("one", (0.05, 0.03)), fan(), stuck(), chain("two", (0.04, 0.02))]))


class Event(NamedTuple):
    """What a driver reported, when, what it said about it, and what the run answered."""

    key: tuple
    now_s: float
    told: object
    starts: list


class Recorder(Run):
    """Keeps what it is told and what it answers."""

    def __init__(self, events, *given):
        super().__init__(*given)
        self._events = events

    def arrive(self, session, workflow, now_s=0.0):
        return self._keep(("arrive", session), now_s, None, super().arrive(session, workflow, now_s))

    def finish(self, start, now_s=0.0, served=None):
        return self._keep(key_of(start), now_s, served, super().finish(start, now_s, served))

    def tick(self, signals, now_s):
        return self._keep(("tick",), now_s, signals, super().tick(signals, now_s))

    def _keep(self, key, now_s, told, starts):
        self._events.append(Event(key, now_s, told, [decision(start) for start in starts]))
        return starts


class InOrder(Run):
    """Takes what it is told in the order of a recording, with the recording's times, services and signals.

    ``measured``: what it was really told of calls.
    """

    def __init__(self, recorded, events, measured, *given):
        super().__init__(*given)
        self._to_come, self._here = deque(recorded), {("tick",): None}
        self._events, self._measured = events, measured

    def arrive(self, session, workflow, now_s=0.0):
        return self._take(("arrive", session), (session, workflow))

    def finish(self, start, now_s=0.0, served=None):
        self._measured[key_of(start)] = served
        return self._take(key_of(start), (start,))

    def _take(self, key, about):
        self._here[key] = about
        starts = []
        while self._to_come and self._to_come[0].key in self._here:
            event = self._to_come.popleft()
            answer = self._report(event, self._here[event.key])
            self._events.append(event._replace(starts=[decision(start) for start in answer]))
            starts += answer
        return starts

    def _report(self, event, about):
        if event.key == ("tick",):
            return super().tick(event.told, event.now_s)
        if event.key[0] == "arrive":
            return super().arrive(*about, event.now_s)
        return super().finish(*about, event.now_s, event.told)


def key_of(start):
    return start.session, start.node.id, start.purpose


def decision(start):
    return (*key_of(start), start.priority, start.replica)


def replayable(name):
    entry = policies()[name]
    return entry.rule.runs_on != "simulation only" and name not in entry.rule.aliases


def text(name):
    given = PARAMETERS.get(name) or ("error=0.3" if name.endswith("_noisy") else "")
    return f"{name}:{given}" if given else name


@pytest.fixture(scope="module")
def servers():
    with FakeServer(PROFILE) as one, FakeServer(PROFILE) as other:
        yield [one.url, other.url]


def fleet(policy):
    replicas = 2 if policy.rule(Router) or not policy.rules else 1
    return Fleet((Pool("all", PROFILE, replicas),), tool_limits={"search": 1})


class Noted(Client):
    """Notes what is really asked of a replica: its number, session/call, priority and the tokens wanted."""

    def __init__(self, url, replica, sent):
        super().__init__(url, "none", 30)
        self._replica, self._sent = replica, sent

    def complete(self, prompt, num_tokens, *told, **extra):
        name = extra["request_id"].removeprefix("replay/")
        self._sent.append((self._replica, name, extra.get("priority", 0), num_tokens))
        return super().complete(prompt, num_tokens, *told, **extra)


def connects(urls, replicas, sent):
    return [partial(Noted, url, number, sent) for number, url in enumerate(urls[:replicas])]


def asked(starts):
    """What must be asked for these decisions."""
    lengths = {
        (number, call): tokens for number, flow in CROWD.items() for call, tokens in flow.tape.output_tokens.items()
    }
    calls = [one for one in starts if one[2] == "ahead" or one[:2] in lengths]
    return [(one[4], f"{one[0]}/{one[1]}", one[3], lengths.get(one[:2], 1)) for one in calls]


@pytest.mark.parametrize("name", list(filter(replayable, sorted(policies()))))
def test_10_the_same_order_of_finishing_gives_the_same_decisions_in_both_engines(name, servers, monkeypatch):
    policy = parse_policy(text(name))
    engines, recorded, replayed, measured, sent = fleet(policy), [], [], {}, []
    monkeypatch.setattr(sim.world, "Run", partial(Recorder, recorded))
    simulated = serve(CROWD, policy, engines, INSTANTS)
    monkeypatch.setattr(sim.world, "Run", partial(InOrder, recorded, replayed, measured))
    run = World(policy, engines, CROWD, 0).run()
    one = Replay(CROWD, run, connects(servers, len(engines.replicas), sent), {"cache_salt": name})
    one.open_loop(INSTANTS)
    result = one.result(EngineStats())
    assert replayed == recorded
    assert sent == asked([start for event in recorded for start in event.starts])
    assert does_something(policy, recorded, simulated), "these workflows show nothing of the policy"
    assert outcome(result) == outcome(simulated)
    told = {event.key: event.told for event in recorded}
    for key, served in measured.items():
        if served:
            assert served[2:] == told[key][2:]
            assert served.service_s > 0 <= served.waited_s


def outcome(result):
    """What became of sessions and calls, and what was done beside."""
    sessions = {(session.session, session.status) for session in result.sessions}
    calls = {(record.session, record.call_id, record.status, record.num_output_tokens) for record in result.records}
    return sessions, calls, replace(result.extras, ahead_tokens=0)


def does_something(policy, events, result):
    """Whether it shows that the policy is not plain vLLM's, by what its kind of rules decides."""
    starts = [start for event in events for start in event.starts]
    purposes, priorities, replicas = ({start[index] for start in starts} for index in (2, 3, 4))
    statuses = {session.status for session in result.sessions}
    shown = {
        Order: len(priorities) > 1,
        Gate: any(event.starts for event in events if event.key == ("tick",)),
        Ahead: "ahead" in purposes,
        Speculation: purposes == {"work", "guess", "waste"},
        Verdict: "aborted" in statuses or max(priorities) > 0,
    }
    return all(seen for kind, seen in shown.items() if policy.rule(kind)) and len(replicas) == result.replicas


@pytest.mark.parametrize("name", sorted(policies()))
def test_a_policy_is_refused_exactly_if_it_cannot_be_replayed(name):
    policy, entry = parse_policy(name), policies()[name]
    given = {"replicas": 2, "profile": PROFILE, "texts": {}, "executor": None}
    if entry.rule.runs_on == "simulation only":
        with pytest.raises(RunError, match="only the simulator can run it"):
            check_policies({name: policy}, **given)
    else:
        check_policies({name: policy}, **given)
