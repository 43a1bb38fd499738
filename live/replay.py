"""Workflows on a real server under a policy: threads as the hands of the very `Run` that is simulated.

One thread runs the policy. It sends the calls that the policy starts one after the other, in the policy's order, each
when the one before is on its way, as a server takes in a burst one by one; each call is then read by a thread of its
own. Nothing is tried again: a call that fails is a failed record with its reason.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from typing import Any

from live.client import Answer, CallError, Client
from live.conversation import Ask, Conversation
from live.steps import request_id
from live.text import Texts
from live.tools import NOT_RUN, Executor, Job, ToolResult, ToolRun, start
from sim.policies import Policy
from sim.record import EngineStats, Record, RunResult, SessionRecord, Status
from sim.run import Run
from sim.workflow import Call, Node, Tool, Workflow

#: Seconds to wait for a request to be written before the next one is sent all the same.
_WRITTEN_S = 5.0

Act = Callable[[], None]


@dataclass(slots=True)
class _Sent:
    """A call under way or over. ``due_s``: when it could have been sent; ``sent_s`` later than that is replay lag."""

    call: Call
    number: int
    due_s: float
    prompt_tokens: int
    ask: Ask
    written: threading.Event = field(default_factory=threading.Event)
    answer: Answer | None = None
    partial: Answer | None = None
    sent_s: float | None = None
    reason: str = ""


@dataclass(slots=True)
class _Open:
    workflow: Workflow
    said: Conversation
    arrived_s: float
    calls: dict[str, _Sent] = field(default_factory=dict)
    tool_s: float = 0.0
    finished_s: float | None = None


class Replay:
    """One repetition under one policy. Times are seconds since it began.

    ``connect`` makes a client, one for each call in flight; ``extra`` are keys that every request carries. A call that
    has one of the ``texts`` is sent as a chat, every other as token ids. A tool that such a chat offers to the model is
    carried out by ``executor``; without one, and for every other tool, the recorded time passes. ``name`` is in the ids
    of its requests, so that they can be found in a server's step trace.
    """

    def __init__(
        self,
        workflows: Mapping[int, Workflow],
        policy: Policy,
        connect: Callable[[], Client],
        extra: Mapping[str, Any],
        progress: Callable[[], None] = lambda: None,
        texts: Texts | None = None,
        executor: Executor | None = None,
        name: str = "replay",
    ) -> None:
        self._run = Run(policy)
        self._workflows = workflows
        self._to_come = iter(workflows)
        self._connect = connect
        self._extra = dict(extra)
        self._progress = progress
        self._texts = texts or {}
        self._executor = executor
        self._name = name
        self._open: dict[int, _Open] = {}
        self._done: queue.SimpleQueue[Act] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Act]] = []
        self._numbers = count()
        self._idle: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._began = time.monotonic()
        self._under_way = 0
        self._refill = False

    def closed_loop(self, sessions: int) -> None:
        """Keep that many sessions under way until every workflow has had its turn."""
        self._refill = True
        self._began = time.monotonic()
        for session in list(islice(self._to_come, sessions)):
            self._arrive(session, self._now())
        self._loop()

    def open_loop(self, instants: Iterable[float]) -> None:
        """Let the sessions arrive at these instants, in their order."""
        self._began = time.monotonic()
        for session, instant in zip(self._to_come, instants, strict=False):
            self._at(instant, partial(self._arrive, session, instant))
        self._loop()

    def result(self, engine: EngineStats) -> RunResult:
        """Everything that has happened; a call that is still under way is an unfinished record."""
        records = {
            number: tuple(map(self._record, (number,) * len(s.calls), s.calls.values()))
            for number, s in self._open.items()
        }
        sessions = tuple(self._session(number, records[number]) for number in self._open)
        ends = [session.finished_s for session in sessions if session.finished_s is not None]
        makespan = max(ends, default=0.0) - min((session.arrived_s for session in sessions), default=0.0)
        return RunResult(tuple(record for some in records.values() for record in some), sessions, engine, makespan)

    def lags_s(self) -> list[float]:
        """For each call that was sent: how much later than it could have been."""
        sent = (sent for state in self._open.values() for sent in state.calls.values())
        return [one.sent_s - one.due_s for one in sent if one.sent_s is not None]

    def malformed(self) -> list[str]:
        """Workflow, call and reason of each tool call that was of no use, or did not come although it had to."""
        return [line for state in self._open.values() for line in state.said.malformed()]

    def tool_runs(self) -> list[ToolRun]:
        """The tools that are over, in the order in which their workflows arrived and they ended."""
        return [run for state in self._open.values() for run in state.said.runs.values()]

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _at(self, instant: float, act: Act) -> None:
        heapq.heappush(self._timers, (instant, next(self._numbers), act))

    def _loop(self) -> None:
        while self._under_way or self._timers:
            self._next()()

    def _next(self) -> Act:
        """What happens next: a call has ended, or a timer is due."""
        wait = self._timers[0][0] - self._now() if self._timers else None
        if wait is None or wait > 0:
            try:
                return self._done.get(timeout=wait)
            except queue.Empty:
                pass
        return heapq.heappop(self._timers)[2]

    def _arrive(self, session: int, due_s: float) -> None:
        workflow = self._workflows[session]
        self._open[session] = _Open(workflow, Conversation(session, workflow, self._texts), self._now())
        self._start(session, self._run.arrive(session, workflow), due_s)

    def _start(self, session: int, nodes: Iterable[Node], due_s: float) -> None:
        state = self._open[session]
        for node in nodes:
            if isinstance(node, Tool):
                self._tool(session, node)
                continue
            named = self._extra | {"request_id": request_id(self._name, session, node.id)}
            ask, prompt_tokens = state.said.prepare(node, named)
            sent = _Sent(node, next(self._numbers), due_s, prompt_tokens, ask)
            state.calls[node.id] = sent
            self._under_way += 1
            # A daemon: one that still waits for a server must not hold up the end of an interrupted program.
            threading.Thread(target=self._send, args=(session, sent), name="call", daemon=True).start()
            sent.written.wait(_WRITTEN_S)

    def _send(self, session: int, sent: _Sent) -> None:
        """In a thread of its own: let the server answer, then tell."""
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            client = self._connect()
        try:
            sent.sent_s = self._now()
            sent.answer = sent.ask(client, sent.written.set)
            self._idle.put(client)
        except CallError as error:
            sent.reason, sent.partial = str(error), error.answer
        except Exception as error:  # whatever it is, nobody may wait for this call for ever
            sent.reason = f"{type(error).__name__} in the client: {error}"
        finally:
            sent.written.set()
            self._done.put(lambda: self._call_done(session, sent))

    def _call_done(self, session: int, sent: _Sent) -> None:
        self._under_way -= 1
        state = self._open[session]
        if sent.answer is not None:
            state.said.answered(sent.call, sent.answer)
            due_s = sent.answer.token_times_s[-1] - self._began
            self._go_on(session, self._run.finish(session, sent.call), due_s)
        else:
            self._go_on(session, self._run.fail(session, sent.call), self._now())

    def _tool(self, session: int, tool: Tool) -> None:
        job, offered = self._open[session].said.job(tool)
        if self._executor and offered:
            self._under_way += 1
            start(self._executor, job, partial(self._carried_out, job))
        else:
            due_s = self._now() + job.recorded_s
            run = ToolRun(job, ToolResult(NOT_RUN, job.recorded_s), due_s)
            self._at(due_s, lambda: self._tool_done(run))

    def _carried_out(self, job: Job, result: ToolResult) -> None:
        """In the tool's thread."""
        run = ToolRun(job, result, self._now())
        self._done.put(lambda: self._executor_done(run))

    def _executor_done(self, run: ToolRun) -> None:
        self._under_way -= 1
        self._tool_done(run)

    def _tool_done(self, run: ToolRun) -> None:
        state = self._open[run.job.session]
        state.tool_s += run.result.seconds
        state.said.ran(run)
        report = self._run.fail if run.result.fatal else self._run.finish
        self._go_on(run.job.session, report(run.job.session, run.job.tool), run.ended_s)

    def _go_on(self, session: int, nodes: Iterable[Node], due_s: float) -> None:
        self._start(session, nodes, due_s)
        if self._run.over(session):
            self._open[session].finished_s = self._now()
            if self._executor:
                self._executor.over(session)
            self._progress()
            if self._refill:
                for following in islice(self._to_come, 1):
                    self._arrive(following, self._now())

    def _record(self, session: int, sent: _Sent) -> Record:
        state, answer = self._open[session], sent.answer
        # Of a failed call, what had come before it failed.
        got = answer or sent.partial
        times = [time_s - self._began for time_s in got.token_times_s] if got else []
        first, last = (times[0] if times else None), (times[-1] if answer else None)
        scheduled = first - got.prefill_s if got and first is not None and got.prefill_s is not None else None
        status: Status = "failed" if sent.reason else "finished" if answer else "unfinished"
        return Record(
            session=session,
            workflow_id=state.workflow.id,
            call_id=sent.call.id,
            agent=sent.call.agent,
            # Of a chat only the server knows; of token ids it counts as many as were sent.
            num_prompt_tokens=answer.num_prompt_tokens or sent.prompt_tokens if answer else sent.prompt_tokens,
            num_cached_tokens=answer.num_cached_tokens if answer else None,
            num_output_tokens=got.num_output_tokens if got else 0,
            sent_s=sent.due_s if sent.sent_s is None else sent.sent_s,
            scheduled_s=scheduled,
            first_token_s=first,
            finished_s=last,
            num_preemptions=None,
            status=status,
            reason=sent.reason,
        )

    def _session(self, number: int, records: Iterable[Record]) -> SessionRecord:
        state = self._open[number]
        calls = [record for record in records if record.finished_s is not None]
        over, failed = self._run.over(number), self._run.failed(number)
        return SessionRecord(
            session=number,
            workflow_id=state.workflow.id,
            framework=state.workflow.framework,
            arrived_s=state.arrived_s,
            finished_s=state.finished_s,
            busy_s=state.tool_s + sum((call.finished_s or 0.0) - call.sent_s for call in calls),
            num_calls=len(state.calls),
            status="unfinished" if not over else "failed" if failed else "finished",
        )
