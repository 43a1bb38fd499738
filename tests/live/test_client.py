"""What a call makes of servers that do not do what they should: a reason, soon, and what had come by then."""

import json
import time

import pytest
from scripted_server import completion, scripted

from live.client import CallError, Client
from live.measure import Setup, measure
from live.server import Server, engine_stats, growth
from sim.choices import Choices
from sim.compare import line_up
from sim.errors import RunError
from sim.load import ConcurrentSessions
from sim.workflow import Call, Segment, Tape, Workflow

TOKEN = {"choices": [{"index": 0, "text": " w", "token_ids": [7]}]}


def ask(events, num_tokens=3, timeout_s=1.0):
    with scripted(lambda path, body: events) as server:
        return Client(server.url, "m", timeout_s).complete([1, 2], num_tokens)


BAD = {
    "too few tokens": ([TOKEN], "1 tokens instead of 3"),
    "too many tokens": ([TOKEN] * 4, "4 tokens instead of 3"),
    "no JSON": ([TOKEN, b"data: {broken\n\n"], "no JSON"),
    "a list": ([TOKEN, [1]], "no JSON object"),
    "null": ([TOKEN, None], "no JSON object"),
    "an error in words": ([TOKEN, {"error": "out of luck"}], "out of luck"),
    "an error of vLLM's form": ([TOKEN, {"error": {"message": "engine died"}}], "engine died"),
    "another form": ([TOKEN, {"choices": [3]}], "not of vLLM's form"),
    "nothing more": ([TOKEN, 3.0], "said nothing for too long"),
    "comments without end": ([TOKEN, *[b": still here\n\n", 0.2] * 20], "said nothing for too long"),
    "events without tokens": ([TOKEN, *[{"choices": []}, 0.2] * 20], "said nothing for too long"),
}


@pytest.mark.parametrize(("events", "reason"), BAD.values(), ids=BAD)
def test_a_bad_stream_is_a_failed_call_with_its_reason_soon(events, reason):
    began = time.monotonic()
    with pytest.raises(CallError, match=reason) as caught:
        ask(events)
    assert time.monotonic() - began < 3
    assert caught.value.answer.num_output_tokens >= 1


def test_what_goes_wrong_after_the_end_is_no_matter():
    answer = ask([TOKEN, TOKEN, b"data: [DONE]\n\n", 3.0], num_tokens=2)
    assert answer.token_ids == [7, 7]


def test_a_refusal_is_told_as_the_server_says_it():
    refusal = json.dumps({"error": {"message": "prompt too long"}})
    with scripted(lambda path, body: (400, refusal)) as server, pytest.raises(CallError, match="HTTP 400: prompt too"):
        Client(server.url, "m", 1).complete([1], 1)


def test_an_answer_in_one_piece_is_refused_as_its_times_cannot_be_seen():
    text = "".join(f"data: {json.dumps(TOKEN)}\n\n" for _ in range(3))
    with scripted(lambda path, body: (200, text)) as server, pytest.raises(CallError, match="does not come in chunks"):
        Client(server.url, "m", 1).complete([1], 3)


def test_a_redirect_is_not_followed(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with scripted(lambda path, body: [TOKEN]) as elsewhere:
        with scripted(lambda path, body: (307, "")) as server, pytest.raises(CallError, match="HTTP 307"):
            Client(server.url, "m", 1).complete([1], 1)
        assert elsewhere.requests == []


def test_only_the_servers_own_key_is_sent(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-service")
    assert "Authorization" not in Client("http://x", "m", 1)._headers


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(RunError) as caught:
        Server("http://user:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)


def test_a_counter_that_was_not_read_twice_or_began_anew_tells_nothing():
    assert growth({"a": 5.0}, {"a": 7.0}, "a") == 2
    assert growth({}, {"a": 7.0}, "a") is None
    assert growth({"a": 5.0}, {}, "a") is None
    assert growth({"a": 5.0}, {"a": 1.0}, "a") is None
    assert engine_stats({}, {"vllm:iteration_tokens_total_count": 20_000.0}).num_steps is None


METRICS = 'vllm:num_preemptions_total{engine="0"} oops\nvllm:request_success_total{engine="0"} %d\n'


def vllm(cached=0, served=lambda: 0, fails_after=10**9):
    """Enough of a vLLM for a replay."""
    calls = []

    def script(path, body):
        if path == "/v1/models":
            return 200, json.dumps({"data": [{"id": "m", "max_model_len": 1000}]})
        if path == "/metrics":
            return 200, METRICS % served()
        if path != "/v1/completions":
            return 404, "{}"
        calls.append(body)
        if len(calls) > fails_after:
            return 500, "{}"
        events = list(completion(body))
        if cached is not None:
            events[-1]["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
        return events

    return script


def one(name="w"):
    call = Call("a", "x", (Segment("s", 5),), f"answer-{name}")
    return Workflow(name, "Test", "", (call,), (), Tape({"a": 3}, {}))


def replay(script, repetitions=1, workflows=2):
    policies, base = line_up(["sequential", "async"], None)
    with scripted(script) as server:
        some = [one(f"w{number}") for number in range(workflows)]
        return measure(
            some, policies, base, [Server(server.url)], ConcurrentSessions(2), 0, Choices(), Setup(repetitions, 5)
        )


def test_cached_tokens_that_nobody_told_are_unknown_and_not_none():
    assert replay(vllm(cached=None)).to_json()["policies"]["async"]["prefix_cache_hit_share"] is None
    assert replay(vllm(cached=0)).to_json()["policies"]["async"]["prefix_cache_hit_share"] == 0


def test_a_server_that_ignores_the_salt_is_refused():
    with pytest.raises(RunError, match="cached under another cache_salt"):
        replay(vllm(cached=512))


def test_requests_of_others_are_noticed():
    count = iter(range(0, 10_000, 50))
    measured = replay(vllm(served=lambda: next(count)))
    assert measured.provenance()["requests_of_others"] == 2 * (50 - 2)
    assert any("requests of others" in line for line in measured.limits())


def test_a_speedup_is_over_repetitions_that_finished_under_both():
    # Three warm-up calls, then two a policy and repetition: the second repetition of async fails.
    measured = replay(vllm(fails_after=3 + 6), repetitions=2)
    assert [len(latencies) for latencies, _ in measured._both("async")] == [2]
    ratio, interval = measured.speedup("async", measured.pairs("async"))
    assert ratio > 0
    assert interval is None
    failed = [record for record in measured.runs["async"].records if record.status == "failed"]
    assert [record.reason for record in failed] == ["HTTP 500: {}"] * 2


def test_ctrl_c_keeps_every_repetition_that_has_finished(monkeypatch):
    stops = iter([False] * 8 + [True])

    def interrupted(*arguments, **more):
        if next(stops, True):
            raise KeyboardInterrupt
        return counters(*arguments, **more)

    counters = Server.counters
    monkeypatch.setattr(Server, "counters", interrupted)
    measured = replay(vllm(), repetitions=5)
    assert measured.interrupted
    whole = [one for one in measured.repetitions if len(one.run.records) == 2]
    assert len(whole) == 4
    assert any("Interrupted" in line for line in measured.limits())
