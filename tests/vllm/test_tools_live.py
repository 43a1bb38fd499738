"""Chats and tool calls on a real vLLM, whose small model has random weights: what it says means nothing."""

import json
import os

import pytest

from live.client import Client
from live.replay import Replay
from live.text import check_texts, load_texts
from live.tools import Callables
from sim.policies import parse_policy
from sim.record import EngineStats
from sim.run import Run
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

USER = {"role": "user", "content": "Is it good?"}
VERDICT = {"type": "string", "enum": ["pass", "fail"]}
SCHEMA = {"type": "object", "properties": {"verdict": VERDICT}, "required": ["verdict"], "additionalProperties": False}
FINISH = {"type": "function", "function": {"name": "finish", "description": "Give the verdict", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "finish"}}


@pytest.fixture
def url(request):
    """Of the server that WORKSPAN_TEST_SERVER names, else of one that is started."""
    return os.environ.get("WORKSPAN_TEST_SERVER") or request.getfixturevalue("server")


@pytest.fixture
def client(url):
    return Client(url, "tiny-llama", 60)


def test_a_chat_has_exactly_the_length_asked_for_and_a_time_for_each_token(client):
    answer = client.chat([USER], 12, cache_salt="length", priority=1)
    assert len(answer.token_ids) == len(answer.token_times_s) == answer.num_counted_tokens == 12
    assert answer.token_times_s == sorted(answer.token_times_s)
    assert answer.token_times_s[-1] > answer.token_times_s[0] > answer.sent_s
    assert answer.num_prompt_tokens > 5
    assert answer.text


def test_a_named_tool_is_called_with_arguments_of_its_schema(client):
    answer = client.chat([USER], 60, tools=[FINISH], tool_choice=NAMED)
    [call] = answer.tool_calls
    assert call.name == "finish"
    assert set(call.arguments) == {"verdict"}
    assert call.arguments["verdict"] in ("pass", "fail")
    assert not answer.malformed
    assert len(answer.token_ids) == len(answer.token_times_s) == answer.num_counted_tokens < 60


def test_a_required_tool_is_called_once_where_parallel_calls_are_off(client):
    answer = client.chat([USER], 100, tools=[FINISH], tool_choice="required", parallel_tool_calls=False)
    [call] = answer.tool_calls
    assert call.arguments["verdict"] in ("pass", "fail")
    assert not answer.malformed
    assert len(answer.token_ids) == answer.num_counted_tokens


def test_a_call_that_max_tokens_cuts_off_is_told_as_malformed(client):
    named = client.chat([USER], 4, tools=[FINISH], tool_choice=NAMED)
    assert named.malformed == ["the arguments of 'finish' are no JSON, cut off at max_tokens"]
    required = client.chat([USER], 4, tools=[FINISH], tool_choice="required", parallel_tool_calls=False)
    assert required.malformed == ["no tool was called, though one had to be"]


def workflow():
    """An agent calls a tool and gets its result; another sees token ids only."""
    nodes = (
        Call("judge", "x", (Segment("s", 200),), "J"),
        Tool("verdict", "finish"),
        Call("report", "x", (Segment("s", 200), Segment("J", 60)), "R"),
        Call("other", "y", (Segment("s", 200), Segment("R", 20)), "O"),
    )
    edges = (
        Edge("judge", "verdict", "visible"),
        Edge("verdict", "report", "visible"),
        Edge("report", "other", "visible"),
    )
    return Workflow("w", "Test", "task", nodes, edges, Tape({"judge": 60, "report": 20, "other": 5}, {"verdict": 0.0}))


@pytest.mark.parametrize("max_tokens", [60, 4])
def test_a_result_goes_back_to_the_model_also_after_a_call_that_was_cut_off(tmp_path, url, max_tokens):
    history = [USER, {"role": "assistant", "answer_of": "judge"}, {"role": "tool", "result_of": "verdict"}]
    judge = {"messages": [USER], "tools": [FINISH], "tool_choice": NAMED, "max_tokens": max_tokens}
    lines = ({"call": "judge", **judge}, {"call": "report", "messages": history})
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"workflow": "w", **line}) + "\n" for line in lines))
    texts = load_texts(tmp_path / "texts.jsonl")
    check_texts(texts, [workflow()])
    seen = []

    def finish(verdict):
        seen.append(verdict)
        return "the verdict is noted"

    played = Replay(
        {0: workflow()},
        Run(parse_policy("async")),
        [lambda: Client(url, "tiny-llama", 60)],
        {"cache_salt": f"texts {max_tokens}"},
        texts=texts,
        executor=Callables({"finish": finish}, 10),
    )
    played.closed_loop(1)
    result = played.result(EngineStats())
    judge, report, other = result.records
    assert [record.status for record in result.records] == ["finished"] * 3, result.records
    assert judge.finished_s <= report.sent_s
    assert report.finished_s <= other.sent_s
    assert (report.num_output_tokens, other.num_output_tokens, other.num_prompt_tokens) == (20, 5, 220)
    alone = Client(url, "tiny-llama", 60).chat([USER], 1).num_prompt_tokens
    assert report.num_prompt_tokens > alone + 10  # the template shows the model its call and the result
    [run] = played.tool_runs()
    if max_tokens == 60:
        assert seen in (["pass"], ["fail"])
        assert (run.result.text, played.malformed()) == ("the verdict is noted", [])
    else:
        assert not seen
        assert run.result.reason == "the model did not call it"
        assert played.malformed() == ["w, judge: the arguments of 'finish' are no JSON, cut off at max_tokens"]
