"""One streamed answer of a vLLM server, to token ids or to the messages of a chat: its tokens and the time of each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
from urllib3.exceptions import ReadTimeoutError

from live.tool_calls import Pieces, ToolCall

#: Seconds. A server that takes no connection, or answers nothing about itself, for so long is not there.
CONNECT_TIMEOUT_S = 10.0

_MUTE = "the server said nothing for too long"


class CallError(Exception):
    """A call that did not end as it should; the message is the record's reason.

    ``answer``: what had come by then, if anything could.
    """

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.answer = answer


@dataclass(slots=True)
class Answer:
    """What came back. Times in seconds of `time.monotonic`; None where the server did not tell."""

    sent_s: float = 0.0
    token_times_s: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    #: Seconds in the server's queue, and from being scheduled to the first token, as it measured them.
    queue_s: float | None = None
    prefill_s: float | None = None
    #: Of a chat: tool calls in order, and for each that is of no use, or did not come although it had to, the reason.
    tool_calls: Sequence[ToolCall] = ()
    malformed: Sequence[str] = ()
    texts: list[str] = field(default_factory=list)
    pieces: Pieces = field(default_factory=Pieces)
    finish_reason: str | None = None
    #: Tokens as the server counted them, for one that does not tell their ids.
    num_counted_tokens: int = 0

    @property
    def text(self) -> str:
        """What it says, tool calls apart."""
        return "".join(self.texts)

    @property
    def num_output_tokens(self) -> int:
        """Tokens of the answer, with those of tool calls and of its end."""
        return len(self.token_ids) or self.num_counted_tokens


class Client:
    """The answers of one server and model. Safe to use from one thread at a time: each gets its own."""

    def __init__(self, url: str, model: str, timeout_s: float) -> None:
        self._url = f"{url}/v1"
        self._model = model
        self._timeout = (CONNECT_TIMEOUT_S, timeout_s)
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy or a .netrc has no place in a measurement
        self._headers = {"Content-Type": "application/json", **authorization()}

    def complete(
        self,
        prompt: Sequence[int],
        num_tokens: int,
        sent: Callable[[], None] = lambda: None,
        first: Callable[[], None] = lambda: None,
        **extra: Any,
    ) -> Answer:
        """Let the model generate exactly so many tokens.

        ``sent`` is called once the request is on its way, ``first`` once its first token is here. ``extra`` are keys of
        vLLM's completion request, such as ``priority`` and ``cache_salt``. Raises CallError.
        """
        answer = self._ask("completions", {"prompt": list(prompt), **_exactly(num_tokens), **extra}, sent, first)
        if len(answer.token_times_s) != num_tokens:
            raise CallError(f"the answer has {len(answer.token_times_s)} tokens instead of {num_tokens}", answer)
        return answer

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int,
        sent: Callable[[], None] = lambda: None,
        tools: Sequence[Mapping[str, Any]] = (),
        **extra: Any,
    ) -> Answer:
        """Let the model answer a chat: with exactly so many tokens, or with at most so many if it may call tools.

        ``extra``: more keys of vLLM's chat request, such as ``tool_choice`` and ``parallel_tool_calls``; they are sent
        as given. What a model makes of its tools is never an error here: see `Answer.malformed`. Raises CallError.
        """
        length = {"max_tokens": max_tokens, "tools": list(tools)} if tools else _exactly(max_tokens)
        answer = self._ask("chat/completions", {"messages": list(messages), **length, **extra}, sent)
        if answer.finish_reason is None:
            raise CallError("the stream ended before the answer did", answer)
        if not answer.token_times_s or not answer.num_output_tokens:
            raise CallError("the answer has no token, or the server does not count them", answer)
        if not tools and answer.num_output_tokens != max_tokens:
            raise CallError(f"the answer has {answer.num_output_tokens} tokens instead of {max_tokens}", answer)
        _read_tool_calls(answer, [tool["function"]["name"] for tool in tools], extra.get("tool_choice"))
        return answer

    def _ask(
        self,
        path: str,
        body: Mapping[str, Any],
        sent: Callable[[], None],
        first: Callable[[], None] = lambda: None,
    ) -> Answer:
        body = {
            "model": self._model,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            **body,
        }
        answer = Answer(sent_s=time.monotonic())
        try:
            self._receive(path, _Body(json.dumps(body).encode(), sent), answer, first)
        except requests.RequestException as error:
            raise CallError(_reason(error), answer) from error
        except CallError as error:
            error.answer = answer
            raise
        finally:
            sent()  # whoever waits for this call to be on its way must not wait for ever
        return answer

    def _receive(self, path: str, body: _Body, answer: Answer, first: Callable[[], None]) -> None:
        with self._session.post(
            f"{self._url}/{path}",
            data=body,
            headers=self._headers,
            stream=True,
            timeout=self._timeout,
            allow_redirects=False,  # prompts go where they were meant to go, and nowhere else
        ) as response:
            if response.status_code != 200:
                raise CallError(f"HTTP {response.status_code}: {_message(response)}")
            if response.headers.get("Transfer-Encoding") != "chunked":
                raise CallError("the answer does not come in chunks, so the times of its tokens cannot be seen")
            whole = False
            try:
                for line in self._lines(response, answer, first):
                    if line == b"data: [DONE]":
                        whole = True
                    elif line.startswith(b"data: "):
                        _take(line[6:], answer)
            except requests.RequestException:
                if not whole:
                    raise  # what goes wrong after the end is no matter

    def _lines(self, response: requests.Response, answer: Answer, first: Callable[[], None]) -> Iterator[bytes]:
        """The stream's lines; a server that sends this and that but no token has stopped as well."""
        last_s, seen = time.monotonic(), 0
        # None: whatever has arrived, at once; a number would wait for so many bytes.
        for line in response.iter_lines(chunk_size=None):
            yield line
            if len(answer.token_times_s) > seen:
                if not seen:
                    first()
                last_s, seen = answer.token_times_s[-1], len(answer.token_times_s)
            elif time.monotonic() - last_s > self._timeout[1]:
                raise CallError(_MUTE)


class _Body:
    """A request body that tells when it has been written to the socket."""

    def __init__(self, data: bytes, sent: Callable[[], None]) -> None:
        self._data, self._sent = data, sent

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        self._sent()


def authorization() -> dict[str, str]:
    """The header for the key in VLLM_API_KEY, if there is one; it is never written anywhere."""
    key = os.environ.get("VLLM_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _take(data: bytes, answer: Answer) -> None:
    """One event of the stream. Tokens that came in one event have one time."""
    now = time.monotonic()
    try:
        event = json.loads(data)
    except ValueError as error:
        raise CallError("the server sent an event that is no JSON") from error
    if not isinstance(event, dict):
        raise CallError("the server sent an event that is no JSON object")
    if problem := event.get("error"):
        message = problem.get("message", problem) if isinstance(problem, dict) else problem
        raise CallError(f"the server stopped: {str(message)[:200]}")
    try:
        _take_event(event, now, answer)
    except (AttributeError, TypeError) as error:
        raise CallError("the server sent an event that is not of vLLM's form") from error


def _take_event(event: Mapping[str, Any], now: float, answer: Answer) -> None:
    for choice in event.get("choices", ()):
        ids = choice.get("token_ids") or ()
        answer.token_ids += ids
        said = _take_text(choice, answer)
        # Of a server that does not tell ids a piece of text has one time, however many tokens it is.
        answer.token_times_s += [now] * (len(ids) or (said and "delta" in choice))
    if usage := event.get("usage"):
        answer.num_prompt_tokens = usage.get("prompt_tokens")
        answer.num_counted_tokens = usage.get("completion_tokens") or 0
        answer.num_cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if metrics := event.get("metrics"):
        answer.queue_s = _seconds(metrics.get("queue_time_ms"))
        answer.prefill_s = _seconds(metrics.get("time_to_first_token_ms"))


def _take_text(choice: Mapping[str, Any], answer: Answer) -> bool:
    """What an event says, of a completion or a chat; whether that is anything."""
    answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    delta = choice.get("delta") or {}
    calls, text = delta.get("tool_calls") or (), choice.get("text") or delta.get("content") or ""
    answer.pieces.add(calls)
    answer.texts.append(text)
    return bool(calls or text)


def _read_tool_calls(answer: Answer, names: Sequence[str], choice: Any) -> None:
    """``choice``: the request's tool_choice, which may name the only tool that is allowed."""
    # A named call ends with "stop", a required one with "tool_calls": only "length" says something for sure.
    allowed = [choice["function"]["name"]] if isinstance(choice, Mapping) else names
    answer.tool_calls = answer.pieces.calls(allowed, cut_off=answer.finish_reason == "length")
    answer.malformed = [call.problem for call in answer.tool_calls if call.problem]
    if not answer.tool_calls and (choice == "required" or isinstance(choice, Mapping)):
        answer.malformed = ["no tool was called, though one had to be"]


def _exactly(num_tokens: int) -> dict[str, Any]:
    return {"max_tokens": num_tokens, "min_tokens": num_tokens, "ignore_eos": True}


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _message(response: requests.Response) -> str:
    """Why, as far as the first piece of the body tells: a body may have no end."""
    try:
        body = json.loads(next(response.iter_content(chunk_size=None), b""))
        error = body.get("error", {})
        return str(error.get("message", error))[:200]
    except (ValueError, AttributeError, requests.RequestException):
        return response.reason or "no reason given"


def _reason(error: requests.RequestException) -> str:
    # In the middle of a body requests calls a timeout a connection error.
    if isinstance(error, requests.Timeout) or (error.args and isinstance(error.args[0], ReadTimeoutError)):
        return _MUTE
    return f"the connection failed ({type(error).__name__})"
