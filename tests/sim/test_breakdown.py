"""A session's latency is told to the last second, and by hand where that can be done."""

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import POLICIES, profiles, workflows

from sim.breakdown import Breakdown, breakdown
from sim.load import ConcurrentSessions, SessionRate
from sim.policies import parse_policy
from sim.record import Record, SessionRecord
from sim.simulate import simulate
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_parts_are_not_negative_and_add_up_to_the_latency(data):
    number = data.draw(st.integers(1, 3))
    drawn = [data.draw(workflows(f"w{place}")) for place in range(number)]
    profile = data.draw(profiles())
    names = [*POLICIES, "speculate_tool"] + ["prefill_ahead"] * profile.engine.enable_prefix_caching
    policy = parse_policy(data.draw(st.sampled_from(names)))
    load = data.draw(st.sampled_from([ConcurrentSessions(number), SessionRate(5.0)]))
    result = simulate(drawn, policy, profile, load, 0)
    calls = {key: list(rows) for key, rows in groupby(result.records, key=lambda record: record.session)}
    for session in result.sessions:
        if session.status == "finished":
            parts = breakdown(drawn[session.session], calls[session.session], session)
            assert min(parts) >= -1e-9
            assert sum(parts) == pytest.approx(session.latency_s)


def record(call, sent, scheduled, first, finished):
    return Record(0, "w", call, "a", 1, 0, 2, sent, scheduled, first, finished, 0, "finished")


def test_by_hand():
    """A call, then a tool of 3 s beside a short call, then a call that is sent a second late."""
    prompt = (Segment("s", 1),)
    nodes = (Call("a", "x", prompt, "A"), Tool("t", "tool"), Call("b", "x", prompt, "B"), Call("c", "x", prompt, "C"))
    edges = tuple(Edge(one, other, "visible") for one, other in ("at", "ab", "tc", "bc"))
    workflow = Workflow("w", "f", "", nodes, edges, Tape({"a": 2, "b": 2, "c": 2}, {"t": 3.0}))
    calls = [record("a", 10, 11, 13, 17), record("b", 17, 17, 18, 19), record("c", 21, 21.5, 22, 25)]
    session = SessionRecord(0, "w", "f", 10, 25, 0, 3, "finished")
    assert breakdown(workflow, calls, session) == Breakdown(1.0, 1.5, 2.5, 7.0, 3.0)
