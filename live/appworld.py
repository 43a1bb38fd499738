"""Tools carried out in AppWorld: the model's code runs in the world of the workflow's task, on AppWorld's own server.

AppWorld's packages (pydantic 1, numpy 1) cannot be installed beside workspan's, and code that a model wrote is better
run in a process of its own. So it is reached through its environment server, made in another virtual environment::

    pip install appworld && appworld install && appworld download data && appworld serve environment --port 8900

That server listens on all interfaces and runs what it is sent: keep it behind a firewall or start it with --docker.
One server holds one world: give as many as sessions are open at once. Written against the source of appworld
0.1.3.post1 (``serve/environment.py``) and tested against a double of it; with AppWorld's own data it was not run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import requests

from live.client import CONNECT_TIMEOUT_S
from live.tools import Job, ToolResult, failed
from sim.errors import RunError

#: The argument of the model's call that is the code.
ARGUMENT = "code"
_INSTALL = (
    "in a virtual environment of its own: pip install appworld && appworld install && appworld download data"
    " && appworld serve environment --port 8900"
)


class AppWorld:
    """Runs the code in a call's argument `ARGUMENT`; the task is the workflow's ``task``, AppWorld's task id.

    A session has one server to itself, from its first code to its end, and finds there a fresh world. Raises RunError
    unless all answer.
    """

    def __init__(self, urls: Sequence[str], timeout_s: float, stops: bool = False) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._timeout = (CONNECT_TIMEOUT_S, timeout_s)
        self._stops = stops
        self._lock = threading.Lock()
        self._free = list(self._urls)
        self._worlds: dict[int, str] = {}
        for url in self._urls:
            self._check(url)

    def run(self, job: Job) -> ToolResult:
        """Execute the code; what it prints, a traceback too, is the result."""
        began = time.monotonic()
        try:
            return ToolResult(self._run(job), time.monotonic() - began)
        except _WorldError as failure:
            return failed(str(failure), time.monotonic() - began, self._stops)

    def over(self, session: int) -> None:
        """Its server is free; the next session that takes it makes a world of its own there."""
        with self._lock:
            if session in self._worlds:
                self._free.append(self._worlds.pop(session))

    def _run(self, job: Job) -> str:
        code = (job.call.arguments or {}).get(ARGUMENT) if job.call else None
        if not isinstance(code, str):
            raise _WorldError(f"the model did not call it with a text as {ARGUMENT!r}")
        task = job.workflow.task
        return str(self._post(self._world(job.session, task), "execute", {"task_id": task, "code": code}))

    def _world(self, session: int, task: str) -> str:
        with self._lock:
            if session in self._worlds:
                return self._worlds[session]
            if not self._free:
                raise _WorldError(f"all {len(self._urls)} AppWorld servers are in use; give one for each open session")
            url = self._free.pop()
            self._worlds[session] = url
        experiment = f"workspan-{self._urls.index(url)}"  # servers that share a folder must not share files
        try:
            self._post(url, "initialize", {"task_id": task, "experiment_name": experiment})
        except _WorldError:
            self.over(session)
            raise
        return url

    def _post(self, url: str, method: str, arguments: dict[str, Any]) -> Any:
        try:
            answer = _session().post(f"{url}/{method}", json=arguments, timeout=self._timeout)
            if answer.status_code != 200:
                raise _WorldError(f"AppWorld's {method} failed with HTTP {answer.status_code}: {answer.text[:100]}")
            return answer.json()["output"]
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise _WorldError(f"AppWorld's {method} failed ({type(error).__name__})") from error

    def _check(self, url: str) -> None:
        try:
            answer = _session().get(f"{url}/", timeout=CONNECT_TIMEOUT_S)
            found = answer.status_code == 200 and "AppWorld" in answer.text
        except requests.RequestException:
            found = False
        if not found:
            raise RunError(f"tools appworld:{url}: no AppWorld environment server answers there; start one, {_INSTALL}")


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy
    return session


class _WorldError(Exception):
    """The code could not be run; the message says why."""
