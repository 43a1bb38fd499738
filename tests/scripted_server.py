"""A small HTTP server that says what a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Path and body of a request -> a status and text, or the events of a stream; of these bytes are sent as they are, and
#: a float is a pause in seconds.
Script = Callable[[str, dict], "tuple[int, str] | Iterable[object]"]


class Scripted:
    """``requests``: path and body of each, in order of arrival."""

    def __init__(self, script: Script) -> None:
        self.requests: list[tuple[str, dict]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(script))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def bodies(self, path: str) -> list[dict]:
        return [body for at, body in self.requests if at == path]

    def _handler(scripted, script: Script) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, body: dict) -> None:
                scripted.requests.append((self.path, body))
                said = script(self.path, body)
                if isinstance(said, tuple):
                    self.whole(*said)
                else:
                    with suppress(OSError):  # a client that has had enough
                        self.stream(said)

            def whole(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def stream(self, events: Iterable[object]) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for event in events:
                    if isinstance(event, float):
                        time.sleep(event)
                    else:
                        self.chunk(event if isinstance(event, bytes) else f"data: {json.dumps(event)}\n\n".encode())
                self.chunk(b"data: [DONE]\n\n")
                self.chunk(b"")

            def chunk(self, data: bytes) -> None:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@contextmanager
def scripted(script: Script):
    server = Scripted(script)
    thread = threading.Thread(target=server._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()
        thread.join(5)


def chat(text: str = "", calls: Iterable[tuple[str, str]] = (), tokens: int = 3, ids: bool = True, end: str = "stop"):
    """The events of a chat: ``calls`` are names and arguments, the latter in pieces of four characters."""

    def event(delta: dict, **more: object) -> dict:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}

    yield event({"role": "assistant", "content": ""})
    if text:
        yield event({"content": text})
    for index, (name, arguments) in enumerate(calls):
        first = {"id": f"id-{index}", "type": "function", "index": index, "function": {"name": name, "arguments": ""}}
        yield event({"tool_calls": [first]})
        for at in range(0, len(arguments), 4):
            piece = {"name": None, "arguments": arguments[at : at + 4]}
            yield event({"tool_calls": [{"index": index, "function": piece}]})
    for number in range(tokens if ids else 0):
        yield event({}, token_ids=[1000 + number])
    yield event({}, finish_reason=end)
    usage = {"prompt_tokens": 17, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 5}}
    yield {"choices": [], "usage": usage}


def completion(body: dict):
    """As many tokens as were asked for."""
    for number in range(body["max_tokens"]):
        yield {"choices": [{"index": 0, "text": f" w{number}", "token_ids": [2000 + number]}]}
    yield {"choices": [], "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}}
