"""How long the prompts and answers of a trace's calls are, and which parts of them are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sim.chat import Message, Recorder, answer, prompts
from sim.otel.links import Node
from sim.otel.messages import Said
from sim.workflow import UNKNOWN, Segment

_OWN_ROLES = ("assistant", "model", "ai")


class Lengths:
    """The prompt and the answer of each call, by its number among the nodes, and what there is to note on them."""

    def __init__(self, nodes: Sequence[Node], recorder: Recorder, run: str) -> None:
        self._nodes, self._recorder, self._run = nodes, recorder, run
        self.outputs = {number: self._output(number) for number, node in enumerate(nodes) if node.is_call}
        self._texts = self._all_texts()
        self._lacks = {number: self._lack(number) for number in self._texts}
        self._fronts = self._all_fronts()
        self.prompts: dict[int, tuple[Segment, ...]] = {}
        for number in self.outputs:
            self.prompts[number] = self._filled(number) if number in self._texts else (self._opaque(number),)
        self.notes = tuple(self._all_notes())

    def _output(self, number: int) -> Segment:
        node = self._nodes[number]
        recorded = node.tokens.output
        if not node.text:
            return Segment(f"answer:{self._run}-{number}", max(1, recorded or 0))
        counted = answer(node.text, self._recorder.tokenizer)
        if recorded is None or max(1, recorded) == counted.num_tokens:
            return counted
        return Segment(f"{counted.segment_id}-{recorded}", max(1, recorded))

    def _all_texts(self) -> dict[int, tuple[Segment, ...]]:
        """What the messages of each call amount to, where it has any."""
        calls = [number for number, node in enumerate(self._nodes) if node.prompt]
        talks = [[_message(one) for one in self._nodes[number].prompt or ()] for number in calls]
        found = zip(calls, prompts(talks, self._recorder.tokenizer), strict=True)
        return {number: self._with_answers(number, segments) for number, segments in found}

    def _with_answers(self, number: int, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """Earlier answers as what was generated, if all of that was sent again."""
        generated = {
            answer(text, self._recorder.tokenizer).segment_id: self.outputs[other]
            for text, other in self._nodes[number].answers.items()
            if not self._nodes[other].tokens.hidden
        }
        return tuple(generated.get(segment.segment_id, segment) for segment in segments)

    def _lack(self, number: int) -> int | None:
        """Tokens by which the recorded prompt is longer than its messages."""
        recorded = self._nodes[number].tokens.prompt
        return None if recorded is None else recorded - sum(segment.num_tokens for segment in self._texts[number])

    def _opaque(self, number: int) -> Segment:
        return Segment(f"prompt:{self._run}-{number}", self._nodes[number].tokens.prompt or 1)

    def _filled(self, number: int) -> tuple[Segment, ...]:
        """The prompt with unknown text up to its recorded length.

        A prompt that goes on where an earlier one and its answer ended has the same unknown text as that one. Others
        have in front what all prompts of the agent lack. What is then missing is at the end.
        """
        text, lack = self._texts[number], max(0, self._lacks[number] or 0)
        before = self._continued(number, lack)
        if before is None:
            front = self._fronts.get(self._nodes[number].name, ()) if lack else ()
            filled, known = (*front, *text), sum(segment.num_tokens for segment in front)
        else:
            filled = (*self.prompts[before], *text[len(self._texts[before]) :])
            known = max(0, self._lacks[before] or 0)
        return (*filled, self._recorder.unknown(lack - known)) if lack > known else filled

    def _continued(self, number: int, lack: int) -> int | None:
        """The last call whose messages this one repeats, and which lacked no more."""
        text = self._texts[number]
        for other in sorted(set(self._nodes[number].answers.values()), reverse=True):
            before = self._texts.get(other, ())
            if before and text[: len(before)] == before and max(0, self._lacks[other] or 0) <= lack:
                return other
        return None

    def _all_fronts(self) -> dict[str, tuple[Segment, ...]]:
        common: dict[str, int] = {}
        for number, lack in self._lacks.items():
            if lack is not None:
                agent = self._nodes[number].name
                common[agent] = min(common.get(agent, lack), lack)
        return {
            agent: (Segment(f"{UNKNOWN}front:{self._run}:{agent}", lack),) for agent, lack in common.items() if lack > 0
        }

    def _all_notes(self) -> Iterator[str]:
        calls = len(self.outputs)
        lacks = [lack for lack in self._lacks.values() if lack]
        if opaque := calls - len(self._texts):
            yield f"OpenTelemetry: {opaque} of {calls} calls have no messages: their prompts share nothing"
        if longer := [lack for lack in lacks if lack > 0]:
            yield (
                f"OpenTelemetry: {len(longer)} of {calls} prompts were longer than their messages:"
                f" {sum(longer)} tokens are of unknown text"
            )
        if shorter := [lack for lack in lacks if lack < 0]:
            yield f"OpenTelemetry: the messages of {len(shorter)} of {calls} prompts count more than was recorded"
        tokens = [self._nodes[number].tokens for number in self.outputs]
        if cached := sum(one.cached for one in tokens):
            sent = sum(one.prompt or 0 for one in tokens)
            yield f"OpenTelemetry: the server read {cached} of {sent} recorded prompt tokens from its cache"


def _message(one: Said) -> Message:
    return Message("assistant" if one.role.lower() in _OWN_ROLES else one.role, one.text)
