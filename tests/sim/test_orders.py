"""Queue orders by hand: the priority that each call carries, and who goes first on an engine with one place."""

from itertools import pairwise

import pytest
from strategies import profile, roomy

from sim.errors import PolicyError
from sim.foresight import Estimate
from sim.latency import StepTime
from sim.policies import parse_policy
from sim.rules import Served, Submission
from sim.run import Run
from sim.simulate import serve
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

ONE_SECOND = StepTime(const_s=1.0, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0)


def flow(name, edges, framework="f", **outputs):
    """Calls of one letter and their output tokens, each with a prompt of two tokens; edges as ``ab``; t is a tool."""
    ids = dict.fromkeys("".join(edges)) or outputs
    calls = {one: Call(one, "agent", (Segment(f"{name}-{one}", 2),), f"{name}-answer-{one}") for one in ids}
    nodes = tuple(Tool(one, "tool") if one == "t" else calls[one] for one in sorted(ids))
    tape = Tape({one: outputs.get(one, 1) for one in ids if one != "t"}, {"t": 0.0} if "t" in ids else {})
    return Workflow(name, framework, name, nodes, tuple(Edge(*pair, "visible") for pair in edges), tape)


def chain(name, calls, framework="f"):
    return flow(name, [a + b for a, b in pairwise(calls)], framework, **dict.fromkeys(calls, 1))


class Hand:
    """Drives a `Run`: arrivals and finishes by session and node, answered by (node, priority)."""

    def __init__(self, policy, estimates=None):
        self.run = Run(parse_policy(policy), foresight=estimates and Told(estimates))
        self._under_way = {}

    def arrive(self, session, workflow, now_s=0.0):
        return self._note(self.run.arrive(session, workflow, now_s))

    def finish(self, session, node, service_s=1.0, waited_s=0.0, prompt=0, output=0):
        start = self._under_way.pop((session, node))
        served = Served(service_s, waited_s, prompt, output) if isinstance(start.node, Call) else None
        return self._note(self.run.finish(start, served=served))

    def _note(self, starts):
        self._under_way |= {(start.session, start.node.id): start for start in starts}
        return [(start.node.id, start.priority) for start in starts]


class Told:
    """A foresight that says what it is told to: the next estimate of a list at each question."""

    def __init__(self, estimates):
        self._estimates = iter(estimates)

    def of(self, workflow):
        return self

    def finished(self, node_id):
        pass

    def estimate(self, call_id):
        return next(self._estimates)


def test_program_fcfs_follows_the_arrival_of_the_workflow():
    hand = Hand("program_fcfs")
    assert hand.arrive(7, chain("w", "ab")) == [("a", 0)]
    assert hand.arrive(3, chain("v", "ab")) == [("a", 1000)]
    assert hand.finish(3, "a") == [("b", 1000)]
    assert hand.finish(7, "a") == [("b", 0)]
    assert hand.arrive(1, chain("u", "ab")) == [("a", 2000)]


def test_plas_counts_service_in_queues_that_double_and_no_waiting():
    hand = Hand("plas:levels=3,quantum_s=0.5")
    assert hand.arrive(0, chain("w", "abcdef")) == [("a", 0)]
    assert hand.finish(0, "a", 0.5, waited_s=100) == [("b", 0)]
    assert hand.finish(0, "b", 0.25) == [("c", 1000)]
    assert hand.finish(0, "c", 0.25) == [("d", 1000)]
    assert hand.finish(0, "d", 0.125) == [("e", 2000)]
    assert hand.finish(0, "e", 1e300) == [("f", 2000)]


@pytest.mark.parametrize("name", ["plas", "atlas"])
def test_a_workflow_that_has_waited_beta_times_its_service_starts_again_in_the_first_queue(name):
    hand = Hand(f"{name}:beta=2")
    hand.arrive(0, chain("w", "abcd"))
    assert hand.finish(0, "a", 3, waited_s=5) == [("b", 2000)]
    assert hand.finish(0, "b", 3, waited_s=7) == [("c", 0)]
    assert hand.finish(0, "c", 1, waited_s=0) == [("d", 3000)]


def test_atlas_takes_the_longest_path_and_tools_add_nothing():
    hand = Hand("atlas")
    hand.arrive(0, flow("w", ["ab", "ac", "bd", "ct", "te", "df", "ef"]))
    assert hand.finish(0, "a", 1) == [("b", 0), ("c", 0)]
    assert hand.finish(0, "b", 1) == [("d", 1000)]
    hand.finish(0, "c", 6)
    assert hand.finish(0, "t") == [("e", 3000)]
    hand.finish(0, "d", 1)
    # The longest path has 8 s; all calls together have 10, which is the next queue, the shorter path 3.
    assert hand.finish(0, "e", 1) == [("f", 3000)]
    hand.finish(0, "f", 1)
    assert hand.run._memory["atlas"] == {}


def test_atlas_takes_what_it_knows_where_a_parent_still_runs():
    rule = parse_policy("atlas").rules[0]
    view = Run(parse_policy("atlas"))
    view.arrive(0, chain("w", "a"))
    view = view._sessions[0].view()
    submission = Submission(chain("w", "a").calls[0], ("known", "unknown"))
    assert rule.key(submission, view, {0: {"known": 2.0, "longer": 3.0}}) == 2
    assert rule.key(submission, view, {0: {}}) == 0


@pytest.mark.parametrize("information", ["oracle", "noisy", "mean"])
@pytest.mark.parametrize(
    ("name", "priorities"),
    [
        ("srpt_{}", [2500, 1000]),
        ("critical_path_{}", [-1250, -750]),
        ("topo_depth_{}", [-3000, -1500]),
        ("edf_{}:slack=5", [10_000 + 5 * 2500 - 2500, 10_000 + 5 * 2500 - 1000]),
        ("justitia_{}", [4_000_000_000, 4_000_000_000]),
    ],
)
def test_an_informed_order_goes_by_its_part_of_the_estimate(name, priorities, information):
    estimates = [Estimate(2.5, 1.25, 3, 4e9), Estimate(1, 0.75, 1.5, 9)]
    hand = Hand(name.format(information), estimates)
    assert hand.arrive(0, chain("w", "ab"), now_s=10.0) == [("a", priorities[0])]
    assert hand.finish(0, "a") == [("b", priorities[1])]


def test_justitia_adds_the_cost_to_the_virtual_time_of_the_arrival():
    costs = [1000, 500, 7, 7, 100]
    hand = Hand("justitia_mean", [Estimate(0, 0, 0, cost) for cost in costs])
    assert hand.arrive(0, chain("w", "ab")) == [("a", 1000)]
    hand.run.arrive(1, chain("v", "ab"))
    assert hand.finish(0, "a", prompt=10, output=4) == [("b", 1000)]
    # 10 * 4 + 4 * 4 / 2 token-steps, for the two workflows under way.
    assert hand.arrive(2, chain("u", "ab")) == [("a", 24 + 7)]
    hand.finish(0, "b", prompt=1, output=8)
    # 1 * 8 + 8 * 8 / 2 more, for three; then two are left.
    assert hand.arrive(3, chain("t", "ab")) == [("a", round(24 + 40 / 3 + 100))]


def test_fair_counts_tokens_of_a_framework_and_lifts_one_that_comes():
    hand = Hand("fair")
    assert hand.arrive(0, chain("w", "abc", "A")) == [("a", 0)]
    assert hand.finish(0, "a", prompt=10, output=5) == [("b", 20_000)]
    assert hand.arrive(1, chain("v", "ab", "B")) == [("a", 20_000)]
    assert hand.finish(0, "b", prompt=7, output=5) == [("c", 37_000)]
    assert hand.finish(1, "a", prompt=1, output=1) == [("b", 23_000)]
    assert hand.arrive(2, chain("u", "a", "C")) == [("a", 23_000)]
    assert hand.arrive(3, chain("t", "a", "A")) == [("a", 37_000)]
    for session, node in [(2, "a"), (1, "b"), (3, "a"), (0, "c")]:
        hand.finish(session, node, prompt=1)
    # Nobody is left; the last to go was A, which had 39 by then, B had 24.
    assert hand.arrive(4, chain("s", "a", "B")) == [("a", 39_000)]
    assert hand.arrive(5, chain("r", "a", "A")) == [("a", 39_000)]


def crowd():
    """At 0 s a long chain; at 0.5 s a short one, and one that forks."""
    return {
        0: flow("long", ["ab"], "A", a=5, b=3),
        1: flow("short", ["ab"], "A", a=1, b=1),
        2: flow("fork", ["ab", "ac", "cd"], "B", a=2, b=4, c=1, d=1),
    }


#: The calls as they are served, one after the other, and when each workflow ends.
SCHEDULES = {
    "fcfs": ("0a 1a 2a 0b 1b 2b 2c 2d", (11, 12, 18)),
    "program_fcfs": ("0a 0b 1a 1b 2a 2b 2c 2d", (8, 10, 18)),
    # 0b is in queue 3 (5 s), as is 2d (7 s), which comes later; by its path, 2d is in queue 2 (3 s).
    "plas": ("0a 1a 2a 1b 2b 2c 0b 2d", (17, 9, 18)),
    "atlas": ("0a 1a 2a 1b 2b 2c 2d 0b", (18, 9, 15)),
    # Work left: 1a 2, 0b 3, 2a 8.
    "srpt_oracle": ("0a 1a 1b 0b 2a 2b 2c 2d", (10, 7, 18)),
    # Paths: 2a 6, 2b 4, 0b 3, 1a and 2c 2, 1b and 2d 1.
    "critical_path_oracle": ("0a 2a 2b 0b 1a 2c 1b 2d", (14, 17, 18)),
    # Depths: 2a 3, 1a and 2c 2, all others 1.
    "topo_depth_oracle": ("0a 2a 1a 2c 0b 2b 1b 2d", (12, 17, 18)),
    # Costs: short 5, fork 27, long 33; all arrive at virtual time 0.
    "justitia_oracle": ("0a 1a 1b 2a 2b 2c 2d 0b", (18, 7, 15)),
    # Latest starts: 1a 4.5, 1b 5.5, 2a 16.5, 2b and 2c 18.5, 0b 21, 2d 23.5.
    "edf_oracle": ("0a 1a 1b 2a 2b 2c 0b 2d", (17, 7, 18)),
    # A has 12 when 0b is sent, 16 when 1b is; B 6 when 2b and 2c are, 20 when 2d is.
    "fair": ("0a 1a 2a 2b 2c 0b 1b 2d", (16, 17, 18)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_on_an_engine_with_one_place_calls_are_served_in_that_order(name):
    served, ends = SCHEDULES[name]
    result = serve(crowd(), parse_policy(name), profile(roomy(max_num_seqs=1), ONE_SECOND), [0.0, 0.5, 0.5])
    calls = sorted(result.records, key=lambda record: record.scheduled_s)
    assert " ".join(f"{call.session}{call.call_id}" for call in calls) == served
    assert tuple(session.finished_s for session in result.sessions) == ends


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("plas:levels=0", "levels=0; give 1 or more"),
        ("atlas:quantum_s=0", "policy atlas: quantum_s=0; give seconds"),
        ("plas:quantum_s=inf", "quantum_s=inf; give seconds"),
        ("plas:beta=-1", "beta=-1; give more than 0"),
        ("plas:beta=nan", "beta=nan; give more than 0"),
        ("edf_mean:slack=0.5", "slack=0.5; give 1 or more"),
        ("srpt_noisy:error=2", "error=2; give 0 to 1"),
        ("srpt_mean:error=0.5", "no parameter 'error'"),
        ("srpt", "did you mean 'srpt_"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named_with_a_mend(text, mend):
    with pytest.raises(PolicyError, match=mend):
        parse_policy(text)
