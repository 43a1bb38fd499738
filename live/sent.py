"""Calls and sessions of a replay under way, and the rows that they become. Times are seconds since it began."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from live.client import Answer
from live.conversation import Ask, Conversation
from sim.record import Record, SessionRecord, Status
from sim.rules import Served
from sim.session import Start
from sim.workflow import Call, Workflow


@dataclass(slots=True)
class Sent:
    """A call under way or over. ``due_s``: when it could have been sent; ``sent_s`` later than that is replay lag."""

    start: Start
    call: Call
    due_s: float
    prompt_tokens: int
    ask: Ask
    written: threading.Event = field(default_factory=threading.Event)
    answer: Answer | None = None
    partial: Answer | None = None
    sent_s: float | None = None
    reason: str = ""

    def served(self, began: float) -> Served:
        """How it was served, as far as the server tells: else all of its time counts as service, none as waiting."""
        assert self.answer is not None
        assert self.sent_s is not None
        sent_s, scheduled_s = self.sent_s, self.scheduled_s(began)
        served_from_s = sent_s if scheduled_s is None else max(sent_s, scheduled_s)
        finished_s = self.answer.token_times_s[-1] - began
        tokens = self.answer.num_prompt_tokens or self.prompt_tokens, self.answer.num_output_tokens
        return Served(max(0.0, finished_s - served_from_s), served_from_s - sent_s, *tokens)

    def scheduled_s(self, began: float) -> float | None:
        """When the server began with it; None where it does not tell."""
        # Of a failed call, what had come before it failed.
        got = self.answer or self.partial
        if not got or not got.token_times_s or got.prefill_s is None:
            return None
        return got.token_times_s[0] - began - got.prefill_s

    def record(self, workflow: Workflow, began: float) -> Record:
        """The call's row."""
        answer, got = self.answer, self.answer or self.partial
        times = [time_s - began for time_s in got.token_times_s] if got else []
        status: Status = "failed" if self.reason else "finished" if answer else "unfinished"
        return Record(
            session=self.start.session,
            workflow_id=workflow.id,
            call_id=self.call.id,
            agent=self.call.agent,
            # Of a chat only the server knows; of token ids it counts as many as were sent.
            num_prompt_tokens=answer.num_prompt_tokens or self.prompt_tokens if answer else self.prompt_tokens,
            num_cached_tokens=answer.num_cached_tokens if answer else None,
            num_output_tokens=got.num_output_tokens if got else 0,
            sent_s=self.due_s if self.sent_s is None else self.sent_s,
            scheduled_s=self.scheduled_s(began),
            first_token_s=times[0] if times else None,
            finished_s=times[-1] if answer else None,
            num_preemptions=None,
            status=status,
            reason=self.reason,
        )


@dataclass(slots=True)
class Open:
    """A session under way or over."""

    number: int
    workflow: Workflow
    said: Conversation
    arrived_s: float
    calls: dict[str, Sent] = field(default_factory=dict)
    tool_s: float = 0.0
    finished_s: float | None = None

    def records(self, began: float) -> tuple[Record, ...]:
        """The rows of its calls; one that is still under way is unfinished."""
        return tuple(sent.record(self.workflow, began) for sent in self.calls.values())

    def session(self, began: float, status: Status) -> SessionRecord:
        """Its own row."""
        calls = [record for record in self.records(began) if record.finished_s is not None]
        return SessionRecord(
            session=self.number,
            workflow_id=self.workflow.id,
            framework=self.workflow.framework,
            arrived_s=self.arrived_s,
            finished_s=self.finished_s,
            busy_s=self.tool_s + sum((call.finished_s or 0.0) - call.sent_s for call in calls),
            num_calls=len(self.calls),
            status=status,
        )
