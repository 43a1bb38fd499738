"""How long tools take of which nobody recorded it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.errors import RunError, nearest
from sim.load import generator
from sim.workflow import MAX_TOOL_S, Workflow

_FORM = "give recorded, none, constant:S or lognormal:mean=S,sigma=X, with a tool's name and = before it if you like"

Fill = Callable[[np.random.Generator], float]


@dataclass(frozen=True, slots=True)
class ToolTime:
    """One rule, as it was typed, for the tools of one name or for all (``tool`` None).

    recorded: a recorded duration, unknown ones count as 0 s. none: 0 s for all, recorded or not. constant and
    lognormal: a recorded duration where there is one, else S seconds, or one drawn with that mean (sigma: standard
    deviation of the logarithm).
    """

    text: str
    tool: str | None
    fill: Fill | None
    keeps_recorded: bool = True

    def __str__(self) -> str:
        return self.text


RECORDED = ToolTime("recorded", None, None)


def parse_tool_time(text: str) -> ToolTime:
    """``[TOOL=]recorded|none|constant:S|lognormal:mean=S,sigma=X``. Raises RunError."""
    kind, _, values = text.partition(":")
    tool, named, kind = kind.rpartition("=")
    fills = {"recorded": (None, True), "none": (lambda rng: 0.0, False)}
    if kind in fills and not values:
        fill, keeps = fills[kind]
    elif kind == "constant":
        fill, keeps = _constant(text, values), True
    elif kind == "lognormal":
        fill, keeps = _lognormal(text, values), True
    else:
        raise RunError(f"--tool-time {text}: {_FORM}")
    if named and not tool:
        raise RunError(f"--tool-time {text}: no tool's name before the =; {_FORM}")
    return ToolTime(text, tool or None, fill, keeps)


def parse_tool_times(texts: Sequence[str]) -> tuple[ToolTime, ...]:
    """Several rules, at most one for all tools and one for each name. Raises RunError."""
    rules = tuple(map(parse_tool_time, texts))
    tools = [rule.tool for rule in rules]
    for tool in tools:
        if tools.count(tool) > 1:
            raise RunError(
                f"--tool-time: {tool or 'all tools'} given twice; give one rule for each name and one for all"
            )
    return rules


def check_tools(rules: Sequence[ToolTime], workflows: Sequence[Workflow]) -> None:
    """Raise RunError for a rule for a tool that no workflow has."""
    if names := [rule.tool for rule in rules if rule.tool]:
        known = {tool.name for workflow in workflows for tool in workflow.tools}
        for name in names:
            if name not in known:
                raise RunError(f"--tool-time {name}=..: no workflow has such a tool{nearest(name, known)}")


def with_tool_time(workflow: Workflow, rules: Sequence[ToolTime], seed: int) -> Workflow:
    """The workflow with tool times as the rules say; a drawn one depends on seed, workflow and tool only."""
    by_name: Mapping[str | None, ToolTime] = {rule.tool: rule for rule in rules}
    if not by_name:
        return workflow
    seconds = dict(workflow.tape.tool_s)
    for tool in workflow.tools:
        rule = by_name.get(tool.name, by_name.get(None, RECORDED))
        if rule.fill and (seconds[tool.id] is None or not rule.keeps_recorded):
            rng = generator(seed, f"time of {tool.id} of {workflow.id}")
            seconds[tool.id] = min(rule.fill(rng), MAX_TOOL_S)
    return replace(workflow, tape=replace(workflow.tape, tool_s=seconds))


def _constant(text: str, value: str) -> Fill:
    seconds = _number(text, value, MAX_TOOL_S)
    return lambda rng: seconds


def _lognormal(text: str, values: str) -> Fill:
    pairs = [item.partition("=")[::2] for item in values.split(",")]
    given = dict(pairs)
    if set(given) != {"mean", "sigma"} or len(pairs) > 2:
        raise RunError(f"--tool-time {text}: lognormal needs mean=S and sigma=X")
    mean, sigma = _number(text, given["mean"], MAX_TOOL_S), _number(text, given["sigma"], 5)
    if mean <= 0:
        raise RunError(f"--tool-time {text}: the mean must be above 0 s")
    location = math.log(mean) - sigma**2 / 2
    return lambda rng: float(rng.lognormal(location, sigma))


def _number(text: str, value: str, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise RunError(f"--tool-time {text}: {value!r} is not a number from 0 to {most:g}")
    return number
