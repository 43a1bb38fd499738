"""Chat conversations as calls and tools, their prompts as segments that earlier prompts and answers share.

Token counts follow the common chat template: per message three tokens of header and one of end, per prompt three
more that begin the answer. A message of somebody else is one segment, or two where it begins with a template that
other runs share. An own message is three: the header that began it, the answer exactly as generated, and its end; so
an answer that is sent again matches the KV it left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sim.tokens import Tokenizer
from sim.traces import segment_id
from sim.workflow import Call, Edge, EdgeKind, Node, Segment, Tape, Tool, Workflow

_BEGIN = Segment("chat:assistant", 3)
_END = Segment("chat:end", 1)
_OVERHEAD = 4


@dataclass(frozen=True, slots=True)
class Message:
    """``role`` as the reader of the prompt sees it, and who said it; own messages have the role "assistant".

    ``template`` is the beginning of ``text`` that other runs share word for word.
    """

    role: str
    text: str
    speaker: str = ""
    template: str = ""


@lru_cache(maxsize=4096)
def answer(text: str, tokenizer: Tokenizer) -> Segment:
    """What an LLM generated. At least one token: an empty answer is an end-of-sequence token."""
    return Segment(f"answer:{segment_id(text)}", max(1, tokenizer.count(text)))


def prompt(messages: Iterable[Message], tokenizer: Tokenizer) -> tuple[Segment, ...]:
    """The segments of a prompt with these messages."""
    return tuple(_segments(messages, tokenizer))


class Recorder:
    """Builds a workflow node by node, in log order; numbers calls and tools and keeps the tape."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._outputs: dict[str, int] = {}
        self._tool_s: dict[str, float | None] = {}

    def call(self, agent: str, segments: Iterable[Segment], text: str) -> str:
        """A call with this prompt that generated this text; returns its id."""
        generated = answer(text, self.tokenizer)
        call = Call(f"call-{len(self._outputs)}", agent, tuple(segments), generated.segment_id)
        self._outputs[call.id] = generated.num_tokens
        self.nodes.append(call)
        return call.id

    def tool(self, name: str, duration_s: float | None = None) -> str:
        """A tool that took so long; returns its id."""
        tool = Tool(f"tool-{len(self._tool_s)}", name)
        self._tool_s[tool.id] = duration_s
        self.nodes.append(tool)
        return tool.id

    def chain(self, node: str, kind: EdgeKind = "visible") -> None:
        """Let the newest node wait for the one before it in the log."""
        assert self.nodes[-1].id == node
        if len(self.nodes) > 1:
            self.edges.append(Edge(self.nodes[-2].id, node, kind))

    def workflow(self, workflow_id: str, framework: str, task: str, **known: Any) -> Workflow:
        """Everything recorded, as a workflow; ``known`` are its optional fields."""
        return Workflow(
            workflow_id,
            framework,
            task,
            tuple(self.nodes),
            tuple(self.edges),
            Tape(self._outputs, self._tool_s),
            self.tokenizer.name,
            **known,
        )


def unknown_system(framework: str, agent: str) -> Segment:
    """A system message that was not recorded: its template tokens, which keep the agents' prompts apart."""
    return Segment(f"system:{framework}:{agent}", _OVERHEAD)


def _segments(messages: Iterable[Message], tokenizer: Tokenizer) -> Iterator[Segment]:
    for message in messages:
        if message.role == "assistant":
            yield from (_BEGIN, answer(message.text, tokenizer), _END)
        else:
            yield from _other(message, tokenizer)
    yield _BEGIN


# A conversation repeats its messages in every prompt; each is counted once.
@lru_cache(maxsize=4096)
def _other(message: Message, tokenizer: Tokenizer) -> tuple[Segment, ...]:
    who, total = f"{message.role}\n{message.speaker}", _OVERHEAD + tokenizer.count(message.text)
    if not message.template:
        return (Segment(segment_id(f"{who}\n{message.text}"), total),)
    begin = Segment(
        segment_id(f"begin\n{who}\n{message.template}"), _BEGIN.num_tokens + tokenizer.count(message.template)
    )
    end = Segment(segment_id(f"end\n{who}\n{message.text}"), max(1, total - begin.num_tokens))
    return begin, end
