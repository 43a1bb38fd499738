"""Every step of a real vLLM server, held against our scheduler with the same arrivals: both compose each alike.

The server is vLLM's CPU build with a tiny model. As that build cannot schedule asynchronously, the trace of the
asynchronous scheduler is made without a server.
"""

import json
import os
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from live.client import Client
from live.replay import Replay
from live.steps import durations, join, read_steps, request_id
from sim.policies import parse_policy
from sim.record import EngineStats
from sim.request import Request
from sim.run import Run
from sim.scheduler import Scheduler
from sim.workflow import Call, Edge, Segment, Tape, Workflow

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"
#: Seconds; it takes some five.
REPLAY_S = 240

#: vLLM's CPU build: where the model is computed is in the engine's own process, or in one more.
ONE_PROCESS, TWO = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}


def chain(name, length=4):
    """Each call reads the answer of the one before."""
    calls = [Call("c0", "a", (Segment("system", 120), Segment(f"{name}-task", 90)), f"{name}-a0")]
    for i in range(1, length):
        prompt = (Segment("system", 120), Segment(f"{name}-a{i - 1}", 40), Segment(f"{name}-step-{i}", 35))
        calls.append(Call(f"c{i}", "a", prompt, f"{name}-a{i}"))
    edges = [Edge(f"c{i - 1}", f"c{i}", "visible") for i in range(1, length)]
    return workflow(name, calls, edges, dict.fromkeys((call.id for call in calls), 40))


def fan_out(name, width=6):
    """A planner, workers with a common prefix, and one who reads what all of them said."""
    plan = (Segment("system", 120), Segment(f"{name}-task", 150), Segment(f"{name}-plan", 20))
    calls = [Call("plan", "planner", plan[:2], f"{name}-plan")]
    calls += [Call(f"w{i}", "worker", (*plan, Segment(f"{name}-w{i}", 25)), f"{name}-said-{i}") for i in range(width)]
    lengths = {"plan": 20} | {f"w{i}": 30 + 7 * i for i in range(width)} | {"end": 15}
    said = (Segment(f"{name}-said-{i}", lengths[f"w{i}"]) for i in range(width))
    calls.append(Call("end", "judge", (Segment("judge", 64), *said), f"{name}-end"))
    edges = [Edge("plan", f"w{i}", "visible") for i in range(width)]
    return workflow(name, calls, edges + [Edge(f"w{i}", "end", "visible") for i in range(width)], lengths)


def conversation(name, turns=4):
    """Every call sends all that was said before again, and something new."""
    history, calls, edges = [Segment(f"{name}-system", 70)], [], []
    for i in range(turns):
        history.append(Segment(f"{name}-turn-{i}", 30 + 11 * i))
        calls.append(Call(f"t{i}", "a", tuple(history), f"{name}-answer-{i}"))
        history.append(Segment(f"{name}-answer-{i}", 45))
        edges += [Edge(f"t{i - 1}", f"t{i}", "visible")] if i else []
    return workflow(name, calls, edges, dict.fromkeys((call.id for call in calls), 45))


def workflow(name, calls, edges, lengths):
    return Workflow(name, "test", "task", tuple(calls), tuple(edges), Tape(lengths, {}))


def requests_of(run, workflows):
    """The id that the client gives -> prompt and answer, of every call. What was salted shares nothing with others."""

    def salted(segment):
        return Segment(f"{run}:{segment.segment_id}", segment.num_tokens)

    return {
        request_id(run, session, call.id): (
            tuple(map(salted, call.prompt)),
            salted(Segment(call.answer_id, workflow.tape.output_tokens[call.id])),
        )
        for session, workflow in enumerate(workflows)
        for call in workflow.calls
    }


def compare(trace, contents):
    """(steps, differences) of vLLM's steps and ours, if ours get the arrivals and the results when vLLM's did.

    ``contents``: client's id -> prompt and answer.
    """
    engine, under_way, differences = Scheduler(trace.settings), {}, []
    events = [(step.schedule_s, "schedule", step) for step in trace.steps]
    events += [(step.result_s, "update", step) for step in trace.steps if step.result_s is not None]
    for _, event, step in sorted(events, key=lambda one: one[0]):
        if event == "schedule":
            for one in step.arrived:
                prompt, answer = contents[one.client_id]
                engine.add(Request(prompt, answer, one.priority, one.arrival_time, one.number))
            batch = under_way[step.step] = engine.schedule()
            rows = [(request.number, *counts) for request, *counts in engine.all_rows(batch)]
            preempted = sorted(request.number for request in batch.preempted)
            counts = engine.pool.num_free_blocks, len(engine.waiting), len(engine.running)
            ours = rows, preempted, *counts
            theirs = list(step.rows), list(step.preempted), step.free_blocks, step.num_waiting, step.num_running
        else:
            _, finished = engine.update(under_way.pop(step.step))
            ours, theirs = sorted(request.number for request in finished), sorted(step.finished)
        if ours != theirs:
            differences.append(f"step {step.step}, {event}: ours {ours}, vLLM's {theirs}")
    return len(trace.steps), differences


def replay(url, run, workflows, priority):
    """Send all workflows at once; returns the records."""
    extra = {"cache_salt": secrets.token_hex(8), "priority": priority}
    one = Replay(
        dict(enumerate(workflows)), Run(parse_policy("async")), [lambda: Client(url, "tiny-llama", 60)], extra, name=run
    )
    one.closed_loop(len(workflows))
    return one.result(EngineStats()).records


@pytest.mark.parametrize(
    ("environment", "flags", "preempts"),
    [
        # Few small blocks: requests are preempted while they answer.
        (ONE_PROCESS, "--max-num-seqs 64 --max-model-len 1024 --block-size 32 --num-gpu-blocks-override 40", True),
        # The CPU's own blocks; prompts in chunks, and fewer slots than requests.
        (TWO, "--max-num-seqs 5 --max-num-batched-tokens 128 --long-prefill-token-threshold 50", False),
    ],
)
def test_our_scheduler_composes_every_step_of_a_real_server(start_vllm, tmp_path, environment, flags, preempts):
    path = tmp_path / "steps.jsonl"
    runs = {"urgent": (chain("c"), fan_out("f"), conversation("t")), "patient": (fan_out("f"), conversation("t"))}
    flags = ("--scheduler-cls", "live.step_trace.TracingScheduler", *flags.split())
    environment = environment | {"PYTHONPATH": str(ROOT), "WORKSPAN_STEP_TRACE": str(path)}
    # The server ends first: if a replay takes too long, its calls fail then.
    with ThreadPoolExecutor() as pool, start_vllm(*flags, **environment) as (url, _):
        under_way = {
            run: pool.submit(replay, url, run, workflows, -(run == "urgent")) for run, workflows in runs.items()
        }
        records = {run: one.result(REPLAY_S) for run, one in under_way.items()}
    trace = read_steps(path)
    assert trace.settings.scheduling_policy == "priority"
    # The server may be stopped before it schedules the empty step that follows the last request.
    done = [number for step in trace.steps for number in step.finished]
    assert sorted(done) == list(range(len(trace.requests)))

    contents = {}
    for run, workflows in runs.items():
        contents |= requests_of(run, workflows)
    steps, differences = compare(trace, contents)
    preemptions = sum(len(step.preempted) for step in trace.steps)
    print(f"vLLM {trace.vllm_version}: {steps} steps, {len(trace.requests)} requests, {preemptions} preemptions")
    assert differences == []
    assert steps > 100
    assert bool(preemptions) == preempts
    assert not any(step.aborted for step in trace.steps)

    for run, some in records.items():
        pairs = join(trace, some, run)
        assert len(pairs) == len(some) == sum(len(one.calls) for one in runs[run])
        for record, one in pairs:
            assert record.num_prompt_tokens == one.arrival.num_prompt_tokens
            assert record.num_cached_tokens == one.num_cached_tokens
        assert sum(record.num_cached_tokens for record in some) > 0

    taken = durations(trace.steps)
    assert len(taken) == sum(bool(step.rows) for step in trace.steps)
    assert all(one.device_s > 0 and one.host_s > 0 for one in taken)
    busy_s = sum(one.device_s + one.host_s for one in taken)
    ended_s = max(step.updated_s for step in trace.steps if step.updated_s is not None)
    assert busy_s < ended_s - trace.steps[0].schedule_s


#: The workloads of differential.py through a tracing scheduler, each with its settings and what the requests contain.
SCRIPT = """
import json, os, random, sys
import differential
from live.step_trace import TracingAsyncScheduler, TracingScheduler

differential.AsyncScheduler, differential.SyncScheduler = TracingAsyncScheduler, TracingScheduler
differential.init_none_hash(differential.sha256)
model = differential.tiny_model()
for seed in range(int(sys.argv[1])):
    os.environ["WORKSPAN_STEP_TRACE"] = f"{seed}.jsonl"
    rng, table = random.Random(seed), {}
    settings, requests = differential.engine(rng), differential.workload(rng)
    ids = lambda s: table.setdefault(s, range(n := sum(map(len, table.values())), n + s.num_tokens))
    side = differential.Theirs(settings, model, ids)
    for _ in differential.drive(side, settings, requests):
        pass
    side.scheduler.shutdown()
    texts = [[[(s.segment_id, s.num_tokens) for s in prompt], (answer.segment_id, answer.num_tokens)]
             for _, _, prompt, answer in requests]
    json.dump({"settings": settings.model_dump(), "texts": texts}, open(f"{seed}.json", "w"))
"""


@pytest.mark.skipif(not (VENV / "installed").exists(), reason="no vLLM in .venv-vllm; make test-vllm installs it")
def test_traces_of_both_schedulers_say_what_ours_composes(tmp_path):
    workloads = 40
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests/vllm'}:{ROOT}"}
    command = [VENV / "bin/python", "-c", SCRIPT, str(workloads)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300)
    steps = preemptions = 0
    kinds = set()
    for seed in range(workloads):
        trace, facts = read_steps(tmp_path / f"{seed}.jsonl"), json.loads((tmp_path / f"{seed}.json").read_text())
        assert trace.settings.model_dump() == facts["settings"]
        contents = {
            f"{number:06}": (tuple(Segment(*segment) for segment in prompt), Segment(*answer))
            for number, (prompt, answer) in enumerate(facts["texts"])
        }
        count, differences = compare(trace, contents)
        assert differences == [], seed
        steps += count
        preemptions += sum(len(step.preempted) for step in trace.steps)
        kinds.add((trace.scheduler, trace.settings.async_scheduling))
    assert kinds == {("TracingScheduler", False), ("TracingAsyncScheduler", True)}
    print(f"{steps} steps, {preemptions} preemptions")
    assert preemptions > workloads
