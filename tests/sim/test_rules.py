"""Rules other than queue orders, by hand: what they start, and what becomes of it on an engine of one-second steps."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import profile, profiles, roomy

from sim.fleet import Fleet, Pool
from sim.latency import StepTime
from sim.load import Alone
from sim.outbox import DEMOTED
from sim.policies import parse_policy
from sim.record import Extras
from sim.rules import Served, View
from sim.signals import Signals
from sim.simulate import serve, simulate
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow
from sim.world import World

ONE_SECOND = StepTime(const_s=1.0, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0)
FULL = Signals(kv_use=0.6, kv_tokens=1000, prefix_queries=100, prefix_hits=0)
EMPTY = FULL._replace(kv_use=0.1)


def call(name, prompt, agent="agent", answer=""):
    """A call with a prompt such as ``s:8 t:4``: segments and their tokens."""
    parts = (part.split(":") for part in prompt.split())
    return Call(name, agent, tuple(Segment(one, int(tokens)) for one, tokens in parts), answer or f"answer-{name}")


def tool(name="t", of="tool"):
    return Tool(name, of)


def flow(name, *nodes, edges=None, success=None, **lengths):
    """Nodes of one letter, one after the other or by edges such as ``ab``; 1 token and 0 s where nothing is said."""
    pairs = edges if edges is not None else [one.id + other.id for one, other in pairwise(nodes)]
    outputs = {node.id: lengths.get(node.id, 1) for node in nodes if isinstance(node, Call)}
    seconds = {node.id: float(lengths.get(node.id, 0)) for node in nodes if isinstance(node, Tool)}
    kept = tuple(Edge(*pair, "control") for pair in pairs)
    return Workflow(name, "f", name, nodes, kept, Tape(outputs, seconds), success=success)


def calls(name, letters, tokens=2, **more):
    """One call after the other."""
    return flow(name, *(call(letter, f"{name}-{letter}:{tokens}") for letter in letters), **more)


class Hand:
    """Drives a run of these workflows, by session; each event is answered by what starts: ``0a 1b``."""

    def __init__(self, policy, *workflows, replicas=1, tools=None):
        fleet = Fleet((Pool("all", profile(), replicas),), tool_limits=tools or {})
        self.workflows = dict(enumerate(workflows))
        self.run = World(parse_policy(policy), fleet, self.workflows, 0).run()
        self.starts = {}

    def arrive(self, *sessions):
        return self._note([start for one in sessions for start in self.run.arrive(one, self.workflows[one])])

    def finish(self, name, now_s=0.0, prompt=0, failed=False):
        start = self.starts.pop(name)
        if failed:
            return self._note(self.run.fail(start, now_s))
        served = Served(1.0, 0.0, prompt, 0) if isinstance(start.node, Call) else None
        return self._note(self.run.finish(start, now_s, served))

    def tick(self, signals, now_s=0.0):
        return self._note(self.run.tick(signals, now_s))

    def _note(self, starts):
        named = {f"{start.session}{start.node.id}": start for start in starts}
        self.starts |= named
        return " ".join(named)


def engine(**changes):
    """Blocks of four tokens, a second a step."""
    return profile(roomy(block_size=4, **changes), ONE_SECOND)


def cached(workflows, policy, settings, instants):
    """``session call`` -> prompt tokens found in the cache."""
    result = serve(dict(enumerate(workflows)), parse_policy(policy), settings, instants)
    return {f"{record.session}{record.call_id}": record.num_cached_tokens for record in result.records}


def test_program_gate_lets_workflows_in_by_their_arrival_and_the_next_when_one_ends():
    hand = Hand("program_gate:window=2", *(calls(f"w{n}", "ab") for n in range(4)))
    assert hand.arrive(2, 0, 3, 1) == "2a 0a"
    assert hand.finish("0a") == "0b"
    assert hand.finish("2a") == "2b"
    assert hand.finish("0b") == "3a"
    assert hand.finish("2b") == "1a"


def test_program_gate_opens_at_a_look_and_closes_for_what_is_not_under_way():
    hand = Hand("program_gate:window=1", *(calls(f"w{n}", "ab") for n in range(4)))
    assert hand.arrive(0, 1, 2, 3) == "0a"
    assert hand.tick(EMPTY) == "1a 2a"
    assert hand.tick(FULL._replace(prefix_queries=200)) == ""
    assert hand.finish("1a") == ""
    assert hand.finish("0a") == "0b"
    assert hand.finish("0b") == "1b"


def test_the_window_is_halved_only_while_much_is_held_and_little_found_and_grows_while_little_is_held():
    rule = parse_policy("program_gate").rules[0]
    window = rule.begin()
    looks = [
        # Use, queries and hits so far, workflows; the window after it.
        (0.6, 100, 10, 20, 4),
        (0.6, 200, 60, 20, 4),  # 50 of 100 since the last look, if only 30 % of all
        (0.6, 300, 79, 20, 2),
        (0.5, 400, 79, 20, 2),
        (0.6, 400, 79, 20, 2),  # nothing was admitted: no share of hits
        (0.2, 500, 79, 20, 2),
        (0.1, 500, 79, 20, 4),
        (0.1, 500, 79, 3, 5),
        (0.1, 500, 79, 3, 5),
        (0.1, 500, 79, 1, 5),
        (0.9, 600, 79, 20, 2.5),
        (0.9, 700, 79, 20, 1.25),
        (0.9, 800, 79, 20, 1),
        (0.9, 900, 79, 20, 1),
    ]
    for use, queries, hits, workflows, size in looks:
        rule.tick(Signals(use, 1000, queries, hits), [view(n) for n in range(workflows)], 0.0, window)
        assert window.size == size
    assert rule.admitted([view(3), view(1)], window) == [3]


def view(session, context=0, acting_since_s=None):
    return View(session, "f", 0.0, (), 0, 0, 0, 0.0, 0.0, context, acting_since_s, None, False)


def paused(now_s, views, memory):
    """Who is paused after a look at a cache of 1,000 tokens, and who is not."""
    rule = parse_policy("pause").rules[0]
    rule.tick(FULL, views, now_s, memory)
    return memory, rule.admitted(views, memory)


def test_the_shortest_acting_workflow_is_paused_until_the_load_is_below_the_high_mark():
    views = [view(0, 500), view(1, 400, 8.0), view(2, 300, 9.0), view(3, 300, 10.0), view(4, 10)]
    # After 2, 1 and 0 s of its tool, 400 counts as 100, 300 as 150 and as 300: 1,060 in all, 910 without one.
    assert paused(10.0, views, []) == ([2, 3], [0, 1, 4])
    # 10 less are 900, which is the mark.
    assert paused(10.0, views[:4], []) == ([2], [0, 1, 3])
    # Whoever reasons is never paused.
    assert paused(10.0, [view(0, 5000), view(4, 10)], []) == ([], [0, 4])


def test_paused_workflows_go_on_in_their_order_while_the_load_stays_below_the_low_mark():
    # The tool of 2 has ended: 300 more than the 395 of the others; that of 3 has run for 5 s.
    views = [view(0, 395), view(2, 300), view(3, 320, 0.0)]
    assert paused(5.0, views, [2, 3]) == ([3], [0, 2])
    assert paused(5.0, views[1:], [2, 3]) == ([], [2, 3])
    # 700 is the mark, and 3 does not overtake 2; who has ended is forgotten.
    views = [view(0, 400), view(2, 300), view(3, 320, 0.0)]
    assert paused(5.0, views, [7, 2, 3]) == ([2, 3], [0])


def test_with_everybody_paused_the_oldest_goes_on():
    views = [view(5, 600, 0.0), view(3, 600, 0.0)]
    assert paused(0.0, views, []) == ([3], [5])
    assert paused(0.0, views[:1], [5]) == ([], [5])
    views = [view(5, 800), view(3, 900)]
    assert paused(0.0, views, [3, 5]) == ([3, 5], [5])


def test_a_workflow_that_is_paused_while_its_tool_runs_waits_for_the_others():
    nodes = call("a", "a:2"), tool(), call("b", "b:2")
    hand = Hand("pause", flow("w", *nodes), calls("v", "ab"))
    assert hand.arrive(0, 1) == "0a 1a"
    assert hand.finish("0a", prompt=950) == "0t"
    assert hand.tick(FULL, 0.0) == ""
    assert hand.finish("0t", 0.2) == ""
    assert hand.finish("1a", 0.3, prompt=30) == "1b"
    assert hand.tick(FULL, 5.0) == ""
    assert hand.finish("1b", 6.0) == "0b"


def test_the_known_part_of_a_prompt_is_what_was_sent_or_answered_as_far_as_it_comes_first():
    nodes = call("a", "s:8 u:4"), tool(), call("b", "s:8 answer-a:4 new:2 u:4")
    for least, ahead in ((12, "0t 0ahead:b"), (13, "0t")):
        hand = Hand(f"prefill_ahead:min_tokens={least}", flow("w", *nodes, a=4))
        assert hand.arrive(0) == "0a"
        assert hand.finish("0a") == ahead
        assert hand.finish("0t") == "0b"
    hand = Hand("prefill_ahead:min_tokens=1", flow("w", *nodes, a=4))
    hand.arrive(0)
    hand.finish("0a")
    start = hand.starts["0ahead:b"]
    assert [segment.segment_id for segment in start.node.prompt] == ["s", "answer-a"]
    assert hand.finish("0ahead:b") == ""
    assert hand.run.over(0) is False


def test_no_prompt_is_prefilled_that_waits_for_more_than_the_tool_or_of_which_nothing_is_known():
    nodes = call("a", "s:8"), call("c", "s:8"), tool(), call("b", "s:8"), call("d", "new:8 s:8")
    hand = Hand("prefill_ahead:min_tokens=1", flow("w", *nodes, edges=["at", "tb", "cb", "td"]))
    assert hand.arrive(0) == "0a 0c"
    assert hand.finish("0a") == "0t"


#: A step takes a second, and half a second for each token of a prompt that is not cached.
HALF = ONE_SECOND.model_copy(update={"prefill_token_s": 0.5})


def latency(workflow, policy, settings):
    result = simulate([workflow], parse_policy(policy), settings, Alone(), 0)
    return result.sessions[0].latency_s, result.extras


def test_a_prompt_in_another_order_is_cached_when_the_tool_has_ended():
    nodes = call("a", "s:8", "one"), tool(), call("b", "answer-a:4 s:8 new:4", "other")
    workflow, settings = flow("w", *nodes, a=4, t=20), profile(roomy(block_size=4), HALF)
    # a: 1 + 8 / 2 and three decodes; b: 1 + 16 / 2, or of 12 cached tokens 1 + 4 / 2.
    assert latency(workflow, "async", settings) == (8 + 20 + 9, Extras())
    ahead = Extras(ahead_calls=1, ahead_tokens=12)
    assert latency(workflow, "prefill_ahead:min_tokens=12", settings) == (8 + 20 + 3, ahead)
    # Known are fewer tokens than by default are worth it.
    assert latency(workflow, "prefill_ahead", settings) == (8 + 20 + 9, Extras())


def test_a_prompt_that_was_evicted_before_the_tool_began_is_cached_again_when_it_has_ended():
    nodes = call("a", "s:8"), call("l", "long:20"), tool(), call("b", "s:8 new:4")
    settings = profile(roomy(block_size=4, num_gpu_blocks=6), HALF)
    # Five blocks: the long call takes them all. a: 1 + 8 / 2, l: 1 + 20 / 2, b: 1 + 12 / 2 or 1 + 4 / 2.
    workflow = flow("w", *nodes, t=20)
    assert latency(workflow, "async", settings) == (5 + 11 + 20 + 7, Extras())
    ahead = Extras(ahead_calls=1, ahead_tokens=8)
    assert latency(workflow, "prefill_ahead:min_tokens=8", settings) == (5 + 11 + 20 + 3, ahead)
    # A tool that is shorter than the prefill hides only a part of it: the call waits for the step of 5 s to end.
    assert latency(flow("w", *nodes, t=2), "prefill_ahead:min_tokens=8", settings) == (5 + 11 + 5 + 3, ahead)


def test_a_prefill_that_the_engine_refuses_has_computed_nothing():
    nodes = call("a", "s:8"), call("c", "u:8"), tool(), call("b", "s:8 u:8")
    (session,), extras = prefilled(flow("w", *nodes), engine(max_model_len=16))
    assert (session.status, extras) == ("failed", Extras(ahead_calls=1))
    (session,), extras = prefilled(flow("w", *nodes), engine(max_model_len=17))
    assert (session.status, extras) == ("finished", Extras(ahead_calls=1, ahead_tokens=8))


def prefilled(workflow, settings):
    result = simulate([workflow], parse_policy("prefill_ahead:min_tokens=1"), settings, Alone(), 0)
    return result.sessions, result.extras


def turns(seconds):
    """A call, its tool, a call, its tool: with so many seconds each; a call computes a token per second."""
    nodes = [call(name, f"{name}:2") if place % 2 == 0 else tool(name) for place, name in enumerate("atbuc")]
    return flow("w", *nodes, **dict(zip("atbuc", seconds, strict=True)))


def test_a_right_guess_hides_the_shorter_of_call_and_tool_and_a_wrong_one_nothing():
    workflow = turns((3, 5, 4, 2, 1))
    assert latency(workflow, "async", engine()) == (3 + 5 + 4 + 2 + 1, Extras())
    assert latency(workflow, "speculate_tool:hit=1", engine()) == (5 + 4 + 1, Extras(guessed_tools=2))
    wasted = Extras(wasted_tools=2, wasted_tool_s=5 + 2)
    assert latency(workflow, "speculate_tool:hit=0", engine()) == (3 + 5 + 4 + 2 + 1, wasted)


def test_a_wrong_guess_takes_the_place_of_a_limited_tool():
    workflow = flow("w", call("a", "a:2"), tool(), a=3, t=5)
    fleet = Fleet((Pool("all", engine()),), tool_limits={"tool": 1})
    assert latency(workflow, "async", fleet) == (3 + 5, Extras())
    assert latency(workflow, "speculate_tool:hit=0", fleet) == (5 + 5, Extras(wasted_tools=1, wasted_tool_s=5))


def test_only_a_tool_that_waits_for_one_call_is_guessed_and_only_once_the_call_is_sent():
    nodes = call("a", "a:2"), call("b", "b:2"), tool("t"), tool("u"), tool("v")
    hand = Hand("speculate_tool:hit=1", flow("w", *nodes, edges=["at", "au", "bu", "tv"]))
    assert hand.arrive(0) == "0a 0t 0b"
    # Another call is what u waits for when this one has ended, but it was sent before.
    assert hand.finish("0a") == ""
    assert hand.finish("0b") == "0u"
    assert hand.finish("0t") == "0v"


@st.composite
def chains(draw):
    """Calls and tools one after the other, whose prompts grow."""
    nodes, prompt, outputs, seconds = [], [], {}, {}
    for place in range(draw(st.integers(1, 8))):
        name = f"n{place}"
        if place and draw(st.booleans()):
            nodes.append(Tool(name, "tool"))
            seconds[name] = draw(st.none() | st.floats(0, 3))
            continue
        prompt.append(Segment(f"user-{place}", draw(st.integers(1, 40))))
        outputs[name] = draw(st.integers(1, 40))
        nodes.append(Call(name, "agent", tuple(prompt), f"answer-{place}"))
        prompt.append(Segment(f"answer-{place}", outputs[name]))
    edges = tuple(Edge(one.id, other.id, "visible") for one, other in pairwise(nodes))
    return Workflow("w", "drawn", "", tuple(nodes), edges, Tape(outputs, seconds))


@settings(max_examples=200, deadline=None)
@given(chains(), profiles(), st.sampled_from([0.0, 0.5, 1.0]))
def test_alone_speculation_is_never_slower_and_never_more_than_twice_as_fast(workflow, drawn, hit):
    base, guessed = (
        simulate([workflow], parse_policy(policy), drawn, Alone(), 0).sessions[0]
        for policy in ("async", f"speculate_tool:hit={hit}")
    )
    assert base.status == guessed.status
    if base.status == "finished":
        assert guessed.latency_s <= base.latency_s * (1 + 1e-9)
        assert guessed.latency_s >= base.latency_s / (2 if hit else 1) * (1 - 1e-9)


def loop(name="loop", success=None):
    """Four calls with the same answer."""
    return flow(name, *(call(letter, f"{name}-{letter}:2", answer="again") for letter in "abcd"), success=success)


def test_a_workflow_that_repeats_itself_is_stopped_after_the_call_that_does():
    for times, sent in ((2, "ab"), (3, "abc"), (4, "abcd")):
        hand = Hand(f"early_abort:times={times}", loop())
        assert hand.arrive(0) == "0a"
        assert [hand.finish(f"0{name}") for name in sent] == [*(f"0{name}" for name in sent[1:]), ""]
        # After the last call there is nothing to stop.
        assert (hand.run.over(0), hand.run.aborted(0)) == (True, times < 4)


def test_other_agents_may_say_the_same():
    hand = Hand("early_abort:times=2", flow("w", *(call(n, "s:2", f"agent-{n}", "again") for n in "abc")))
    hand.arrive(0)
    assert [hand.finish(f"0{name}") for name in "abc"] == ["0b", "0c", ""]
    assert not hand.run.aborted(0)


def test_what_is_under_way_when_a_workflow_is_stopped_ends():
    nodes = [call(name, f"{name}:2", answer="again" if name in "ab" else "") for name in "abcd"]
    workflow = flow("w", *nodes, tool(), edges=["ab", "ac", "cd", "at"], c=5, t=9)
    result = serve({0: workflow}, parse_policy("early_abort:times=2"), engine(), [0.0])
    assert [(record.call_id, record.finished_s, record.status) for record in result.records] == [
        ("a", 1, "finished"),
        ("b", 2, "finished"),
        ("c", 6, "finished"),
    ]
    assert (result.sessions[0].status, result.sessions[0].finished_s) == ("aborted", 10)


@pytest.mark.parametrize("last", [call("c", "c:2"), tool("c")], ids=["call", "tool"])
def test_a_workflow_is_not_stopped_if_all_that_is_left_is_under_way(last):
    nodes = [call(name, f"{name}:2", answer="again") for name in "ab"]
    result = serve(
        {0: flow("w", *nodes, last, edges=["ab", "ac"], c=5)}, parse_policy("early_abort:times=2"), engine(), [0.0]
    )
    assert [(session.status, session.finished_s) for session in result.sessions] == [("finished", 6)]


@pytest.mark.parametrize(("at", "sent"), [(0.0, "a"), (0.25, "a"), (0.26, "ab"), (0.5, "ab"), (1.0, "abc")])
def test_the_oracle_stops_those_that_fail_once_a_share_of_their_calls_is_done(at, sent):
    crowd = [calls("fails", "abcd", success=False), calls("succeeds", "abcd", success=True), calls("unknown", "abcd")]
    result = serve(
        dict(enumerate(crowd)), parse_policy(f"early_abort_oracle:at={at}"), engine(max_num_seqs=1), [0.0] * 3
    )
    assert [session.status for session in result.sessions] == ["aborted", "finished", "finished"]
    assert "".join(record.call_id for record in result.records if record.session == 0) == sent


@pytest.mark.parametrize("policy", ["demote:times=2", "demote_oracle:at=0.5"])
def test_calls_of_a_demoted_workflow_go_behind_all_others(policy):
    crowd = [loop(success=False), *(calls(f"w{n}", "a", a=2, success=True) for n in range(3))]
    served = {}
    for name in ("async", policy):
        settings = engine(max_num_seqs=1)
        result = serve(dict(enumerate(crowd)), parse_policy(name), settings, [0.0, 0.5, 1.5, 4.5])
        records = sorted(result.records, key=lambda record: record.scheduled_s)
        served[name] = " ".join(f"{record.session}{record.call_id}" for record in records)
        assert [session.status for session in result.sessions] == ["finished"] * 4
    # From 4 s on, with b done, it is known: c is sent at 4 s and d a second after it was served, before 3 or behind it.
    assert served == {"async": "0a 1a 0b 2a 0c 3a 0d", policy: "0a 1a 0b 2a 3a 0c 0d"}


def test_among_demoted_calls_the_queue_order_holds():
    hand = Hand("demote:times=2+program_fcfs", loop("w"), loop("v"))
    hand.arrive(0, 1)
    for name in ("1a", "1b", "0a", "0b"):
        hand.finish(name)
    assert {name: start.priority for name, start in hand.starts.items()} == {"0c": DEMOTED, "1c": DEMOTED + 1000}


def routed(policy, prompts, replicas=2):
    """Where calls of workflows of their own go, none of which ends."""
    crowd = [flow(f"w{n}", call("a", prompt)) for n, prompt in enumerate(prompts)]
    hand = Hand(policy, *crowd, replicas=replicas)
    hand.arrive(*range(len(crowd)))
    return [start.replica for start in hand.starts.values()]


def test_round_robin_takes_replicas_in_turn_whatever_they_have_to_do():
    assert routed("async", ["s:1000", "s:1", "s:1", "s:1"], 3) == [0, 1, 2, 0]


def test_the_least_loaded_replica_is_the_one_with_the_fewest_tokens_under_way():
    crowd = [flow(f"w{n}", call("a", f"w{n}:{tokens}")) for n, tokens in enumerate([10, 5, 5, 3, 1, 1])]
    hand = Hand("least_loaded", *crowd, replicas=3)
    hand.arrive(0, 1, 2, 3, 4)
    hand.finish("0a")
    hand.arrive(5)
    # 10 | 5 | 5, of equal ones the first: 8 on 1; then 6 on 2, and 0 has nothing when its call has ended.
    assert [hand.starts[f"{n}a"].replica for n in range(1, 6)] == [1, 2, 1, 2, 0]


@pytest.mark.parametrize(("tokens", "replica"), [(2048, 0), (2049, 1)])
def test_a_long_prompt_sticks_to_its_workflows_replica(tokens, replica):
    crowd = calls("v", "a", 9), flow("w", call("a", "a:5"), call("b", f"b:{tokens}")), calls("u", "a", 99)
    hand = Hand("sticky", *crowd, replicas=2)
    hand.arrive(0, 1, 2)
    # 9 on 0, then 5 and 99 on 1, where only the 99 are left.
    assert [hand.starts[name].replica for name in ("0a", "1a", "2a")] == [0, 1, 1]
    hand.finish("1a")
    assert hand.starts["1b"].replica == replica


def test_the_first_long_prompt_of_a_workflow_goes_to_the_least_loaded_replica():
    assert routed("sticky:min_tokens=0", ["a:7", "b:7", "c:1"]) == [0, 1, 0]


def test_a_long_prompt_follows_another_that_is_still_under_way():
    hand = Hand("sticky", flow("w", call("a", "a:5000"), call("b", "b:5000"), edges=[]), replicas=2)
    hand.arrive(0)
    assert [start.replica for start in hand.starts.values()] == [0, 0]


def test_prefix_affinity_follows_the_longest_prefix_that_is_long_enough():
    prompts = ["s:100", "s:100 x:100", "s:100 y:101", "s:100 y:101 z:9", "y:101 w:99", "s:100"]
    # Half of the second is known on 0, less than half of the third; 1 has most of the fourth. Then both have 300.
    # A prefix begins at the beginning, where 1 has seen no y. Of two that know as much, the less loaded one:
    # 0 has 500, 1 has 411.
    assert routed("prefix_affinity", prompts) == [0, 0, 1, 1, 0, 1]
    assert routed("prefix_affinity:min_share=1", prompts) == [0, 1, 0, 1, 0, 1]


def test_tools_over_their_limit_wait_for_their_turn_over_all_workflows():
    crowd = [flow(f"w{n}", tool(of="python"), tool("s", "search"), call("a", "s:2"), edges=["ta"]) for n in range(3)]
    hand = Hand("async", *crowd, tools={"python": 1})
    assert hand.arrive(1, 0, 2) == "1t 1s 0s 2s"
    assert hand.finish("1t") == "0t 1a"
    assert hand.finish("0s") == ""
    assert hand.finish("0t") == "2t 0a"
    assert hand.finish("2t") == "2a"


def test_the_waiting_tool_of_a_failed_workflow_never_starts():
    crowd = [flow(f"w{n}", tool(of="python"), call("a", "s:2"), edges=[]) for n in range(3)]
    hand = Hand("async", *crowd, tools={"python": 1})
    assert hand.arrive(0, 1, 2) == "0t 0a 1a 2a"
    assert hand.finish("1a", failed=True) == ""
    assert hand.run.over(1)
    assert hand.finish("0t") == "2t"
    assert hand.finish("2t") == ""


def test_with_one_place_for_a_tool_its_runs_are_one_after_the_other():
    crowd = {n: flow(f"w{n}", tool(), call("a", "s:2"), t=2) for n in range(3)}
    for limits, ends in (({}, [3, 3, 3]), ({"tool": 2}, [3, 3, 5]), ({"tool": 1}, [3, 5, 7])):
        fleet = Fleet((Pool("all", engine()),), tool_limits=limits)
        result = serve(crowd, parse_policy("async"), fleet, [0.0] * 3)
        assert [session.finished_s for session in result.sessions] == ends


#: Five blocks: two that are read again after ten seconds, two that are not, and a call that needs three.
SMALL = engine(num_gpu_blocks=6)


@pytest.mark.parametrize(("policy", "found"), [("lru", 0), ("ttl_pin", 0), ("ttl_pin:tau_s=20", 8)])
def test_a_pin_keeps_what_is_read_again_before_it_expires(policy, found):
    comes_back = flow("w", call("a", "s:8"), tool(), call("b", "s:8 new:4"), t=10)
    others = flow("v", call("a", "v:8")), flow("u", call("a", "u:12"))
    assert cached([comes_back, *others], policy, SMALL, [0.0, 7.0, 9.0])["0b"] == found


@pytest.mark.parametrize(("policy", "found"), [("lru", 0), ("belady_oracle", 8), ("kvflow_oracle", 8)])
def test_what_nobody_reads_again_goes_first_with_the_future_known(policy, found):
    comes_back = flow("w", call("a", "s:8"), tool(), call("b", "s:8 new:4"), t=10)
    others = flow("v", call("a", "v:8")), flow("u", call("a", "u:12"))
    assert cached([comes_back, *others], policy, SMALL, [0.0, 2.0, 6.0])["0b"] == found


@pytest.mark.parametrize(("policy", "soon", "near"), [("lru", 0, 0), ("belady_oracle", 8, 0), ("kvflow_oracle", 0, 8)])
def test_belady_goes_by_seconds_and_kvflow_by_steps(policy, soon, near):
    short = flow("w", call("a", "w:8"), tool("t"), tool("u"), call("b", "w:8 x:4"), t=7, u=7)
    long = flow("v", call("a", "v:8"), tool("t"), call("b", "v:8 y:4"), t=40)
    found = cached([short, long, flow("u", call("a", "u:12"))], policy, SMALL, [0.0, 2.0, 6.0])
    assert (found["0b"], found["1b"]) == (soon, near)


def test_steps_that_are_done_count_no_more():
    most = flow("w", call("a", "w:8"), *map(tool, "tuv"), call("b", "w:8 x:4"), t=1, u=1, v=20)
    few = flow("v", call("a", "v:8"), *map(tool, "tu"), call("b", "v:8 y:4"), t=40)
    # At 6 s one more of w is to come before b, and two of v; from the beginning there are four and three.
    found = cached([most, few, flow("u", call("a", "u:12"))], "kvflow_oracle", SMALL, [0.0, 2.0, 6.0])
    assert (found["0b"], found["1b"]) == (8, 0)


@pytest.mark.parametrize(("policy", "found"), [("lru", 0), ("kvflow_oracle", 0), ("belady_oracle", 8)])
def test_only_belady_knows_who_will_arrive(policy, found):
    crowd = [flow(f"w{n}", call("a", prompt)) for n, prompt in enumerate(["s:8", "v:8", "u:12", "s:8 new:4"])]
    assert cached(crowd, policy, SMALL, [0.0, 2.0, 4.0, 6.0])["3a"] == found
