"""The fake server: vLLM's API, the model's batches and caches, the profile's times."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPResponse
from itertools import pairwise
from statistics import median

import pytest
import requests
from strategies import profile, roomy

from live.client import CallError, Client
from live.fake import FakeServer
from live.fake_engine import blocks
from live.fake_reply import GoneError, Stream
from live.fake_request import example
from live.prompts import prompt_ids, segment_ids
from live.replay import Replay
from live.server import Server, engine_stats
from sim import simulate
from sim.errors import RunError
from sim.latency import Overheads, StepTime
from sim.policies import parse_policy
from sim.run import Run
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

TIMEOUT_S = 20
#: Seconds that a machine under load may be late, in a median.
LATE_S = 0.01
TOOL = {
    "type": "function",
    "function": {
        "name": "finish",
        "parameters": {
            "type": "object",
            "properties": {
                "verdict": {"type": "string", "enum": ["pass", "fail"]},
                "score": {"type": "number", "minimum": 0.5, "maximum": 1},
                "why": {"type": "string", "minLength": 6},
                "sure": {"type": "boolean"},
                "where": {"type": "object", "properties": {"line": {"type": "integer", "minimum": 1}}},
            },
        },
    },
}


def engine(const_s=0.002, overheads=None, decode_seq_s=0.0, prefill_token_s=0.0, **settings):
    """A profile whose steps take so long, whatever is in them."""
    step = StepTime(
        const_s=const_s,
        prefill_token_s=prefill_token_s,
        decode_seq_s=decode_seq_s,
        kv_token_s=0,
        attention_pair_s=0,
    )
    return profile(roomy(**settings), step, overheads)


def client(server):
    return Client(server.url, "none", TIMEOUT_S)


def post(server, path, body, **kwargs):
    return requests.post(server.url + path, json=body, timeout=TIMEOUT_S, **kwargs)


def ids(name, count):
    return list(segment_ids(name, count))


def at_once(server, *calls):
    """The answers to calls that are sent each as soon as the server has the one before: (prompt, tokens, keys)."""
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = []
        for number, (prompt, tokens, extra) in enumerate(calls):
            futures.append(threads.submit(client(server).complete, prompt, tokens, **extra))
            while len(server.engine._jobs) <= number and not futures[-1].done():
                time.sleep(0.001)
        return [future.result(TIMEOUT_S) for future in futures]


@pytest.fixture(scope="module")
def quick():
    """A server with steps of 2 ms, in which nothing binds."""
    with FakeServer(engine(max_model_len=8192)) as server:
        yield server


def test_an_answer_has_exactly_as_many_tokens_as_were_asked_for(quick):
    one = client(quick)
    for tokens in (1, 2, 40):
        answer = one.complete(ids("p", 30), tokens)
        assert len(answer.token_ids) == len(answer.token_times_s) == tokens
        assert answer.num_prompt_tokens == 30


def test_equal_prompts_get_equal_answers_and_a_longer_answer_begins_with_the_shorter(quick):
    short, same, long = (client(quick).complete(ids("q", 30), tokens).token_ids for tokens in (10, 10, 20))
    assert short == same == long[:10]
    assert client(quick).complete(ids("r", 30), 10).token_ids != short


def test_a_streamed_and_a_plain_answer_are_the_same(quick):
    body = {"prompt": ids("s", 20), "max_tokens": 5, "return_token_ids": True}
    plain = post(quick, "/v1/completions", body).json()
    with post(quick, "/v1/completions", {**body, "stream": True}, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == b"data: [DONE]"
    events = [json.loads(line[6:])["choices"][0] for line in lines[:-1]]
    (choice,) = plain["choices"]
    assert [one for event in events for one in event["token_ids"]] == choice["token_ids"]
    assert "".join(event["text"] for event in events) == choice["text"]
    assert [event["finish_reason"] for event in events] == [None] * 4 + ["length"]
    assert events[0]["prompt_token_ids"] == choice["prompt_token_ids"] == body["prompt"]


def test_a_connection_is_kept_for_the_next_request(quick):
    with requests.Session() as session:
        for stream in (True, False, True):
            body = {"prompt": "hello", "max_tokens": 3, "stream": stream}
            answer = session.post(f"{quick.url}/v1/completions", json=body, timeout=TIMEOUT_S)
            assert answer.status_code == 200
        (pool,) = session.get_adapter(quick.url).poolmanager.pools._container.values()
        assert pool.num_connections == 1


def test_the_server_says_what_it_is(quick):
    info = Server(quick.url).info()
    assert (info.engine, info.version, info.model, info.max_model_len) == ("fake", "0.32.0", "none", 8192)
    header = info.to_json()
    assert (header["block_size"], header["num_gpu_blocks"]) == (16, 100_000)
    assert header["enable_prefix_caching"] == "true"
    assert header["scheduler"]["policy"] == "fcfs"
    assert requests.get(f"{quick.url}/health", timeout=TIMEOUT_S).text == ""


def test_a_conversation_hits_what_was_said_block_by_block(quick):
    said = ids("conversation", 37)
    before = Server(quick.url).counters()
    cached = []
    for turn, tokens in enumerate((5, 21, 16, 64, 3)):
        answer = client(quick).complete(said, tokens, cache_salt="one")
        cached.append((answer.num_cached_tokens, len(said)))
        said += answer.token_ids + ids(f"turn {turn}", 11)
    # The last token of an answer is never written, and the last of a prompt always computed.
    ends = [0] + [length + tokens - 1 for (_, length), tokens in zip(cached, (5, 21, 16, 64), strict=False)]
    assert cached == [(end // 16 * 16, length) for end, (_, length) in zip(ends, cached, strict=True)]
    after = Server(quick.url).counters()
    hits = after["vllm:prefix_cache_hits_total"] - before["vllm:prefix_cache_hits_total"]
    assert hits == sum(found for found, _ in cached)


def test_a_prefix_ends_at_the_first_token_that_differs_wherever_that_is(quick):
    prompt = ids("base", 50)
    whole = prompt + client(quick).complete(prompt, 50).token_ids
    for same, found in ((15, 0), (16, 16), (47, 32), (60, 48), (80, 80), (98, 96)):
        answer = client(quick).complete(whole[:same] + ids(f"other {same}", 40), 1)
        assert answer.num_cached_tokens == found


def test_salts_keep_caches_apart_and_a_reset_empties_all(quick):
    prompt = ids("salted", 64)

    def found(**extra):
        return client(quick).complete(prompt, 1, **extra).num_cached_tokens

    assert [found(), found(cache_salt="a"), found(cache_salt="b"), found(cache_salt="a")] == [0, 0, 0, 48]
    assert requests.post(f"{quick.url}/reset_prefix_cache", timeout=10).status_code == 200
    assert [found(), found()] == [0, 48]


def test_blocks_are_equal_exactly_if_their_ids_and_salts_are():
    assert blocks([1, 2, 3, 4, 5], 2) == blocks([1, 2, 3, 4, 6], 2)
    assert [segment.num_tokens for segment in blocks([1, 2, 3, 4, 5], 2)] == [2, 2]
    assert blocks([1, 2, 3], 2) != blocks([2, 1, 3], 2)
    assert blocks([1, 2], 2, "a") != blocks([1, 2], 2)
    assert blocks([1], 2, "a") == ()


def test_tokens_come_at_the_profiles_pace_and_never_before_their_time():
    overheads = Overheads(input_s=0.03, output_s=0.02)
    gaps, first = [], []
    with FakeServer(engine(0.02, overheads, prefill_token_s=1e-3)) as server:
        for number in range(5):
            answer = client(server).complete(ids(f"pace {number}", 20), 8)
            times = answer.token_times_s
            first.append(times[0] - answer.sent_s)
            gaps += [late - soon for soon, late in pairwise(times)]
            assert answer.queue_s == 0
            assert answer.prefill_s == pytest.approx(0.02 + 20e-3)
            assert times[-1] - answer.sent_s >= 0.03 + 0.04 + 7 * 0.02 + 0.02
        assert min(server.engine.lateness_s) >= 0
        assert median(server.engine.lateness_s) < LATE_S
    assert min(first) >= 0.03 + 0.04 + 0.02
    assert median(first) < 0.03 + 0.04 + 0.02 + LATE_S
    assert median(gaps) == pytest.approx(0.02, abs=LATE_S)


def test_two_requests_at_once_are_one_batch():
    def gap_s(answers):
        return median(late - soon for answer in answers for soon, late in pairwise(answer.token_times_s))

    with FakeServer(engine(0.01, decode_seq_s=0.02)) as server:
        alone = [client(server).complete(ids(f"alone {number}", 20), 6) for number in range(3)]
        pairs = [[(ids(f"pair {pair} {number}", 20), 16, {}) for number in range(2)] for pair in range(3)]
        both = [answer for pair in pairs for answer in at_once(server, *pair)]
    assert gap_s(alone) == pytest.approx(0.03, abs=LATE_S)
    assert gap_s(both) == pytest.approx(0.05, abs=LATE_S)


def test_with_one_slot_the_second_request_waits_for_the_first():
    with FakeServer(engine(0.01, max_num_seqs=1)) as server:
        one, other = at_once(server, (ids("one", 20), 60, {}), (ids("other", 20), 3, {}))
    assert other.token_times_s[0] > one.token_times_s[-1]
    assert other.queue_s > 0.1
    assert one.queue_s < 0.1


@pytest.mark.parametrize(("policy", "order"), [("priority", [0, 3, 2, 1]), ("fcfs", [0, 1, 2, 3])])
def test_priorities_reorder_the_queue_if_the_scheduler_looks_at_them(policy, order):
    with FakeServer(engine(0.01, max_num_seqs=1, scheduling_policy=policy)) as server:
        calls = [(ids(f"call {n}", 20), 90 if n == 0 else 12, {"priority": p}) for n, p in enumerate((9, 5, 0, -3))]
        answers = at_once(server, *calls)
    assert sorted(range(4), key=lambda n: answers[n].token_times_s[0]) == order


def test_a_preemption_is_counted_and_everybody_gets_all_tokens():
    # Nine blocks: both prompts fit, both answers do not.
    with FakeServer(engine(0.01, num_gpu_blocks=10, max_model_len=128)) as server:
        before = Server(server.url).counters()
        answers = at_once(server, (ids("one", 60), 40, {}), (ids("other", 60), 40, {}))
        stats = engine_stats(before, Server(server.url).counters())
    assert [len(answer.token_ids) for answer in answers] == [40, 40]
    assert stats.num_preemptions > 0


def test_steps_and_their_tokens_are_counted_as_vllm_does(quick):
    before = Server(quick.url).counters()
    client(quick).complete(ids("counted", 100), 10)
    stats = engine_stats(before, Server(quick.url).counters())
    assert (stats.num_steps, stats.num_tokens, stats.num_preemptions) == (10, 110, 0)


BAD = [
    ({"prompt": [300] * 8193}, 400, "maximum context length"),
    ({"prompt": [300] * 8192}, 400, "max_tokens"),
    ({"prompt": [300], "max_tokens": 9000}, 400, "max_model_len=8192"),
    ({"prompt": [300], "max_tokens": "x"}, 400, "max_tokens"),
    ({"prompt": [300], "max_tokens": 2, "min_tokens": 3}, 400, "min_tokens"),
    ({"prompt": [300, "a"]}, 400, "prompt"),
    ({"prompt": [300, 1.5]}, 400, "prompt"),
    ({"prompt": [-1]}, 400, "prompt"),
    ({"prompt": [300, 10**6]}, 400, "out of vocabulary"),
    ({"prompt": [[300], [400]]}, 400, "one at a time"),
    ({"prompt": []}, 400, "prompt"),
    ({}, 400, "prompt"),
    ({"prompt": [300], "n": 2}, 400, "one answer"),
    ({"prompt": [300], "logprobs": 1}, 400, "cannot do that"),
    ({"prompt": [300], "cache_salt": ""}, 400, "cache_salt"),
    ({"prompt": [300], "stream_options": {"include_usage": True}}, 400, "stream"),
    ({"prompt": [300], "model": "other"}, 404, "`other` does not exist"),
    ([300], 400, "object"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD, ids=[words for _, _, words in BAD])
def test_a_bad_request_is_refused_as_vllm_does(quick, body, status, words):
    answer = post(quick, "/v1/completions", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert words in error["message"]
    assert error["type"] in ("BadRequestError", "Bad Request", "NotFoundError")


def test_what_is_no_json_or_no_path_is_refused_and_the_connection_goes_on(quick):
    with requests.Session() as session:
        answer = session.post(f"{quick.url}/v1/completions", data=b"{bad", timeout=TIMEOUT_S)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "Bad Request")
        assert session.get(f"{quick.url}/nope", timeout=TIMEOUT_S).status_code == 404
        assert session.get(f"{quick.url}/v1/completions", timeout=TIMEOUT_S).status_code == 405
        assert session.get(f"{quick.url}/version", timeout=TIMEOUT_S).json() == {"version": "0.32.0"}
    with pytest.raises(CallError, match="HTTP 404"):
        Client(quick.url, "other", TIMEOUT_S).complete([300], 1)


def test_a_request_that_can_never_have_its_blocks_is_refused():
    with FakeServer(engine(num_gpu_blocks=4)) as server, pytest.raises(CallError, match="the pool has 3"):
        client(server).complete(ids("long", 100), 1)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_makes_room_for_the_next(stream):
    with FakeServer(engine(0.01, max_num_seqs=1)) as server:
        body = json.dumps({"prompt": [300], "max_tokens": 50_000, "stream": stream}).encode()
        with socket.create_connection(server.url[7:].split(":"), timeout=TIMEOUT_S) as gone:
            gone.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            time.sleep(0.2)
        # Else it would have to wait for 500 seconds.
        assert len(client(server).complete([301], 3).token_ids) == 3


def test_a_client_that_does_not_read_holds_nobody_up_and_gets_everything_later():
    # The first event has all ids of the prompt, more than any socket takes at once.
    body = {"prompt": ids("slow", 300) * 300, "max_tokens": 100, "stream": True, "return_token_ids": True}
    body = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with FakeServer(engine(0.005)) as server, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        slow.settimeout(TIMEOUT_S)
        slow.connect(("127.0.0.1", int(server.url.rsplit(":")[-1])))
        slow.sendall(head + body)
        answer = client(server).complete(ids("other", 20), 40)
        assert median(b - a for a, b in pairwise(answer.token_times_s)) == pytest.approx(0.005, abs=LATE_S)
        deadline = time.monotonic() + TIMEOUT_S
        while server.engine._jobs:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        response = HTTPResponse(slow)
        response.begin()
        *events, done, _ = response.read().split(b"\n\n")
    assert sum(len(json.loads(event[6:])["choices"][0]["token_ids"]) for event in events) == 100
    assert done == b"data: [DONE]"


def test_what_a_socket_does_not_take_at_once_is_written_later_in_its_order():
    near, far = socket.socketpair()
    direct = near.dup()
    with near, far, direct:
        direct.setblocking(False)
        near.settimeout(TIMEOUT_S)
        wake = threading.Event()
        stream = Stream(direct, wake)
        parts = [bytes([65 + number % 26]) * 4000 for number in range(300)]
        for part in parts[:-1]:
            stream.write(part)
        assert wake.is_set()
        # Now there is room again, but not for what comes last.
        received = far.recv(65536)
        stream.write(parts[-1])
        with ThreadPoolExecutor(1) as threads:
            flushed = threads.submit(stream.flush, near)
            expected = b"".join(b"fa0\r\n" + part + b"\r\n" for part in parts)
            while len(received) < len(expected):
                received += far.recv(65536)
            flushed.result(TIMEOUT_S)
        assert received == expected
        far.close()
        stream.write(b"more")
        with pytest.raises(GoneError):
            stream.flush(near)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_breaks_fails_calls_instead_of_letting_them_wait():
    with FakeServer(engine(0.01)) as server, ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(client(server).complete, [300], 10_000)
        time.sleep(0.3)
        server.engine._server.send = None
        began = time.monotonic()
        later = partial(client(server).complete, [300], 5)
        for call in (later, later, partial(under_way.result, TIMEOUT_S)):
            with pytest.raises(CallError, match="the connection failed"):
                call()
        assert time.monotonic() - began < TIMEOUT_S / 2
        assert requests.get(f"{server.url}/health", timeout=TIMEOUT_S).status_code == 200


def test_a_server_that_stops_fails_the_calls_that_are_under_way():
    with ThreadPoolExecutor(1) as threads:
        with FakeServer(engine(0.01)) as server:
            future = threads.submit(client(server).complete, [300], 10_000)
            time.sleep(0.3)
        with pytest.raises(CallError, match="the connection failed"):
            future.result(TIMEOUT_S)


def test_a_port_that_is_taken_is_one_line(quick):
    port = int(quick.url.rsplit(":")[-1])
    with pytest.raises(RunError, match=f"--port {port}: cannot listen on 127.0.0.1"):
        FakeServer(engine(), port=port)


def test_the_command_serves_until_it_is_interrupted():
    command = [sys.executable, "-m", "sim", "live", "mock", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            (url,) = re.findall(r"http://\S+", process.stderr.readline())
            assert Server(url).info().engine == "fake"
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_text_is_four_characters_a_token_and_an_answer_keeps_its_ids(quick):
    answer = post(quick, "/v1/completions", {"prompt": "hello there", "max_tokens": 6, "return_token_ids": True}).json()
    assert answer["usage"]["prompt_tokens"] == 3
    (choice,) = answer["choices"]
    again = post(quick, "/tokenize", {"prompt": choice["text"]}).json()
    assert (again["tokens"], again["count"]) == (choice["token_ids"], 6)


def test_a_chat_that_is_sent_again_with_its_answer_finds_it_in_the_cache(quick):
    messages = [{"role": "user", "content": "Is the moon made of cheese, or of what else?"}]
    first = post(quick, "/v1/chat/completions", {"messages": messages, "max_tokens": 40}).json()
    messages += [first["choices"][0]["message"], {"role": "user", "content": "Are you sure?"}]
    second = post(quick, "/v1/chat/completions", {"messages": messages, "max_tokens": 1}).json()
    # All but the last token of the answer.
    known = first["usage"]["total_tokens"] - 1
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == known // 16 * 16
    assert first["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "finish"}}])
def test_a_forced_tool_call_has_arguments_that_fit_the_schema(quick, choice):
    body = {"messages": [{"role": "user", "content": "go"}], "tools": [TOOL], "tool_choice": choice, "max_tokens": 90}
    answer = post(quick, "/v1/chat/completions", body).json()["choices"][0]
    (call,) = answer["message"]["tool_calls"]
    assert call["function"]["name"] == "finish"
    expected = {"verdict": "pass", "score": 0.5, "why": "text..", "sure": True, "where": {"line": 1}}
    assert json.loads(call["function"]["arguments"]) == expected
    assert answer["finish_reason"] == ("tool_calls" if choice == "required" else "stop")
    with post(quick, "/v1/chat/completions", {**body, "stream": True}, stream=True) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith(b"data: {")]
    deltas = [event["choices"][0]["delta"]["tool_calls"][0]["function"] for event in events[1:]]
    assert deltas[0]["name"] == "finish"
    assert "".join(delta["arguments"] for delta in deltas) == call["function"]["arguments"]


def test_a_tool_call_has_exactly_the_length_that_is_forced_and_one_that_is_cut_is_none(quick):
    body = {"messages": [{"role": "user", "content": "go"}], "tools": [TOOL], "tool_choice": "required"}
    exact = {"max_tokens": 60, "min_tokens": 60, "ignore_eos": True}
    answer = post(quick, "/v1/chat/completions", {**body, **exact}).json()
    assert answer["usage"]["completion_tokens"] == 60
    assert json.loads(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])["sure"] is True
    cut = post(quick, "/v1/chat/completions", {**body, "max_tokens": 3}).json()["choices"][0]
    assert "tool_calls" not in cut["message"]
    assert cut["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "none of the tools"),
        ({"tools": []}, "needs tools"),
        ({"tools": [{"function": {"name": "f", "parameters": {"type": "string", "pattern": "a+"}}}]}, "no value"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"content": "x"}]}, "role"),
    ],
)
def test_a_chat_that_cannot_be_answered_is_refused(quick, changes, words):
    body = {"messages": [{"role": "user", "content": "go"}], "tools": [TOOL], "tool_choice": "required", **changes}
    answer = post(quick, "/v1/chat/completions", body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 3}, 3),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": ["integer", "null"], "maximum": -3}, -3),
        ({"type": "integer", "minimum": 0.5}, 1),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "string", "maxLength": 2}, "te"),
        ({}, "text"),
    ],
)
def test_an_example_fits_its_schema(schema, value):
    assert example(schema) == value


def workflow(number, tool_s=0.05):
    """A planner, three workers of whom one uses a tool, and a judge that reads all; plans share a prefix."""
    system, task = Segment("system", 75), Segment(f"task {number}", 40 + 7 * number)
    outputs = {"plan": 21, "a": 30, "b": 18, "c": 26, "judge": 12}
    answers = {name: Segment(f"{number} {name}", tokens) for name, tokens in outputs.items()}
    planned = (system, task, answers["plan"])
    workers = [Call(name, name, (*planned, Segment(f"role {name}", 19)), answers[name].segment_id) for name in "abc"]
    judge = Call("judge", "judge", (*planned, *(answers[name] for name in "abc")), answers["judge"].segment_id)
    plan = Call("plan", "plan", (system, task), answers["plan"].segment_id)
    edges = [Edge("plan", name, "visible") for name in "ab"] + [Edge("plan", "look", "control")]
    edges += [Edge("look", "c", "control"), *(Edge(name, "judge", "visible") for name in "abc")]
    nodes = (plan, *workers[:2], Tool("look", "look"), workers[2], judge)
    return Workflow(f"w{number}", "drawn", "task", nodes, tuple(edges), Tape(outputs, {"look": tool_s}))


def replay(server, workflows, policy, instants):
    """What happened, with the cache emptied before."""
    assert requests.post(f"{server.url}/reset_prefix_cache", timeout=10).status_code == 200
    before = Server(server.url).counters()
    one = Replay(dict(enumerate(workflows)), Run(parse_policy(policy)), [lambda: client(server)], {})
    one.open_loop(instants)
    return one.result(engine_stats(before, Server(server.url).counters()))


def cached(result):
    return {(record.workflow_id, record.call_id): record.num_cached_tokens for record in result.records}


@pytest.mark.parametrize("policy", ["sequential", "async"])
def test_a_replay_against_it_is_what_the_simulation_says(policy):
    overheads = Overheads(input_s=0.003, input_gap_s=0.001, output_s=0.004)
    measured = engine(0.01, overheads, decode_seq_s=1e-3, prefill_token_s=1e-4, max_num_batched_tokens=512)
    workflows, instants = [workflow(number) for number in range(3)], [0.0, 0.1, 0.3]
    model = simulate.serve(dict(enumerate(workflows)), parse_policy(policy), measured, instants)
    with FakeServer(measured) as server:
        # What else the machine does can only make it later.
        for _ in range(6):
            real = replay(server, workflows, policy, instants)
            assert cached(real) == cached(model)
            assert [session.status for session in real.sessions] == ["finished"] * 3
            for record in real.records:
                assert None not in record._replace(num_preemptions=0)
                assert record.sent_s <= record.scheduled_s <= record.first_token_s <= record.finished_s
            if real.makespan_s < 1.1 * model.makespan_s:
                break
    # Ten per cent for what sockets and threads add to each call.
    assert real.makespan_s == pytest.approx(model.makespan_s, rel=0.1)


def test_an_answer_in_a_later_prompt_is_the_one_that_was_given(quick):
    one = workflow(0)
    plan, worker = one.calls[0], one.calls[1]
    answer = client(quick).complete(prompt_ids(plan.prompt, {}), 21, cache_salt="given")
    prompt = prompt_ids(worker.prompt, {plan.answer_id: answer.token_ids})
    # 75 + 40 tokens of prompt and 20 of the answer were written: 8 blocks.
    assert client(quick).complete(prompt, 1, cache_salt="given").num_cached_tokens == 128
