"""Several servers as replicas, what their metrics say of them, and how gates look at it."""

import json
import threading
import time

import pytest
from commandline import WORKFLOW, assert_one_line, jsonl, workspan
from strategies import profile, roomy

from live.client import Client
from live.fake import FakeServer
from live.measure import Setup, measure
from live.prompts import segment_ids
from live.server import Reading, Server
from live.signals import Looks, signals
from sim.choices import Choices
from sim.compare import line_up
from sim.latency import StepTime
from sim.load import ConcurrentSessions
from sim.workflow import Call, Edge, Segment, Tape, Workflow

BLOCKS = 101
STEP = StepTime(const_s=0.005, prefill_token_s=1e-5, decode_seq_s=1e-4, kv_token_s=1e-7, attention_pair_s=1e-9)
PROFILE = profile(roomy(num_gpu_blocks=BLOCKS, max_num_seqs=4), STEP)


@pytest.fixture(scope="module")
def servers():
    with FakeServer(PROFILE) as one, FakeServer(PROFILE) as other:
        yield [one.url, other.url]


def chain(number, calls=3):
    """Calls one after the other, each of 20 tokens."""
    nodes = [Call(f"c{n}", "agent", (Segment(f"w{number}-{n}", 40),), f"answer-{n}") for n in range(calls)]
    edges = tuple(Edge(f"c{n}", f"c{n + 1}", "visible") for n in range(calls - 1))
    return Workflow(f"w{number}", "Test", "", tuple(nodes), edges, Tape({one.id: 20 for one in nodes}, {}))


def measured(servers, policy, workflows):
    policies, base = line_up([policy], None)
    load = ConcurrentSessions(len(workflows))
    return measure(workflows, policies, base, list(map(Server, servers)), load, 0, Choices(), Setup(1))


def steps(url):
    return Server(url).counters()["vllm:iteration_tokens_total_count"]


def test_every_replica_gets_calls_and_their_counters_are_summed(servers):
    before = [steps(url) for url in servers]
    found = measured(servers, "round_robin", [chain(0), chain(1)])
    after = [steps(url) for url in servers]
    run = found.runs["round_robin"]
    assert {record.status for record in run.records} == {"finished"}
    # What is more than these are the first calls that nobody counts.
    assert all(more - some >= 60 for some, more in zip(before, after, strict=True))
    assert run.engine.num_tokens == sum(r.num_output_tokens + r.num_prompt_tokens for r in run.records)
    header = found.provenance()
    assert (header["replicas"], len(header["servers"]), header["engine"]) == (2, 2, "fake")
    assert header["servers"][1]["num_gpu_blocks"] == BLOCKS
    assert found.engine.startswith("2 x fake vLLM, no measurement: ")


def test_a_look_sees_all_replicas_as_one(servers):
    looks = Looks(servers)
    idle = looks()
    assert idle.kv_tokens == 2 * (BLOCKS - 1) * 16
    assert idle[:1] + idle[2:] == (0.0, 0, 0, 0, 0)
    call = threading.Thread(target=Client(servers[1], "none", 30).complete, args=(segment_ids("look", 160), 60))
    call.start()
    while not looks().kv_use:
        time.sleep(0.005)
    busy = looks()
    assert (busy.num_running, busy.num_waiting) == (1, 0)
    # 160 to 220 tokens of the 200 blocks of both.
    assert 9.9 / 200 < busy.kv_use < 14.1 / 200
    call.join()
    # The prompt was looked up, and was not there; what others looked up before is not counted.
    assert looks()[2:] == (160, 0, 0, 0)


def test_a_server_that_does_not_tell_is_not_seen():
    told = {"vllm:kv_cache_usage_perc": 0.5, "vllm:num_requests_running": 1.0, "vllm:num_requests_waiting": 2.0}
    cache = {"num_gpu_blocks": "11", "block_size": "16"}
    assert signals(Reading(told, cache)) == (0.5, 160, 0, 0, 1, 2)
    assert signals(Reading({}, cache)) is None
    assert signals(Reading(told, {**cache, "num_gpu_blocks": "None"})) is None
    assert Looks(["http://127.0.0.1:9"])() is None


@pytest.mark.parametrize(("low", "together"), [(0, False), (0.5, True)])
def test_a_gate_opens_by_what_the_servers_say(servers, low, together):
    """One workflow of 0.3 s at a time, unless a look sees that there is room."""
    policy = f"program_gate:window=1,every_s=0.05,low={low}"
    run = measured(servers[:1], policy, [chain(2), chain(3)]).runs[policy]
    assert {session.status for session in run.sessions} == {"finished"}
    sent = [record.sent_s for record in run.records if record.call_id == "c0"]
    ended = [record.finished_s for record in run.records if record.call_id == "c2"]
    assert (max(sent) < min(ended)) == together


def test_the_command_takes_several_servers_and_predicts_as_many_replicas(servers, tmp_path):
    traces = jsonl(tmp_path / "traces.jsonl", WORKFLOW, {**WORKFLOW, "id": "v"})
    both = [word for url in servers for word in ("--server", url)]
    profile = "--profile", "rtxpro6000-llama-3.1-8b"
    refused = workspan("replay", traces, *both, "--policy", "srpt_oracle", *profile)
    assert refused.stderr.splitlines()[-1].endswith("restart it with --scheduling-policy priority")
    assert_one_line(workspan("replay", traces, *both, "--policy", "srpt_oracle"), "give --profile NAME")
    assert_one_line(workspan("replay", traces, *both[:2], "--policy", "sticky"), "give --server several times")
    done = workspan(
        *("replay", traces, *both, "--policy", "async", "--policy", "least_loaded", "--concurrent-sessions", 2),
        *(*profile, "--json"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["measured"]["provenance"]["replicas"] == 2
    assert result["predicted"]["provenance"]["fleet"]["pools"][0]["replicas"] == 2
