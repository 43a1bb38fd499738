"""What several subcommands share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import click

from sim.data import embedded_path
from sim.tokens import estimated
from sim.traces import LoadOptions, LoadReport, read
from sim.traces.ag2 import HIDDEN_CALLS_ADDED
from sim.workflow import Workflow

_SHOWN = 5

hidden_calls_option = click.option(
    "--hidden-calls",
    is_flag=True,
    help="Add LLM calls that the framework made but its log does not show (AG2's speaker selection), estimated.",
)
traces_argument: Callable[[Any], Any] = click.argument("traces", nargs=-1, type=click.Path())


def read_traces(paths: Sequence[str], hidden_calls: bool = False) -> list[Workflow]:
    """The workflows of the paths, or the embedded ones; what was read and what was not goes to stderr."""
    options = LoadOptions(hidden_calls=hidden_calls)
    workflows, report = read(paths or [embedded_path()], options)
    tell(report, workflows, options)
    return workflows


def tell(report: LoadReport, workflows: Sequence[Workflow], options: LoadOptions) -> None:
    """Say what was read, what was skipped and why, and what the workflows leave open."""
    click.echo(f"read {report.line()}", err=True)
    for item in report.skipped[:_SHOWN]:
        click.echo(f"skipped {item.where}: {item.reason}", err=True)
    if len(report.skipped) > _SHOWN:
        reasons = Counter(item.reason for item in report.skipped[_SHOWN:])
        for reason, number in reasons.most_common():
            click.echo(f"skipped {number} more: {reason}", err=True)
    for note, number in Counter(note for workflow in workflows for note in workflow.notes).most_common():
        click.echo(f"note ({number} workflows): {note}", err=True)
    if number := estimated(workflows):
        click.echo(f"note ({number} workflows): token counts are estimated as characters / 4", err=True)
    if options.hidden_calls and not any(HIDDEN_CALLS_ADDED in workflow.notes for workflow in workflows):
        click.echo("--hidden-calls had no effect: give AG2's original files, with group chats", err=True)
