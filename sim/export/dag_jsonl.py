"""AIPerf's ``dag_jsonl``: a workflow as rounds of conversations, where that is what it is.

A session is a request-less orchestrator whose rounds wait for one another, and in each round a conversation of one turn
per call. This says that all calls of a level wait for all of the level before, and for equally long tools between them
(``think_time_ms``, which comes before its round), and no more. A session of which this is not true is left out.

AIPerf sends texts, a trace has lengths: a prompt is made of filler, for each token one of some common English words,
drawn by segment, so that prompts share their beginnings as far as segments agree. How many tokens that is in the end is
for the server's tokenizer to say; answers are held to their length (``max_tokens``, ``min_tokens``, ``ignore_eos``).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sim.errors import RunError
from sim.export import Result, Written
from sim.export._waits import BEGIN, waits
from sim.workflow import Call, Workflow

USES_WORKFLOWS = True

_WORDS = (
    "the of and to in is that it was for on are as with his they at be this have from or one had by word but not what"
    " all were we when your can said there use an each which she do how their if will up other about out many then them"
    " these so some her would make like him into time"
)
_ROUNDING_S = 1e-9
_TOO_MUCH = "AIPerf's rounds cannot say what calls wait for"
Level = tuple[list[Call], float]


def write(result: Result) -> Written:
    """A line per conversation."""
    sessions = sorted(result.only.timeline.sessions, key=lambda one: one.session)
    found = {one.session: levels(workflow) for one, workflow in result.played(sessions)}
    if not any(found.values()):
        raise RunError(f"{result.where}: {_TOO_MUCH} of any session; export agentic_mooncake, which can")
    lines = (
        json.dumps(row) + "\n"
        for session, workflow in result.played(sessions)
        for row in _conversations(str(session.session), workflow, found[session.session] or [])
    )
    left_out = sum(one is None for one in found.values())
    notes = [f"{left_out} of {len(found)} sessions are left out: {_TOO_MUCH}"] if left_out else []
    return Written({"dag.jsonl": lines}, notes)


def levels(workflow: Workflow) -> list[Level] | None:
    """The calls level by level, each level with the seconds of tools before it; None where it takes more to say."""
    rows: defaultdict[int, list[Call]] = defaultdict(list)
    sources, depth = waits(workflow), dict[str, int]()
    for name in (name for name in workflow.order if name in sources):
        depth[name] = 1 + max((depth[source] for source in sources[name] if source != BEGIN), default=-1)
    for call in workflow.calls:
        rows[depth[call.id]].append(call)
    found: list[Level] = []
    for number in range(len(rows)):
        before = {call.id for call in rows[number - 1]} if number else set()
        tools = _tools_between(before, [sources[call.id] for call in rows[number]])
        if tools is None:
            return None
        found.append((rows[number], tools))
    return found


def _tools_between(before: set[str], sources: Sequence[Mapping[str, float]]) -> float | None:
    """The seconds that all of a level wait after all of the level before; None where it is not as simple as that."""
    wanted = before or {BEGIN}
    known = sources if before else [{BEGIN: one.get(BEGIN, 0.0)} for one in sources]
    seconds = [one[name] for one in known for name in wanted if name in one]
    if len(seconds) < len(wanted) * len(known) or max(seconds) - min(seconds) > _ROUNDING_S:
        return None
    # What is further back has ended before the level before began, so it counts only if its tools take longer.
    others = (value for one in known for name, value in one.items() if name not in wanted)
    return max(seconds) if max(others, default=0.0) <= max(seconds) + _ROUNDING_S else None


def _conversations(play: str, workflow: Workflow, found: Sequence[Level]) -> Iterator[dict[str, Any]]:
    if not found:
        return
    names = {call.id: f"{play}/{call.agent}/{call.id}" for call in workflow.calls}
    yield {
        "session_id": play,
        "orchestrator": True,
        "rounds": [
            {"spawns": [names[call.id] for call in calls], "think_time_ms": seconds * 1000} for calls, seconds in found
        ],
    }
    for call in workflow.calls:
        output = workflow.tape.output_tokens[call.id]
        turn = {
            "messages": [{"role": "user", "content": _text(call)}],
            "max_tokens": output,
            "extra": {"min_tokens": output, "ignore_eos": True},
        }
        context = "message_array_with_responses"
        yield {"session_id": names[call.id], "context_mode": context, "turns": [turn]}


def _text(call: Call) -> str:
    return " ".join(_filler(segment.segment_id, segment.num_tokens) for segment in call.prompt)


@lru_cache(maxsize=256)
def _filler(segment: str, tokens: int) -> str:
    """Words drawn by the segment's name."""
    words = _WORDS.split()
    drawn = hashlib.shake_256(segment.encode()).digest(tokens)
    return " ".join(words[byte % len(words)] for byte in drawn)
