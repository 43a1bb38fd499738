"""Replays on a real vLLM: what is sent is what was meant, and what the server saw is what the segments predict."""

import threading
import time
from itertools import pairwise

import pytest

from live.check import check
from live.client import Client
from live.measure import Setup, measure
from live.prompts import segment_ids
from live.server import Server
from sim.choices import Choices
from sim.compare import line_up
from sim.latency import Measured, Overheads, Profile, StepTime
from sim.load import Alone, ConcurrentSessions
from sim.simulate import simulate
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

MODEL, TIMEOUT_S = "tiny-llama", 120
SYSTEM, TASK = Segment("system", 300), Segment("task", 90)


def talk(name, turns=3):
    """A conversation: each prompt is the last one, its answer, and a question more; a tool before the last turn."""
    nodes, edges, outputs, prompt = [], [], {}, (SYSTEM, Segment(f"task-{name}", 90))
    for turn in range(turns):
        call = Call(f"c{turn}", "agent", prompt, f"answer-{name}-{turn}")
        outputs[call.id] = 20 + 7 * turn
        nodes.append(call)
        prompt = (*prompt, Segment(call.answer_id, outputs[call.id]), Segment(f"question-{name}-{turn}", 60))
    nodes.insert(-1, Tool("t", "python"))
    edges = [Edge(one.id, other.id, "visible") for one, other in pairwise(nodes)]
    return Workflow(f"talk-{name}", "Talk", "", tuple(nodes), tuple(edges), Tape(outputs, {"t": 0.3}))


def fan(width=6):
    """A planner, workers that read the plan, and a joiner that reads them all."""
    calls = [Call("plan", "planner", (SYSTEM, TASK), "the-plan")]
    plan = Segment("the-plan", 40)
    workers = [
        Call(f"w{i}", "worker", (SYSTEM, TASK, plan, Segment(f"part-{i}", 30)), f"out-{i}") for i in range(width)
    ]
    found = tuple(Segment(f"out-{i}", 15 + i) for i in range(width))
    joiner = Call("join", "joiner", (SYSTEM, TASK, *found), "joined")
    edges = [Edge("plan", worker.id, "visible") for worker in workers]
    edges += [Edge(worker.id, "join", "visible") for worker in workers]
    outputs = {"plan": 40, **{f"w{i}": 15 + i for i in range(width)}, "join": 25}
    return Workflow("fan", "Fan", "", (*calls, *workers, joiner), tuple(edges), Tape(outputs, {}))


def replay(url, workflows, *policies, load=None, repetitions=1):
    lineup, base = line_up(policies, None)
    load = load or ConcurrentSessions(len(workflows))
    setup = Setup(repetitions, TIMEOUT_S)
    return measure(workflows, lineup, base, [Server(url)], load, 0, Choices(), setup)


def profile(url):
    """The server's own settings, and step times that do not matter for what is cached."""
    step = StepTime(const_s=0.01, prefill_token_s=1e-4, decode_seq_s=1e-4, kv_token_s=1e-7, attention_pair_s=1e-9)
    return Profile(
        name="server",
        hardware="cpu",
        model=MODEL,
        source="test",
        method="none",
        accuracy={},
        measured=Measured(request_tokens=8192),
        engine=Server(url).info().settings({}),
        step_time=step,
        overheads=Overheads(),
    )


def test_everything_that_a_replay_uses_works_on_a_real_server(server):
    info, findings = check(Server(server), TIMEOUT_S)
    assert info.engine == "vllm"
    assert [finding.what for finding in findings if not finding.works] == []


def test_answers_have_the_lengths_that_were_recorded(server):
    workflows = [talk("lengths"), fan()]
    measured = replay(server, workflows, "async")
    tape = {(one.id, call): tokens for one in workflows for call, tokens in one.tape.output_tokens.items()}
    records = measured.runs["async"].records
    assert {(record.workflow_id, record.call_id): record.num_output_tokens for record in records} == tape
    assert {record.status for record in records} == {"finished"}
    prompts = {(one.id, call.id): call.num_prompt_tokens for one in workflows for call in one.calls}
    assert {(record.workflow_id, record.call_id): record.num_prompt_tokens for record in records} == prompts


def test_the_server_finds_cached_what_the_segments_predict(server):
    workflows = [talk("one"), talk("two", turns=5), fan()]
    measured = replay(server, workflows, "sequential", load=Alone()).runs["sequential"]
    (policy,) = line_up(["sequential"], None)[0].values()
    predicted = simulate(workflows, policy, profile(server), Alone(), 0)
    cached = {(record.workflow_id, record.call_id): record.num_cached_tokens for record in predicted.records}
    assert sum(cached.values()) > 1000
    assert {(record.workflow_id, record.call_id): record.num_cached_tokens for record in measured.records} == cached


def test_answers_that_are_sent_again_are_found_again(server):
    """The KV of an answer is found only if its very tokens come back."""
    (record, *_) = sorted(
        replay(server, [talk("again", turns=6)], "sequential").runs["sequential"].records,
        key=lambda record: -record.num_prompt_tokens,
    )
    block = int(Server(server).info().cache["block_size"])
    before_last_question = record.num_prompt_tokens - 60
    assert record.num_cached_tokens == (before_last_question - 1) // block * block


@pytest.mark.parametrize("policy", ["sequential", "level_barrier", "async", "async:max_parallel=2"])
def test_no_call_is_sent_before_its_parents_have_finished(server, policy):
    workflow = fan()
    records = {record.call_id: record for record in replay(server, [workflow], policy).runs[policy].records}
    for edge in workflow.edges:
        assert records[edge.parent].finished_s <= records[edge.child].sent_s
    for record in records.values():
        assert record.sent_s <= record.scheduled_s + 1e-3
        assert record.scheduled_s <= record.first_token_s <= record.finished_s


def test_a_tool_takes_its_time(server):
    records = {r.call_id: r for r in replay(server, [talk("tool")], "async").runs["async"].records}
    assert 0.3 <= records["c2"].sent_s - records["c1"].finished_s < 0.6


def test_repetitions_are_interleaved_and_each_begins_with_an_empty_cache(server):
    measured = replay(server, [talk("again")], "sequential", "async", repetitions=3)
    assert [(one.policy, one.number) for one in measured.repetitions] == [
        (policy, number) for number in range(3) for policy in ("sequential", "async")
    ]
    assert {one.run.records[0].num_cached_tokens for one in measured.repetitions} == {0}
    assert all(one.run.engine.num_steps > 50 for one in measured.repetitions)
    assert not measured.degraded


def test_priorities_reorder_the_queue(server):
    """Four slots: the first four run, the rest is admitted by priority, smaller first."""
    priorities = [5, 5, 5, 5, 5, 0, 0, -3, 9]
    begun, threads, lock = [], [], threading.Lock()

    def call(number, priority):
        answer = Client(server, MODEL, TIMEOUT_S).complete(segment_ids(f"p{number}", 50), 60, priority=priority)
        with lock:
            begun.append((answer.token_times_s[0], priority))

    for number, priority in enumerate(priorities):
        threads.append(threading.Thread(target=call, args=(number, priority)))
        threads[-1].start()
        time.sleep(0.03)
    for thread in threads:
        thread.join(TIMEOUT_S)
    order = [priority for _, priority in sorted(begun)]
    assert order[:4] == [5, 5, 5, 5]
    assert order[4:] == [-3, 0, 0, 5, 9]


def test_a_server_that_is_killed_gives_failed_records_and_no_hang(start_vllm):
    def kill_when_busy(url, process):
        while Server(url).counters().get("vllm:iteration_tokens_total_count", 0) < 100:
            time.sleep(0.05)
        process.kill()

    with start_vllm() as (url, process):
        threading.Thread(target=kill_when_busy, args=(url, process), daemon=True).start()
        began = time.monotonic()
        measured = replay(url, [talk(str(number), turns=12) for number in range(4)], "async", "sequential")
        assert time.monotonic() - began < 60
    records = [record for run in measured.runs.values() for record in run.records]
    failed = [record for record in records if record.status == "failed"]
    assert failed
    assert all(record.reason for record in failed)
    assert {record.status for record in records} == {"finished", "failed"}
    sessions = [session for run in measured.runs.values() for session in run.sessions]
    assert len(sessions) == 8
    assert {session.status for session in sessions} == {"failed"}
