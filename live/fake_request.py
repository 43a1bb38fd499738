"""A request to the fake server: checked as vLLM 0.32 checks it, with the answer that it will get.

Text is four characters a token. An answer is made of four-character words, one for each id, so that it has the same
ids when it is sent again. Which ids follow a prompt depends on the prompt's ids and nothing else, and no answer but a
tool call ends before it has all tokens that it may have.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from live.prompts import FIRST_ID, NUM_IDS
from sim.settings import EngineSettings

#: Llama 3's; ids from here on are refused.
VOCABULARY = 128_256
EOS = 1
#: Characters of text that are one token, as `sim.tokens.ESTIMATED` has it.
WIDTH = 4

#: Keys of a request that change what is answered, and whose effect the fake server has not.
_NOT_DONE = ("logprobs", "prompt_logprobs", "echo", "suffix", "prompt_embeds", "response_format", "structured_outputs")
_NO_SCHEMA = ("pattern", "$ref", "allOf", "not", "exclusiveMinimum", "exclusiveMaximum")

Json = dict[str, Any]


class ApiError(Exception):
    """A request that is refused: HTTP status, message, and vLLM's name for the kind of error."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    def to_json(self) -> Json:
        """The body of the response."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a completion, and what it will be answered: ids, and the text of each.

    ``ends``: the answer comes to its own end. ``tool``: the function that it calls, which ``required`` left to the
    model to choose.
    """

    prompt: Sequence[int]
    ids: Sequence[int]
    texts: Sequence[str]
    ends: bool = False
    stream: bool = False
    usage: bool = False
    return_ids: bool = False
    priority: int = 0
    salt: str = ""
    chat: bool = False
    tool: str = ""
    required: bool = False


def read_request(body: object, chat: bool, model: str, settings: EngineSettings) -> Ask:
    """The request in a body that was JSON. Raises ApiError."""
    asked = _checked(body, model)
    stream, options = get(asked, "stream", bool, False), get(asked, "stream_options", dict, {})
    if options and not stream:
        raise ApiError(400, "stream_options can only be given with stream", param="stream_options")
    prompt = chat_ids(asked) if chat else _prompt(asked.get("prompt"))
    least, most = _num_tokens(asked, len(prompt), settings, chat)
    tool, required = _tool(asked) if chat else ({}, False)
    ends = False
    if tool:
        texts, ends = _call(tool, least, most, get(asked, "ignore_eos", bool, False))
        ids = [text_ids(text)[0] if text else EOS for text in texts]
    else:
        ids = _drawn(struct.pack(f"<{len(prompt)}I", *prompt), most)
        texts = [_words()[0][i - FIRST_ID] for i in ids]
    if refusal := settings.refusal(len(prompt) + len(ids)):
        raise ApiError(400, refusal)
    if get(asked, "cache_salt", str, None) == "":
        raise ApiError(400, "cache_salt must not be empty", param="cache_salt")
    return Ask(
        prompt,
        ids,
        texts,
        ends,
        stream,
        usage=get(options, "include_usage", bool, False),
        return_ids=get(asked, "return_token_ids", bool, False),
        priority=get(asked, "priority", int, 0),
        salt=get(asked, "cache_salt", str, ""),
        chat=chat,
        tool=tool.get("name", ""),
        required=required,
    )


def get(body: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    """A value of the body; the default where there is none or null. Raises ApiError for one of another type."""
    value = body.get(key)
    if value is not None and type(value) is not kind:
        raise ApiError(400, f"{key}: {json.dumps(value)[:80]} is no {kind.__name__}", "Bad Request", f"body.{key}")
    return default if value is None else value


def text_ids(text: str) -> list[int]:
    """Ids of a text: that of each word that can be in an answer, and for any other four characters one made of them."""
    ids = _words()[1]
    parts = (text[i : i + WIDTH] for i in range(0, len(text), WIDTH))
    return [ids[part] if part in ids else _drawn(part.encode("utf-8", "replace"), 1)[0] for part in parts]


def chat_ids(body: Mapping[str, Any]) -> list[int]:
    """Ids of a conversation. Every message begins a new token, so that an answer has its ids again."""
    messages = get(body, "messages", list, None)
    if messages is None:
        raise ApiError(400, "messages: field required", "Bad Request", "body.messages")
    if not messages:
        raise ApiError(400, "a conversation needs at least one message")
    tools = get(body, "tools", list, [])
    ids = text_ids(f"<|system|>{json.dumps(tools)}") if tools else []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, "messages: each needs a role", "Bad Request", "body.messages")
        ids += text_ids(f"<|{message['role']}|>") + text_ids(_content(message.get("content")))
        for call in message.get("tool_calls") or ():
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                raise ApiError(400, "tool_calls: each needs a function", "Bad Request", "body.messages")
            ids += text_ids(f"<{function.get('name')}>") + text_ids(str(function.get("arguments", "")))
    return ids + text_ids("<|assistant|>")


def _checked(body: object, model: str) -> Json:
    if not isinstance(body, dict):
        raise ApiError(400, "the body is no JSON object", "Bad Request", "body")
    named = get(body, "model", str, model)
    if named != model:
        raise ApiError(404, f"The model `{named}` does not exist; this server has {model}.", "NotFoundError", "model")
    for key in _NOT_DONE:
        if body.get(key) is not None and body[key] is not False:
            raise ApiError(400, f"{key}: the fake server cannot do that", param=key)
    if get(body, "n", int, 1) != 1:
        raise ApiError(400, "n: the fake server gives one answer", param="n")
    return body


def _prompt(prompt: object) -> list[int]:
    """Ids of a completion's prompt: ids, text, or a list with one of them."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], list | str):
        if len(prompt) > 1:
            raise ApiError(400, "prompt: the fake server takes one at a time", param="prompt")
        prompt = prompt[0]
    if not prompt:
        raise ApiError(400, "prompt must be given and not be empty", param="prompt")
    if isinstance(prompt, str):
        return text_ids(prompt)
    if not isinstance(prompt, list) or {*map(type, prompt)} != {int} or min(prompt) < 0:
        raise ApiError(400, "prompt: neither text nor a list of whole numbers from 0", "Bad Request", "body.prompt")
    if max(prompt) >= VOCABULARY:
        raise ApiError(400, f"Token id {max(prompt)} is out of vocabulary")
    return prompt


def _num_tokens(body: Json, num_prompt: int, settings: EngineSettings, chat: bool) -> tuple[int, int]:
    """How many tokens the answer has at least and at most."""
    limit = settings.max_model_len
    if num_prompt > limit:
        message = f"This model's maximum context length is {limit} tokens; the prompt has {num_prompt} already."
        raise ApiError(400, message, param="input_tokens")
    most = get(body, "max_tokens", int, None if chat else 16)
    if chat:
        most = get(body, "max_completion_tokens", int, most)
    if most is not None and most > limit:
        raise ApiError(400, f"max_tokens={most} cannot be greater than max_model_len={limit}.", param="max_tokens")
    most = min(limit if most is None else most, limit - num_prompt)
    if most < 1:
        raise ApiError(400, f"max_tokens must be at least 1, got {most}.", param="max_tokens")
    least = get(body, "min_tokens", int, 0)
    if not 0 <= least <= most:
        raise ApiError(400, f"min_tokens must be from 0 to max_tokens={most}, got {least}.")
    return least, most


def _content(content: object) -> str:
    """The text of a message, whose content may be parts of type text, or null beside tool calls."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    raise ApiError(400, "messages: content must be text", "Bad Request", "body.messages")


def _tool(body: Json) -> tuple[Json, bool]:
    """The function that must be called, empty if none, and whether the model was free to choose it."""
    choice = body.get("tool_choice")
    if choice in (None, "none", "auto"):
        return {}, False
    functions = [tool.get("function") for tool in get(body, "tools", list, []) if isinstance(tool, dict)]
    if not functions:
        raise ApiError(400, "tool_choice needs tools", param="tool_choice")
    if choice == "required":
        name = functions[0].get("name") if isinstance(functions[0], dict) else None
    else:
        function = choice.get("function") if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
    for function in functions:
        if name and isinstance(function, dict) and function.get("name") == name:
            return function, choice == "required"
    raise ApiError(400, "tool_choice names none of the tools", param="tool_choice")


def _call(tool: Json, least: int, most: int, ignore_eos: bool) -> tuple[list[str], bool]:
    """Arguments for a tool, a text for each token: filled up with blanks or cut, or else with their end."""
    try:
        text = json.dumps(example(tool.get("parameters") or {"type": "object"}), separators=(",", ":"))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ApiError(400, f"tools: the parameters are no JSON schema ({error})", param="tools") from error
    texts = [text[i : i + WIDTH] for i in range(0, len(text), WIDTH)]
    wanted = most if ignore_eos else max(least, len(texts))
    texts += [" " * WIDTH] * (wanted - len(texts))
    return (texts[:most], False) if ignore_eos or wanted >= most else ([*texts, ""], True)


def example(schema: object) -> Any:
    """A value that a simple JSON schema allows. Raises ApiError for a schema that isn't."""
    if not isinstance(schema, dict) or any(key in schema for key in _NO_SCHEMA):
        raise ApiError(400, f"tools: the fake server knows no value for {json.dumps(schema)[:80]}", param="tools")
    if "const" in schema:
        return schema["const"]
    for options in ("enum", "anyOf", "oneOf"):
        if schema.get(options):
            return schema[options][0] if options == "enum" else example(schema[options][0])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: example(value) for name, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {}))] * schema.get("minItems", 0)
    if kind in ("number", "integer"):
        least = max(0, schema.get("minimum", 0))
        value = min(least, schema.get("maximum", least))
        return value if kind == "number" else math.ceil(value) if value > 0 else math.floor(value)
    if kind == "string":
        return "text".ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
    return kind == "boolean" or None


def _drawn(seed: bytes, count: int) -> list[int]:
    """Ids that follow from the seed; more of them begin with the same."""
    digest = hashlib.shake_256(seed).digest(4 * count)
    return [FIRST_ID + number % NUM_IDS for number in struct.unpack(f"<{count}I", digest)]


@cache
def _words() -> tuple[list[str], dict[str, int]]:
    """The word of each id from FIRST_ID on, and the id of each word."""
    letters = "abcdefghijklmnoprstu"
    words = [f" {a}{b}{c}" for a in letters for b in letters for c in letters][:NUM_IDS]
    return words, {word: FIRST_ID + number for number, word in enumerate(words)}
