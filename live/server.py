"""What a vLLM server is and what it has done: its version, model and settings, and its counters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import requests
from pydantic import ValidationError

from live.client import CONNECT_TIMEOUT_S, authorization
from sim.errors import RunError
from sim.record import EngineStats
from sim.settings import EngineSettings, from_vllm

_METRIC = re.compile(r"^(vllm:\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Counters = dict[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics of one engine; ``cache``: the labels of its ``cache_config_info``."""

    values: Counters = field(default_factory=dict)
    cache: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """``cache``: the labels of vLLM's ``cache_config_info``; ``scheduler``: its scheduler's settings.

    It tells the latter only if it was started with VLLM_SERVER_DEV_MODE=1.
    """

    url: str
    version: str
    model: str
    max_model_len: int | None
    cache: Mapping[str, str] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    #: A server that only plays one says so itself.
    engine: str = "vllm"
    #: Batch sizes that have a CUDA graph.
    cudagraph_capture_sizes: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the header of records; nothing that names a machine."""
        return {
            "engine": self.engine,
            "vllm_version": self.version,
            "model": self.model,
            "max_model_len": self.max_model_len,
            "block_size": _int(self.cache.get("block_size")),
            "num_gpu_blocks": _int(self.cache.get("num_gpu_blocks")),
            "enable_prefix_caching": self.cache.get("enable_prefix_caching", "unknown").lower(),
            "scheduler": dict(self.scheduler),
            "cudagraph_capture_sizes": list(self.cudagraph_capture_sizes),
        }

    def settings(self, given: Mapping[str, Any]) -> EngineSettings:
        """The engine's settings as the server tells them; those that are ``given`` win. Raises RunError."""
        try:
            return EngineSettings(**{**engine_fields(self.to_json()), **given})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "the settings"
            mend = "start it with VLLM_SERVER_DEV_MODE=1" if first["type"] == "missing" else "correct it"
            raise RunError(
                f"--server {self.url}: {name}: {first['msg'].lower()}; {mend}, or give it: --set {name}=VALUE"
            ) from error


def engine_fields(header: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `EngineSettings` from what `ServerInfo.to_json` wrote, as far as the server told them."""
    cached = {"true": True, "false": False}.get(str(header.get("enable_prefix_caching")).lower())
    return from_vllm({**_dict(header.get("scheduler")), **header, "enable_prefix_caching": cached})


class Server:
    """The parts of vLLM's API beside completions. Raises RunError, with the address, where it doesn't answer."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if "@" in self.url:
            raise RunError("--server: a name or password in the address; give the server's key in VLLM_API_KEY")
        if not self.url.startswith(("http://", "https://")):
            raise RunError(f"--server {url}: give an address such as http://127.0.0.1:8000")
        self._session = requests.Session()
        self._session.trust_env = False

    def info(self) -> ServerInfo:
        """What the server is. It must answer /v1/models; the rest is unknown where it doesn't tell."""
        models = self._json("GET", "/v1/models", needed=True)
        try:
            model = models["data"][0]
            name, length = str(model["id"]), model.get("max_model_len")
        except (KeyError, IndexError, TypeError) as error:
            raise RunError(f"--server {self.url}: its /v1/models names no model; is it a vLLM?") from error
        version = _dict(self._json("GET", "/version")).get("version", "unknown")
        settings = _dict(self._json("GET", "/server_info?config_format=json")).get("vllm_config")
        scheduler = _dict(_dict(settings).get("scheduler_config"))
        graphs = _dict(_dict(settings).get("compilation_config")).get("cudagraph_capture_sizes") or ()
        engine = "fake" if model.get("owned_by") == "workspan" else "vllm"
        return ServerInfo(self.url, str(version), name, length, self._cache(), scheduler, engine, tuple(graphs))

    def counters(self) -> Counters:
        """Counters and gauges by name, summed over engines; empty where the server shows none."""
        found: Counters = {}
        for name, _, value in _METRIC.findall(self._metrics()):
            with suppress(ValueError):  # what is no number is not counted
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def readings(self) -> list[Reading]:
        """The metrics of each of its engines, of which it has several with data parallelism; none where it shows none.

        A metric's values that differ in another label are summed.
        """
        found: dict[str, Reading] = {}
        for name, text, value in _METRIC.findall(self._metrics()):
            labels = dict(_LABEL.findall(text))
            engine = found.setdefault(labels.get("engine", "0"), Reading())
            if name == "vllm:cache_config_info":
                engine.cache.update(labels)
            with suppress(ValueError):  # what is no number is not counted
                engine.values[name] = engine.values.get(name, 0.0) + float(value)
        return list(found.values())

    def _cache(self) -> dict[str, str]:
        return next((reading.cache for reading in self.readings() if reading.cache), {})

    def _metrics(self) -> str:
        try:
            answer = self._session.get(f"{self.url}/metrics", **_asking())
        except requests.RequestException:
            return ""
        return answer.text if answer.status_code == 200 else ""

    def _json(self, method: str, path: str, needed: bool = False) -> Any:
        """The JSON at that path; None where there is none and it isn't needed."""
        problem = "no answer"
        try:
            answer = self._session.request(method, self.url + path, **_asking())
            if answer.status_code == 200:
                return answer.json()
            problem = f"HTTP {answer.status_code}"
        except (requests.RequestException, ValueError) as error:
            problem = type(error).__name__
        if not needed:
            return None
        hint = "; set VLLM_API_KEY" if problem in ("HTTP 401", "HTTP 403") else "; start it, or correct the address"
        raise RunError(f"--server {self.url}: {path} cannot be read ({problem}){hint}")


def growth(before: Counters, after: Counters, name: str) -> float | None:
    """By how much a counter grew; None where one reading lacks it, or where the server began anew in between."""
    if name not in before or name not in after or after[name] < before[name]:
        return None
    return after[name] - before[name]


def engine_stats(before: Counters, after: Counters) -> EngineStats:
    """What the engine did between two readings of its counters; None what it does not count."""

    def grown(name: str) -> int | None:
        more = growth(before, after, name)
        return None if more is None else round(more)

    return EngineStats(
        num_steps=grown("vllm:iteration_tokens_total_count"),
        busy_s=None,
        num_rows=None,
        num_tokens=grown("vllm:iteration_tokens_total_sum"),
        num_preemptions=grown("vllm:num_preemptions_total"),
    )


def _asking() -> dict[str, Any]:
    """Arguments of every request: a key goes to the server that was named, and to no other."""
    return {"headers": authorization(), "timeout": CONNECT_TIMEOUT_S, "allow_redirects": False}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _int(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None
