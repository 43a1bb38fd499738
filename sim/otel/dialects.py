"""What the attributes of spans mean, in the dialects that are in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from sim.otel.export import Span, number
from sim.otel.messages import Said, indexed, loaded, plain, said

Kind = Literal["call", "tool", "agent", "other"]

#: Attribute that tells what a span is -> its values, lower case. The first that knows the span's value decides.
_KINDS: Mapping[str, Mapping[str, Kind]] = {
    "openinference.span.kind": {
        "llm": "call",
        **dict.fromkeys(("tool", "retriever", "embedding", "reranker", "decision"), "tool"),
        "agent": "agent",
        **dict.fromkeys(("chain", "guardrail", "evaluator", "prompt"), "other"),
    },
    "gen_ai.operation.name": {
        **dict.fromkeys(("chat", "text_completion", "generate_content"), "call"),
        **dict.fromkeys(("execute_tool", "embeddings", "retrieval"), "tool"),
        **dict.fromkeys(("invoke_agent", "create_agent"), "agent"),
        "invoke_workflow": "other",
    },
    "langfuse.observation.type": {
        "generation": "call",
        **dict.fromkeys(("tool", "retriever", "embedding"), "tool"),
        "agent": "agent",
        **dict.fromkeys(("span", "chain", "event", "evaluator", "guardrail"), "other"),
    },
    "traceloop.span.kind": {"tool": "tool", "agent": "agent", **dict.fromkeys(("workflow", "task"), "other")},
    "llm.request.type": {
        **dict.fromkeys(("chat", "completion"), "call"),
        **dict.fromkeys(("embedding", "rerank"), "tool"),
    },
}

#: Where a span that says nothing of its kind gives itself away as a call.
_MODEL = ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name")
_AGENT = ("gen_ai.agent.name", "agent.name")
_ENTITY = "traceloop.entity.name"
_TOOL_NAME = ("gen_ai.tool.name", "tool.name", _ENTITY)
_TOOL_CALL = ("gen_ai.tool.call.id", "tool.id", "tool_call.id")
_TOOL_RESULT = ("gen_ai.tool.call.result", "output.value", "langfuse.observation.output", "traceloop.entity.output")
_WORKFLOW = ("gen_ai.workflow.name", "traceloop.workflow.name", "langfuse.trace.name")

_SYSTEM = "gen_ai.system_instructions"
_TOOLS = ("gen_ai.tool.definitions", "llm.tools", "llm.request.functions")
_INPUT = ("gen_ai.input.messages", "llm.input_messages", "gen_ai.prompt", "llm.prompts", "langfuse.observation.input")
_OUTPUT = (
    "gen_ai.output.messages",
    "llm.output_messages",
    "gen_ai.completion",
    "llm.choices",
    "langfuse.observation.output",
)

#: Names of events that hold one message of the prompt -> its role.
_EVENTS = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}

_USAGE = "langfuse.observation.usage_details"
_INPUT_TOKENS = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
    f"{_USAGE}.input",
    f"{_USAGE}.prompt_tokens",
)
_OUTPUT_TOKENS = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
    f"{_USAGE}.output",
    f"{_USAGE}.completion_tokens",
)
_CACHED_TOKENS = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "llm.token_count.prompt_details.cache_read",
)
_CACHE_WRITTEN_TOKENS = (
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "llm.token_count.prompt_details.cache_write",
)
_HIDDEN_TOKENS = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "llm.usage.reasoning_tokens",
    "llm.token_count.completion_details.reasoning",
)
_MOST = 10**9  # tokens; a larger number is a mistake


class Tokens(NamedTuple):
    """What was recorded of a call's lengths, None where nothing was. ``hidden`` were generated and not shown."""

    prompt: int | None
    output: int | None
    cached: int
    hidden: int


def kind(span: Span) -> Kind:
    """What a span is: a call of an LLM, a tool, an agent, or any other part of the program."""
    for name, kinds in _KINDS.items():
        value = span.attributes.get(name)
        if isinstance(value, str) and value.lower() in kinds:
            return kinds[value.lower()]
    known = tokens(span)
    return "call" if span.first(_MODEL) and known.output is not None else "other"


def agent_names(span: Span) -> tuple[str, ...]:
    """What the span says of the agent's name, best first; for an agent's own span also the span's name."""
    own = (span.first(_AGENT),)
    return (*own, span.first((_ENTITY,)), span.name) if kind(span) == "agent" else own


def tool_names(span: Span) -> tuple[str, ...]:
    """What a tool's span says of its name, best first."""
    return span.first(_TOOL_NAME), span.name


def tool_call(span: Span) -> str:
    """The id of the tool call that the span of a tool carries out."""
    return span.first(_TOOL_CALL)


def workflow_name(span: Span) -> str:
    """How the span calls the workflow that it belongs to."""
    return span.first(_WORKFLOW)


def tokens(span: Span) -> Tokens:
    """The recorded lengths. Where fewer tokens were sent than came from the cache, the cached ones were not counted."""
    usage = loaded(span.attributes.get(_USAGE))
    details = {f"{_USAGE}.{name}": value for name, value in usage.items()} if isinstance(usage, dict) else {}
    attributes = {**details, **span.attributes}

    def count(names: tuple[str, ...]) -> int | None:
        return next((found for name in names if (found := _count(attributes.get(name))) is not None), None)

    prompt, cached = count(_INPUT_TOKENS), count(_CACHED_TOKENS) or 0
    if prompt is not None and cached > prompt:
        prompt += cached + (count(_CACHE_WRITTEN_TOKENS) or 0)
    output = count(_OUTPUT_TOKENS)
    return Tokens(prompt, output, cached, count(_HIDDEN_TOKENS) or 0)


def prompt(span: Span) -> list[Said] | None:
    """The messages that the model read, tool definitions and system instructions first; None if none was recorded."""
    if (found := _recorded(span, _INPUT)) is None:
        messages = [one for name, data in span.events if name in _EVENTS for one in said([data], _EVENTS[name])]
    else:
        messages = said(found)
    system = [one for part in (_recorded(span, (_SYSTEM,)),) if part for one in said([{"parts": part}], "system")]
    tools = _recorded(span, _TOOLS)
    definitions = [Said("tools", plain(tools))] if tools and messages else []
    return [*definitions, *system, *messages] if messages or system else None


def output(span: Span) -> list[Said]:
    """The messages that the model wrote; empty if none was recorded."""
    if (found := _recorded(span, _OUTPUT)) is not None:
        return said(found, "assistant")
    choices = (data.get("message", data) for name, data in span.events if name == "gen_ai.choice")
    return [one for choice in choices for one in said([loaded(choice)], "assistant")]


def tool_result(span: Span) -> str:
    """What the tool gave back, as text; empty if that was not recorded."""
    return next((plain(value) for name in _TOOL_RESULT if (value := span.attributes.get(name)) is not None), "")


def _recorded(span: Span, names: tuple[str, ...]) -> Any:
    """The first of the attributes that is there, as a value or in numbered parts, of the span or of an event of it."""
    for name in names:
        for attributes in (span.attributes, *(data for _, data in span.events)):
            if attributes.get(name) is not None:
                return loaded(attributes[name])
            if parts := indexed(attributes, name):
                return parts
    return None


def _count(value: Any) -> int | None:
    found = number(value)
    return int(found) if found is not None and 0 <= found <= _MOST else None
