"""What a set of workflows is like, framework by framework: sizes, prefix reuse, tools, work / span, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.bounds import least_times_s
from sim.choices import unknown_tokens
from sim.latency import Profile
from sim.views import VIEWS, View, view
from sim.workflow import CLIENT, Segment, Workflow

ALL = "all"


def stats(workflows: Sequence[Workflow], profile: Profile) -> dict[str, dict[str, Any]]:
    """Framework -> its numbers, and those of all together under "all" where there are several.

    Percentiles are over workflows for calls and tools, over calls for tokens. ``work_span`` is pooled work / pooled
    span per view, in calls and in seconds at best-case times on the profile's engine.
    """
    groups = {name: [one for one in workflows if one.framework == name] for name in sorted(_frameworks(workflows))}
    if len(groups) > 1:
        groups[ALL] = list(workflows)
    times = {workflow.id: least_times_s(workflow, profile) for workflow in workflows}
    return {name: _group(group, times) for name, group in groups.items()}


def prefix_reuse(workflow: Workflow) -> int:
    """Prompt tokens that an earlier prompt of the workflow, with its answer, begins with: an infinite cache's hits."""
    tree: dict[tuple[int, Segment], int] = {}
    reused = 0
    for call in workflow.calls:
        answer = Segment(call.answer_id, workflow.tape.output_tokens[call.id])
        path, known = 0, True
        for place, segment in enumerate((*call.prompt, answer)):
            known = known and (path, segment) in tree
            path = tree.setdefault((path, segment), len(tree) + 1)
            reused += segment.num_tokens if known and place < len(call.prompt) else 0
    return reused


def _frameworks(workflows: Sequence[Workflow]) -> set[str]:
    return {workflow.framework for workflow in workflows}


def _group(workflows: Sequence[Workflow], times: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    calls = [(workflow, call) for workflow in workflows for call in workflow.calls]
    prompts = [call.num_prompt_tokens for _, call in calls]
    outputs = [workflow.tape.output_tokens[call.id] for workflow, call in calls]
    unknown = [unknown_tokens(workflow) for workflow in workflows]
    tools = [[tool for tool in workflow.tools if tool.name != CLIENT] for workflow in workflows]
    seconds = [workflow.tape.tool_s[tool.id] for workflow, some in zip(workflows, tools, strict=True) for tool in some]
    labelled = [workflow for workflow in workflows if workflow.labels]
    return {
        "workflows": len(workflows),
        "calls": {"sum": len(calls), **_percentiles([len(workflow.calls) for workflow in workflows])},
        "prompt_tokens": {"sum": sum(prompts), **_percentiles(prompts)},
        "output_tokens": {"sum": sum(outputs), **_percentiles(outputs)},
        "unknown_prompt_share": sum(one for one, _ in unknown) / sum(prompts),
        "unknown_output_share": sum(one for _, one in unknown) / sum(outputs),
        "prefix_reuse": sum(map(prefix_reuse, workflows)) / sum(prompts),
        "tools": {"sum": sum(map(len, tools)), **_percentiles(list(map(len, tools)))},
        "tools_of_unknown_duration": seconds.count(None),
        "tool_s": sum(filter(None, seconds)),
        "client_s": sum(
            workflow.tape.tool_s[tool.id] or 0.0
            for workflow in workflows
            for tool in workflow.tools
            if tool.name == CLIENT
        ),
        "work_span": {name: _work_span(workflows, name, times) for name in VIEWS},
        "success": Counter(str(workflow.success).lower() for workflow in workflows),
        "labelled": len(labelled),
        "failure_modes": dict(
            Counter(label for one in labelled for label, present in one.labels.items() if present).most_common()
        ),
        "tokenizers": sorted({workflow.tokenizer for workflow in workflows}),
    }


def _work_span(workflows: Sequence[Workflow], name: View, times: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    seen = [view(workflow, name) for workflow in workflows]
    work_s, span_s = (
        sum(getattr(workflow, what)(times[workflow.id]) for workflow in seen) for what in ("work", "span")
    )
    return {
        "calls": sum(workflow.work() for workflow in seen) / sum(workflow.span() for workflow in seen),
        "seconds": work_s / span_s,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, (50, 95)).tolist() if values else (0.0, 0.0)
    return {"p50": p50, "p95": p95, "max": max(values, default=0)}
