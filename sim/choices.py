"""What a study chooses where the traces leave it open: dependencies, parts not recorded, tool times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sim.tool_time import ToolTime, check_tools, with_tool_time
from sim.views import View, view
from sim.workflow import Call, Node, Workflow


@dataclass(frozen=True, slots=True)
class Choices:
    """``view``: which dependencies count. ``unknown_parts``: whether texts that were not recorded count, estimated.

    ``tool_times``: rules for tools; without any, recorded durations count and unknown ones are 0 s.
    """

    view: View = "visible"
    unknown_parts: bool = True
    tool_times: tuple[ToolTime, ...] = ()

    def apply(self, workflows: Sequence[Workflow], seed: int) -> list[Workflow]:
        """The workflows as chosen; drawn tool times depend on seed, workflow and tool only.

        Raises RunError for a rule for a tool that none of them has.
        """
        check_tools(self.tool_times, workflows)
        return [self._apply(workflow, seed) for workflow in workflows]

    @property
    def unknown(self) -> str:
        """What becomes of parts that were not recorded."""
        return "estimated" if self.unknown_parts else "none"

    @property
    def tools(self) -> str:
        """The rules for tool times, as they were typed."""
        return ", ".join(map(str, self.tool_times)) or "recorded"

    def to_json(self) -> dict[str, Any]:
        """For provenance."""
        return {"view": self.view, "unknown_parts": self.unknown, "tool_time": self.tools}

    def _apply(self, workflow: Workflow, seed: int) -> Workflow:
        workflow = view(workflow, self.view)
        if not self.unknown_parts:
            workflow = without_unknown(workflow)
        return with_tool_time(workflow, self.tool_times, seed)

    def __str__(self) -> str:
        return f"dependencies: {self.view}; parts not recorded: {self.unknown}; tool time: {self.tools}"


DEFAULT = Choices()


def without_unknown(workflow: Workflow) -> Workflow:
    """The workflow with only what was recorded: a lower bound. An answer of unknown length has one token."""
    nodes = tuple(_recorded_part(node) for node in workflow.nodes)
    outputs = dict(workflow.tape.output_tokens)
    for call in workflow.calls:
        if call.answer_is_unknown:
            outputs[call.id] = 1
    return replace(workflow, nodes=nodes, tape=replace(workflow.tape, output_tokens=outputs))


def unknown_tokens(workflow: Workflow) -> tuple[int, int]:
    """How many of its prompt tokens, and of its output tokens, are estimates of what was not recorded."""
    prompts = sum(segment.num_tokens for call in workflow.calls for segment in call.prompt if segment.is_unknown)
    outputs = sum(workflow.tape.output_tokens[call.id] for call in workflow.calls if call.answer_is_unknown)
    return prompts, outputs


def _recorded_part(node: Node) -> Node:
    if not isinstance(node, Call):
        return node
    known = tuple(segment for segment in node.prompt if not segment.is_unknown)
    # A prompt of which nothing was recorded keeps a token: an engine takes none without.
    return replace(node, prompt=known or (replace(node.prompt[0], num_tokens=1),))
