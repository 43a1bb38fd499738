"""In which order calls are served, and whether they wait for each other: what scheduling theory has proved.

Jobs on machines are calls on slots (``max_num_seqs``), of as many seconds as tokens: a step takes one, whatever is in
it, and a prompt is a single step.
"""

from dataclasses import replace
from itertools import permutations
from statistics import mean

import pytest
import simpy
from hypothesis import event, given, settings
from hypothesis import strategies as st
from strategies import profile, roomy, workflows

from sim.engine import Sent, SimulatedServer
from sim.latency import StepTime, load_profile, shipped
from sim.load import Alone
from sim.policies import parse_policy
from sim.request import Request
from sim.simulate import simulate
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

ONE_SECOND = StepTime(const_s=1.0, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0)
#: A second for each row of a step: who decodes beside others slows them down.
A_SECOND_A_ROW = ONE_SECOND.model_copy(update={"const_s": 1e-6, "prefill_token_s": 1.0, "decode_seq_s": 1.0})


def slots(count, step_time=ONE_SECOND, **changes):
    return profile(roomy(max_num_seqs=count, **changes), step_time)


def ends(jobs, urgency):
    """When each of the jobs ends that all come at 0; one is the lengths of calls that follow each other."""
    env, ended = simpy.Environment(), {}

    def submit(job, step):
        prompt, answer = (Segment(f"{job} {step}", 1),), Segment(f"answer {job} {step}", jobs[job][step])
        request = Request(prompt, answer, urgency(job, step), env.now, job)
        server.send(Sent(job, Call(str(step), "agent", prompt, answer.segment_id), request, env.now))

    def done(sent):
        ended[sent.session] = env.now
        following = int(sent.call.id) + 1
        if following < len(jobs[sent.session]):
            submit(sent.session, following)

    server = SimulatedServer(env, slots(1, scheduling_policy="priority"), done)
    for job in range(len(jobs)):
        submit(job, 0)
    env.run()
    return [ended[job] for job in range(len(jobs))]


def ends_shortest_first(jobs):
    return ends(jobs, lambda job, step: sum(jobs[job][step:]))


def ends_in_order(jobs, order):
    """``order`` names a job once for each of its calls."""
    places = {(job, order[:place].count(job)): place for place, job in enumerate(order)}
    return ends(jobs, lambda job, step: places[job, step])


def test_the_shortest_first_by_hand():
    jobs = [[3], [1], [1, 1]]
    assert ends_in_order(jobs, [0, 1, 2, 2]) == [3, 4, 6]
    assert ends_in_order(jobs, [0, 2, 1, 2]) == [3, 5, 6]
    assert ends_shortest_first(jobs) == [6, 1, 3]


job_lists = st.sampled_from([(1,) * 5, (1,) * 4, (2, 2, 2), (3, 2, 1), (3, 3)]).flatmap(
    lambda sizes: st.tuples(*(st.lists(st.integers(1, 9), min_size=size, max_size=size) for size in sizes))
)


@settings(max_examples=12, deadline=None)
@given(job_lists)
def test_no_order_has_a_lower_mean_than_the_least_remaining_work_first(jobs):
    """On one slot (Smith 1956), for workflows too, as a call's urgency is what its workflow still has to do."""
    orders = sorted(set(permutations(job for job, calls in enumerate(jobs) for _ in calls)))
    best = min(mean(ends_in_order(jobs, order)) for order in orders)
    assert mean(ends_shortest_first(jobs)) == best


def graph(**nodes):
    """Calls of so many tokens, or tools (whose names begin with ``tool``) of so many seconds, and their parents."""
    made, edges, tape = [], [], Tape({}, {})
    for name, (amount, *parents) in nodes.items():
        is_tool = name.startswith("tool")
        made.append(Tool(name, name) if is_tool else Call(name, "agent", (Segment(f"of {name}", 1),), f"by {name}"))
        (tape.tool_s if is_tool else tape.output_tokens)[name] = amount
        edges += [Edge(parent, name, "visible") for parent in parents]
    return Workflow("w", "Test", "", tuple(made), tuple(edges), tape)


def latency_s(workflow, policy, server):
    (session,) = simulate([workflow], parse_policy(policy), server, Alone(), seed=0).sessions
    return session.finished_s


#: Graham (1969), in tenths of his units; one call a slot.
GRAHAM = {
    "t1": (30,),
    **dict.fromkeys(("t2", "t3", "t4"), (20,)),
    "t9": (90, "t1"),
    **{f"t{number}": (40, "t4") for number in (5, 6, 7, 8)},
}


def test_more_slots_shorter_calls_or_fewer_edges_can_make_a_workflow_slower():
    """Anomalies of list scheduling (Graham 1966, 1969): the first come is not the most urgent."""
    assert latency_s(graph(**GRAHAM), "async", slots(3)) == 120
    assert latency_s(graph(**GRAHAM), "async", slots(4)) == 150
    shorter = {name: (amount - 9 if name == "t1" else amount - 10, *on) for name, (amount, *on) in GRAHAM.items()}
    assert latency_s(graph(**shorter), "async", slots(3)) == 130
    assert latency_s(graph(**GRAHAM | {"t5": (40,), "t6": (40,)}), "async", slots(3)) == 130


def test_a_barrier_can_be_faster_where_slots_bind():
    """It lets the long call ask together with the short ones, which otherwise came a little earlier."""
    workflow = graph(**GRAHAM)
    assert latency_s(workflow, "level_barrier", slots(4)) == 120 < latency_s(workflow, "async", slots(4))


@settings(max_examples=100, deadline=None)
@given(workflows())
def test_without_interference_async_is_the_longest_path_and_a_barrier_that_of_its_levels(drawn):
    """Slots for all, steps that take the same whatever is in them, and tools that end when a step does."""
    whole = {tool: max(1, round(seconds or 0)) for tool, seconds in drawn.tape.tool_s.items()}
    workflow = replace(drawn, tape=replace(drawn.tape, tool_s=whole))
    durations = workflow.tape.output_tokens | whole
    end, level, longest = {}, {}, {}
    for node in workflow.nodes:
        parents = workflow.parents[node.id]
        end[node.id] = durations[node.id] + max((end[parent] for parent in parents), default=0)
        level[node.id] = 1 + max((level[parent] for parent in parents), default=0)
        longest[level[node.id]] = max(durations[node.id], longest.get(level[node.id], 0))
    sequential_s, barrier_s, async_s = (
        latency_s(workflow, policy, slots(256)) for policy in ("sequential", "level_barrier", "async")
    )
    assert sequential_s == sum(durations.values())
    assert barrier_s == sum(longest.values())
    assert async_s == max(end.values()) <= barrier_s <= sequential_s
    event(f"a barrier costs something: {barrier_s > async_s}")


def test_a_barrier_can_be_faster_although_there_are_slots_for_all():
    # A call that comes during a step waits for its end.
    late = graph(tool_a=(0.5,), tool_b=(0.6,), a=(1, "tool_a"), b=(1, "tool_b"))
    assert latency_s(late, "level_barrier", slots(256)) == pytest.approx(1.6)
    assert latency_s(late, "async", slots(256)) == pytest.approx(2.5)
    # A call that nobody waits for slows down one that a long tool waits for: n rows take n seconds.
    aside = graph(urgent=(10,), a=(1,), aside=(50, "a"), tool=(100, "urgent"))
    rows = slots(256, A_SECOND_A_ROW)
    assert latency_s(aside, "level_barrier", rows) == pytest.approx(2 + 9 + 100, abs=1e-3)
    assert latency_s(aside, "async", rows) == pytest.approx(2 + 9 * 2 + 100, abs=1e-3)


@pytest.mark.parametrize("name", shipped())
def test_so_it_is_on_a_real_engine(name):
    aside = graph(urgent=(200,), a=(1,), aside=(2000, "a"), tool=(60, "urgent"))
    assert latency_s(aside, "level_barrier", load_profile(name)) < latency_s(aside, "async", load_profile(name))
