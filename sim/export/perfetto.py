"""A trace for Perfetto's and Chrome's viewers: JSON with ``traceEvents``, times in whole microseconds.

Per policy a process "engine" with counters of waiting and running calls, and a process per session with a thread for
itself and one per agent: a slice per call, with its number of tokens, and in it ``queue``, ``prefill`` and ``decode``;
calls of one agent that overlap have threads of their own. Arrows lead from what a call waits for, through tools too, to
it, where the workflows are known. The first 50 sessions are drawn, as no viewer takes thousands; counters count all.

No record names the replica of a call, so the counters are of all replicas together. A server that does not tell when it
scheduled a call has "queue + prefill" in one, and its counter is of calls in flight.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.export import Part, Result, Written
from sim.export._waits import waits
from sim.record import Record, SessionRecord
from sim.workflow import Workflow

USES_WORKFLOWS = True

_SESSIONS = 50
Event = dict[str, Any]


def write(result: Result) -> Written:
    """One JSON object; every policy and repetition, on one time axis."""
    shown = result.sessions or _SESSIONS
    most = max(len(part.run.sessions) for part in result.parts)
    notes = ["no record names the replica that served a call: the counters are of all replicas together"]
    if most > shown:
        notes.append(f"the first {shown} of {most} sessions are drawn; --sessions N draws others")
    if not result.workflows:
        notes.append("the workflows are not known (--traces): no arrows")
    if any(record.scheduled_s is None for part in result.parts for record in part.finished):
        notes.append("the server did not tell when it scheduled calls: queue and prefill are one slice")
    if any(part.left_out for part in result.parts):
        notes.append("of calls that did not finish only those are drawn and counted that have an end")
    return Written({"perfetto.json": _file(result, shown)}, notes)


def _file(result: Result, shown: int) -> Iterator[str]:
    head = {"displayTimeUnit": "ms", "otherData": dict(result.provenance)}
    yield json.dumps(head)[:-1] + ', "traceEvents": [\n'
    events = _events(result, shown)
    yield json.dumps(next(events))
    for event in events:
        yield ",\n" + json.dumps(event)
    yield "\n]}\n"


def _events(result: Result, shown: int) -> Iterator[Event]:
    pid, flow = 1, 1
    for part in result.parts:
        title = part.policy if part.repetition == 0 else f"{part.policy} #{part.repetition}"
        yield _named("process", pid, 0, f"{title}: engine")
        yield from _counters(pid, part)
        calls: defaultdict[int, list[Record]] = defaultdict(list)
        for record in part.finished:
            calls[record.session].append(record)
        for session in sorted(part.timeline.sessions, key=lambda session: session.session)[:shown]:
            pid += 1
            yield _named("process", pid, 0, f"{title}: session {session.session}, {session.workflow_id}")
            threads, events = _session(pid, session, calls[session.session])
            yield from events
            if workflow := result.workflows.get(session.workflow_id):
                for event in _arrows(pid, workflow, calls[session.session], threads, flow):
                    yield event
                    flow = event["id"] + 1
        pid += 1


def _counters(pid: int, part: Part) -> Iterator[Event]:
    """How many calls wait and run, at every instant at which that changes."""
    changes: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for record in part.finished:
        begins = record.sent_s if record.scheduled_s is None else record.scheduled_s
        for moment_s, waiting, running in ((record.sent_s, 1, 0), (begins, -1, 1), (record.finished_s, 0, -1)):
            change = changes[_us(moment_s)]
            change[0] += waiting
            change[1] += running
    now = [0, 0]
    for moment in sorted(changes):
        now = [one + change for one, change in zip(now, changes[moment], strict=True)]
        for name, value in zip(("waiting calls", "running calls"), now, strict=True):
            yield {"ph": "C", "pid": pid, "tid": 0, "ts": moment, "name": name, "args": {"calls": value}}


def _session(pid: int, session: SessionRecord, calls: Sequence[Record]) -> tuple[dict[str, int], list[Event]]:
    """Call -> its thread, and all events but the arrows."""
    lanes = _lanes(calls)
    numbers = {lane: number for number, lane in enumerate(sorted(set(lanes.values())), start=1)}
    events = [_named("thread", pid, 0, "session")]
    for (agent, copy), number in numbers.items():
        events.append(_named("thread", pid, number, agent if copy == 0 else f"{agent} ({copy + 1})"))
    end_s = max([session.finished_s or session.arrived_s, *(call.finished_s or 0.0 for call in calls)])
    told = {"framework": session.framework, "status": session.status, "calls": session.num_calls}
    events.append(_slice(pid, 0, session.workflow_id, session.arrived_s, end_s, told))
    threads = {call.call_id: numbers[lanes[call.call_id]] for call in calls}
    for call in calls:
        events += _call(pid, threads[call.call_id], call)
    return threads, events


def _lanes(calls: Sequence[Record]) -> dict[str, tuple[str, int]]:
    """Call -> its agent and the number of that agent's lane: the lowest that is free."""
    lanes: dict[str, tuple[str, int]] = {}
    free: defaultdict[str, list[int]] = defaultdict(list)
    busy: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for call in calls:  # in the order of sending
        under_way = busy[call.agent]
        while under_way and under_way[0][0] <= _us(call.sent_s):
            heapq.heappush(free[call.agent], heapq.heappop(under_way)[1])
        number = heapq.heappop(free[call.agent]) if free[call.agent] else len(under_way)
        heapq.heappush(under_way, (_us(call.finished_s), number))
        lanes[call.call_id] = call.agent, number
    return lanes


def _call(pid: int, thread: int, call: Record) -> Iterator[Event]:
    """The call, then its parts, which are inside it."""
    told = {
        "prompt tokens": call.num_prompt_tokens,
        "cached tokens": call.num_cached_tokens,
        "output tokens": call.num_output_tokens,
        "preemptions": call.num_preemptions,
    }
    yield _slice(pid, thread, call.call_id, call.sent_s, call.finished_s, told)
    instants = [call.sent_s, call.scheduled_s, call.first_token_s, call.finished_s]
    names = ["queue", "prefill", "decode"]
    if call.scheduled_s is None:
        instants[1:2], names[:2] = [], ["queue + prefill"]
    for name, began_s, ended_s in zip(names, instants, instants[1:], strict=False):
        if _us(began_s) < _us(ended_s):
            yield _slice(pid, thread, name, began_s, ended_s)


def _arrows(
    pid: int, workflow: Workflow, calls: Sequence[Record], threads: Mapping[str, int], flow: int
) -> Iterator[Event]:
    """From the last microsecond of a call to the first of one that waits for it."""
    known = {call.call_id: call for call in calls}
    for name, sources in waits(workflow).items():
        for source, seconds in sources.items():
            if name not in known or source not in known:
                continue
            last = max(_us(known[source].sent_s), _us(known[source].finished_s) - 1)
            both = {"cat": "waits for", "name": "tools" if seconds else "waits for", "pid": pid, "id": flow}
            yield {"ph": "s", **both, "tid": threads[source], "ts": last}
            yield {"ph": "f", "bp": "e", **both, "tid": threads[name], "ts": _us(known[name].sent_s)}
            flow += 1


def _slice(
    pid: int, thread: int, name: str, began_s: float | None, ended_s: float | None, told: Mapping[str, Any] = {}
) -> Event:
    begin = _us(began_s)
    known = {key: value for key, value in told.items() if value is not None}
    event = {"ph": "X", "pid": pid, "tid": thread, "ts": begin, "dur": _us(ended_s) - begin, "name": name}
    return event | ({"args": known} if known else {})


def _named(what: str, pid: int, thread: int, name: str) -> Event:
    return {"ph": "M", "pid": pid, "tid": thread, "name": f"{what}_name", "args": {"name": name}}


def _us(moment_s: float | None) -> int:
    assert moment_s is not None
    return round(moment_s * 1e6)
