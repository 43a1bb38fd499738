"""Many workflows like recorded ones: whole workflows drawn again and again (a bootstrap).

Two copies of one run must not share the KV of their whole conversation, as two real runs never would. So a copy gives
new names to all that belongs to its run alone: to every answer, and to every other segment that occurs in no other
workflow of the source. What runs have in common keeps its name: system prompts, templates, a task that was run more
than once. Names that say that they are of a framework's system prompt or of the chat template are kept even where the
source has a single such run; what else that run has in common with others cannot be known.

Copies of one run are no independent runs: the interval of a speed-up counts them as one. When the run began says
nothing of when a copy would have: it has no recorded arrival.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from sim.errors import RunError
from sim.load import generator
from sim.workflow import COPY, UNKNOWN, Call, Node, Segment, Workflow

_IN_COMMON = ("system:", f"{UNKNOWN}system:", "chat:", "synthetic:")


def resample(workflows: Sequence[Workflow], number: int, seed: int) -> list[Workflow]:
    """``number`` workflows drawn with replacement; the i-th, from 0, has ``#i`` after its id.

    The same in every process; the first ones are the same whatever the number.
    """
    if number < 1 or not workflows:
        raise RunError(f"{number} of {len(workflows)} workflows: give 1 or more, of 1 or more")
    shared = _shared(workflows)
    drawn = generator(seed, "resampled workflows").integers(len(workflows), size=number)
    return [_copy(workflows[int(index)], f"{COPY}{place}", shared) for place, index in enumerate(drawn)]


def _shared(workflows: Sequence[Workflow]) -> set[str]:
    """The names of segments that occur in the prompts of more than one workflow."""
    seen: set[str] = set()
    shared: set[str] = set()
    for workflow in workflows:
        names = {segment.segment_id for call in workflow.calls for segment in call.prompt}
        shared |= names & seen
        seen |= names
    return shared


def _copy(workflow: Workflow, suffix: str, shared: set[str]) -> Workflow:
    """The workflow under a new id, with new names for what is its own."""
    lengths = {segment.segment_id: segment.num_tokens for call in workflow.calls for segment in call.prompt}
    own = {name for name in lengths if name not in shared and not name.startswith(_IN_COMMON)}
    answers = {call.answer_id: workflow.tape.output_tokens[call.id] for call in workflow.calls}
    lengths |= answers
    new = {name: Segment(name + suffix, lengths[name]) for name in own | answers.keys()}
    nodes = tuple(_renamed(node, new) for node in workflow.nodes)
    # As valid as the original, and with the same graph: nothing is checked and computed again.
    copied = copy.copy(workflow)
    vars(copied).update(id=workflow.id + suffix, nodes=nodes, began_s=None)
    vars(copied).pop("calls", None)
    return copied


def _renamed(node: Node, new: Mapping[str, Segment]) -> Node:
    if not isinstance(node, Call):
        return node
    prompt = tuple([new.get(segment.segment_id, segment) for segment in node.prompt])
    return Call(node.id, node.agent, prompt, new[node.answer_id].segment_id)
