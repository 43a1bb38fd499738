"""A result in the formats that tell what waits for what: read back they say the same."""

import base64
import json
from collections import defaultdict
from dataclasses import replace
from itertools import combinations, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import policies, profile, profiles, workflows

from sim.agreement.data import side_of
from sim.compare import compare, line_up
from sim.errors import RunError
from sim.export import dag_jsonl, formats, result_of
from sim.export._waits import BEGIN, waits
from sim.load import Alone, ConcurrentSessions
from sim.otel.links import DEPENDENCIES
from sim.traces import Document, LoadOptions, load_document
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

TWO = ConcurrentSessions(2)
LOADS = st.sampled_from([Alone(), TWO])
PROFILE = profile()


@st.composite
def results(draw):
    """Two drawn workflows under a drawn policy, on an engine that every call fits in."""
    drawn = [draw(workflows(name)) for name in ("v", "w")]
    lineup, baseline = line_up([str(draw(policies))], None)
    return result(drawn, lineup, baseline, draw(profiles(min_blocks=120)), draw(LOADS))


def result(drawn, lineup, baseline, engine, load=TWO):
    of = result_of(side_of(compare(drawn, lineup, baseline, engine, load, 0), "here"))
    return replace(of, workflows={one.id: one for one in drawn})


def sessions_of(of):
    return sorted(of.only.run.sessions, key=lambda session: session.session)


def text(name, of):
    (pieces,) = formats()[name].write(of).files.values()
    return "".join(pieces)


def read(document):
    found = list(load_document(Document("folder/file.jsonl", document), LoadOptions()))
    assert all(isinstance(item, Workflow) for item in found), found
    return found


def spans_of(document):
    for line in document.splitlines():
        (resource,) = json.loads(line)["resourceSpans"]
        (scope,) = resource["scopeSpans"]
        yield [{**span, "told": {pair["key"]: pair["value"] for pair in span["attributes"]}} for span in scope["spans"]]


def by_time(spans):
    """Without the root, in the order in which a reader numbers them."""
    return sorted(spans[1:], key=lambda one: (one["startTimeUnixNano"], one["endTimeUnixNano"], one["spanId"]))


@settings(deadline=None, max_examples=60)
@given(results())
def test_spans_are_read_back_as_the_same_graph_with_the_same_counts(of):
    document = text("otel", of)
    for spans, found, session in zip(spans_of(document), read(document), sessions_of(of), strict=True):
        workflow = of.workflows[session.workflow_id]
        assert len(found.nodes) == len(workflow.nodes)
        names = {}
        for span, node in zip(by_time(spans), found.nodes, strict=True):
            if isinstance(node, Call):
                names[node.id] = span["told"]["workspan.call"]["stringValue"]
                call = next(call for call in workflow.calls if call.id == names[node.id])
                assert (node.agent, node.num_prompt_tokens) == (call.agent, call.num_prompt_tokens)
                assert found.tape.output_tokens[node.id] == workflow.tape.output_tokens[call.id]
        assert edges(found, names) == edges(workflow, {call.id: call.id for call in workflow.calls})
        assert sorted(found.tape.tool_s.values()) == pytest.approx(
            sorted(seconds or 0.0 for seconds in workflow.tape.tool_s.values()), abs=2e-9
        )


def edges(workflow, names):
    """Edges by the calls' names; of tools, which have none in a span, by what they lie between."""

    def ancestors(node):
        return frozenset(names[parent] if parent in names else ancestors(parent) for parent in workflow.parents[node])

    return sorted(
        str(
            (
                *(names.get(end) or sorted(map(str, ancestors(end))) for end in (edge.parent, edge.child)),
                edge.kind,
                edge.used,
            )
        )
        for edge in workflow.edges
    )


def test_spans_without_the_workflows_say_nothing_of_dependencies():
    of = fan(tool_s=2.0)
    written = formats()["otel"].write(replace(of, workflows={}))
    assert DEPENDENCIES not in "".join(written.files["spans.jsonl"])
    assert any("--traces" in note for note in written.notes)
    assert DEPENDENCIES in text("otel", of)


def test_what_comes_after_a_call_without_an_end_has_no_span():
    of = fan(tool_s=2.0)
    (part,) = of.parts
    records = [record if record.call_id != "a" else record._replace(status="failed") for record in part.run.records]
    run = replace(part.run, records=tuple(record for record in records if record.call_id != "s"))
    (found,) = read(text("otel", replace(of, parts=[replace(part, run=run, timeline=run)])))
    assert sorted(call.agent for call in found.calls) == ["agent b", "agent p"]
    assert [tool.name for tool in found.tools] == ["look", "look"]
    assert len(found.edges) == 3


def test_spans_are_protobufs():
    trace = pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2", reason="opentelemetry-proto is not installed")
    from google.protobuf.json_format import ParseDict

    def binary(item):
        """OTLP's JSON has ids in hexadecimal, protobuf's in base 64."""
        if isinstance(item, list):
            return [binary(one) for one in item]
        if not isinstance(item, dict):
            return item
        ids = ("traceId", "spanId", "parentSpanId")
        return {
            key: base64.b64encode(bytes.fromhex(one)).decode() if key in ids else binary(one)
            for key, one in item.items()
        }

    for line in text("otel", fan(tool_s=2.0)).splitlines():
        data = ParseDict(binary(json.loads(line)), trace.TracesData())
        root, *spans = data.resource_spans[0].scope_spans[0].spans
        assert {span.parent_span_id for span in spans} == {root.span_id}
        assert sum(len(span.links) for span in spans) == 6


@settings(deadline=None, max_examples=60)
@given(results(), st.data())
def test_plays_are_read_back_with_the_same_earliest_begins(of, data):
    found = read(text("agentic_mooncake", of))
    assert len(found) == 2
    for play, session in zip(found, sessions_of(of), strict=True):
        workflow = of.workflows[session.workflow_id]
        assert len(play.calls) == len(workflow.calls)
        # The reader has calls in an order of its own; its answers are called by the requests' names.
        names = {call.answer_id.rpartition("/")[2]: call for call in play.calls}
        seconds = {call.id: data.draw(st.floats(0, 9), label=call.id) for call in workflow.calls}
        tools = {tool.id: workflow.tape.tool_s[tool.id] or 0.0 for tool in workflow.tools}
        begins, _ = workflow.timeline(seconds | tools)
        first = min(begins[call.id] for call in workflow.calls if is_root(workflow, call.id))
        theirs = {names[name].id: passed for name, passed in seconds.items()}
        read_begins, _ = play.timeline(theirs | {tool: passed or 0.0 for tool, passed in play.tape.tool_s.items()})
        for call in workflow.calls:
            one = names[call.id]
            assert (one.agent, one.num_prompt_tokens) == (call.agent, call.num_prompt_tokens)
            assert play.tape.output_tokens[one.id] == workflow.tape.output_tokens[call.id]
            assert read_begins[one.id] == pytest.approx(begins[call.id] - first, abs=1e-6)


def is_root(workflow, node):
    """Only tools come before it."""
    calls = {call.id for call in workflow.calls}
    return all(parent not in calls and is_root(workflow, parent) for parent in workflow.parents[node])


@settings(deadline=None, max_examples=60)
@given(results())
def test_plays_share_just_the_full_blocks_that_prompts_share(of):
    block = of.provenance["engine_settings"]["block_size"]
    rows = [json.loads(line) for line in text("agentic_mooncake", of).splitlines()[1:]]
    ids = {row["request_id"]: row["hash_ids"] for row in rows}
    calls = {
        f"{session.session}/{call.id}": call
        for session in sessions_of(of)
        for call in of.workflows[session.workflow_id].calls
    }
    assert ids.keys() == calls.keys()
    for name, call in calls.items():
        assert len(ids[name]) == -(-call.num_prompt_tokens // block)
    for one, other in combinations(calls, 2):
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids[one], ids[other], strict=False)))
        tokens = common(tokens_of(calls[one]), tokens_of(calls[other]))
        same = tokens_of(calls[one]) == tokens_of(calls[other])
        assert shared == (len(ids[one]) if same else tokens // block)


def tokens_of(call):
    return [(segment.segment_id, place) for segment in call.prompt for place in range(segment.num_tokens)]


def common(one, other):
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@settings(deadline=None, max_examples=150)
@given(workflows(max_nodes=5), st.data())
def test_rounds_begin_when_the_calls_do_or_are_not_given(workflow, data):
    found = dag_jsonl.levels(workflow)
    if found is None:
        return
    seconds = {call.id: data.draw(st.floats(0, 9), label=call.id) for call in workflow.calls}
    begins, _ = workflow.timeline(seconds | {name: passed or 0.0 for name, passed in workflow.tape.tool_s.items()})
    assert sorted(call.id for calls, _ in found for call in calls) == sorted(seconds)
    now_s = 0.0
    for calls, tools_s in found:
        now_s += tools_s
        for call in calls:
            assert begins[call.id] == pytest.approx(now_s, abs=1e-6)
        now_s += max(seconds[call.id] for call in calls)


def fan(tool_s=None, chords=()):
    """A plan, two workers after it (one tool each if there are any), and a sum."""
    shared = Segment("shared", 20)
    calls = [Call(name, f"agent {name}", (shared, Segment(f"of {name}", 5)), f"answer {name}") for name in "pabs"]
    tools = [Tool("ta", "look"), Tool("tb", "look")] if tool_s is not None else []
    pairs = ["p ta", "ta a", "p tb", "tb b"] if tools else ["p a", "p b"]
    links = [Edge(*pair.split(), "visible") for pair in (*pairs, "a s", "b s", *chords)]
    tape = Tape(dict.fromkeys("pabs", 3), dict.fromkeys((tool.id for tool in tools), tool_s))
    drawn = Workflow("fan", "drawn", "task", (*calls, *tools), tuple(links), tape)
    return ran(drawn)


def test_a_fan_is_three_rounds_with_the_tools_before_the_second():
    rows = [json.loads(line) for line in text("dag_jsonl", fan(tool_s=2.0, chords=["p s"])).splitlines()]
    assert rows[0] == {
        "session_id": "0",
        "orchestrator": True,
        "rounds": [
            {"spawns": ["0/agent p/p"], "think_time_ms": 0},
            {"spawns": ["0/agent a/a", "0/agent b/b"], "think_time_ms": 2000},
            {"spawns": ["0/agent s/s"], "think_time_ms": 0},
        ],
    }
    prompts = [row["turns"][0]["messages"][0]["content"].split() for row in rows[1:]]
    assert [len(words) for words in prompts] == [25] * 4
    assert all(common(one, other) >= 20 for one, other in combinations(prompts, 2))
    assert all(one != other for one, other in combinations(prompts, 2))
    assert {row["turns"][0]["max_tokens"] for row in rows[1:]} == {3}


def test_what_rounds_cannot_say_is_refused():
    chain = ("p", "a"), ("b", "s")
    shared = Segment("shared", 20)
    calls = tuple(Call(name, "agent", (shared,), f"answer {name}") for name in "pabs")
    tape = Tape(dict.fromkeys("pabs", 3), {})
    two = Workflow("two chains", "drawn", "task", calls, tuple(Edge(*pair, "visible") for pair in chain), tape)
    with pytest.raises(RunError, match="export agentic_mooncake"):
        dag_jsonl.write(ran(two))


def test_aiperf_loads_its_conversations(tmp_path):
    loader = pytest.importorskip("aiperf.dataset.loader.dag_jsonl", reason="aiperf is not installed")
    file = tmp_path / "dag.jsonl"
    file.write_text(text("dag_jsonl", fan(tool_s=2.0)))
    loaded = loader.DagJsonlLoader(file)
    assert len(loaded.load_dataset()) == 5
    assert loaded.root_session_ids() == {"0"}
    assert [turn.delay for turn in loaded.load()[0].turns] == [0, 2000, 0, None]


def test_dynamo_starts_what_waits_when_it_may(tmp_path):
    core = pytest.importorskip("dynamo._core", reason="ai-dynamo-runtime is not installed")
    file = tmp_path / "work.jsonl"
    file.write_text(text("agentic_mooncake", fan(tool_s=2.0)))
    rows = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    run = core.run_mocker_trace_replay(
        [str(file)], trace_format="agentic_mooncake", execution_model="m", capture_per_request=True
    )
    done = {one["request_id"]: one for one in run.per_request}
    for row in rows:
        ends = [done[one["request_id"]]["terminal_time_ms"] + one["delay_ms"] for one in row["dependencies"]]
        assert done[row["request_id"]]["dispatched_at_ms"] == pytest.approx(max([row["not_before_ms"], *ends]))


@settings(deadline=None, max_examples=60)
@given(results())
def test_slices_lie_in_one_another_and_arrows_lead_forward(of):
    data = json.loads(text("perfetto", of))
    assert data["otherData"] == of.provenance
    slices = defaultdict(list)
    for event in data["traceEvents"]:
        assert isinstance(event.get("ts", 0), int)
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    for thread in slices.values():
        for (began, ended, _), (begins, ends, _) in combinations(thread, 2):
            assert ended <= begins or ends <= began or began <= begins <= ends <= ended
    drawn = sum(
        name in {call.call_id for call in of.only.finished} for thread in slices.values() for *_, name in thread
    )
    assert drawn == len(of.only.finished)
    check_counters([event for event in data["traceEvents"] if event["ph"] == "C"], len(of.only.finished))
    check_arrows(data["traceEvents"], slices)


def check_counters(counters, calls):
    for name in ("waiting calls", "running calls"):
        values = [event["args"]["calls"] for event in counters if event["name"] == name]
        assert all(0 <= value <= calls for value in values)
        assert values[-1] == 0


def check_arrows(events, slices):
    begins = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert begins.keys() == ends.keys()
    for number, begin in begins.items():
        end = ends[number]
        assert begin["ts"] <= end["ts"]
        for event in (begin, end):
            thread = slices[event["pid"], event["tid"]]
            assert any(first <= event["ts"] <= last for first, last, _ in thread)


def test_the_first_sessions_are_drawn_and_all_calls_counted():
    of = fan(tool_s=0.5)
    events = json.loads(text("perfetto", of))["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert names == ["session", "agent a", "agent b", "agent p", "agent s"]
    parts = [event["name"] for event in events if event["ph"] == "X" and event["tid"] == 3]
    assert parts == ["p", "prefill", "decode"]
    assert sum(event["ph"] == "s" for event in events) == 4
    running = [event["args"]["calls"] for event in events if event["name"] == "running calls"]
    assert max(running) == 2


def test_a_server_that_does_not_tell_when_it_scheduled_has_queue_and_prefill_in_one():
    of = fan()
    (part,) = of.parts
    records = tuple(record._replace(scheduled_s=None) for record in part.run.records)
    run = replace(part.run, records=records)
    written = formats()["perfetto"].write(replace(of, parts=[replace(part, run=run, timeline=run)]))
    assert any("did not tell" in note for note in written.notes)
    names = {event["name"] for event in json.loads("".join(written.files["perfetto.json"]))["traceEvents"]}
    assert "queue + prefill" in names
    assert "queue" not in names


def chain(prompts, nodes, pairs, tool_s):
    """A workflow of these prompts and tools."""
    calls = [Call(name, "agent", prompt, f"answer {name}") for name, prompt in prompts.items()]
    tools = [Tool(name, "look") for name in nodes]
    tape = Tape(dict.fromkeys(prompts, 3), tool_s)
    links = tuple(Edge(*pair.split(), "visible") for pair in pairs)
    return Workflow("chain", "drawn", "task", (*calls, *tools), links, tape)


SHORT = dict.fromkeys("ps", (Segment("shared", 20),))


def test_tools_in_a_row_add_up_and_of_two_ways_the_longer_counts():
    pairs = "t0 p", "p t1", "t1 t2", "t2 s", "p t3", "t3 s"
    workflow = chain(SHORT, ["t0", "t1", "t2", "t3"], pairs, {"t0": 4.0, "t1": 1.0, "t2": 2.0, "t3": 2.5})
    assert waits(workflow) == {"p": {BEGIN: 4.0}, "s": {"p": 3.0}}
    rows = [json.loads(line) for line in text("agentic_mooncake", ran(workflow, load=Alone())).splitlines()]
    assert [row["not_before_ms"] for row in rows[1:]] == [4000, 0]
    later = ran(workflow)
    (part,) = later.parts
    sessions = tuple(session._replace(arrived_s=7.0) for session in part.run.sessions)
    moved = replace(later, parts=[replace(part, timeline=replace(part.run, sessions=sessions))])
    assert json.loads(text("agentic_mooncake", moved).splitlines()[1])["not_before_ms"] == 11_000


def test_a_block_is_another_one_after_other_tokens():
    one, other, same = Segment("one", 16), Segment("other", 16), Segment("same", 20)
    workflow = chain({"p": (one, same), "s": (other, same)}, [], [], {})
    first, second = (json.loads(line)["hash_ids"] for line in text("agentic_mooncake", ran(workflow)).splitlines()[1:])
    assert len(first) == len(second) == 3
    assert not {*first} & {*second}


def test_a_long_tool_past_a_level_is_more_than_rounds_can_say():
    prompts = dict.fromkeys("pas", (Segment("shared", 20),))
    pairs = "p a", "a s", "p t", "t s"
    assert dag_jsonl.levels(chain(prompts, ["t"], pairs, {"t": 9.0})) is None
    assert [seconds for _, seconds in dag_jsonl.levels(chain(prompts, ["t"], pairs, {"t": 0.0}))] == [0, 0, 0]


def ran(workflow, load=TWO):
    return result([workflow], *line_up(["async"], None), PROFILE, load)
