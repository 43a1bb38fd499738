"""BLIS TraceV2 (inference-sim), version 2: a YAML header and a CSV row per request, instants in microseconds.

Only of a result that was measured: the form tells a recorded real server (``mode: real``), and how it names anything
else is not known here. It was never seen, its description is what `calibration.recorded.tracev2` reads. A session is a
``session_id``, a call's number in it the ``round_index``. Prefixes that calls share are more than one per group can
say, so there is no ``prefix_group``. Calls that did not finish are left out: of their ``status`` only "ok" is known.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sim.errors import RunError
from sim.export import BEGIN_S, Part, Result, Written
from sim.record import Record

USES_WORKFLOWS = False

_COLUMNS = (
    *("request_id", "client_id", "tenant_id", "slo_class", "session_id", "round_index", "prefix_group"),
    *("prefix_length", "streaming", "input_tokens", "output_tokens", "text_tokens", "image_tokens", "audio_tokens"),
    *("video_tokens", "reason_ratio", "model", "deadline_us", "server_input_tokens", "arrival_time_us"),
    *("send_time_us", "first_chunk_time_us", "last_chunk_time_us", "num_chunks", "status", "error_message"),
    "finish_reason",
)


def write(result: Result) -> Written:
    """The header and the requests of one run."""
    part = result.only
    if not result.is_measured:
        raise RunError(
            f"{result.where}: TraceV2 is the record of a real server, this result is {result.provenance['engine']};"
            " export a replay on a real vLLM"
        )
    scheduler = result.provenance.get("scheduler", {})
    known = {name: scheduler[name] for name in ("max_num_seqs", "max_num_batched_tokens") if name in scheduler}
    server = {"type": "vllm", "model": result.model, **known}
    lines = ["trace_version: 2", "time_unit: microseconds", "mode: real", "server:"]
    lines += [f"  {name}: {json.dumps(value)}" for name, value in server.items()]
    files = {"trace.yaml": ["\n".join(lines) + "\n"], "trace.csv": _table(part, result.model)}
    return Written(files, part.left_out)


def _table(part: Part, model: str) -> Iterator[str]:
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    table.writeheader()
    rounds: Counter[int] = Counter()
    for number, record in enumerate(part.finished):
        table.writerow(_row(number, rounds[record.session], record, model))
        rounds[record.session] += 1
    yield text.getvalue()


def _row(number: int, place: int, record: Record, model: str) -> dict[str, Any]:
    sent = _us(record.sent_s)
    return {
        "request_id": number,
        "client_id": record.agent,
        "session_id": f"session-{record.session}",
        "round_index": place,
        "prefix_length": 0,
        "streaming": "true",
        "input_tokens": record.num_prompt_tokens,
        "output_tokens": record.num_output_tokens,
        "text_tokens": record.num_prompt_tokens,
        **dict.fromkeys(("image_tokens", "audio_tokens", "video_tokens", "reason_ratio", "deadline_us"), 0),
        "model": model,
        "server_input_tokens": record.num_prompt_tokens,
        "arrival_time_us": sent,
        "send_time_us": sent,
        "first_chunk_time_us": _us(record.first_token_s),
        "last_chunk_time_us": _us(record.finished_s),
        "num_chunks": record.num_output_tokens,
        "status": "ok",
        "finish_reason": "length",
    }


def _us(moment_s: float | None) -> int:
    assert moment_s is not None
    return BEGIN_S * 10**6 + round(moment_s * 1e6)
