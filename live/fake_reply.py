"""The JSON of the fake server's answers, as vLLM 0.32 writes it."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from typing import Any

from live.fake_engine import Job, RealTimeEngine
from live.fake_request import Ask, Json
from sim.settings import EngineSettings

DONE = b"data: [DONE]\n\n"


def compact(value: object) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))


class Reply:
    """One answer, whole or as the events of a stream. ``output_s``: the seconds that an answer takes to its client."""

    def __init__(self, ask: Ask, model: str, output_s: float) -> None:
        self._ask = ask
        self._output_s = output_s
        kind = ("chat.completion" + ".chunk" * ask.stream) if ask.chat else "text_completion"
        name = ("chatcmpl-" if ask.chat else "cmpl-") + uuid.uuid4().hex[:16]
        self._head = {"id": name, "object": kind, "created": int(time.time()), "model": model}
        # Made before the first token is due: an event is written while others wait for theirs.
        self._start = "data: " + compact(self._head)[:-1] + ',"choices":[{"index":0,'
        self._prompt = compact(ask.prompt) if ask.return_ids else "null"
        self._tool_id = f"chatcmpl-tool-{uuid.uuid4().hex[:16]}"
        self._finish = "length" if not ask.ends else "tool_calls" if ask.required else "stop"

    def event(self, number: int) -> bytes:
        """The event of the n-th token, from 1."""
        ask = self._ask
        text, last = ask.texts[number - 1], number == len(ask.ids)
        ids = f"[{ask.ids[number - 1]}]" if ask.return_ids else "null"
        finish = f'"{self._finish}"' if last else "null"
        if not ask.chat:
            prompt = self._prompt if number == 1 else "null"
            return (
                f'{self._start}"text":{json.dumps(text)},"logprobs":null,"finish_reason":{finish},"stop_reason":null,'
                f'"prompt_token_ids":{prompt},"token_ids":{ids}}}]}}\n\n'
            ).encode()
        delta = compact(self._delta(text, number))
        return (
            f"{self._role() if number == 1 else ''}"
            f'{self._start}"delta":{delta},"logprobs":null,"finish_reason":{finish},"token_ids":{ids}}}]}}\n\n'
        ).encode()

    def tail(self, job: Job) -> bytes:
        """The events after the last token."""
        if not self._ask.usage:
            return DONE
        event = {**self._head, "choices": [], "usage": self._usage(job), "metrics": self._metrics(job)}
        return f"data: {compact(event)}\n\n".encode() + DONE

    def whole(self, job: Job) -> Json:
        """The answer in one piece."""
        ask = self._ask
        ids, prompt = (list(ask.ids), list(ask.prompt)) if ask.return_ids else (None, None)
        choice: Json = {"index": 0, "logprobs": None, "finish_reason": self._finish, "stop_reason": None}
        answer = {**self._head, "choices": [choice], "usage": self._usage(job), "metrics": self._metrics(job)}
        choice["token_ids"] = ids
        if ask.chat:
            choice["message"] = self._message()
            answer["prompt_token_ids"] = prompt
        else:
            choice |= {"text": "".join(ask.texts), "prompt_logprobs": None, "prompt_token_ids": prompt}
        return answer

    def _role(self) -> str:
        delta = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return f'{self._start}{delta},"prompt_token_ids":{self._prompt}}}\n\n'

    def _delta(self, text: str, number: int) -> Json:
        if not self._ask.tool:
            return {"content": text}
        call: Json = {"index": 0, "function": {"arguments": text}}
        if number == 1:
            call = {"id": self._tool_id, "type": "function", **call}
            call["function"]["name"] = self._ask.tool
        return {"tool_calls": [call]}

    def _message(self) -> Json:
        ask, text = self._ask, "".join(self._ask.texts)
        message: Json = {"role": "assistant", "content": "" if ask.tool else text, "refusal": None, "reasoning": None}
        # Of required calls that were cut off vLLM returns none; a named function's arguments come as they are.
        if ask.tool and (not ask.required or _is_json(text)):
            call = {"name": ask.tool, "arguments": text}
            message["tool_calls"] = [{"id": self._tool_id, "type": "function", "function": call}]
        return message

    def _usage(self, job: Job) -> Json:
        prompt, answer = len(self._ask.prompt), len(self._ask.ids)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + answer,
            "completion_tokens": answer,
            "prompt_tokens_details": {"cached_tokens": job.sent.request.num_cached_tokens or 0},
        }

    def _metrics(self, job: Job) -> Json:
        """vLLM's, in the engine's time: to the first token from being scheduled, what was before is the queue's."""
        sent, tokens = job.sent, len(self._ask.ids)
        first_s, last_s = (sent.first_token_s or 0.0) - self._output_s, (sent.finished_s or 0.0) - self._output_s
        scheduled_s = sent.scheduled_s or 0.0
        return {
            "time_to_first_token_ms": (first_s - scheduled_s) * 1000,
            "generation_time_ms": (last_s - first_s) * 1000,
            "queue_time_ms": (scheduled_s - (sent.queued_s or 0.0)) * 1000,
            "mean_itl_ms": (last_s - first_s) * 1000 / (tokens - 1) if tokens > 1 else None,
            "tokens_per_second": tokens / (last_s - scheduled_s),
        }


class GoneError(OSError):
    """The client has closed the connection."""


class Stream:
    """A chunked response that the engine's thread writes to, which must never wait.

    What the client does not take at once is left to the request's own thread, and so is what comes behind it.
    """

    def __init__(self, connection: socket.socket, wake: threading.Event) -> None:
        self._connection = connection
        self._wake = wake
        self._lock = threading.Lock()
        self._rest = bytearray()
        self._closed = False

    def write(self, data: bytes) -> None:
        """A chunk. In the engine's thread."""
        data = b"%x\r\n%b\r\n" % (len(data), data)
        with self._lock:
            if not self._rest and not self._closed:
                try:
                    data = data[self._connection.send(data) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self._closed = True
            if data:
                self._rest += data
                self._wake.set()

    def flush(self, connection: socket.socket) -> None:
        """Write what was left over; raises OSError if the client has gone. In the request's thread."""
        while True:
            with self._lock:
                if self._closed:
                    raise GoneError
                data = bytes(self._rest)
            if not data:
                return
            connection.sendall(data)
            with self._lock:
                del self._rest[: len(data)]

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._closed = True


def models(name: str, settings: EngineSettings, created: int) -> Json:
    """/v1/models; ``owned_by`` says that this is no vLLM."""
    model = {"id": name, "object": "model", "created": created, "owned_by": "workspan", "root": name, "parent": None}
    return {"object": "list", "data": [{**model, "max_model_len": settings.max_model_len}]}


def server_info(settings: EngineSettings) -> Json:
    """/server_info?config_format=json, as far as a profile has its settings."""
    cache = {name: getattr(settings, name) for name in ("block_size", "num_gpu_blocks", "enable_prefix_caching")}
    names = ("max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "long_prefill_token_threshold")
    more = ("async_scheduling", "watermark", "scheduler_reserve_full_isl")
    scheduler = {name: getattr(settings, name) for name in (*names, *more)}
    scheduler["policy"] = settings.scheduling_policy
    graphs = {"cudagraph_capture_sizes": list(settings.graph_sizes)}
    return {"vllm_config": {"scheduler_config": scheduler, "cache_config": cache, "compilation_config": graphs}}


def prometheus(engine: RealTimeEngine, model: str) -> str:
    """/metrics: vLLM's counters and gauges that the engine has."""
    settings, counters = engine.profile.engine, engine.counters
    values: dict[str, Any] = {name: getattr(counters, name) for name in counters.__slots__}
    values |= {"num_preemptions_total": engine.num_preemptions, **engine.gauges()}
    labels = {"engine": "0", "model_name": model}
    lines = [f"vllm:{name}{{{_labels(labels)}}} {float(value)}" for name, value in values.items()]
    cache = {name: str(value) for name, value in server_info(settings)["vllm_config"]["cache_config"].items()}
    lines.append(f"vllm:cache_config_info{{{_labels({**cache, 'engine': '0'})}}} 1.0")
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
