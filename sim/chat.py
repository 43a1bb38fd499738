"""Chat conversations as calls and tools, their prompts as segments that earlier prompts and answers share.

Token counts follow the common chat template: per message three tokens of header and one of end, per prompt three
more that begin the answer. A message of somebody else is one segment, or several where it begins like a message that
stands at the same place of another prompt. An own message is three: the header that began it, the answer exactly as
generated, and its end; so an answer that is sent again matches the KV it left behind.

What a prompt held but the log does not show is a segment of estimated length whose id begins with "unknown:".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sim.errors import TraceError
from sim.tokens import Tokenizer
from sim.traces import segment_id
from sim.workflow import UNKNOWN, Call, Edge, EdgeKind, Node, Segment, Tape, Tool, Workflow

_BEGIN = Segment("chat:assistant", 3)
_END = Segment("chat:end", 1)
_OVERHEAD = 4
#: Characters. A shorter beginning in common is not worth a segment of its own.
_COMMON = 64
#: Segments of all prompts together. Each repeats its history, so a log without end would fill any memory.
_MOST_SEGMENTS = 3_000_000

Times = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What a client puts before and after the text of each message; the prompt ends with another ``begin``."""

    begin: tuple[Segment, ...] = (_BEGIN,)
    end: tuple[Segment, ...] = (_END,)

    @property
    def num_tokens(self) -> tuple[int, int]:
        """Tokens before and after a message."""
        begin, end = (sum(segment.num_tokens for segment in part) for part in (self.begin, self.end))
        return begin, end


#: The common chat template.
CHAT = Wrapping()


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
    return tuple(_segments(((message, ()) for message in messages), tokenizer, CHAT))


def prompts(
    conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer, wrapping: Wrapping = CHAT
) -> list[tuple[Segment, ...]]:
    """The segments of each prompt, so cut that two prompts share them as far as their texts agree.

    Where messages at the same place of prompts that agree so far begin alike (64 characters or more), the common
    beginning is a segment. An own message is never cut: it was generated whole.
    """
    cuts = _cuts(conversations)
    cut = (
        [(message, cuts.get((number, place), ())) for place, message in enumerate(messages)]
        for number, messages in enumerate(conversations)
    )
    return [tuple(_segments(messages, tokenizer, wrapping)) for messages in cut]


class Recorder:
    """Builds a workflow node by node, in log order; numbers calls and tools and keeps the tape.

    ``run`` names the recorded run: what is unknown in it differs from what is unknown in another. ``times`` of a node
    are its begin and end in seconds, from the run's begin, where the log tells them.
    """

    def __init__(self, tokenizer: Tokenizer, run: str = "") -> None:
        self.tokenizer = tokenizer
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._run = segment_id(run)
        self._outputs: dict[str, int] = {}
        self._tool_s: dict[str, float | None] = {}
        self._times: dict[str, Times] = {}
        self._num_unknown = self._num_segments = 0

    def call(self, agent: str, segments: Iterable[Segment], text: str, times: Times | None = None) -> str:
        """A call with this prompt that generated this text; returns its id."""
        return self.call_of(agent, segments, answer(text, self.tokenizer), times)

    def call_of(self, agent: str, segments: Iterable[Segment], output: Segment, times: Times | None = None) -> str:
        """The same for an answer that is a segment already, of known text or of `unknown`; returns its id."""
        call = Call(f"call-{len(self._outputs)}", agent, tuple(segments), output.segment_id)
        self._num_segments += len(call.prompt)
        if self._num_segments > _MOST_SEGMENTS:
            raise TraceError(
                f"its first {len(self._outputs)} prompts have more than {_MOST_SEGMENTS:,} pieces of text; cut the run,"
                " or leave it out"
            )
        self._outputs[call.id] = output.num_tokens
        return self._add(call, times)

    def tool(self, name: str, duration_s: float | None = None, times: Times | None = None) -> str:
        """A tool that took so long; returns its id."""
        tool = Tool(f"tool-{len(self._tool_s)}", name)
        self._tool_s[tool.id] = duration_s
        return self._add(tool, times)

    def chain(self, node: str, kind: EdgeKind = "visible") -> None:
        """Let the newest node wait for the one before it in the log."""
        assert self.nodes[-1].id == node
        if len(self.nodes) > 1:
            self.edges.append(Edge(self.nodes[-2].id, node, kind))

    def unknown(self, num_tokens: int) -> Segment:
        """A text of this run that was not recorded, with an estimate of its length; each time another one."""
        self._num_unknown += 1
        return Segment(f"{UNKNOWN}{self._run}-{self._num_unknown}", num_tokens)

    def _add(self, node: Node, times: Times | None) -> str:
        self.nodes.append(node)
        if times is not None:
            self._times[node.id] = times
        return node.id

    def workflow(self, workflow_id: str, framework: str, task: str, **known: Any) -> Workflow:
        """Everything recorded, as a workflow; ``known`` are its optional fields."""
        return Workflow(
            workflow_id,
            framework,
            task,
            tuple(self.nodes),
            tuple(self.edges),
            Tape(self._outputs, self._tool_s, self._times),
            self.tokenizer.name,
            **known,
        )


def unknown_system(framework: str, agent: str, num_tokens: int = 0) -> tuple[Segment, ...]:
    """A system message whose text was not recorded: its template tokens, and an estimate of the text's length.

    The template tokens keep the prompts of different agents apart also where the estimate is left out.
    """
    header = Segment(f"system:{framework}:{agent}", _OVERHEAD)
    return (header, Segment(f"{UNKNOWN}system:{framework}:{agent}", num_tokens)) if num_tokens else (header,)


def _segments(
    messages: Iterable[tuple[Message, Sequence[int]]], tokenizer: Tokenizer, wrapping: Wrapping
) -> Iterator[Segment]:
    for message, cuts in messages:
        if message.role == "assistant":
            yield from (*wrapping.begin, answer(message.text, tokenizer), *wrapping.end)
        else:
            yield from _pieces(message, tuple(cuts), tokenizer, wrapping.num_tokens)
    yield from wrapping.begin


# A conversation repeats its messages in every prompt; each is counted once.
@lru_cache(maxsize=4096)
def _pieces(
    message: Message, cuts: tuple[int, ...], tokenizer: Tokenizer, around: tuple[int, int]
) -> tuple[Segment, ...]:
    """The message in pieces that end at these characters, at the end of its template, and at its own end."""
    who, text = f"{message.role}\n{message.speaker}", message.text
    template = (len(message.template),) if message.template else ()
    ends = sorted({*cuts, *template, len(text)})
    pieces, counted = [], -around[0]
    for start, end in zip((0, *ends), ends, strict=False):
        total = tokenizer.count(text[:end]) + around[1] * (end == len(text))
        # A piece's length depends on where it starts and on all before it, and so must its name.
        name = f"{start}\n{who}\n{text[:end]}" if end < len(text) or start else f"{who}\n{text}"
        pieces.append(Segment(segment_id(name), max(1, total - counted)))
        counted = total
    return tuple(pieces)


def _cuts(conversations: Sequence[Sequence[Message]]) -> dict[tuple[int, int], list[int]]:
    """(prompt, place) -> characters at which another message at that place ends to be the same."""
    cuts: dict[tuple[int, int], list[int]] = {}
    together = [(0, list(range(len(conversations))))]  # prompts that agree in all messages before a place
    while together:
        place, group = together.pop()
        branches: defaultdict[Message, list[int]] = defaultdict(list)
        for number in group:
            if place < len(conversations[number]):
                branches[conversations[number][place]].append(number)
        for message, numbers in branches.items():
            if len(numbers) > 1:
                together.append((place + 1, numbers))
            if ends := _common_ends(message, branches):
                cuts.update(((number, place), ends) for number in numbers)
    return cuts


def _common_ends(message: Message, others: Iterable[Message]) -> list[int]:
    if message.role == "assistant":
        return []
    same = (other.text for other in others if (other.role, other.speaker) == (message.role, message.speaker))
    ends = {_num_common(message.text, text) for text in same}
    return sorted(end for end in ends if _COMMON <= end < len(message.text))


def _num_common(one: str, other: str) -> int:
    """Characters at the beginning that are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
