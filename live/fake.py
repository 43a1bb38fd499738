"""A server that speaks vLLM's HTTP API and streams at the pace of a profile, through the model of vLLM's scheduler.

For laptops, tests and notebooks: whoever talks to it meets vLLM's queues, batches, preemptions and cached prefixes, in
real time, without a GPU or a model. What it says is made up, and no time that it takes is a measurement: it says
``owned_by: workspan`` of its model, and records of it say ``engine: fake``.

Sampling parameters are taken and ignored. What would change the answer in a way that the fake has not is refused.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from live.fake_engine import Job, RealTimeEngine
from live.fake_reply import GoneError, Reply, Stream, compact, models, prometheus, server_info
from live.fake_request import ApiError, Json, chat_ids, get, read_request, text_ids
from sim.errors import RunError
from sim.latency import Profile

#: Seconds after which a connection is closed on which nothing moves.
_IDLE_S = 300.0
#: Seconds between two looks whether a client that waits is still there.
_LOOK_S = 1.0
_MOST_BYTES = 64 * 2**20

_Answer = Callable[[], None]


class FakeServer:
    """An engine in real time behind HTTP; usable in a ``with``. Raises RunError where it cannot listen."""

    def __init__(self, profile: Profile, host: str = "127.0.0.1", port: int = 0) -> None:
        try:
            self._http = _Http((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise RunError(f"--port {port}: cannot listen on {host} ({error}); choose another") from error
        self._http.engine = self.engine = RealTimeEngine(profile)
        self.url = f"http://{host}:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, name="http", daemon=True)

    def serve_forever(self) -> None:
        """Serve until Ctrl-C is pressed, and close."""
        with suppress(KeyboardInterrupt):
            self._http.serve_forever(poll_interval=0.1)
        self.engine.stop()
        self._http.server_close()

    def wait(self) -> None:
        """In a ``with``: until Ctrl-C is pressed."""
        with suppress(KeyboardInterrupt):
            self._thread.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    engine: RealTimeEngine

    def __init__(self, *args: Any) -> None:
        self.created = int(time.time())
        self._connections: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is no error of ours.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "workspan-fake", ""
    disable_nagle_algorithm = True
    timeout = _IDLE_S
    server: _Http

    def setup(self) -> None:
        super().setup()
        # A second handle of the connection that never waits.
        self._direct = self.connection.dup()
        self._direct.setblocking(False)

    def finish(self) -> None:
        self._direct.close()
        super().finish()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        self._dispatch("GET")

    def do_POST(self) -> None:
        """Answer."""
        self._dispatch("POST")

    def _dispatch(self, method: str) -> None:
        body, path = self._body(), urlsplit(self.path).path
        routes = self._routes(body)
        try:
            if (method, path) in routes:
                routes[method, path]()
            elif other := [known for known, where in routes if where == path]:
                self._send(405, {"detail": "Method Not Allowed"}, Allow=other[0])
            else:
                self._send(404, {"detail": "Not Found"})
        except ApiError as error:
            self._send(error.status, error.to_json())

    def _routes(self, body: bytes) -> dict[tuple[str, str], _Answer]:
        engine, model = self.server.engine, self._model
        settings = engine.profile.engine
        return {
            ("GET", "/health"): lambda: self._send(200, b""),
            ("GET", "/version"): lambda: self._send(200, {"version": settings.vllm_version}),
            ("GET", "/v1/models"): lambda: self._send(200, models(model, settings, self.server.created)),
            ("GET", "/server_info"): lambda: self._send(200, server_info(settings)),
            ("GET", "/metrics"): lambda: self._send(200, prometheus(engine, model).encode()),
            ("POST", "/reset_prefix_cache"): lambda: self._send(200, {"success": engine.reset_prefix_cache()}),
            ("POST", "/tokenize"): lambda: self._tokenize(_json(body)),
            ("POST", "/v1/completions"): lambda: self._complete(body, chat=False),
            ("POST", "/v1/chat/completions"): lambda: self._complete(body, chat=True),
        }

    @property
    def _model(self) -> str:
        return self.server.engine.profile.model

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > _MOST_BYTES:
            self.close_connection = True
            self._send(411, {"detail": "send a body with its Content-Length, of 64 MiB at most"})
            raise GoneError
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise GoneError
        return body

    def _tokenize(self, body: object) -> None:
        if not isinstance(body, dict) or not ("prompt" in body or "messages" in body):
            raise ApiError(400, "give a prompt or messages", "Bad Request", "body.prompt")
        ids = text_ids(get(body, "prompt", str, "")) if "prompt" in body else chat_ids(body)
        limit = self.server.engine.profile.engine.max_model_len
        self._send(200, {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": None})

    def _complete(self, body: bytes, chat: bool) -> None:
        engine, stream = self.server.engine, None
        with engine.turn() as came_s:
            ask = read_request(_json(body), chat, self._model, engine.profile.engine)
            job = engine.job(ask.prompt, ask.ids, came_s, ask.priority, ask.salt)
            reply = Reply(ask, self._model, engine.profile.overheads.output_s)
            if ask.stream:
                stream = self._begin_stream(job, reply)
            engine.submit(job)
        self._attend(job, stream)
        if stream:
            tail = reply.tail(job)
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail))
        else:
            self._send(200, reply.whole(job))

    def _begin_stream(self, job: Job, reply: Reply) -> Stream:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        stream = Stream(self._direct, job.wake)
        job.on_token = lambda number: stream.write(reply.event(number))
        return stream

    def _attend(self, job: Job, stream: Stream | None) -> None:
        """Wait until the job is over and its client has everything; abort it if the client goes."""
        try:
            over = False
            while not over:
                job.wake.wait(_LOOK_S)
                job.wake.clear()
                over = job.over
                self._look()
                if stream:
                    stream.flush(self.connection)
        except OSError:
            self.server.engine.abort(job)
            raise
        finally:
            if stream:
                stream.close()
        if job.failed:
            raise GoneError

    def _look(self) -> None:
        """Raise GoneError if the client has closed the connection."""
        try:
            gone = not self._direct.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        if gone:
            raise GoneError

    def _send(self, status: int, content: Json | bytes, **headers: str) -> None:
        data = content if isinstance(content, bytes) else compact(content).encode()
        self.send_response(status)
        if data:
            self.send_header("Content-Type", "text/plain" if isinstance(content, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON ({error})", "Bad Request", "body") from error
