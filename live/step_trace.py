"""vLLM's own scheduler, writing down every step it composes. It runs in the server and needs nothing else from here.

Started with ``--scheduler-cls live.step_trace.TracingScheduler``, this checkout on PYTHONPATH, and WORKSPAN_STEP_TRACE
naming a file. With asynchronous scheduling, the default on GPUs, it must be ``TracingAsyncScheduler``: a subclass of
the other would turn it off.

The first line says which engine it is, each following line is one step in the order of scheduling; `live.steps` reads
them and says what each field means. A server with several engines (data parallel) writes one file each, the second with
``.1`` after its name. An existing file is replaced. The server never suffers: at the first error the trace ends, and
the server's log says so.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import vllm  # type: ignore[import-not-found]
from vllm.logger import init_logger  # type: ignore[import-not-found]
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # type: ignore[import-not-found]
from vllm.v1.core.sched.scheduler import Scheduler  # type: ignore[import-not-found]

VARIABLE = "WORKSPAN_STEP_TRACE"
FORMAT, VERSION = "workspan-steps", 1
#: Seconds. A busy server's lines are at most that old when they reach the file; an idle one's are all there.
FLUSH_S = 1.0

#: Settings as vLLM names them: those of the scheduler, and those of the KV cache.
_SCHEDULER_SETTINGS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "async_scheduling",
    "watermark",
    "scheduler_reserve_full_isl",
)
_CACHE_SETTINGS = ("num_gpu_blocks", "enable_prefix_caching")

# vLLM's logger: whoever reads the server's log sees the line.
logger = init_logger("vllm.workspan.step_trace")


class _Writer:
    """The file. Requests are numbered in the order of their arrival, as their ids are long and rows are many."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._numbers: dict[str, int] = {}
        self._fresh: dict[int, str] = {}
        self._arrived: list[dict[str, Any]] = []
        self._aborted: list[int] = []
        self._under_way: deque[tuple[Any, dict[str, Any]]] = deque()
        self._num_requests = self._num_steps = 0
        path = os.environ[VARIABLE]
        if index := getattr(scheduler.vllm_config.parallel_config, "data_parallel_index", 0):
            path = f"{path}.{index}"
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 (open as long as the server runs)
        self._write(_header(scheduler))
        self._flush()

    def add(self, request: Any) -> None:
        """A request has reached the scheduler."""
        number = self._numbers[request.request_id] = self._num_requests
        self._num_requests += 1
        self._fresh[number] = "new"
        self._arrived.append(
            {
                "number": number,
                "id": request.request_id,
                "num_prompt_tokens": request.num_prompt_tokens,
                "max_tokens": request.max_tokens,
                "priority": request.priority,
                "arrival_time": request.arrival_time,
                "seen_s": _now(),
            }
        )

    def drop(self, names: Iterable[str]) -> list[int]:
        """Numbers of those that the scheduler no longer knows."""
        gone = [name for name in names if name in self._numbers and name not in self._scheduler.requests]
        numbers = [self._numbers.pop(name) for name in gone]
        for number in numbers:
            self._fresh.pop(number, None)
        return numbers

    def abort(self) -> None:
        """Requests were ended from outside; whichever they were, they are gone."""
        self._aborted += self.drop(list(self._numbers))

    def schedule(self, output: Any, began_s: float) -> None:
        """A step has been composed."""
        scheduler, numbers = self._scheduler, self._numbers
        # One that was ended from outside after its preemption is no longer known.
        preempted = sorted(numbers[name] for name in output.preempted_req_ids or () if name in numbers)
        self._fresh.update(dict.fromkeys(preempted, "resumed"))
        rows: list[tuple[int, int, int]] = []
        kinds: dict[str, list[int]] = {"new": [], "resumed": []}
        for name, tokens in output.num_scheduled_tokens.items():
            number = numbers[name]
            # The scheduler counts the tokens of a step as computed as soon as it is composed.
            rows.append((number, tokens, scheduler.requests[name].num_computed_tokens - tokens))
            if kind := self._fresh.pop(number, None):
                kinds[kind].append(number)
        step = {
            "step": self._num_steps,
            "schedule_s": began_s,
            "scheduled_s": _now(),
            "rows": rows,
            **kinds,
            "preempted": preempted,
            "free_blocks": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            "num_waiting": len(scheduler.waiting),
            "num_running": len(scheduler.running),
            "arrived": self._arrived,
            "aborted": self._aborted,
        }
        self._num_steps += 1
        self._arrived, self._aborted = [], []
        self._under_way.append((output, step))

    def update(self, output: Any, result_s: float) -> None:
        """The result of a step has been taken in: that of the oldest under way."""
        expected, step = self._under_way.popleft()
        if expected is not output:
            raise RuntimeError("results came in another order than steps were scheduled")
        step |= {"result_s": result_s, "updated_s": _now(), "finished": self.drop(output.num_scheduled_tokens)}
        self._write(step)
        if not self._scheduler.requests or step["updated_s"] - self._flushed_s > FLUSH_S:
            self._flush()

    def close(self) -> None:
        """Steps whose results never came are written without them."""
        for _, step in self._under_way:
            self._write(step | {"result_s": None, "updated_s": None, "finished": []})
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _flush(self) -> None:
        self._file.flush()
        self._flushed_s = time.monotonic()


class _Traced:
    """What is done beside vLLM's own methods, which see and return exactly what they would without."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._writer: _Writer | None = None
        if VARIABLE in os.environ:
            self._guard(self._open)
        else:
            logger.warning("No steps are traced: %s names no file.", VARIABLE)

    def add_request(self, request: Any) -> None:
        super().add_request(request)  # type: ignore[misc]
        if writer := self._writer:
            self._guard(lambda: writer.add(request))

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        began_s = _now()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        if writer := self._writer:
            self._guard(lambda: writer.schedule(output, began_s))
        return output

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        result_s = _now()
        outputs = super().update_from_output(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        if writer := self._writer:
            self._guard(lambda: writer.update(scheduler_output, result_s))
        return outputs

    def finish_requests(self, *args: Any, **kwargs: Any) -> Any:
        ended = super().finish_requests(*args, **kwargs)  # type: ignore[misc]
        if writer := self._writer:
            self._guard(writer.abort)
        return ended

    def shutdown(self) -> None:
        if writer := self._writer:
            self._guard(writer.close)
            self._writer = None
        super().shutdown()  # type: ignore[misc]

    def _open(self) -> None:
        self._writer = _Writer(self)

    def _guard(self, act: Callable[[], None]) -> None:
        """Do it; at the first error say so, once, and trace no more."""
        try:
            act()
        except Exception as error:
            self._writer = None
            logger.error("The step trace ends here: %s: %s", type(error).__name__, error)


class TracingScheduler(_Traced, Scheduler):  # type: ignore[misc]
    """For servers without asynchronous scheduling: on CPUs, or with ``--no-async-scheduling``."""


class TracingAsyncScheduler(_Traced, AsyncScheduler):  # type: ignore[misc]
    """For servers with asynchronous scheduling."""


def _header(scheduler: Any) -> dict[str, Any]:
    config = scheduler.vllm_config
    settings = {name: getattr(config.scheduler_config, name, None) for name in _SCHEDULER_SETTINGS}
    settings |= {name: getattr(config.cache_config, name, None) for name in _CACHE_SETTINGS}
    settings |= {
        "max_model_len": scheduler.max_model_len,
        "block_size": scheduler.block_size,
        "scheduling_policy": scheduler.policy.value,
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "vllm_version": vllm.__version__,
        "scheduler": type(scheduler).__name__,
        "settings": {name: value for name, value in sorted(settings.items()) if value is not None},
    }


def _now() -> float:
    """Seconds of the monotonic clock, which all processes of a machine share; microseconds are enough."""
    return round(time.monotonic(), 6)
