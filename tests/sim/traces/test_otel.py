"""OpenTelemetry: small hand-written traces in every form and dialect, what depends on what, and how long things are."""

import json

import pytest

from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, Skipped, load_document
from sim.workflow import CLIENT, Segment, Tool, Workflow

WORDS = LoadOptions(Tokenizer("words", lambda text: len(text.split())))
LONG = "a result of more than fifty characters, so that nobody writes it twice by chance"


def items(data):
    text = data if isinstance(data, str) else json.dumps(data)
    return list(load_document(Document("some/folder/run.json", text), WORDS))


def span(name, began, ended, parent=None, **keys):
    """A flat span; times in seconds."""
    return {
        "trace_id": "t1",
        "span_id": name,
        "parent_id": parent,
        "name": f"the {name}",
        "start_time": began,
        "end_time": ended,
        **keys,
    }


def call(name, began, ended, read=None, wrote=None, parent=None, tokens=None, **attributes):
    """A chat span in OpenTelemetry's own words; ``read`` are (role, text) pairs or whole messages."""
    attributes = {"gen_ai.operation.name": "chat", **attributes}
    if read is not None:
        attributes["gen_ai.input.messages"] = json.dumps([message(one) for one in read])
    if wrote is not None:
        attributes["gen_ai.output.messages"] = json.dumps([message(wrote)])
    if tokens:
        attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"] = tokens
    return span(name, began, ended, parent, attributes=attributes)


def message(one):
    if isinstance(one, dict):
        return one
    role, text = ("assistant", one) if isinstance(one, str) else one
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def asks(identity, name="look", arguments=None):
    part = {"type": "tool_call", "id": identity, "name": name, "arguments": arguments or {}}
    return {"role": "assistant", "parts": [part]}


def gets(identity, result):
    return {"role": "tool", "parts": [{"type": "tool_call_response", "id": identity, "response": result}]}


def tool(name, began, ended, parent=None, **attributes):
    return span(name, began, ended, parent, attributes={"gen_ai.operation.name": "execute_tool", **attributes})


def agent(name, began, ended, parent=None):
    return span(name, began, ended, parent, attributes={"gen_ai.operation.name": "invoke_agent"})


def trace(*spans):
    (workflow,) = items({"spans": spans})
    assert isinstance(workflow, Workflow), workflow.reason
    return workflow


def edges(workflow):
    return {(edge.parent, edge.child, edge.kind, edge.used) for edge in workflow.edges}


USER = ("user", "one two three")


def test_calls_and_tools_come_in_the_order_in_which_they_began_with_the_spans_times():
    workflow = trace(
        tool("t", 13, 15, **{"gen_ai.tool.name": "search"}),
        call("b", 15, 20, tokens=(30, 7)),
        call("a", 10, 13, tokens=(20, 5)),
    )
    assert (workflow.id, workflow.framework) == ("otel/t1", "OpenTelemetry")
    assert [node.id for node in workflow.nodes] == ["call-0", "tool-0", "call-1"]
    assert workflow.tools == (Tool("tool-0", "search"),)
    assert workflow.tape.tool_s == {"tool-0": 2}
    assert workflow.tape.times == {"call-0": (0, 3), "tool-0": (3, 5), "call-1": (5, 10)}
    assert workflow.tape.output_tokens == {"call-0": 5, "call-1": 7}
    assert workflow.began_s == 10


def test_without_messages_the_recorded_lengths_are_kept_and_nothing_is_shared():
    workflow = trace(call("a", 0, 1, tokens=(20, 5)), call("b", 1, 2, tokens=(20, 5)))
    one, other = workflow.calls
    assert [segment.num_tokens for segment in (*one.prompt, *other.prompt)] == [20, 20]
    assert one.prompt != other.prompt
    assert not any(segment.is_unknown for segment in (*one.prompt, *other.prompt))
    assert any("2 of 2 calls have no messages" in note for note in workflow.notes)


def test_two_that_ran_at_the_same_time_wait_for_the_same_and_not_for_each_other():
    workflow = trace(
        call("a", 0, 1, tokens=(1, 1)),
        call("b", 1, 3, tokens=(1, 1)),
        call("c", 1, 2, tokens=(1, 1)),
        call("d", 3, 4, tokens=(1, 1)),
    )
    assert edges(workflow) == {
        ("call-0", "call-1", "recorded", True),
        ("call-0", "call-2", "recorded", True),
        ("call-1", "call-3", "recorded", True),
        ("call-2", "call-3", "recorded", True),
    }


def test_whoever_the_last_ones_waited_for_goes_without_saying():
    spans = [call(name, place, place + 1, tokens=(1, 1)) for place, name in enumerate("abcd")]
    assert edges(trace(*spans)) == {(f"call-{place}", f"call-{place + 1}", "recorded", True) for place in range(3)}


def test_spans_without_duration_at_one_instant_are_ordered_and_make_no_cycle():
    workflow = trace(call("a", 0, 1, tokens=(1, 1)), tool("b", 1, 1), tool("c", 1, 1), call("d", 1, 2, tokens=(1, 1)))
    assert edges(workflow) == {
        ("call-0", "tool-0", "recorded", True),
        ("tool-0", "tool-1", "recorded", True),
        ("tool-1", "call-1", "recorded", True),
    }


def test_a_gap_of_more_than_a_millisecond_is_the_clients_time():
    workflow = trace(
        call("a", 0, 1, tokens=(1, 1)), call("b", 1.25, 2, tokens=(1, 1)), call("c", 2.0005, 3, tokens=(1, 1))
    )
    assert [node.id for node in workflow.nodes] == ["call-0", "tool-0", "call-1", "call-2"]
    assert workflow.tools == (Tool("tool-0", CLIENT),)
    assert workflow.tape.tool_s == {"tool-0": 0.25}
    assert workflow.tape.times["tool-0"] == (1, 1.25)
    assert edges(workflow) == {
        ("call-0", "tool-0", "recorded", True),
        ("tool-0", "call-1", "recorded", True),
        ("call-1", "call-2", "recorded", True),
    }


def test_the_loop_of_an_agent_is_proven_by_its_messages_and_ids():
    history = [USER, asks("c1"), gets("c1", "rain")]
    workflow = trace(
        call("a", 0, 1, [USER], asks("c1")),
        tool("t", 1, 2, **{"gen_ai.tool.call.id": "c1"}),
        call("b", 2, 3, history, "it rains"),
        call("c", 3, 4, [*history, "it rains", ("user", "thanks")], "bye"),
    )
    assert edges(workflow) == {
        ("call-0", "tool-0", "visible", True),
        ("tool-0", "call-1", "visible", True),
        ("call-1", "call-2", "visible", True),
    }
    first, second, third = workflow.calls
    assert second.prompt[: len(first.prompt)] == first.prompt
    assert second.prompt[len(first.prompt)].segment_id == first.answer_id
    assert third.prompt[: len(second.prompt)] == second.prompt
    assert third.prompt[len(second.prompt)].segment_id == second.answer_id


def test_what_only_time_tells_is_not_used_where_the_prompt_shows_what_it_needs():
    workflow = trace(
        call("a", 0, 1, [USER], "plan"),
        call("b", 1, 2, [USER], "other"),
        call("c", 2, 3, [USER, "plan"], "end"),
    )
    assert edges(workflow) == {
        ("call-0", "call-1", "recorded", True),
        ("call-0", "call-2", "visible", True),
        ("call-1", "call-2", "recorded", False),
    }


def test_a_tool_whose_result_nobody_recorded_may_be_in_the_prompt():
    workflow = trace(
        call("a", 0, 1, [USER], "plan"),
        tool("t", 1, 2),
        call("b", 2, 3, [USER, "plan", ("tool", "42")], "end"),
    )
    assert ("tool-0", "call-1", "recorded", True) in edges(workflow)
    assert ("call-0", "call-1", "visible", True) in edges(workflow)


def test_a_tool_is_found_by_its_result_whether_that_is_json_or_its_content():
    for result, shown in (("rain", "rain"), ({"sky": "grey", "wet": True}, '{"wet": true, "sky": "grey"}')):
        workflow = trace(
            call("a", 0, 1, [USER], "plan"),
            tool("t", 1, 2, **{"gen_ai.tool.call.result": result}),
            call("b", 2, 3, [USER, ("tool", shown)], "end"),
        )
        assert edges(workflow) == {
            ("call-0", "tool-0", "recorded", True),
            ("tool-0", "call-1", "visible", True),
        }


def test_tools_of_one_answer_that_ran_one_after_the_other_need_only_the_answer():
    both = {"role": "assistant", "parts": [*asks("c1")["parts"], *asks("c2")["parts"]]}
    workflow = trace(
        call("a", 0, 1, [USER], both),
        tool("t", 1, 2, **{"gen_ai.tool.call.id": "c1"}),
        tool("u", 2, 3, **{"gen_ai.tool.call.id": "c2"}),
        call("b", 3, 4, [USER, both, gets("c1", "x"), gets("c2", "y")], "end"),
    )
    assert edges(workflow) == {
        ("call-0", "tool-0", "visible", True),
        ("call-0", "tool-1", "visible", True),
        ("tool-0", "tool-1", "recorded", False),
        ("tool-0", "call-1", "visible", True),
        ("tool-1", "call-1", "visible", True),
    }


def test_a_long_answer_is_found_where_it_is_quoted_and_a_short_one_only_where_it_is_a_message():
    for answer, kind in ((LONG, "visible"), ("plan", "recorded")):
        workflow = trace(call("a", 0, 1, [USER], answer), call("b", 1, 2, [("user", f"Judge this: {answer}!")], "end"))
        assert edges(workflow) == {("call-0", "call-1", kind, True)}
    workflow = trace(call("a", 0, 1, [USER], "plan"), call("b", 1, 2, [("user", "plan")], "end"))
    assert edges(workflow) == {("call-0", "call-1", "visible", True)}


def test_a_task_that_an_agent_hands_on_as_an_argument_is_found_in_the_other_agents_prompt():
    workflow = trace(
        call("a", 0, 1, [USER], asks("c1", "delegate", {"task": LONG})),
        call("b", 1, 2, [("user", LONG)], "done"),
    )
    assert edges(workflow) == {("call-0", "call-1", "visible", True)}


def test_of_equal_answers_the_last_that_had_ended_is_the_one_that_was_read():
    workflow = trace(
        call("a", 0, 1, [USER], "yes"),
        call("b", 1, 2, [USER], "yes"),
        call("c", 2, 5, [USER], "yes"),
        call("d", 3, 4, [USER, "yes"], "end"),
    )
    assert {edge for edge in edges(workflow) if edge[2] == "visible"} == {("call-1", "tool-0", "visible", True)}


def test_the_span_beats_the_tokenizer_and_what_is_missing_is_unknown():
    history = [USER, asks("c1"), gets("c1", "rain")]
    workflow = trace(
        call("a", 0, 1, [USER], asks("c1"), tokens=(30, 9)),
        call("b", 1, 2, history, "it rains", tokens=(60, 2)),
        call("c", 2, 3, [*history, "it rains", USER], "end", tokens=(80, 1)),
    )
    first, second, third = workflow.calls
    assert [call.num_prompt_tokens for call in workflow.calls] == [30, 60, 80]
    # one two three and its template: 3 + 4, the answer's header 3; missing are 20
    assert [segment.num_tokens for segment in first.prompt] == [20, 7, 3]
    assert first.prompt[0].is_unknown
    # then the answer as recorded 9, its end 1, the result 1 + 4, a header 3; missing are 12 more
    assert [segment.num_tokens for segment in second.prompt] == [20, 7, 3, 9, 1, 5, 3, 12]
    assert second.prompt[-1].is_unknown
    # the next prompt goes on behind what was missing before: 2 + 1, 3 + 4, a header 3, and 7 are missing
    assert third.prompt[:8] == second.prompt
    assert [segment.num_tokens for segment in third.prompt[8:]] == [2, 1, 7, 3, 7]
    assert list(workflow.tape.output_tokens.values()) == [9, 2, 1]


def test_what_every_prompt_of_an_agent_lacks_is_one_text_in_front():
    named = {"gen_ai.agent.name": "x"}
    workflow = trace(
        call("a", 0, 1, [USER], "one", tokens=(50, 1), **named),
        call("b", 1, 2, [("user", "four five")], "two", tokens=(40, 1), **named),
        call("c", 2, 3, [USER], "three", tokens=(40, 1), **{"gen_ai.agent.name": "y"}),
    )
    one, other, third = (call.prompt for call in workflow.calls)
    assert one[0] == other[0]
    assert one[0].num_tokens == 40 - (2 + 4 + 3)
    assert [segment.num_tokens for segment in one if segment.is_unknown] == [31, 9]
    assert third[0] != one[0]


def test_messages_that_count_more_than_was_recorded_are_kept():
    workflow = trace(call("a", 0, 1, [USER], "one", tokens=(4, 1)))
    assert workflow.calls[0].num_prompt_tokens == 3 + 4 + 3
    assert any("1 of 1 prompts count more" in note for note in workflow.notes)


def test_an_answer_with_hidden_reasoning_is_not_what_the_next_prompt_repeats():
    hidden = {"gen_ai.usage.reasoning.output_tokens": 40}
    workflow = trace(
        call("a", 0, 1, [USER], "one two", tokens=(10, 42), **hidden), call("b", 1, 2, [USER, "one two"], "end")
    )
    first, second = workflow.calls
    assert workflow.tape.output_tokens["call-0"] == 42
    assert Segment(first.answer_id, 42) not in second.prompt
    assert [segment.num_tokens for segment in second.prompt] == [7, 3, 2, 1, 3]
    assert ("call-0", "call-1", "visible", True) in edges(workflow)


def test_tool_definitions_and_system_instructions_come_first():
    first = call(
        "a",
        0,
        1,
        [USER],
        "one",
        **{
            "gen_ai.tool.definitions": json.dumps([{"name": "look"}]),
            "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "be kind"}]),
        },
    )
    second = call("b", 1, 2, [("system", "be kind"), USER], "two")
    one, other = trace(first, second).calls
    assert [segment.num_tokens for segment in one.prompt] == [1 + 4, 2 + 4, 3 + 4, 3]
    assert one.prompt[1:] == other.prompt


def test_cached_tokens_that_were_not_counted_are_added_and_noted():
    cached = {"gen_ai.usage.cache_read.input_tokens": 90, "gen_ai.usage.cache_creation.input_tokens": 5}
    workflow = trace(call("a", 0, 1, tokens=(10, 1), **cached), call("b", 1, 2, tokens=(200, 1), **cached))
    assert [call.num_prompt_tokens for call in workflow.calls] == [105, 200]
    assert any("180 of 305 recorded prompt tokens" in note for note in workflow.notes)


def test_an_agent_is_what_the_span_says_or_the_nearest_agent_above_it_or_the_spans_name():
    workflow = trace(
        span("root", 0, 9),
        call("a", 0, 1, parent="root", tokens=(1, 1)),
        agent("guide", 1, 9, "root"),
        span("chain", 1, 9, "guide"),
        call("b", 1, 2, parent="chain", tokens=(1, 1)),
        call("c", 2, 3, parent="chain", tokens=(1, 1), **{"gen_ai.agent.name": "own"}),
    )
    assert [call.agent for call in workflow.calls] == ["the a", "the guide", "own"]
    assert workflow.task == "the root"
    assert any("3 spans are neither" in note for note in workflow.notes)


def test_a_name_that_is_a_whole_text_is_not_kept():
    spans = call("a", 0, 1, tokens=(1, 1), **{"gen_ai.agent.name": "x" * 101})
    workflow = trace({**spans, "name": "y" * 101})
    assert (workflow.calls[0].agent, workflow.task) == ("agent", "")


def test_a_wrapper_of_a_call_and_an_agent_used_as_a_tool_are_only_structure():
    workflow = trace(
        tool("delegate", 0, 5),
        call("wrapper", 1, 3, parent="delegate", tokens=(9, 9)),
        call("a", 1, 3, parent="wrapper", tokens=(20, 5)),
        tool("outer", 3, 4, parent="delegate"),
        tool("inner", 3.2, 3.5, parent="outer"),
    )
    assert [node.id for node in workflow.nodes] == ["call-0", "tool-0"]
    assert workflow.tape.output_tokens == {"call-0": 5}
    assert workflow.tape.tool_s == {"tool-0": 1}


def test_a_failed_call_stays_only_if_it_answered():
    failed = {"status": {"status_code": "ERROR"}}
    workflow = trace(
        {**call("a", 0, 1, [USER]), **failed},
        {**call("b", 1, 2, [USER], "half"), **failed},
        call("c", 2, 3, [USER], "x"),
    )
    assert len(workflow.calls) == 2
    assert any("1 calls that failed" in note for note in workflow.notes)


def test_spans_that_are_each_others_parents_are_read_all_the_same():
    workflow = trace(call("a", 0, 1, parent="b", tokens=(1, 1)), span("b", 0, 1, "a"))
    assert len(workflow.calls) == 1


def test_a_span_that_was_sent_twice_counts_once():
    workflow = trace(call("a", 0, 1, tokens=(1, 1)), call("a", 0, 1, tokens=(1, 1)))
    assert len(workflow.calls) == 1
    assert any("1 spans occur twice" in note for note in workflow.notes)


@pytest.mark.parametrize(
    ("spans", "problem"),
    [
        ([span("a", 0, 1)], "no call of an LLM among its 1 spans"),
        ([call("a", 2, 1, tokens=(1, 1))], "span 'a' ends before it begins"),
        ([call("a", None, 1, tokens=(1, 1))], "span 'a' has no begin or no end"),
        ([call("a", 0, "soon", tokens=(1, 1))], "span 'a' has no begin or no end"),
        ([call("b", 0, 1, tokens=(1, 1)), tool("a", 2, 1)], "span 'a' ends before it begins"),
        ([call("a", 0, 1)], "span 'a' tells neither the text nor the length of its prompt"),
        ([call("a", 0, 1, [USER])], "span 'a' tells neither the text nor the length of its answer"),
        ([call("a", 0, 1, tokens=(1, 1)), call("b", 1e8, 2e8, tokens=(1, 1))], "must take 0 to 1e+07 s"),
    ],
)
def test_a_trace_that_cannot_be_used_is_skipped_with_its_reason_and_the_others_are_kept(spans, problem):
    other = {**call("z", 0, 1, tokens=(1, 1)), "trace_id": "t2"}
    skipped, workflow = items({"spans": [*spans, other]})
    assert isinstance(skipped, Skipped)
    assert skipped.where == "some/folder/run.json, trace t1"
    assert problem in skipped.reason
    assert workflow.id == "otel/t2"


@pytest.mark.parametrize(
    "bad", [3, None, {"span_id": "x"}, {"trace_id": "t1"}, {"trace_id": "two\nlines", "span_id": "x"}]
)
def test_what_is_no_span_is_skipped_and_the_others_are_kept(bad):
    skipped, workflow = items({"spans": [call("a", 0, 1, tokens=(1, 1)), bad]})
    assert skipped.where == "some/folder/run.json, span 2"
    assert len(workflow.calls) == 1


def test_no_span_at_all_is_no_workflow():
    assert "no span that can be read" in items({"resourceSpans": []})[-1].reason


def otlp(*spans, name="app"):
    """The same spans as OTLP."""

    def value(one):
        if isinstance(one, int):
            return {"intValue": str(one)}
        if isinstance(one, list):
            return {"arrayValue": {"values": [value(item) for item in one]}}
        if isinstance(one, dict):
            return {"kvlistValue": {"values": [{"key": key, "value": value(item)} for key, item in one.items()]}}
        return {"stringValue": one}

    def plain(one):
        attributes = [{"key": key, "value": value(item)} for key, item in one.get("attributes", {}).items()]
        return {
            "traceId": one["trace_id"],
            "spanId": one["span_id"],
            "parentSpanId": one["parent_id"] or "",
            "name": one["name"],
            "startTimeUnixNano": str(int(one["start_time"] * 10**9)),
            "endTimeUnixNano": str(int(one["end_time"] * 10**9)),
            "attributes": attributes,
            "status": {"code": 1},
        }

    scope = {"scope": {"name": name}, "spans": [plain(one) for one in spans]}
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [scope]}]}


SPANS = (
    agent("guide", 0, 9),
    call("a", 0, 1, [USER], asks("c1"), "guide", (30, 9)),
    tool("t", 1, 2, "guide", **{"gen_ai.tool.call.id": "c1"}),
    call("b", 3, 5, [USER, asks("c1"), gets("c1", "rain")], "it rains", "guide", (60, 2)),
)


@pytest.mark.parametrize(
    "data",
    [
        otlp(*SPANS),
        "\n".join(json.dumps(otlp(one)) for one in SPANS) + "\n",
        "\n".join(map(json.dumps, SPANS)),
        list(SPANS),
        {"spans": [{**one, "start_time": f"1970-01-01T00:00:0{one['start_time']}Z"} for one in SPANS]},
        {"spans": [{**one, "context": {"trace_id": "0xt1", "span_id": "0x" + one["span_id"]}} for one in SPANS]},
    ],
    ids=["otlp", "otlp-lines", "flat-lines", "flat-list", "iso", "console"],
)
def test_every_form_of_the_same_spans_gives_the_same_workflow(data):
    (workflow,) = items(data)
    assert workflow == trace(*SPANS)
    assert [node.id for node in workflow.nodes] == ["call-0", "tool-0", "tool-1", "call-1"]


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_the_unit_of_a_time_shows_in_its_size(unit):
    moment = 1_700_000_000
    workflow = trace(call("a", moment * unit, (moment + 2) * unit, tokens=(1, 1)))
    assert workflow.tape.times == {"call-0": (0, 2)}


def test_messages_may_be_structured_attributes():
    structured = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": [message(USER)],
        "gen_ai.output.messages": [message("one")],
    }
    (workflow,) = items(otlp(span("a", 0, 1, attributes=structured)))
    assert workflow == trace(call("a", 0, 1, [USER], "one"))


def test_a_line_that_is_cut_off_is_skipped():
    lines = [json.dumps(otlp(one)) for one in SPANS]
    skipped, workflow = items("\n".join([*lines, lines[0][:100]]))
    assert skipped.where == "some/folder/run.json, line 5"
    assert len(workflow.calls) == 2


ASKED, SHOWN = "what is up", "the sky"
ARGUMENTS = '{"at": "noon"}'
OPENAI = [{"type": "function", "id": "c1", "function": {"name": "look", "arguments": ARGUMENTS}}]
INPUT = [
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": None, "tool_calls": OPENAI},
    {"role": "tool", "tool_call_id": "c1", "content": SHOWN},
]
OUTPUT = {"role": "assistant", "content": "blue"}
DIALECTS = {
    "semantic conventions": {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": [("user", ASKED), asks("c1", "look", {"at": "noon"}), gets("c1", SHOWN)],
        "gen_ai.output.messages": ["blue"],
        "gen_ai.usage.input_tokens": 50,
        "gen_ai.usage.output_tokens": 6,
    },
    "OpenInference": {
        "openinference.span.kind": "LLM",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.contents.0.message_content.type": "text",
        "llm.input_messages.0.message.contents.0.message_content.text": ASKED,
        "llm.input_messages.1.message.role": "assistant",
        "llm.input_messages.1.message.tool_calls.0.tool_call.id": "c1",
        "llm.input_messages.1.message.tool_calls.0.tool_call.function.name": "look",
        "llm.input_messages.1.message.tool_calls.0.tool_call.function.arguments": ARGUMENTS,
        "llm.input_messages.2.message.role": "tool",
        "llm.input_messages.2.message.tool_call_id": "c1",
        "llm.input_messages.2.message.content": SHOWN,
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "blue",
        "llm.token_count.prompt": 50,
        "llm.token_count.completion": 6,
    },
    "OpenLLMetry, indexed": {
        "llm.request.type": "chat",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": json.dumps([{"type": "text", "text": ASKED}]),
        "gen_ai.prompt.1.role": "assistant",
        "gen_ai.prompt.1.tool_calls.0.id": "c1",
        "gen_ai.prompt.1.tool_calls.0.name": "look",
        "gen_ai.prompt.1.tool_calls.0.arguments": ARGUMENTS,
        "gen_ai.prompt.2.role": "tool",
        "gen_ai.prompt.2.content": SHOWN,
        "gen_ai.prompt.2.tool_call_id": "c1",
        "gen_ai.prompt.name": "the template's name is no message",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "blue",
        "llm.usage.prompt_tokens": 50,
        "gen_ai.usage.completion_tokens": 6,
    },
    "Langfuse": {
        "langfuse.observation.type": "generation",
        "langfuse.observation.input": json.dumps({"messages": INPUT}),
        "langfuse.observation.output": json.dumps(OUTPUT),
        "langfuse.observation.usage_details": json.dumps({"input": 50, "output": 6}),
    },
    "no kind at all": {
        "gen_ai.request.model": "m",
        "gen_ai.prompt": json.dumps(INPUT),
        "gen_ai.completion": json.dumps([OUTPUT]),
        "gen_ai.usage.prompt_tokens": "50",
        "gen_ai.usage.completion_tokens": 6.0,
    },
    "Anthropic's blocks": {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": [
            {"role": "user", "content": [{"type": "text", "text": ASKED}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm"},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "noon"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": SHOWN}]}],
            },
        ],
        "gen_ai.output.messages": [{"role": "assistant", "content": [{"type": "text", "text": "blue"}]}],
        "gen_ai.usage.input_tokens": 50,
        "gen_ai.usage.output_tokens": 6,
    },
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_dialects_say_the_same(dialect):
    attributes = dict(DIALECTS[dialect])
    for name in ("gen_ai.input.messages", "gen_ai.output.messages"):
        if name in attributes:
            attributes[name] = json.dumps([message(one) for one in attributes[name]])
    first = call("a", 0, 1, [("user", ASKED)], asks("c1", "look", {"at": "noon"}))
    carried_out = tool("t", 1, 2, **{"gen_ai.tool.call.id": "c1"})
    second = span("b", 2, 3, attributes=attributes)
    workflow = trace(first, carried_out, second)
    # what is up: 3 + 4, a header 3, look(..) 1 and its end 1, the sky: 2 + 4, a header 3; 50 were sent
    texts = [segment.num_tokens for segment in workflow.calls[1].prompt if not segment.is_unknown]
    assert texts == [7, 3, 1, 1, 6, 3]
    assert workflow.calls[1].num_prompt_tokens == 50
    assert workflow.tape.output_tokens["call-1"] == 6
    assert edges(workflow) == {("call-0", "tool-0", "visible", True), ("tool-0", "call-1", "visible", True)}


def test_messages_may_be_events_of_the_span():
    events = [
        {"name": "gen_ai.user.message", "attributes": {"content": ASKED}},
        {"name": "gen_ai.choice", "attributes": {"index": 0, "message": json.dumps(OUTPUT)}},
        {"name": "something else", "attributes": {"content": "noise"}},
    ]
    workflow = trace({**span("a", 0, 1, attributes={"gen_ai.operation.name": "chat"}), "events": events})
    assert workflow == trace({**call("a", 0, 1, [("user", ASKED)], "blue")})


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"openinference.span.kind": "RETRIEVER"}, "tool"),
        ({"openinference.span.kind": "CHAIN"}, None),
        ({"gen_ai.operation.name": "embeddings"}, "tool"),
        ({"gen_ai.operation.name": "invoke_workflow", "gen_ai.request.model": "m"}, None),
        ({"langfuse.observation.type": "retriever"}, "tool"),
        ({"langfuse.observation.type": "span"}, None),
        ({"traceloop.span.kind": "tool", "traceloop.entity.name": "x"}, "tool"),
        ({"traceloop.span.kind": "workflow"}, None),
        ({"llm.request.type": "rerank"}, "tool"),
        ({"http.method": "GET"}, None),
    ],
)
def test_retrievals_and_embeddings_are_tools_and_chains_are_nothing(attributes, kind):
    workflow = trace(call("a", 0, 1, tokens=(1, 1)), span("b", 1, 2, attributes=attributes))
    assert [type(node) is Tool for node in workflow.nodes] == [False, True][: 1 + (kind == "tool")]


def test_a_message_nested_beyond_measure_is_read_as_text():
    deep = "[" * 100_000
    (workflow,) = items({"spans": [call("a", 0, 1, [("user", deep)], "x", **{"gen_ai.tool.definitions": deep})]})
    assert isinstance(workflow, Workflow)


def test_a_long_conversation_is_a_chain_of_its_answers():
    history, spans = [USER], []
    for number in range(300):
        spans.append(call(f"s{number}", number, number + 1, history, f"{number} {LONG}"))
        history = [*history, f"{number} {LONG}"]
    workflow = trace(*spans)
    assert edges(workflow) == {(f"call-{place}", f"call-{place + 1}", "visible", True) for place in range(299)}
