"""What has been said in one session, and so what its next prompt is and which tool its model asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from live.client import Answer, Client
from live.prompts import prompt_ids
from live.text import Texts
from live.tool_calls import pick
from live.tools import Job, ToolRun
from sim.workflow import Call, Tool, Workflow

#: Sends a prepared call; the second argument is told that it is on its way.
Ask = Callable[[Client, Callable[[], None]], Answer]


class Conversation:
    """Answers and results of one session. A call that has one of ``texts`` is a chat, every other is token ids."""

    def __init__(self, session: int, workflow: Workflow, texts: Texts) -> None:
        self._session = session
        self._workflow = workflow
        self._texts = texts
        self._askers = askers(workflow) if texts else {}
        self._answers: dict[str, Answer] = {}
        self._ids: dict[str, list[int]] = {}
        self.runs: dict[str, ToolRun] = {}

    def prepare(self, call: Call, extra: Mapping[str, Any]) -> tuple[Ask, int]:
        """The call with all that was said before it, and its prompt's tokens: of a chat as many as were recorded."""
        num_tokens = self._workflow.tape.output_tokens[call.id]
        chat = self._texts.get((self._workflow.id, call.id))
        if chat is None:
            ids = prompt_ids(call.prompt, self._ids)
            return lambda client, sent: client.complete(ids, num_tokens, sent, **extra), len(ids)
        messages = [self._filled(message) for message in chat.messages]
        most = chat.max_tokens or num_tokens
        keys = {**extra, **chat.request, "tools": chat.tools}
        return lambda client, sent: client.chat(messages, most, sent, **keys), call.num_prompt_tokens

    def prepare_ahead(self, known: Call, extra: Mapping[str, Any]) -> tuple[Ask, int]:
        """The known beginning of a prompt to come, as token ids; the one token that it gets is of no use to anybody."""
        ids = prompt_ids(known.prompt, self._ids)
        return lambda client, sent: client.complete(ids, 1, sent, **extra), len(ids)

    def answered(self, call: Call, answer: Answer) -> None:
        """Later prompts may contain it."""
        self._answers[call.id] = answer
        self._ids[call.answer_id] = answer.token_ids

    def job(self, tool: Tool) -> tuple[Job, bool]:
        """The tool with the model's call of it, and whether the model could call it at all: it was offered it."""
        asker, number = self._askers.get(tool.id, ("", 0))
        chat = self._texts.get((self._workflow.id, asker))
        called = pick(self._answers[asker].tool_calls, tool.name, number) if chat else None
        seconds = self._workflow.tape.tool_s[tool.id] or 0.0
        job = Job(self._session, self._workflow, tool, called, seconds)
        return job, chat is not None and tool.name in chat.tool_names

    def ran(self, run: ToolRun) -> None:
        """Later prompts may contain its result."""
        self.runs[run.job.tool.id] = run

    def malformed(self) -> Iterator[str]:
        """Workflow, call and reason of each tool call that was of no use, or did not come although it had to."""
        for call, answer in self._answers.items():
            yield from (f"{self._workflow.id}, {call}: {reason}" for reason in answer.malformed)

    def _filled(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """The message, or what stands in its place: what a call really answered, what a tool really returned."""
        if "answer_of" in message:
            return as_message(self._answers[message["answer_of"]])
        if "result_of" in message:
            run = self.runs[message["result_of"]]
            call_id = message.get("tool_call_id", run.call_id)
            return {"role": "tool", "content": run.result.text, **({"tool_call_id": call_id} if call_id else {})}
        return message


def as_message(answer: Answer) -> Mapping[str, Any]:
    """An answer as a message of the next prompt. Arguments that are no JSON object go in as text.

    As tool calls a server would refuse them, or take something else for them (vLLM 0.32: none at all).
    """
    calls = [call for call in answer.tool_calls if call.arguments is not None]
    broken = [call.text for call in answer.tool_calls if call.arguments is None]
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(filter(None, (answer.text, *broken)))}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}
            for call in calls
        ]
    return message


def askers(workflow: Workflow) -> Mapping[str, tuple[str, int]]:
    """Tool id -> the call that asks for it, and how many tools of that name the call asks for before.

    It is the last in the log of the calls that lead to the tool without another call between them.
    """
    nodes = {node.id: node for node in workflow.nodes}
    asker: dict[str, str] = {}
    for node in workflow.order:
        if isinstance(nodes[node], Tool):
            calls = [p if isinstance(nodes[p], Call) else asker.get(p, "") for p in workflow.parents[node]]
            if last := max(filter(None, calls), key=workflow.position.__getitem__, default=""):
                asker[node] = last
    counts: dict[tuple[str, str], int] = {}
    found = {}
    for tool in workflow.tools:
        if tool.id in asker:
            key = (asker[tool.id], tool.name)
            found[tool.id] = (asker[tool.id], counts.get(key, 0))
            counts[key] = found[tool.id][1] + 1
    return found
