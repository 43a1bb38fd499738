"""How ChatDev's clients made prompts of a phase's messages.

The assistant's prompt is its system message, the phase's first message and all answers so far; the user's begins with
its own system message and has the first message as its own. What is sent depends on the server:

* an API gets messages with roles.
* a server that completes a string gets ``System: ..``, ``User: ..``, ``Assistant: ..``, every own answer twice, and a
  last line that no later prompt has: later prompts have the answer in another place than the cache.
* Code Llama gets ``[INST] .. [/INST]`` for others' messages, own answers twice, and no last line. Its blanks are
  assumed: one line feed after each message, so that a later prompt goes on where the answer ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.chat import CHAT, Message, Wrapping
from sim.chatdev_log import Log, Start, Turn
from sim.errors import TraceError
from sim.workflow import Segment

#: In one phase. ChatDev stops at 20 answers; each prompt repeats all before it.
_MAX_MESSAGES = 1000

_NOTHING = Wrapping((), ())
_LINE = Wrapping((), (Segment("chat:line feed", 1),))
_LAST = Message("text", "Assistant: Let me think about this step by step and provide a thoughtful response.\n\n")


@dataclass(frozen=True, slots=True)
class Client:
    """``form`` is for messages of others, and for own ones if ``keeps_answers`` is false: then none is sent as it was.

    Of a prompt of more than ``limit`` tokens the client dropped messages.
    """

    wrapping: Wrapping = CHAT
    form: str = "{text}"
    keeps_answers: bool = True
    num_own: int = 1
    last: tuple[Message, ...] = ()
    limit: int | None = None

    def other(self, role: str, text: str, task: str = "") -> Message:
        """A message of somebody else. Runs share a system message up to the task."""
        whole = self.form.format(role=role.capitalize(), text=text)
        before, found, _ = whole.partition(task) if task else ("", "", "")
        return Message(role, whole, template=before if found else "")

    def own(self, text: str) -> Message:
        """A message of the one who is asked."""
        return Message("assistant", text) if self.keeps_answers else self.other("Assistant", text)


_API = Client()
# The context has 30,208 tokens, of which 100 are kept free.
_STRING = Client(_NOTHING, "{role}: {text}\n\n", keeps_answers=False, num_own=2, last=(_LAST,), limit=30_108)
_CODE_LLAMA = Client(_LINE, "[INST] {text} [/INST]", num_own=2)


def client_of(log: Log) -> Client:
    """The client that wrote the log."""
    if not log.is_flat:
        return _API
    return _CODE_LLAMA if "LLAMA" in log.model else _STRING


def conversations(log: Log, client: Client) -> Iterator[Sequence[Message]]:
    """The messages of each prompt. Raises TraceError for an answer to nothing."""
    start: Start | None = None
    assistant: list[Message] = []
    user: list[Message] = []
    for event in log.events:
        if isinstance(event, Start):
            start = event
            assistant = [client.other("system", start.system, log.task), client.other("user", start.prompt)]
            user = []
        elif isinstance(event, Turn):
            if start is None or not (event.is_assistant or user):
                raise TraceError(f"phase {event.phase}: {event.agent} answers before it was asked; copy the log again")
            if len(assistant) + len(user) > _MAX_MESSAGES:
                raise TraceError(f"phase {event.phase}: more than {_MAX_MESSAGES} messages; leave the file out")
            if not user:  # the log shows the user's system message where it hears its first answer
                user = [client.other("system", event.system, log.task), client.own(start.prompt)]
            speaker, listener = (assistant, user) if event.is_assistant else (user, assistant)
            yield (*speaker, *client.last)
            speaker += [client.own(event.answer)] * client.num_own
            listener.append(client.other("user", event.answer))
