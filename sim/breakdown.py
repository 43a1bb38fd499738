"""Where a session's time went: its latency, told along the chain of calls and tools that it waited for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from sim.record import Record, SessionRecord
from sim.workflow import Workflow


class Breakdown(NamedTuple):
    """Seconds that add up to the latency of a session.

    ``held_s``: a call was ready and the policy had not sent it; ``queue_s``: it was sent and not yet scheduled;
    ``prefill_s`` until its first token; ``decode_s`` until its last, what preemptions cost included; ``tool_s``: a tool
    ran, or waited for its turn.
    """

    held_s: float = 0.0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    tool_s: float = 0.0


class Wait(NamedTuple):
    """A node that a session waited for, from when it was ready to begin until the next one was; seconds of the run."""

    node: str
    ready_s: float
    until_s: float


def breakdown(workflow: Workflow, calls: Iterable[Record], session: SessionRecord) -> Breakdown:
    """Of a session that has finished."""
    records = {record.call_id: record for record in calls}
    parts = dict.fromkeys(Breakdown._fields, 0.0)
    for wait in waits(workflow, records, session):
        if record := records.get(wait.node):
            _add(parts, record, wait.ready_s, wait.until_s)
        else:
            parts["tool_s"] += wait.until_s - wait.ready_s
    return Breakdown(**parts)


def waits(workflow: Workflow, records: Mapping[str, Record], session: SessionRecord) -> Iterator[Wait]:
    """The chain that a finished session waited for, its critical path as it ran: from its end back to its arrival.

    From its last node on, each time to the parent that ended last. When tools ended nobody recorded: they begin when
    their parents end, and a tool that a policy started on a guess has ended when the call after it was sent.
    """
    ends = node_ends(workflow, records, session.arrived_s)
    position = workflow.position
    node: str | None = max(ends, key=lambda one: (ends[one], -position[one]))
    until_s = session.finished_s or 0.0
    while node is not None:
        parents = workflow.parents[node]
        before = max(parents, key=lambda one: (ends[one], -position[one]), default=None)
        ready_s = ends[before] if before else session.arrived_s
        record = records.get(node)
        ready_s = min(ready_s, record.sent_s if record else until_s)
        yield Wait(node, ready_s, until_s)
        node, until_s = before, ready_s


def _add(parts: dict[str, float], record: Record, ready_s: float, until_s: float) -> None:
    """The times of a call, which was waited for until then."""
    assert record.scheduled_s is not None
    assert record.first_token_s is not None
    instants = (ready_s, record.sent_s, record.scheduled_s, record.first_token_s, until_s)
    for name, began_s, ended_s in zip(
        ("held_s", "queue_s", "prefill_s", "decode_s"), instants, instants[1:], strict=False
    ):
        parts[name] += min(ended_s, until_s) - min(began_s, until_s)


def node_ends(workflow: Workflow, records: Mapping[str, Record], arrived_s: float) -> dict[str, float]:
    """When each node ended."""
    ends: dict[str, float] = {}
    for node in workflow.order:
        if record := records.get(node):
            assert record.finished_s is not None
            ends[node] = record.finished_s
        else:
            began_s = max((ends[parent] for parent in workflow.parents[node]), default=arrived_s)
            ends[node] = began_s + (workflow.tape.tool_s[node] or 0.0)
    return ends
