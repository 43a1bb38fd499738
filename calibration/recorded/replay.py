"""A folder that ``workspan replay -o`` wrote: ``calls.jsonl``, a header and then a row per call, in seconds.

The workload is what was replayed: traces, from whose prompts the segments come. An answer that the server gave stands
in later prompts of its session as its own segment, as in `live.prompts`. Every repetition of a policy, and under the
load ``alone`` every session in it, has a clock that starts at 0 and began with an empty cache: they are laid one after
the other, and share no segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibration.recorded import (
    LENGTHS_ONLY,
    RecordedRun,
    Request,
    read_lines,
    read_text,
    recorded,
    take,
    timed,
)
from live.server import engine_fields
from sim.choices import without_unknown
from sim.errors import TraceError
from sim.load import Alone
from sim.record import Record
from sim.traces import read
from sim.workflow import Segment, Workflow

#: Seconds between two stretches, so that one is over in every simulation before the next begins.
_GAP_S = 60.0
_TIMES = ("sent_s", "first_token_s", "finished_s")
_KEYS = ("policy", "repetition", "session", "workflow_id", "call_id")
_FACTS = ("engine", "vllm_version", "model", "hardware", "load", "workflows_digest", "workspan")

Workflows = Mapping[str, Workflow]


@dataclass(frozen=True, slots=True)
class _Call:
    """A finished call. ``stretch`` names the clock and the cache that it shares with others."""

    where: str
    stretch: str
    id: str
    record: Record


def looks_like(path: Path) -> bool:
    """A folder with our calls and their header."""
    file = path / "calls.jsonl"
    return file.is_file() and '"records": "calls"' in read_text(file).partition("\n")[0]


def load(path: Path, workload: Path | None) -> RecordedRun:
    """The run; ``workload`` is a file or folder of the traces that were replayed."""
    file = path / "calls.jsonl"
    (_, header), *rows = read_lines(file)
    if header.get("engine") not in ("vllm", "fake"):
        raise TraceError(f"{path}: a prediction, no measurement; name a folder that workspan replay -o wrote")
    alone = header.get("load") == str(Alone())
    calls: list[_Call] = []
    skipped: Counter[str] = Counter()
    for where, row in rows:
        if row.get("status") == "finished" and row.get("first_token_s") is not None:
            calls.append(_call(where, row, alone))
        else:
            skipped["without a first token" if row.get("status") == "finished" else str(row.get("status"))] += 1
    workflows = _workflows(workload, header) if workload else {}
    prompts = _Prompts(file, workflows, calls, bool(header.get("texts_digest"))) if workload else None
    requests = _one_after_the_other(calls, prompts)
    return recorded(
        file,
        "replay",
        requests,
        engine=engine_fields(header),
        facts={**{name: str(header[name]) for name in _FACTS if header.get(name)}, "instants": "client"},
        assumptions=_assumptions(header, calls, prompts),
        skipped=skipped,
    )


def _call(where: str, row: Mapping[str, Any], alone: bool) -> _Call:
    for key, kind in zip(_KEYS, (str, int, int, str, str), strict=True):
        take(where, row, key, kind=kind)
    for key in ("num_prompt_tokens", "num_output_tokens"):
        take(where, row, key, kind=int)
    for key in _TIMES:
        take(where, row, key)
    take(where, row, "num_cached_tokens", kind=(int, type(None)))
    record = Record._make(row.get(name) for name in Record._fields)
    stretch = f"{row['policy']}/{row['repetition']}" + (f"/{record.session}" if alone else "")
    return _Call(where, stretch, f"{row['policy']}/{row['repetition']}/{record.session}/{record.call_id}", record)


def _workflows(workload: Path, header: Mapping[str, Any]) -> Workflows:
    workflows, _ = read([workload])
    if header.get("unknown_parts") == "none":
        workflows = [without_unknown(workflow) for workflow in workflows]
    return {workflow.id: workflow for workflow in workflows}


class _Prompts:
    """Segments of calls; those whose text the user gave have lengths only, ``num_texts`` of them."""

    def __init__(self, file: Path, workflows: Workflows, calls: Sequence[_Call], texts: bool) -> None:
        self._file, self._texts, self.num_texts = file, texts, 0
        self._nodes = {(name, call.id): call for name, workflow in workflows.items() for call in workflow.calls}
        #: Answers by session and by the segment that they are.
        self._answers: dict[tuple[str, int, str], list[_Call]] = {}
        for call in calls:
            key = (call.stretch, call.record.session, self._node(call).answer_id)
            self._answers.setdefault(key, []).append(call)

    def segments(self, call: _Call) -> tuple[Segment, ...]:
        """What the call's prompt was made of."""
        record = call.record
        prompt = tuple(self._segment(call, segment) for segment in self._node(call).prompt)
        if (found := sum(segment.num_tokens for segment in prompt)) == record.num_prompt_tokens:
            return prompt
        if not self._texts:
            raise TraceError(
                f"{call.where}: {record.num_prompt_tokens} prompt tokens, {found} in the traces; give the traces as"
                " they were replayed, such as those that workspan traces import wrote"
            )
        self.num_texts += 1
        return (_length_only(call),)

    def _node(self, call: _Call) -> Any:
        key = (call.record.workflow_id, call.record.call_id)
        if key not in self._nodes:
            raise TraceError(f"{call.where}: no call {key[1]!r} of {key[0]!r} in the traces; give those of this replay")
        return self._nodes[key]

    def _segment(self, call: _Call, segment: Segment) -> Segment:
        """The latest answer of that name that had come when the call was sent, else the recorded text."""
        answers = self._answers.get((call.stretch, call.record.session, segment.segment_id), [])
        before = [one for one in answers if _ended_s(one) <= call.record.sent_s]
        if before:
            latest = max(before, key=_ended_s)
            return Segment(_answer_id(latest), latest.record.num_output_tokens)
        return replace(segment, segment_id=f"{call.stretch}: {segment.segment_id}")


def _one_after_the_other(calls: Sequence[_Call], prompts: _Prompts | None) -> list[Request]:
    """All stretches on one clock, in the order of the file."""
    stretches: dict[str, list[_Call]] = {}
    for call in calls:
        stretches.setdefault(call.stretch, []).append(call)
    requests, begin_s = [], 0.0
    for some in stretches.values():
        for call in some:
            record = call.record
            assert record.first_token_s is not None
            request = Request(
                id=call.id,
                prompt=prompts.segments(call) if prompts else (_length_only(call),),
                num_output_tokens=record.num_output_tokens,
                sent_s=begin_s + record.sent_s,
                first_token_s=begin_s + record.first_token_s,
                last_token_s=begin_s + _ended_s(call),
                answer_id=_answer_id(call),
            )
            requests.append(timed(call.where, request))
        begin_s = max(request.last_token_s for request in requests) + _GAP_S
    return requests


def _ended_s(call: _Call) -> float:
    assert call.record.finished_s is not None
    return call.record.finished_s


def _answer_id(call: _Call) -> str:
    return f"answer to {call.id}"


def _length_only(call: _Call) -> Segment:
    return Segment(f"prompt of {call.id}", call.record.num_prompt_tokens)


def _assumptions(header: Mapping[str, Any], calls: Sequence[_Call], prompts: _Prompts | None) -> tuple[str, ...]:
    found = [] if prompts else [LENGTHS_ONLY]
    cached = sum(call.record.num_cached_tokens or 0 for call in calls)
    if cached and not prompts:
        found.append(f"But the server found {cached} prompt tokens cached: give the traces as the workload.")
    if prompts and prompts.num_texts:
        found.append(f"{prompts.num_texts} calls were chats, of which only lengths are recorded.")
    if header.get("requests_of_others"):
        found.append(f"{header['requests_of_others']} requests of others were served meanwhile and are not simulated.")
    if header.get("degraded"):
        found.append("The run is marked degraded: calls were sent late.")
    return tuple(found)
