"""`workspan failures`: what runs that fail cost, and what stopping them early could save at best."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.table import Table

from sim.choices import Choices
from sim.commands.common import (
    choice_options,
    profile_option,
    read_traces,
    reading_options,
    traces_argument,
    view_option,
)
from sim.comparison import digest
from sim.failure_cost import TIMES, failure_costs
from sim.failures import title
from sim.latency import Profile, load_profile
from sim.metrics import percent
from sim.report import console, new_table, not_counted, not_recorded
from sim.stats import ALL
from sim.traces import LoadOptions
from sim.trust import profile_title
from sim.workflow import Workflow, origin_of


@click.command()
@traces_argument
@profile_option
@view_option
@choice_options
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def command(traces: tuple[str, ...], profile: str, choices: Choices, options: LoadOptions, as_json: bool) -> None:
    """What runs of TRACES, or embedded ones, cost that fail: tokens and GPU-seconds by framework and failure mode.

    And how much of that comes after the first sign of step repetition: all that stopping such runs could save.

    \b
    workspan failures --only 'ag2/*'
    """
    settings = load_profile(profile)
    workflows = choices.apply(read_traces(traces, options, brief=True), seed=0)
    costs = failure_costs(workflows, settings)
    if as_json:
        facts = {
            "profile": profile_title(settings),
            "workflows": len(workflows),
            "workflows_digest": digest(workflows),
            **choices.to_json(),
        }
        click.echo(json.dumps({**facts, **costs}, indent=2, allow_nan=False))
    else:
        _print(costs, workflows, settings, choices)


def _print(costs: dict[str, Any], workflows: Sequence[Workflow], profile: Profile, choices: Choices) -> None:
    out = console()
    out.print(_outcomes(costs["outcomes"]))
    for part in (_modes(costs["modes"]), _repetition(costs["step_repetition"])):
        if part.row_count:
            out.print(part)
    for line in _sentences(costs, workflows, profile, choices):
        out.print(line)


def _outcomes(groups: dict[str, dict[str, Any]]) -> Table:
    table = new_table(
        "runs that failed",
        "runs",
        "outcome known",
        "failed",
        "their tokens",
        "their output tokens",
        "their GPU-seconds",
        "outcome unknown, shows a mode",
    )
    for name, group in groups.items():
        cost, share = group["cost_of_failed"], group["share_of_known"]
        table.add_row(
            name,
            f"{group['runs']:,}",
            f"{group['outcome_known']:,}",
            f"{group['failed']:,} ({percent(group['failed_share'])})" if cost else "-",
            *(_amounts(cost, share) if cost else "---"),
            f"{group['outcome_unknown_but_shows_a_mode']:,}",
        )
    return table


def _modes(groups: dict[str, dict[str, Any]]) -> Table:
    names = ("labelled runs that show a failure mode", "", "runs", "tokens", "output tokens", "GPU-seconds")
    table = new_table(*(f"\n{name}" for name in names), left=2)
    for framework, group in groups.items():
        for mode, row in group["modes"].items():
            runs = f"{row['runs']:,} of {group['labelled']:,}"
            table.add_row(framework, title(mode), runs, *_amounts(row["cost"], row["share_of_labelled"]))
    return table


def _repetition(groups: dict[str, dict[str, Any]]) -> Table:
    """Only rows where the rule warned of a run."""
    names = (
        "step repetition: same answer",
        "times",
        "runs warned of",
        "fail / succeed / unknown",
        "precision",
        "recall",
        "label 1.3: precision",
        "recall",
        "tokens after: of warned failing runs",
        "of all failing runs",
    )
    table = new_table(*(f"\n{name}" for name in names))
    for framework, rows in groups.items():
        for times, row in rows.items():
            if row["warned"]:
                seen = row["against_failure"]
                table.add_row(
                    framework,
                    times,
                    f"{row['warned']:,} of {row['runs']:,}",
                    f"{seen['right']:,} / {seen['wrong']:,} / {seen['unknown']:,}",
                    *_quality(seen),
                    *_quality(row["against_label_1.3"]),
                    percent(row["share_of_failing_warned"]["tokens"]),
                    percent(row["share_of_failing"]["tokens"]),
                )
    return table


def _sentences(
    costs: dict[str, Any], workflows: Sequence[Workflow], profile: Profile, choices: Choices
) -> Iterator[str]:
    yield ""
    yield "Failed: by the recorded outcome; shares are of the runs with a known outcome. A failure mode is no outcome."
    if names := _without(costs["outcomes"], "outcome_known"):
        yield f"No outcome is known: {names}."
    if any(group["labelled"] for group in costs["modes"].values()):
        yield "A run can show several modes, so they overlap; shares are of the framework's labelled runs."
    if names := _without(costs["modes"], "labelled"):
        yield f"No labels: {names}."
    yield (
        "GPU-seconds: the sum over LLM calls of their least time alone, at batch size 1 with every reusable prefix "
        f"cached, on {profile_title(profile)}; tools are not in it, and a full batch spends less on each call."
    )
    yield "Tokens: prompts and answers, each prompt counted whole."
    if any(row["warned"] for rows in costs["step_repetition"].values() for row in rows.values()):
        yield (
            "Step repetition: warns when an agent has given the same answer so many times. A run fails or succeeds by "
            "its outcome; where that is unknown it fails if labelled with a mode. Precision needs runs that succeed. "
            "What comes after the warning is the most that aborting such runs could save."
        )
    else:
        yield f"Step repetition: in no run does an agent give the same answer {TIMES[0]} times."
    yield f"{str(choices).capitalize()}."
    yield from not_recorded(workflows)
    yield from not_counted(workflows)
    if (originals := len({origin_of(workflow.id) for workflow in workflows})) < len(workflows):
        yield f"{len(workflows)} workflows are copies of {originals}."


def _without(groups: dict[str, dict[str, Any]], key: str) -> str:
    return ", ".join(name for name, group in groups.items() if not group[key] and name != ALL)


def _quality(row: dict[str, Any]) -> tuple[str, str]:
    """Precision and recall; few runs are behind some, so the counts stand beside them."""
    right = row["right"]
    pairs = ((row["precision"], right + row["wrong"]), (row["recall"], right + row["missed"]))
    precision, recall = ("-" if share is None else f"{share:.1%} ({right} of {whole})" for share, whole in pairs)
    return precision, recall


def _amounts(cost: dict[str, float], share: dict[str, float | None]) -> list[str]:
    return [f"{_number(cost[key])} ({percent(share[key])})" for key in ("tokens", "output_tokens", "gpu_s")]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
