"""Dynamo's ``agentic_mooncake``, version 2: the sessions of one run as work to replay, lengths and hash ids only.

A header line, then a request per call of the workflows (`sim.traces.agentic_mooncake` describes and reads the form). A
session is a play, its agents are the play's sessions. What a call waits for, directly or through tools, is a dependency
on completion, with the tools' seconds as its delay; what comes before the first call is in ``not_before_ms``, with the
arrival. Of the run itself only the arrivals count: this form has no times of calls.

A hash id stands for ``block_size`` tokens (the engine's) and all before them, the last of a prompt for what is left.
Relations, which do not change what waits: ``sequence`` after a call of the same agent, ``join`` where a call waits for
several, else ``spawn``. Lost: kinds of edges, tools after the last call, and the ids of answers no prompt repeats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

from sim.export import Result, Written
from sim.export._waits import BEGIN, waits
from sim.record import SessionRecord
from sim.workflow import Call, Segment, Workflow

USES_WORKFLOWS = True

_BLOCK = 16
#: Characters that readers take for a name.
_NAME = 100
Row = dict[str, Any]


def write(result: Result) -> Written:
    """JSON lines."""
    part = result.only
    settings = result.provenance.get("engine_settings", result.provenance)
    block = settings.get("block_size") or _BLOCK
    header = {
        "schema": "dynamo.agentic_mooncake",
        "version": 2,
        "block_size": block,
        "hash_id_scope": "local",
        "source": {"format": "workspan", "digest": result.provenance["workflows_digest"]},
    }
    sessions = result.played(sorted(part.timeline.sessions, key=lambda one: one.session))
    rows = chain([header], _rows([*sessions], result.model, _Blocks(block)))
    return Written({"agentic_mooncake.jsonl": (json.dumps(row) + "\n" for row in rows)})


def _rows(sessions: Sequence[tuple[SessionRecord, Workflow]], model: str, blocks: _Blocks) -> Iterator[Row]:
    for session, workflow in sessions:
        play = _short(f"{session.session} {workflow.id}", str(session.session))
        names = {
            call.id: _short(f"{session.session}/{call.id}", f"{session.session}/{number}")
            for number, call in enumerate(workflow.calls)
        }
        sources = waits(workflow)
        for call in workflow.calls:
            begin_s = sources[call.id].get(BEGIN)
            is_root = begin_s is not None or not sources[call.id]
            yield {
                "request_id": names[call.id],
                "play_id": play,
                "session_id": call.agent[:_NAME],
                "model": model,
                "input_length": call.num_prompt_tokens,
                "output_length": workflow.tape.output_tokens[call.id],
                "hash_ids": blocks.of(call),
                "not_before_ms": (session.arrived_s + (begin_s or 0.0)) * 1000 if is_root else 0,
                "dependencies": _dependencies(workflow, call, sources[call.id], names),
            }


def _short(name: str, number: str) -> str:
    return name if len(name) <= _NAME else number


def _dependencies(workflow: Workflow, call: Call, sources: Mapping[str, float], names: Mapping[str, str]) -> list[Row]:
    agents = {one.id: one.agent for one in workflow.calls}
    several = len(sources.keys() - {BEGIN}) > 1
    return [
        {
            "request_id": names[source],
            "trigger": "completion",
            "delay_ms": seconds * 1000,
            "relation": "sequence" if agents[source] == call.agent else "join" if several else "spawn",
        }
        for source, seconds in sources.items()
        if source != BEGIN
    ]


class _Blocks:
    """Numbers for blocks of tokens: equal where the tokens, and all before them, are equal."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[tuple[int, tuple[tuple[str, int, int], ...]], int] = {}

    def of(self, call: Call) -> list[int]:
        """A number for each block of the prompt."""
        found, before = [], 0
        for block in _cut(call.prompt, call.num_prompt_tokens, self._size):
            before = self._known.setdefault((before, block), len(self._known) + 1)
            found.append(before)
        return found


def _cut(prompt: tuple[Segment, ...], length: int, size: int) -> Iterator[tuple[tuple[str, int, int], ...]]:
    """The blocks of a prompt, each as its parts: segment, first token and end in it."""
    parts, place, bounds = iter(_parts(prompt)), 0, [*range(0, length, size), length]
    part = next(parts)
    for begin, end in pairwise(bounds):
        block = []
        while place < end:
            name, first, last = part
            taken = min(last, first + end - place)
            block.append((name, first, taken))
            place += taken - first
            part = (name, taken, last) if taken < last else next(parts, part)
        assert begin < end
        yield tuple(block)


def _parts(prompt: tuple[Segment, ...]) -> list[tuple[str, int, int]]:
    return [(segment.segment_id, 0, segment.num_tokens) for segment in prompt]
