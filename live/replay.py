"""Workflows on real servers under a policy: threads as the hands of the very `Run` that is simulated.

One thread runs the policy. It sends the calls that the policy starts one after the other, in the policy's order, each
when the one before is on its way, as a server takes in a burst one by one; each call is then read by a thread of its
own, and so are the servers' metrics, where the policy looks at them. Nothing is tried again: a call that fails is a
failed record with its reason.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from live.agenda import Agenda
from live.client import CallError, Client
from live.conversation import Conversation
from live.sent import Open, Sent
from live.steps import request_id
from live.text import Texts
from live.tools import NOT_RUN, Executor, Job, ToolResult, ToolRun, start
from sim.record import EngineStats, Extras, RunResult, makespan_s
from sim.run import Run
from sim.session import Start
from sim.signals import Signals
from sim.workflow import Call, Tool, Workflow

#: Seconds to wait for a request to be written before the next one is sent all the same.
_WRITTEN_S = 5.0

Connect = Callable[[], Client]


class Replay:
    """One repetition under the policy of a run. Times are seconds since it began.

    ``connect``: for each replica what makes a client, one for each call in flight; ``extra`` are keys that every
    request carries. A call that has one of the ``texts`` is sent as a chat, every other as token ids. A tool that such
    a chat offers to the model is carried out by ``executor``; without one, and for every other tool, the recorded
    time passes. ``name`` is in the ids of its requests, so that they can be found in a server's step trace.
    ``observe`` reads what a gate sees, None where the servers do not tell now.
    """

    def __init__(
        self,
        workflows: Mapping[int, Workflow],
        run: Run,
        connect: Sequence[Connect],
        extra: Mapping[str, Any],
        progress: Callable[[], None] = lambda: None,
        texts: Texts | None = None,
        executor: Executor | None = None,
        name: str = "replay",
        observe: Callable[[], Signals | None] = lambda: None,
    ) -> None:
        self._run = run
        self._workflows = workflows
        self._to_come = iter(workflows)
        self._connect = connect
        self._extra = dict(extra)
        self._progress = progress
        self._texts = texts or {}
        self._executor = executor
        self._name = name
        self._observe = observe
        self._open: dict[int, Open] = {}
        self._agenda = Agenda()
        self._looks = 0
        self._idle: list[queue.SimpleQueue[Client]] = [queue.SimpleQueue() for _ in connect]
        self._under_way = 0
        self._refill = False
        self._extras = Extras()
        self._failed_ahead: list[str] = []

    def closed_loop(self, sessions: int) -> None:
        """Keep that many sessions under way until every workflow has had its turn."""
        self._refill = True
        self._agenda.begin()
        for session in list(islice(self._to_come, sessions)):
            self._arrive(session, self._agenda.now())
        self._loop()

    def open_loop(self, instants: Iterable[float]) -> None:
        """Let the sessions arrive at these instants, in their order."""
        self._agenda.begin()
        for session, instant in zip(self._to_come, instants, strict=False):
            self._agenda.at(instant, partial(self._arrive, session, instant))
        self._loop()

    def result(self, engine: EngineStats) -> RunResult:
        """Everything that has happened; a call that is still under way is an unfinished record."""
        sessions = tuple(
            state.session(self._agenda.began, self._run.status(state.number)) for state in self._open.values()
        )
        records = tuple(record for state in self._open.values() for record in state.records(self._agenda.began))
        return RunResult(records, sessions, engine, makespan_s(sessions), self._extras, len(self._connect))

    def lags_s(self) -> list[float]:
        """For each call that was sent: how much later than it could have been."""
        sent = (sent for state in self._open.values() for sent in state.calls.values())
        return [one.sent_s - one.due_s for one in sent if one.sent_s is not None]

    def malformed(self) -> list[str]:
        """Workflow, call and reason of each tool call that was of no use, or did not come although it had to."""
        return [line for state in self._open.values() for line in state.said.malformed()]

    def tool_runs(self) -> list[ToolRun]:
        """The tools that are over, in the order in which their workflows arrived and they ended; no wrong guesses."""
        return [run for state in self._open.values() for run in state.said.runs.values()]

    def failed_ahead(self) -> list[str]:
        """Workflow, call and reason of each prefill ahead of a call that failed."""
        return self._failed_ahead

    def _loop(self) -> None:
        self._look_later()
        # No run needs a look to go on, so that nobody waits for the last one.
        while self._under_way or self._agenda.num_timers > self._looks:
            self._agenda.next()()

    def _look_later(self) -> None:
        if self._run.every_s:
            self._looks += 1
            self._agenda.at(self._agenda.now() + self._run.every_s, self._look)

    def _look(self) -> None:
        """Read the servers' metrics in a thread of its own, then let the policy see them."""
        self._looks -= 1
        threading.Thread(target=self._see, name="look", daemon=True).start()

    def _see(self) -> None:
        signals = self._observe()
        self._agenda.soon(lambda: self._seen(signals))

    def _seen(self, signals: Signals | None) -> None:
        now_s = self._agenda.now()
        if signals is not None:
            self._start(self._run.tick(signals, now_s), now_s)
        self._look_later()

    def _arrive(self, session: int, due_s: float) -> None:
        workflow, now_s = self._workflows[session], self._agenda.now()
        self._open[session] = Open(session, workflow, Conversation(session, workflow, self._texts), now_s)
        self._start(self._run.arrive(session, workflow, now_s), due_s)

    def _start(self, starts: Iterable[Start], due_s: float) -> None:
        for begun in starts:
            if isinstance(begun.node, Tool):
                self._tool(begun, begun.node)
            else:
                self._call(begun, begun.node, due_s)

    def _call(self, begun: Start, call: Call, due_s: float) -> None:
        state, ahead = self._open[begun.session], begun.purpose == "ahead"
        keys = self._extra | {"request_id": request_id(self._name, begun.session, call.id)}
        # A server that does not go by priorities takes none but 0.
        keys |= {"priority": begun.priority} if begun.priority else {}
        ask, prompt_tokens = state.said.prepare_ahead(call, keys) if ahead else state.said.prepare(call, keys)
        sent = Sent(begun, call, due_s, prompt_tokens, ask)
        if not ahead:
            state.calls[call.id] = sent
        self._under_way += 1
        # A daemon: one that still waits for a server must not hold up the end of an interrupted program.
        threading.Thread(target=self._send, args=(sent,), name="call", daemon=True).start()
        sent.written.wait(_WRITTEN_S)

    def _send(self, sent: Sent) -> None:
        """In a thread of its own: let the server answer, then tell."""
        idle = self._idle[sent.start.replica]
        try:
            client = idle.get_nowait()
        except queue.Empty:
            client = self._connect[sent.start.replica]()
        try:
            sent.sent_s = self._agenda.now()
            sent.answer = sent.ask(client, sent.written.set)
            idle.put(client)
        except CallError as error:
            sent.reason, sent.partial = str(error), error.answer
        except Exception as error:  # whatever it is, nobody may wait for this call for ever
            sent.reason = f"{type(error).__name__} in the client: {error}"
        finally:
            sent.written.set()
            self._agenda.soon(lambda: self._call_done(sent))

    def _call_done(self, sent: Sent) -> None:
        self._under_way -= 1
        state, answer, now_s = self._open[sent.start.session], sent.answer, self._agenda.now()
        if sent.start.purpose == "ahead":
            self._count_ahead(sent)
        elif answer is not None:
            state.said.answered(sent.call, answer)
        if answer is not None:
            starts, due_s = (
                self._run.finish(sent.start, now_s, sent.served(self._agenda.began)),
                answer.token_times_s[-1],
            )
            self._go_on(state, starts, due_s - self._agenda.began)
        else:
            self._go_on(state, self._run.fail(sent.start, now_s), now_s)

    def _count_ahead(self, sent: Sent) -> None:
        cached = sent.answer.num_cached_tokens or 0 if sent.answer else 0
        self._extras += Extras(ahead_calls=1, ahead_tokens=sent.prompt_tokens - cached if sent.answer else 0)
        if sent.reason:
            workflow = self._open[sent.start.session].workflow
            self._failed_ahead.append(f"{workflow.id}, {sent.call.id}: {sent.reason}")

    def _tool(self, begun: Start, tool: Tool) -> None:
        job, offered = self._open[begun.session].said.job(tool)
        if self._executor and offered:
            self._under_way += 1
            start(self._executor, job, partial(self._carried_out, begun, job))
        else:
            due_s = self._agenda.now() + job.recorded_s
            run = ToolRun(job, ToolResult(NOT_RUN, job.recorded_s), due_s)
            self._agenda.at(due_s, lambda: self._tool_done(begun, run))

    def _carried_out(self, begun: Start, job: Job, result: ToolResult) -> None:
        """In the tool's thread."""
        run = ToolRun(job, result, self._agenda.now())
        self._agenda.soon(lambda: self._executor_done(begun, run))

    def _executor_done(self, begun: Start, run: ToolRun) -> None:
        self._under_way -= 1
        self._tool_done(begun, run)

    def _tool_done(self, begun: Start, run: ToolRun) -> None:
        state = self._open[begun.session]
        if begun.purpose == "waste":
            self._extras += Extras(wasted_tools=1, wasted_tool_s=run.result.seconds)
        else:
            self._extras += Extras(guessed_tools=int(begun.purpose == "guess"))
            state.tool_s += run.result.seconds
            state.said.ran(run)
        report = self._run.fail if run.result.fatal else self._run.finish
        self._go_on(state, report(begun, self._agenda.now()), run.ended_s)

    def _go_on(self, state: Open, starts: Iterable[Start], due_s: float) -> None:
        self._start(starts, due_s)
        if not self._run.over(state.number) or state.finished_s is not None:
            return
        state.finished_s = self._agenda.now()
        if self._executor:
            self._executor.over(state.number)
        self._progress()
        if self._refill:
            for following in islice(self._to_come, 1):
                self._arrive(following, self._agenda.now())
