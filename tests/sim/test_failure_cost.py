import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import profile, request, workflows

from sim.bounds import least_times_s
from sim.detector import RepetitionDetector
from sim.failure_cost import Cost, calls_after, cost_of, failure_costs, summary_of_aborts
from sim.load import Alone
from sim.policies import parse_policy
from sim.record import EngineStats, Record, RunResult, SessionRecord
from sim.simulate import simulate
from sim.workflow import Call, Edge, Segment, Tape, Workflow

PROFILE = profile()


def run(name, answers="ABCD", edges=("01", "12", "23"), framework="Test", **known):
    """Calls of one agent with a prompt of 50 tokens, whose answers have 10; without ``edges`` all are ready at once."""
    nodes = tuple(Call(f"{n}", "x", (Segment("s", 50),), answer) for n, answer in enumerate(answers))
    waits = tuple(Edge(parent, child, "visible") for parent, child in edges)
    return Workflow(name, framework, "", nodes, waits, Tape({node.id: 10 for node in nodes}, {}), **known)


def gpu_s(workflow):
    seconds = least_times_s(workflow, PROFILE)
    return sum(seconds[call.id] for call in workflow.calls)


def ids(calls):
    return None if calls is None else [call.id for call in calls]


def rows(workflows):
    return {name: group["Test"] for name, group in failure_costs(workflows, PROFILE).items()}


def test_a_call_alone_costs_what_it_takes_in_the_simulation():
    workflow = request("r", 300, 20)
    (session,) = simulate([workflow], parse_policy("async"), PROFILE, Alone(), 0).sessions
    cost = cost_of(workflow.calls, workflow, least_times_s(workflow, PROFILE))
    assert (cost.prompt_tokens, cost.output_tokens, cost.tokens) == (300, 20, 320)
    assert cost.gpu_s == pytest.approx(session.latency_s)


def test_only_the_outcome_says_that_a_run_failed():
    some = [run("a", success=False), run("b", success=True), run("c", labels={"1.3": True}), run("d")]
    row = rows([*some, run("e", "AB", ["01"], success=True)])["outcomes"]
    assert (row["runs"], row["outcome_known"], row["failed"], row["failed_share"]) == (5, 3, 1, 1 / 3)
    assert row["outcome_unknown_but_shows_a_mode"] == 1
    assert row["cost_of_failed"] == {
        "tokens": 240,
        "prompt_tokens": 200,
        "output_tokens": 40,
        "gpu_s": pytest.approx(gpu_s(some[0])),
    }
    assert row["share_of_known"]["tokens"] == row["share_of_known"]["output_tokens"] == 240 / (240 + 240 + 120)


def test_without_outcomes_there_is_no_share():
    row = rows([run("a", labels={"1.3": True})])["outcomes"]
    assert (row["cost_of_failed"], row["failed_share"], row["share_of_known"]["tokens"]) == (None, None, None)


def test_a_run_counts_for_each_mode_it_shows_the_most_seconds_first():
    labels = [{"1.3": True, "2.2": True}, {"1.3": False, "2.2": True}, {"1.3": False}]
    table = rows([*(run(f"w{n}", labels=each) for n, each in enumerate(labels)), run("none")])["modes"]
    assert (table["labelled"], table["cost_of_labelled"]["tokens"]) == (3, 720)
    assert list(table["modes"]) == ["2.2", "1.3"]
    assert [row["runs"] for row in table["modes"].values()] == [2, 1]
    assert [row["share_of_labelled"]["tokens"] for row in table["modes"].values()] == [2 / 3, 1 / 3]


def test_frameworks_stand_apart_and_all_together():
    costs = failure_costs([run("a", success=False), run("b", framework="Other", success=True)], PROFILE)
    assert list(costs["outcomes"]) == ["Other", "Test", "all"]
    assert list(costs["modes"]) == list(costs["step_repetition"]) == ["Other", "Test"]
    assert costs["outcomes"]["all"]["share_of_known"]["tokens"] == 0.5


def test_after_a_repetition_comes_what_begins_later():
    def after(times, *what):
        workflow = run("w", *what)
        return ids(calls_after(workflow, RepetitionDetector(times), least_times_s(workflow, PROFILE)))

    assert after(2, "AABC") == ["2", "3"]
    assert after(2, "ABCA") == []
    assert after(2, "ABCD") is None
    assert after(3, "AABA") == []
    # 0 -> 1 -> 2 beside 3 -> 4: the second A ends together with 4, which is under way like 1 is when it comes.
    assert after(2, "AABCD", ["01", "12", "34"]) == ["2"]
    # 3 ends before 1 does, whatever the log's order: the second A is 1, and 4 has begun.
    assert after(2, "BADAC", ["01", "12", "34"]) == ["2"]


def test_the_rule_is_held_against_outcomes_and_its_own_label():
    some = [
        run("a", "AABC", success=False),
        run("b", "ABCD", success=False),
        run("c", "ABCC", success=True, labels={"1.3": False}),
        run("d", "AAAA", labels={"1.3": True}),
        run("e", "AAAA"),
        run("f", success=True),
    ]
    row = rows(some)["step_repetition"]["2"]
    assert (row["warned"], row["runs"]) == (4, 6)
    against = row["against_failure"]
    assert [against[name] for name in ("right", "wrong", "unknown", "missed", "spared")] == [2, 1, 1, 1, 1]
    assert (against["precision"], against["recall"]) == (2 / 3, 2 / 3)
    label = row["against_label_1.3"]
    assert [label[name] for name in ("right", "wrong", "unknown", "missed", "spared")] == [1, 1, 2, 0, 0]
    # Of the failing runs a, b and d, of four equal calls each, a and d are warned of after their second call.
    assert row["after_warning"]["tokens"] == 240
    assert (row["share_of_failing_warned"]["tokens"], row["share_of_failing"]["tokens"]) == (1 / 2, 1 / 3)
    assert rows(some)["step_repetition"]["3"]["share_of_failing"]["tokens"] == 60 / 720


@given(st.lists(workflows(max_nodes=5), max_size=4))
def test_parts_are_no_more_than_the_whole(drawn):
    some = [Workflow(f"w{n}", one.framework, "", one.nodes, one.edges, one.tape) for n, one in enumerate(drawn)]
    costs = [cost_of(one.calls, one, least_times_s(one, PROFILE)) for one in some]
    total = sum(costs, Cost())
    assert total.tokens == sum(one.num_tokens(call) for one in some for call in one.calls)
    for cost in costs:
        assert all(share is None or 0 <= share <= 1 + 1e-9 for share in cost.shares(total).values())


def session(number, workflow, status):
    return SessionRecord(number, workflow.id, workflow.framework, 0.0, 1.0, 1.0, 1, status)


def record(number, workflow, call, status="finished"):
    return Record(number, workflow.id, call, "x", 50, 0, 10, 0.0, 0.0, 0.5, 1.0, 0, status)


def test_an_abort_saves_the_calls_that_were_never_sent():
    known = [run("a", success=False), run("b", success=True), run("c"), run("d", success=False), run("e", success=True)]
    statuses = ("aborted", "aborted", "aborted", "finished", "finished")
    sessions = tuple(session(n, one, status) for n, (one, status) in enumerate(zip(known, statuses, strict=True)))
    sent = [(0, "0"), (0, "1"), (1, "0"), (1, "1"), (1, "2"), *((n, call) for n in (2, 3, 4) for call in "0123")]
    records = tuple(record(n, known[n], call, "aborted" if (n, call) == (0, "1") else "finished") for n, call in sent)
    aborts = summary_of_aborts(RunResult(records, sessions, EngineStats(), 1.0), known, PROFILE)
    seconds = least_times_s(known[0], PROFILE)
    assert (aborts.sessions, aborts.aborted) == (5, 3)
    assert aborts.to_json() == {
        "sessions": 5,
        "aborted": 3,
        "would_have_failed": 1,
        "would_have_succeeded": 1,
        "outcome_unknown": 1,
        "failing_not_aborted": 1,
        "precision": 0.5,
        "recall": 0.5,
        "not_sent": {
            "prompt_tokens": 150,
            "output_tokens": 30,
            "gpu_s_at_batch_1": pytest.approx(seconds["2"] + 2 * seconds["3"]),
        },
    }
    who, saved = aborts.sentences()
    assert "Aborted: 3 of 5 sessions; 1 would have failed, 1 would have succeeded, 1 of unknown outcome;" in who
    assert "precision 50.0%, recall 50.0%" in who
    assert saved.startswith("Never sent: 150 prompt tokens and 30 output tokens, ")


def test_without_aborts_there_is_nothing_to_say_and_without_a_profile_no_seconds():
    one = run("a", success=False)
    nothing = summary_of_aborts(RunResult((), (session(0, one, "finished"),), EngineStats(), 1.0), [one])
    assert (nothing.aborted, nothing.sentences(), nothing.prompt_tokens) == (0, [], 0)
    all_of_it = summary_of_aborts(RunResult((), (session(0, one, "aborted"),), EngineStats(), 1.0), [one])
    assert (all_of_it.prompt_tokens, all_of_it.output_tokens, all_of_it.gpu_s) == (200, 40, None)
    assert all_of_it.sentences()[1] == "Never sent: 200 prompt tokens and 40 output tokens."
    assert json.loads(json.dumps(all_of_it.to_json()))["not_sent"]["gpu_s_at_batch_1"] is None
