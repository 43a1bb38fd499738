"""Texts given by the user: read strictly, sent as chats, filled with what the replay itself said."""

import json
import time

import pytest
from scripted_server import chat, completion, scripted

from live.client import CallError, Client
from live.replay import Replay
from live.text import check_texts, load_texts
from live.tools import NOT_RUN, Callables, ToolResult
from sim.errors import TraceError
from sim.policies import parse_policy
from sim.record import EngineStats
from sim.run import Run
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

USER = {"role": "user", "content": "Is it good?"}
FINISH = {"type": "function", "function": {"name": "finish", "parameters": {"type": "object"}}}
LOOK = {"type": "function", "function": {"name": "look"}}
NAMED = {"type": "function", "function": {"name": "finish"}}
LINE = {"workflow": "w", "call": "a", "messages": [USER]}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def workflow(tool_s=0.02):
    """Call a, a tool, and call b, which both lead to."""
    answer = Segment("A", 3)
    nodes = (
        Call("a", "x", (Segment("s", 9),), "A"),
        Tool("t", "finish"),
        Call("b", "y", (Segment("s", 9), answer), "B"),
    )
    edges = (Edge("a", "t", "visible"), Edge("t", "b", "visible"), Edge("a", "b", "visible"))
    return Workflow("w", "Test", "task", nodes, edges, Tape({"a": 3, "b": 4}, {"t": tool_s}))


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def read(tmp_path, *lines):
    return load_texts(write(tmp_path / "texts.jsonl", *lines))


def replay(server, texts, executor=None, flow=None):
    """One session; its records by call."""

    def connect():
        return Client(server.url, "m", 10)

    played = Replay(
        {0: flow or workflow()}, Run(parse_policy("async")), [connect], {"priority": 3}, texts=texts, executor=executor
    )
    played.closed_loop(1)
    result = played.result(EngineStats())
    return played, {record.call_id: record for record in result.records}, result.sessions[0]


class Says:
    """A server whose chats are given in order, and whose completions are as long as asked for."""

    def __init__(self, *chats):
        self._chats = list(chats)

    def __call__(self, path, body):
        return completion(body) if path == COMPLETIONS else list(self._chats.pop(0))


def test_a_text_is_read_as_it_was_given(tmp_path):
    line = LINE | {"tools": [FINISH], "tool_choice": NAMED, "parallel_tool_calls": False, "max_tokens": 40}
    text = read(tmp_path, "", line)["w", "a"]
    assert (text.messages, text.tools, text.max_tokens, text.tool_names) == ([USER], [FINISH], 40, ["finish"])
    assert text.request == {"tool_choice": NAMED, "parallel_tool_calls": False}
    assert text.where == f"{tmp_path / 'texts.jsonl'}, line 2"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mesages": []}, "unknown key 'mesages'; did you mean 'messages'?"),
        ({"workflow": 3}, "'workflow' is of the wrong type (int)"),
        ({"max_tokens": True, "tools": [FINISH]}, "'max_tokens' is of the wrong type (bool)"),
        ({"max_tokens": 0, "tools": [FINISH]}, "max_tokens must be at least 1"),
        ({"max_tokens": 3}, "max_tokens without tools; add tools"),
        ({"messages": []}, "no messages; add one"),
        ({"messages": ["hello"]}, "message 0: not a JSON object"),
        ({"messages": [USER, {"content": "x"}]}, "message 1: no 'role'; add it"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "message 0: no role 'usr'; did you mean 'user'?"),
        ({"messages": [{"role": "user"}]}, "message 0: neither content nor tool_calls"),
        ({"messages": [USER | {"text": "x"}]}, "message 0: unknown key 'text'"),
        ({"messages": [{"role": "user", "answer_of": "a"}]}, "answer_of is of role 'user'; give it the role"),
        ({"messages": [USER | {"answer_of": "a"}]}, "message 0: unknown key 'content'"),
        ({"tools": [{"type": "function"}]}, "tool 0: no 'function'; add it"),
        ({"tools": [FINISH, FINISH]}, "two tools of one name; remove one"),
        ({"tool_choice": "required"}, "tool_choice without tools; add tools"),
        ({"tools": [FINISH], "tool_choice": "any"}, "tool_choice 'any'; give auto, required"),
        ({"tools": [FINISH], "tool_choice": {"type": "function", "function": {"name": "finnish"}}},
         "which is not among the tools; did you mean 'finish'?"),
    ],
)  # fmt: skip
def test_a_line_that_is_wrong_is_named_with_its_mend(tmp_path, changes, problem):
    with pytest.raises(TraceError) as error:
        read(tmp_path, LINE | {"call": "b"}, LINE | changes)
    assert f"{tmp_path / 'texts.jsonl'}, line 2" in str(error.value)
    assert problem in str(error.value)


@pytest.mark.parametrize("line", ["{", "[1]", '{"workflow": NaN}', "[" * 100_000])
def test_what_is_no_object_of_json_is_named_by_its_line(tmp_path, line):
    with pytest.raises(TraceError, match=r"texts.jsonl, line 1: not a"):
        read(tmp_path, line)


def test_a_call_has_one_text(tmp_path):
    with pytest.raises(TraceError, match=r"line 3: call 'a' of 'w' has a text already \(.*line 1\); remove one"):
        read(tmp_path, LINE, "", LINE)


def test_a_file_without_texts_or_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TraceError, match="no texts; add a line"):
        read(tmp_path, "")
    with pytest.raises(TraceError, match="cannot be read"):
        load_texts(tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"workflow": "v"}, "no workflow 'v' is replayed; the nearest is 'w'"),
        ({"call": "c"}, "'w' has no call 'c'; the nearest is"),
        ({"call": "t"}, "'w' has no call 't'"),
        ({"messages": [{"role": "assistant", "answer_of": "t"}]}, "answer_of names no call of the workflow: 't'"),
        ({"messages": [{"role": "tool", "result_of": "b"}]}, "result_of names no tool of the workflow: 'b'"),
        ({"messages": [{"role": "assistant", "answer_of": "b"}]}, "answer_of 'b', but 'a' does not wait for it"),
    ],
)
def test_a_text_that_does_not_fit_the_workflows_is_named(tmp_path, changes, problem):
    texts = read(tmp_path, LINE | changes)
    with pytest.raises(TraceError) as error:
        check_texts(texts, [workflow()])
    assert problem in str(error.value)
    assert "line 1" in str(error.value)


def test_texts_that_refer_to_what_comes_before_them_fit(tmp_path):
    messages = [USER, {"role": "assistant", "answer_of": "a"}, {"role": "tool", "result_of": "t"}]
    check_texts(read(tmp_path, LINE, LINE | {"call": "b", "messages": messages}), [workflow()])


def test_a_chat_without_tools_asks_for_exactly_the_recorded_length():
    with scripted(Says(chat("so it is", tokens=5))) as server:
        answer = Client(server.url, "m", 10).chat([USER], 5, cache_salt="s")
    [(path, body)] = server.requests
    assert path == CHAT
    assert [body[key] for key in ("max_tokens", "min_tokens", "ignore_eos", "cache_salt")] == [5, 5, True, "s"]
    assert "tools" not in body
    assert (answer.text, answer.token_ids, answer.num_output_tokens) == ("so it is", [*range(1000, 1005)], 5)
    assert (answer.num_prompt_tokens, answer.num_cached_tokens) == (17, 5)


def test_a_chat_of_another_length_than_asked_for_is_an_error():
    with scripted(Says(chat("short", tokens=4))) as server, pytest.raises(CallError, match="4 tokens instead of 5"):
        Client(server.url, "m", 10).chat([USER], 5)


def test_of_a_server_that_tells_no_ids_tokens_are_counted_by_its_usage():
    with scripted(Says(chat("so it is", tokens=5, ids=False))) as server:
        answer = Client(server.url, "m", 10).chat([USER], 5)
    assert (answer.token_ids, answer.num_output_tokens, len(answer.token_times_s)) == ([], 5, 1)


def test_a_stream_that_stops_in_the_middle_is_an_error():
    with (
        scripted(Says(list(chat("so", tokens=5))[:4])) as server,
        pytest.raises(CallError, match="stream ended before"),
    ):
        Client(server.url, "m", 10).chat([USER], 9, tools=[FINISH])


def test_a_tool_call_is_put_together_and_parsed_and_its_length_is_only_bounded():
    arguments = '{"verdict": "päss", "why": {"n": 1}}'
    with scripted(Says(chat(calls=[("finish", arguments)]))) as server:
        answer = Client(server.url, "m", 10).chat(
            [USER], 50, tools=[FINISH], tool_choice=NAMED, parallel_tool_calls=False
        )
    body = server.requests[0][1]
    assert (body["max_tokens"], body["tools"], body["tool_choice"]) == (50, [FINISH], NAMED)
    assert body["parallel_tool_calls"] is False
    assert not {"min_tokens", "ignore_eos"} & set(body)
    [call] = answer.tool_calls
    assert (call.id, call.name, call.text) == ("id-0", "finish", arguments)
    assert call.arguments == {"verdict": "päss", "why": {"n": 1}}
    assert not answer.malformed


@pytest.mark.parametrize(
    ("calls", "choice", "end", "reasons"),
    [
        ([("finish", '{"verd')], "auto", "length", ["the arguments of 'finish' are no JSON, cut off at max_tokens"]),
        ([("finish", '{"verd')], "auto", "stop", ["the arguments of 'finish' are no JSON"]),
        ([("finish", "[1]")], "auto", "stop", ["the arguments of 'finish' are no JSON object"]),
        ([("finnish", "{}"), ("finish", "{}")], "auto", "tool_calls", ["a tool 'finnish' was not offered"]),
        ([("look", "{}")], NAMED, "stop", ["a tool 'look' was not offered"]),
        ([("look", "{}")], "auto", "stop", []),
        ([], "required", "stop", ["no tool was called, though one had to be"]),
        ([], NAMED, "stop", ["no tool was called, though one had to be"]),
        ([], "auto", "stop", []),
    ],
)
def test_tool_calls_that_are_of_no_use_are_told_and_not_raised(calls, choice, end, reasons):
    with scripted(Says(chat("hm", calls, end=end))) as server:
        answer = Client(server.url, "m", 10).chat([USER], 50, tools=[FINISH, LOOK], tool_choice=choice)
    assert answer.malformed == reasons
    assert len(answer.tool_calls) == len(calls)


def test_calls_with_texts_go_as_chats_and_the_others_as_token_ids(tmp_path):
    with scripted(Says(chat("fine", tokens=3))) as server:
        _, records, session = replay(server, read(tmp_path, LINE))
    [first], [second] = server.bodies(CHAT), server.bodies(COMPLETIONS)
    assert (first["messages"], first["priority"]) == ([USER], 3)
    assert second["prompt"][-3:] == [1000, 1001, 1002]  # the chat's own answer, in the prompt that contains it
    assert (records["a"].num_prompt_tokens, records["a"].num_cached_tokens, records["a"].num_output_tokens) == (
        17,
        5,
        3,
    )
    assert (records["b"].num_prompt_tokens, records["b"].num_output_tokens) == (12, 4)
    assert session.status == "finished"


def test_a_later_text_gets_the_real_answer_and_the_real_result(tmp_path):
    messages = [USER, {"role": "assistant", "answer_of": "a"}, {"role": "tool", "result_of": "t"}]
    texts = read(tmp_path, LINE | {"tools": [FINISH]}, LINE | {"call": "b", "messages": messages})
    seen = []

    def finish(verdict):
        seen.append(verdict)
        return {"noted": verdict}

    with scripted(Says(chat("I say", [("finish", '{"verdict":"pass"}')]), chat("done", tokens=4))) as server:
        played, records, session = replay(server, texts, Callables({"finish": finish}, 5))
    asked = {"id": "id-0", "type": "function", "function": {"name": "finish", "arguments": '{"verdict":"pass"}'}}
    assert server.bodies(CHAT)[1]["messages"] == [
        USER,
        {"role": "assistant", "content": "I say", "tool_calls": [asked]},
        {"role": "tool", "content": '{"noted": "pass"}', "tool_call_id": "id-0"},
    ]
    assert seen == ["pass"]
    assert [run.result.text for run in played.tool_runs()] == ['{"noted": "pass"}']
    assert (session.status, records["b"].status) == ("finished", "finished")
    assert records["b"].sent_s >= records["a"].finished_s


def test_a_broken_call_is_not_carried_out_and_goes_back_as_text(tmp_path):
    messages = [{"role": "assistant", "answer_of": "a"}, {"role": "tool", "result_of": "t"}]
    texts = read(tmp_path, LINE | {"tools": [FINISH]}, LINE | {"call": "b", "messages": messages})

    def finish(**arguments):
        raise AssertionError("nobody called it")

    says = Says(chat(calls=[("finish", '{"verd')], end="length"), chat("done", tokens=4))
    with scripted(says) as server:
        played, records, session = replay(server, texts, Callables({"finish": finish}, 5))
    assert server.bodies(CHAT)[1]["messages"] == [
        {"role": "assistant", "content": '{"verd'},
        {"role": "tool", "content": "error: the model did not call it"},
    ]
    assert played.malformed() == ["w, a: the arguments of 'finish' are no JSON, cut off at max_tokens"]
    assert (records["a"].status, records["a"].reason, session.status) == ("finished", "", "finished")


def test_without_an_executor_the_recorded_time_passes_and_the_result_says_so(tmp_path):
    messages = [USER, {"role": "tool", "result_of": "t", "tool_call_id": "mine"}]
    texts = read(tmp_path, LINE | {"tools": [FINISH]}, LINE | {"call": "b", "messages": messages})
    with scripted(Says(chat(calls=[("finish", "{}")]), chat("done", tokens=4))) as server:
        _, records, _ = replay(server, texts, flow=workflow(tool_s=0.2))
    assert server.bodies(CHAT)[1]["messages"][1] == {"role": "tool", "content": NOT_RUN, "tool_call_id": "mine"}
    assert records["b"].sent_s - records["a"].finished_s >= 0.2
    assert server.bodies(CHAT)[0]["max_tokens"] == 3  # the recorded length


def test_the_seconds_of_a_tool_count_as_the_sessions_and_max_tokens_is_the_texts(tmp_path):
    def finish():
        time.sleep(0.3)

    texts = read(tmp_path, LINE | {"tools": [FINISH], "max_tokens": 77})
    with scripted(Says(chat(calls=[("finish", "{}")]))) as server:
        _, records, session = replay(server, texts, Callables({"finish": finish}, 5))
    assert server.bodies(CHAT)[0]["max_tokens"] == 77
    assert session.busy_s == pytest.approx(0.3 + sum(one.finished_s - one.sent_s for one in records.values()), abs=0.1)
    assert records["b"].sent_s - records["a"].finished_s >= 0.3


def test_a_tool_that_no_text_offers_is_never_carried_out(tmp_path):
    class Never:
        def run(self, job):
            raise AssertionError(job)

        def over(self, session):
            pass

    with scripted(Says(chat(tokens=3, text="fine"))) as server:
        played, _, session = replay(server, read(tmp_path, LINE), Never())
    assert [run.result.text for run in played.tool_runs()] == [NOT_RUN]
    assert session.status == "finished"


def test_an_executor_that_raises_is_a_failed_tool_and_the_replay_ends(tmp_path):
    ended = []

    class Broken:
        def run(self, job):
            raise OSError("no disk")

        def over(self, session):
            ended.append(session)

    texts = read(tmp_path, LINE | {"tools": [FINISH]})
    began = time.monotonic()
    with scripted(Says(chat(calls=[("finish", "{}")]))) as server:
        played, _, session = replay(server, texts, Broken())
    assert time.monotonic() - began < 5
    assert [run.result.reason for run in played.tool_runs()] == ["OSError: no disk"]
    assert (session.status, ended) == ("finished", [0])


def test_a_failed_tool_ends_its_workflow_where_the_executor_says_so(tmp_path):
    class Fatal:
        def run(self, job):
            return ToolResult("", 0.0, "broken", fatal=True)

        def over(self, session):
            pass

    with scripted(Says(chat(calls=[("finish", "{}")]))) as server:
        _, records, session = replay(server, read(tmp_path, LINE | {"tools": [FINISH]}), Fatal())
    assert set(records) == {"a"}
    assert session.status == "failed"
