"""What a replay makes of answers, and of requests beside the recorded calls, on a server that says what it is told."""

import json

import pytest
from scripted_server import completion, scripted

from live.client import Answer
from live.measure import Setup, measure
from live.sent import Sent
from live.server import Server
from sim.choices import Choices
from sim.compare import line_up
from sim.load import ConcurrentSessions
from sim.rules import Served
from sim.session import Start
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

CALL = Call("a", "agent", (Segment("s", 5),), "answer-a")


@pytest.mark.parametrize(
    ("prefill_s", "service_s", "waited_s"),
    # A server that began before the call was sent, by another clock, did not: no time is negative.
    [(0.5, 1.5, 0.5), (None, 2.0, 0.0), (1.5, 2.0, 0.0)],
)
def test_service_is_what_came_after_the_queue_as_far_as_the_server_tells(prefill_s, service_s, waited_s):
    answer = Answer(token_times_s=[102.0, 103.0], token_ids=[7, 8], num_prompt_tokens=5, prefill_s=prefill_s)
    sent = Sent(Start(0, CALL), CALL, due_s=0.9, prompt_tokens=5, ask=None, answer=answer, sent_s=1.0)
    assert sent.served(100.0) == Served(service_s, waited_s, 5, 2)


def looks_up(name="w"):
    """A call, a tool, and a call that reads the first one's answer."""
    nodes = (CALL, Tool("t", "look"), Call("b", "agent", (Segment("s", 5), Segment("answer-a", 3)), "answer-b"))
    edges = (Edge("a", "t", "visible"), Edge("t", "b", "visible"))
    return Workflow(name, "Test", "", nodes, edges, Tape({"a": 3, "b": 2}, {"t": 0.05}))


def measured(policy, refuses=lambda body: False):
    def script(path, body):
        if path == "/v1/models":
            return 200, json.dumps({"data": [{"id": "m", "max_model_len": 1000}]})
        if path != "/v1/completions":
            return 404, "{}"
        return (500, "{}") if refuses(body) else completion(body)

    policies, base = line_up([policy], None)
    with scripted(script) as server:
        load = ConcurrentSessions(1)
        found = measure([looks_up()], policies, base, [Server(server.url)], load, 0, Choices(), Setup())
        # The first three are those that nobody counts.
        return found, server.bodies("/v1/completions")[3:]


def test_a_prefill_goes_ahead_with_what_is_known_and_is_no_record():
    found, (first, ahead, second) = measured("prefill_ahead:min_tokens=8")
    assert [body["max_tokens"] for body in (first, ahead, second)] == [3, 1, 2]
    assert ahead["prompt"] == second["prompt"] == [*first["prompt"], 2000, 2001, 2002]
    assert ahead["cache_salt"] == second["cache_salt"]
    run = found.runs["prefill_ahead:min_tokens=8"]
    assert [record.call_id for record in run.records] == ["a", "b"]
    assert (run.extras.ahead_calls, run.extras.ahead_tokens) == (1, 8)
    # Only what is not 0 is sent: any server takes it.
    assert not any("priority" in body for body in (first, ahead, second))


def test_a_prefill_ahead_that_fails_is_told_and_stops_nothing():
    found, _ = measured("prefill_ahead:min_tokens=8", lambda body: body["max_tokens"] == 1)
    (session,) = found.runs["prefill_ahead:min_tokens=8"].sessions
    assert session.status == "finished"
    assert found.provenance()["failed_prefills_ahead"] == 1
    assert any("prefills ahead of a call failed, the first: w, ahead:b: HTTP 500" in line for line in found.limits())


@pytest.mark.parametrize(("hit", "guessed", "wasted_s"), [(1, 1, 0.0), (0, 0, 0.05)])
def test_a_tool_is_guessed_while_the_call_before_it_runs(hit, guessed, wasted_s):
    found, _ = measured(f"speculate_tool:hit={hit}")
    (run,) = found.runs.values()
    assert (run.extras.guessed_tools, run.extras.wasted_tool_s) == (guessed, wasted_s)
    assert [record.status for record in run.records] == ["finished", "finished"]
    # Of a wrong guess nothing remains: the right tool takes its time after the call.
    assert run.records[1].sent_s - run.records[0].finished_s >= 0.05 * (not hit)
