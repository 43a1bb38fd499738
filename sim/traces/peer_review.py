"""Multi-Agent-Peer-Review: JSON whose ``trajectory`` has one conversation {role, content} per agent, "0", "1", "2".

The prompts are exact. Each agent answers, reviews the answer of each other agent, and revises its own: 12 calls. The
file lists agent after agent; the log order here is round after round, which the dependencies allow.

Dependencies, all visible: a call reads its own history, and every answer of another agent that is quoted word for word
in the message before it: from "another agent:" or "agent feedback:" up to an empty line, or anywhere if it is too long
to stand there by chance. Equal answers of two agents cannot be told apart; both count as read. Not recorded: times,
token counts. Whether the run succeeded is not said: each agent's last answer is judged by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sim.chat import Message, Recorder, prompt
from sim.errors import TraceError
from sim.masft import labels
from sim.traces import Document, LoadOptions, Skipped, identifier
from sim.workflow import Edge, Workflow

FRAMEWORK = "Peer-Review"

#: Characters from which on an answer cannot occur in a message by chance.
_LONG = 50

Place = tuple[int, str]


def looks_like(document: Document) -> bool:
    """A trajectory that is one conversation per numbered agent."""
    data = document.data
    trajectory = data.get("trajectory") if isinstance(data, dict) and "instance_id" in data else None
    return isinstance(trajectory, dict) and bool(trajectory) and all(name.isdigit() for name in trajectory)


def load(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflow of one debate."""
    data = document.data
    talks = {agent: _talk(agent, messages) for agent, messages in data["trajectory"].items()}
    recorder = Recorder(options.tokenizer)
    calls: dict[Place, str] = {}
    for place in _rounds(talks):
        number, agent = place
        history = talks[agent][:number]
        calls[place] = recorder.call(f"agent-{agent}", prompt(history, options.tokenizer), talks[agent][number].text)
        sources = _sources(talks, place, [earlier for earlier in calls if earlier != place])
        recorder.edges += [Edge(calls[source], calls[place], "visible") for source in sources]
    yield recorder.workflow(
        f"peer-review/{document.name}", FRAMEWORK, identifier(data["instance_id"], "the instance"), labels=labels(data)
    )


def _talk(agent: str, messages: Any) -> list[Message]:
    if not isinstance(messages, list):
        raise TraceError(f"agent {agent} has no list of messages")
    talk = []
    for number, message in enumerate(messages):
        role, text = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ("system", "user", "assistant") or not isinstance(text, str):
            raise TraceError(f'agent {agent}, message {number}: needs a "role" (user, assistant) and a text "content"')
        talk.append(Message(role, text))
    return talk


def _rounds(talks: dict[str, list[Message]]) -> Iterator[Place]:
    """(index of the message, agent) of every call: first answers of all agents, then their second ones, .."""
    for number in range(max(map(len, talks.values()))):
        for agent, talk in talks.items():
            if number < len(talk) and talk[number].role == "assistant":
                yield number, agent


def _sources(talks: dict[str, list[Message]], place: Place, earlier: list[Place]) -> list[Place]:
    """The calls that a call reads: its agent's last one, and answers quoted in the messages since."""
    number, agent = place
    own = [index for index, who in earlier if who == agent]
    since = "\n".join(message.text for message in talks[agent][own[-1] + 1 if own else 0 : number])
    quoted = [(index, who) for index, who in earlier if who != agent and _quotes(since, talks[who][index].text.strip())]
    return [(own[-1], agent), *quoted] if own else quoted


def _quotes(message: str, answer: str) -> bool:
    """Whether the answer stands in the message, and not only its letters."""
    if len(answer) >= _LONG:
        return answer in message
    place = rf"(another agent|agent feedback):\s+{re.escape(answer)}\s*(\n\n|$)"
    return bool(answer) and re.search(place, message) is not None
