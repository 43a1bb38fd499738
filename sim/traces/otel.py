"""OpenTelemetry spans of LLM applications: one workflow per trace id, whatever the framework.

Read are OTLP as JSON, lines of it, and flat spans (`sim.otel.export`), with the attributes of OpenTelemetry's GenAI
conventions, OpenInference, OpenLLMetry/Traceloop and Langfuse. The span of an LLM request is a call; its agent is the
one it names, else that of the nearest agent span above it, else the span's name. Tools, retrievals and embeddings are
tools with the duration of their spans. All other spans are only structure, as is a call or tool that has calls
inside: that is a wrapper, or an agent used as a tool. A tool inside a tool is a part of it. A call that failed without
an answer is left out, since what the server did for it is not known; one that failed with an answer stays.

Times are the spans'; a workflow began when its first node did. Nodes are in the order in which they began. What the
spans of the nodes that a node waits for leave open before it, if more than a millisecond, is the client's time.

Dependencies. `visible`: an earlier answer stands as a message in a call's prompt, or is quoted in one (50 characters
or more, and so is the text that an agent passes on as a tool call's argument); the prompt has the result of a tool
call whose span has that id, or of a tool whose span says it gave that; a tool's span has the id of a tool call in an
answer. Of several that fit it is the last that had ended; what goes without saying through another one is left out.
Where every span tells its dependencies (``workspan.dependencies``, as `sim.export.otel` writes it) these are taken.
`recorded`: which rule the framework follows is not known, so a node also waits for the last nodes that had ended when
it began. Where something is proven of a node, such an edge is marked as not used, unless it comes from a tool whose
result was not recorded. So the view "flow" is the graph of what is proven, as far as anything is.

Lengths. What the span says beats the tokenizer: an answer is as long as recorded. A prompt is its messages (tool
definitions first), and what is missing to the recorded length is unknown text: in front as much as every call of the
agent lacks (templates, tools), the rest at the end. Where messages count more than was recorded, they are kept. An
answer is found again in a later prompt as what was generated, unless a part of it was hidden reasoning. A prompt of
which only the length was recorded is one segment that nobody shares.

Checked against spans made here with the packages themselves, as OTLP and from the console exporter: the calls of
OpenInference's and OpenLLMetry's instrumentations of OpenAI's client, and calls, tools and agents of Langfuse's client
(versions of autumn 2026). Attribute names are those of the conventions' packages. Never seen: an export of a real
application, the collector's file exporter, other languages' exporters, OpenLLMetry's indexed ``gen_ai.prompt.N``,
messages as events of a span. Messages in OTLP's logs are not read. Whether a run succeeded is not said.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sim.chat import Recorder
from sim.errors import TraceError, WorkflowError
from sim.otel import dialects, export
from sim.otel.dialects import Kind
from sim.otel.export import Span
from sim.otel.lengths import Lengths
from sim.otel.links import Node, are_told, link
from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, Skipped, identifier, segment_id
from sim.workflow import CLIENT, Edge, Workflow

FRAMEWORK = "OpenTelemetry"

#: Seconds. A shorter gap between two spans is the instrumentation's own.
_GAP_S = 1e-3


def looks_like(document: Document) -> bool:
    """Spans, in one of the three forms."""
    return export.is_export(document)


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """One workflow per trace; a span or a trace that cannot be used is skipped with its reason."""
    traces: defaultdict[str, list[Span]] = defaultdict(list)
    for item in export.spans(document):
        if isinstance(item, Skipped):
            yield item
        else:
            traces[item.trace].append(item)
    if not traces:
        raise TraceError("no span that can be read; export them with ids and times, or leave the file out")
    for trace, spans in traces.items():
        try:
            yield _workflow(trace, spans, options.tokenizer)
        except (TraceError, WorkflowError) as error:
            yield Skipped(f"{document.where}, trace {trace}", str(error))
        except RecursionError:
            yield Skipped(f"{document.where}, trace {trace}", "a message is nested too deeply; leave the trace out")


def _workflow(trace: str, spans: Sequence[Span], tokenizer: Tokenizer) -> Workflow:
    known: dict[str, Span] = {}
    for span in spans:
        known.setdefault(span.id, span)
    layout = _Layout(known)
    nodes, notes = _nodes(layout)
    if not any(node.is_call for node in nodes):
        raise TraceError(f"no call of an LLM among its {len(known)} spans; instrument the model's client")
    if twice := len(spans) - len(known):
        notes.append(f"OpenTelemetry: {twice} spans occur twice and count once")
    link(nodes)
    return _Writer(trace, nodes, tokenizer).workflow(layout.task(), notes)


class _Layout:
    """What each span is, seen with those above and below it."""

    def __init__(self, spans: Mapping[str, Span]) -> None:
        self.spans = spans
        self.kinds: dict[str, Kind] = {name: dialects.kind(span) for name, span in spans.items()}
        self.order = self._top_down()
        self.holds_call: set[str] = set()
        for name in reversed(self.order):
            if name in self.holds_call or self.kinds[name] == "call":
                self.holds_call.add(spans[name].parent)
        self.agents: dict[str, str] = {}
        self.in_tool: set[str] = set()
        for name in self.order:
            span = spans[name]
            self.agents[name] = _usable(dialects.agent_names(span)) or self.agents.get(span.parent, "")
            if span.parent in self.in_tool or (span.parent in spans and self.is_tool(span.parent)):
                self.in_tool.add(name)

    def is_call(self, name: str) -> bool:
        """It is a request itself, and no wrapper of one."""
        return self.kinds[name] == "call" and name not in self.holds_call

    def is_tool(self, name: str) -> bool:
        """It is a tool, and no agent used as one."""
        return self.kinds[name] == "tool" and name not in self.holds_call

    def task(self) -> str:
        """What the trace is called: the workflow's name, else that of its first span."""
        names = [dialects.workflow_name(self.spans[name]) for name in self.order]
        return _usable((*names, *(self.spans[name].name for name in self.order[:1])))

    def _top_down(self) -> list[str]:
        children: defaultdict[str, list[str]] = defaultdict(list)
        for name, span in self.spans.items():
            children[span.parent if span.parent in self.spans else ""].append(name)
        order: dict[str, None] = {}
        # Spans that are each other's parents hang on no root; they come after all others.
        for root in (*children[""], *self.spans):
            waiting = deque([root])
            while waiting:
                name = waiting.popleft()
                if name not in order:
                    order[name] = None
                    waiting += children[name]
        return list(order)


def _usable(names: Iterable[str]) -> str:
    """The first that can be a name; spans may be called by whole texts."""
    for name in names:
        try:
            return identifier(name, "a span")
        except TraceError:
            continue
    return ""


def _nodes(layout: _Layout) -> tuple[list[Node], list[str]]:
    """The calls and tools in the order in which they began, and notes on what was left out."""
    nodes: list[Node] = []
    others: Counter[str] = Counter()
    for name in layout.order:
        span = layout.spans[name]
        if layout.is_call(name):
            call = _call(span, layout.agents[name])
            nodes += [call] if call else []
            others["failed"] += call is None
        elif layout.is_tool(name) and name not in layout.in_tool:
            nodes.append(Node(span, False, _usable(dialects.tool_names(span)) or "tool", *_times(span)))
            nodes[-1].text = dialects.tool_result(span)
        else:
            others["structure"] += 1
    nodes.sort(key=lambda node: (node.began, node.ended, node.span.id))
    notes = []
    if others["structure"]:
        notes.append(f"OpenTelemetry: {others['structure']} spans are neither a call nor a tool of their own")
    if others["failed"]:
        notes.append(f"OpenTelemetry: {others['failed']} calls that failed without an answer are left out")
    return nodes, notes


def _call(span: Span, agent: str) -> Node | None:
    """The call, or None where it failed without an answer."""
    tokens, written = dialects.tokens(span), dialects.output(span)
    text = "\n".join(one.text for one in written)
    if span.failed and not text and not tokens.output:
        return None
    read = dialects.prompt(span)
    for what, found in (("prompt", read or tokens.prompt), ("answer", text or tokens.output is not None)):
        if not found:
            raise TraceError(
                f"span {span.id!r} tells neither the text nor the length of its {what}; record token usage or messages"
            )
    made = tuple(call for one in written for call in one.calls)
    passed = tuple(part for one in written for part in one.passed)
    name = agent or _usable((span.name,)) or "agent"
    return Node(span, True, name, *_times(span), read, text, made, passed, tokens)


def _times(span: Span) -> tuple[int, int]:
    if span.began is None or span.ended is None:
        raise TraceError(f"span {span.id!r} has no begin or no end; give it both times, or leave the trace out")
    if span.ended < span.began:
        raise TraceError(f"span {span.id!r} ends before it begins; correct its times, or leave the trace out")
    return span.began, span.ended


class _Writer:
    """Writes nodes and the client's time between them as a workflow."""

    def __init__(self, trace: str, nodes: Sequence[Node], tokenizer: Tokenizer) -> None:
        self._trace, self._nodes = trace, nodes
        self._recorder = Recorder(tokenizer, trace)
        self._lengths = Lengths(nodes, self._recorder, segment_id(trace))

    def workflow(self, task: str, notes: Sequence[str]) -> Workflow:
        """The whole trace."""
        names: dict[int, str] = {}
        clients: dict[int, str] = {}
        for began, ended, is_node, number in sorted((*self._spans(), *self._gaps())):
            times = self._seconds(began), self._seconds(ended)
            node = self._nodes[number]
            if not is_node:
                clients[number] = self._recorder.tool(CLIENT, (ended - began) / 1e9, times)
            elif node.is_call:
                prompt, output = self._lengths.prompts[number], self._lengths.outputs[number]
                names[number] = self._recorder.call_of(node.name, prompt, output, times)
            else:
                names[number] = self._recorder.tool(node.name, (ended - began) / 1e9, times)
        for number, node in enumerate(self._nodes):
            first = clients.get(number, names[number])
            for other, (kind, used) in sorted(node.waits.items()):
                self._recorder.edges.append(Edge(names[other], first, kind, used))
            if number in clients:
                self._recorder.edges.append(Edge(first, names[number], "recorded"))
        notes = (*notes, *self._lengths.notes)
        began_s = self._nodes[0].began / 1e9
        return self._recorder.workflow(f"otel/{self._trace}", FRAMEWORK, task, notes=notes, began_s=began_s)

    def _seconds(self, moment: int) -> float:
        return (moment - self._nodes[0].began) / 1e9

    def _spans(self) -> Iterator[tuple[int, int, bool, int]]:
        for number, node in enumerate(self._nodes):
            yield node.began, node.ended, True, number

    def _gaps(self) -> Iterator[tuple[int, int, bool, int]]:
        """From the end of the last node that another waits for to that one's begin."""
        if are_told(self._nodes):
            return  # what else held a node up was the policy
        for number, node in enumerate(self._nodes):
            free = max((self._nodes[other].ended for other in node.waits), default=node.began)
            if node.began - free > _GAP_S * 1e9:
                yield free, node.began, False, number
