"""Agentic Mooncake: plays of hand-written requests, sessions of plain rows, and what is refused."""

import json

import pytest

from sim.traces import Document, LoadOptions, Skipped, load_document
from sim.workflow import CLIENT, Tool, Workflow

HEADER = {"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 8, "hash_id_scope": "local", "source": {}}


def items(*rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    return list(load_document(Document("some/folder/run.jsonl", text), LoadOptions()))


def request(name, *dependencies, **keys):
    """A row of version 2; a dependency is (request, relation, trigger, delay in ms)."""
    return {
        "request_id": name,
        "play_id": "play",
        "session_id": f"of {name}",
        "model": "m",
        "input_length": 16,
        "output_length": 4,
        "hash_ids": [1, 2],
        "not_before_ms": 0,
        "dependencies": [
            dict(zip(("request_id", "relation", "trigger", "delay_ms"), dependency, strict=True))
            for dependency in dependencies
        ],
        **keys,
    }


def play(*rows, **header):
    (workflow,) = items({**HEADER, **header}, *rows)
    assert isinstance(workflow, Workflow), workflow.reason
    return workflow


def edges(workflow):
    """(parent, child, kind) with the requests' names for calls."""
    names = {call.id: call.answer_id.rpartition(":")[2] for call in workflow.calls}
    return {(names.get(one.parent, one.parent), names.get(one.child, one.child), one.kind) for one in workflow.edges}


def seconds(workflow):
    assert {tool.name for tool in workflow.tools} <= {CLIENT}
    return workflow.tape.tool_s


def test_a_play_is_a_workflow_whose_calls_are_the_requests():
    workflow = play(request("a"), request("b", ("a", "join", "completion", 0), output_length=0))
    assert (workflow.id, workflow.framework) == ("agentic-mooncake/folder/run/play", "Agentic-Mooncake")
    assert [call.agent for call in workflow.calls] == ["of a", "of b"]
    assert list(workflow.tape.output_tokens.values()) == [4, 1]
    assert workflow.tokenizer == "the trace's own"


def test_hash_ids_are_blocks_that_all_plays_of_the_file_share_and_a_cut_block_is_another_text():
    first, second = items(
        HEADER, request("a", input_length=12), request("b", input_length=30, hash_ids=[1, 2, 3], play_id="other")
    )
    (one,), (other,) = first.calls, second.calls
    assert [segment.num_tokens for segment in one.prompt] == [8, 4]
    assert [segment.num_tokens for segment in other.prompt] == [8, 8, 8, 6]
    assert one.prompt[0] == other.prompt[0]
    assert not {segment.segment_id for segment in one.prompt[1:]} & {segment.segment_id for segment in other.prompt}


def test_another_files_blocks_are_others():
    text = "\n".join(map(json.dumps, (HEADER, request("a"))))
    one, other = (next(load_document(Document(f"{name}.jsonl", text), LoadOptions())) for name in "xy")
    assert one.calls[0].prompt[0] != other.calls[0].prompt[0]


def test_a_delay_is_the_clients_time_between_two_calls():
    workflow = play(request("a"), request("b", ("a", "join", "completion", 250)))
    assert seconds(workflow) == {"tool-0": 0.25}
    assert edges(workflow) == {("a", "tool-0", "control"), ("tool-0", "b", "control")}


def test_a_prompt_that_goes_on_where_the_parents_ended_reads_its_answer():
    longer = {"input_length": 24, "hash_ids": [1, 2, 3]}
    for keys, kind in (
        (longer, "visible"),
        ({"input_length": 24, "hash_ids": [1, 9, 3]}, "control"),
        ({"input_length": 19, "hash_ids": [1, 2, 3]}, "control"),
    ):
        child = request("b", ("a", "sequence", "completion", 0), **keys)
        assert edges(play(request("a"), child)) == {("a", "b", kind)}


def test_a_prompt_shorter_than_a_block_shows_nothing():
    child = request("b", ("a", "sequence", "completion", 0))
    assert edges(play(request("a", input_length=7, hash_ids=[1]), child)) == {("a", "b", "control")}


def test_a_replay_barrier_is_an_order_of_the_recording():
    child = request("b", ("a", "replay_barrier", "completion", 0), input_length=24, hash_ids=[1, 2, 3])
    assert edges(play(request("a"), child)) == {("a", "b", "recorded")}


def test_what_starts_with_its_parents_dispatch_waits_for_what_the_parent_waits_for():
    workflow = play(
        request("a"),
        request("b", ("a", "join", "completion", 30)),
        request("c", ("b", "spawn", "dispatch", 0)),
        request("d", ("c", "spawn", "dispatch", 5)),
    )
    assert seconds(workflow) == {"tool-0": 0.03, "tool-1": 0.005}
    assert edges(workflow) == {
        ("a", "tool-0", "control"),
        ("tool-0", "b", "control"),
        ("tool-0", "c", "control"),
        ("tool-0", "tool-1", "control"),
        ("tool-1", "d", "control"),
    }


def test_what_starts_with_a_roots_dispatch_waits_only_for_its_delay():
    workflow = play(
        request("a"), request("b", ("a", "spawn", "dispatch", 5)), request("c", ("a", "spawn", "dispatch", 0))
    )
    assert edges(workflow) == {("tool-0", "b", "control")}
    assert seconds(workflow) == {"tool-0": 0.005}


def test_times_before_which_nothing_starts_count_from_the_first_root():
    workflow = play(
        request("a", not_before_ms=100),
        request("b", not_before_ms=130),
        request("c", ("a", "join", "completion", 0), not_before_ms=150),
        request("d", ("a", "join", "completion", 0), not_before_ms=7),
    )
    assert seconds(workflow) == pytest.approx({"tool-0": 0.03, "tool-1": 0.05})
    assert edges(workflow) == {
        ("tool-0", "b", "control"),
        ("tool-1", "c", "control"),
        ("a", "c", "control"),
        ("a", "d", "control"),
    }


def test_requests_may_stand_in_any_order():
    one = play(request("a"), request("b", ("a", "join", "completion", 0)))
    other = play(request("b", ("a", "join", "completion", 0)), request("a"))
    assert one == other


def test_the_width_of_a_fan_out_is_its_parallelism():
    scouts = [request(name, ("a", "spawn", "completion", 0)) for name in ("b", "c", "d")]
    last = request("e", *((name, "join", "completion", 0) for name in ("b", "c", "d")))
    assert play(request("a"), *scouts, last).parallelism() == 5 / 3


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "broken JSON"),
        ("[1]", "not a JSON object"),
        (request("b", request_id=""), "the request has no usable name"),
        (request("b", play_id=3), "the play has no usable name"),
        (request("b", input_length=0), '"input_length" must be a whole number from 1'),
        (request("b", input_length=True), '"input_length" must be a whole number from 1'),
        (request("b", output_length=-1), '"output_length" must be a whole number from 0'),
        (request("b", hash_ids=[1, "2"]), '"hash_ids" must be a list of whole numbers'),
        (request("b", hash_ids=[1, 2, 3]), "3 hash ids for 16 tokens in blocks of 8"),
        (request("b", not_before_ms=-1), '"not_before_ms" must be a number of milliseconds'),
        (request("b", dependencies={}), '"dependencies" is no list'),
        (request("b", dependencies=[3]), 'a dependency needs a "relation"'),
        (request("b", ("a", "barrier", "completion", 0)), 'a dependency needs a "relation"'),
        (request("b", ("a", "join", "dispatch", 0)), 'the "trigger" of a dependency'),
        (request("b", ("a", "join", "completion", None)), '"delay_ms" must be a number of milliseconds'),
    ],
)
def test_a_request_that_cannot_be_read_is_named_and_the_others_are_kept(row, problem):
    skipped, workflow = items(HEADER, row, request("a"))
    assert skipped.where == "some/folder/run.jsonl, line 2"
    assert problem in skipped.reason
    assert len(workflow.calls) == 1


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([request("b", ("zz", "join", "completion", 0))], "depends on 'zz', which its play does not have"),
        ([request("a"), request("a")], "occurs twice"),
        ([request("a", ("a", "join", "completion", 0))], "waits for itself"),
        (
            [request("a", ("b", "join", "completion", 0)), request("b", ("a", "join", "completion", 0))],
            "waits for itself",
        ),
    ],
)
def test_a_play_that_cannot_run_is_skipped_and_the_others_are_kept(rows, problem):
    skipped, workflow = items(HEADER, *rows, request("c", play_id="other"))
    assert skipped.where == "some/folder/run.jsonl, play"
    assert problem in skipped.reason
    assert workflow.id.endswith("/other")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{**HEADER, "version": 1}, request("a")], "convert it to version 2"),
        ([{**HEADER, "block_size": 0}, request("a")], '"block_size" must be a whole number from 1'),
        ([HEADER], "no request that can be read"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(rows, problem):
    assert problem in items(*rows)[-1].reason


def plain(**keys):
    return {"session_id": "s", "input_length": 1024, "output_length": 10, **keys}


def test_plain_rows_with_hash_ids_are_whole_prompts_in_blocks_of_512():
    (workflow,) = items(
        plain(hash_ids=[1, 2], timestamp=5), plain(hash_ids=[1, 2, 3], input_length=1100, delay=1500, timestamp=9)
    )
    first, second = workflow.calls
    assert (workflow.id, workflow.framework) == ("mooncake/folder/run/s", "Mooncake")
    assert [segment.num_tokens for segment in second.prompt] == [512, 512, 76]
    assert second.prompt[:2] == first.prompt
    assert seconds(workflow) == {"tool-0": 1.5}
    assert edges(workflow) == {("line-1", "tool-0", "visible"), ("tool-0", "line-2", "visible")}


def test_plain_rows_without_hash_ids_continue_the_sessions_prompt():
    (workflow,) = items(plain(), plain(input_length=7, delay=0))
    first, second = workflow.calls
    assert [segment.num_tokens for segment in second.prompt] == [1024, 10, 7]
    assert second.prompt[1].segment_id == first.answer_id
    assert edges(workflow) == {("line-1", "line-2", "visible")}


def test_a_timestamp_is_not_taken_for_the_clients_time():
    (workflow,) = items(plain(timestamp=0), plain(timestamp=60_000))
    assert not any(isinstance(node, Tool) for node in workflow.nodes)
    assert workflow.tape.times == {}


def test_a_session_began_at_the_timestamp_of_its_first_row():
    rows = [plain(timestamp=1500), plain(session_id="t"), plain(timestamp=9000), plain(session_id="t", timestamp=1)]
    assert [one.began_s for one in items(*rows)] == [1.5, None]
    first, second = items(plain(timestamp="9:30"), plain(timestamp=7))
    assert '"timestamp" must be a number of milliseconds' in first.reason
    assert second.began_s == 0.007


def test_when_a_play_began_is_not_known():
    assert play(request("a", not_before_ms=100)).began_s is None


def test_sessions_are_workflows_and_so_is_a_row_without_one():
    rows = [plain(), plain(session_id="t"), {"input_tokens": 5, "output_tokens": 2}, plain()]
    assert [(one.id.rpartition("/")[2], len(one.calls)) for one in items(*rows)] == [("s", 2), ("t", 1), ("line-3", 1)]


def test_rows_of_the_version_before_the_header_are_refused():
    first, second = items(plain(request_id="a"), plain(request_id="b", wait_for=["a"]))
    assert isinstance(first, Skipped)
    assert "without the header of version 2" in first.reason
    assert first.where.endswith("line 2")
    assert len(second.calls) == 1
