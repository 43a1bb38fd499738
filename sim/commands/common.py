"""What several subcommands share."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from sim.choices import Choices
from sim.commands.complete import policy_names, profile_names
from sim.data import embedded_path
from sim.errors import RunError
from sim.fleet import MOST_REPLICAS, fleet_of, load_fleet
from sim.latency import DEFAULT_PROFILE, load_profile
from sim.load import Alone, ConcurrentSessions, Load, SessionRate
from sim.tokens import ESTIMATED, estimated, tokenizer
from sim.tool_time import parse_tool_times
from sim.traces import LoadOptions, LoadReport, read
from sim.traces.ag2 import HIDDEN_CALLS_ADDED
from sim.views import VIEWS, View
from sim.workflow import Workflow

_SHOWN = 5

F = TypeVar("F", bound=Callable[..., Any])

traces_argument: Callable[[Any], Any] = click.argument("traces", nargs=-1, type=click.Path())
profile_option: Callable[[Any], Any] = click.option(
    "--profile",
    default=DEFAULT_PROFILE,
    show_default=True,
    metavar="NAME",
    help="A profile, or a .yaml file.",
    shell_complete=profile_names,
)
baseline_option: Callable[[Any], Any] = click.option(
    "--baseline",
    metavar="P",
    help="What speed-ups are over; sequential if it runs, else the first policy.",
    shell_complete=policy_names,
)


def seed_option(what: str) -> Callable[[Any], Any]:
    """A seed, for what it says."""
    return click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=what)


def reading_options(function: F) -> Callable[..., Any]:
    """Options of how traces are read; the command gets them as ``options: LoadOptions``."""

    @click.option(
        "--hidden-calls",
        is_flag=True,
        help="Add LLM calls that the framework made but its log does not show (AG2's speaker selection), estimated.",
    )
    @click.option(
        "--tokenizer",
        "tokenizer_at",
        metavar="WHERE",
        help="Count tokens with this tokenizer.json, or with the vLLM at this http:// address; else characters / 4.",
    )
    @click.option("--all-skipped", is_flag=True, help="Name every document that was skipped, not only five.")
    @click.option("--only", multiple=True, metavar="PATTERN", help="Only workflows with such ids: 'peer-review/*'.")
    @wraps(function)
    def wrapped(
        *args: Any, hidden_calls: bool, tokenizer_at: str | None, all_skipped: bool, only: tuple[str, ...], **rest: Any
    ) -> Any:
        counter = tokenizer(tokenizer_at) if tokenizer_at else ESTIMATED
        options = LoadOptions(counter, hidden_calls, only=only, all_skipped=all_skipped)
        return function(*args, options=options, **rest)

    return wrapped


def engine_options(function: F) -> Callable[..., Any]:
    """Options of what the workflows run on; the command gets it as ``fleet: Fleet``."""

    @profile_option
    @click.option("--replicas", type=click.IntRange(1, MOST_REPLICAS), metavar="N", help="So many equal engines.")
    @click.option(
        "--fleet",
        "fleet_at",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Pools of engines with prices, which agents they serve, and tool limits: docs/policies.md.",
    )
    @wraps(function)
    def wrapped(*args: Any, profile: str, replicas: int | None, fleet_at: Path | None, **kwargs: Any) -> Any:
        if fleet_at and replicas:
            raise RunError("--replicas and --fleet: give one of them; a pool of a fleet has its replicas")
        fleet = load_fleet(fleet_at, profile) if fleet_at else fleet_of(load_profile(profile), replicas or 1)
        return function(*args, fleet=fleet, **kwargs)

    return cast(Callable[..., Any], wrapped)


view_option: Callable[[Any], Any] = click.option(
    "--view",
    type=click.Choice(VIEWS),
    default="visible",
    show_default=True,
    help="Dependencies: the log's order, what the framework waits for, or only what a prompt really reads.",
)


def choice_options(function: F) -> Callable[..., Any]:
    """Options for what traces leave open; the command gets them, with its ``view``, as ``choices: Choices``."""

    @click.option(
        "--unknown-parts",
        type=click.Choice(["estimated", "none"]),
        default="estimated",
        show_default=True,
        help="Texts that were not recorded, such as system prompts: with estimated lengths, or left out.",
    )
    @click.option(
        "--tool-time",
        "tool_times",
        multiple=True,
        metavar="[TOOL=]RULE",
        help="recorded (unknown counts as 0 s), none, or for unknown ones constant:S or lognormal:mean=S,sigma=X.",
    )
    @wraps(function)
    def wrapped(
        *args: Any, unknown_parts: str, tool_times: Sequence[str], view: View = "visible", **kwargs: Any
    ) -> Any:
        choices = Choices(view, unknown_parts == "estimated", parse_tool_times(tool_times))
        return function(*args, choices=choices, **kwargs)

    return wrapped


def load_options(function: F) -> Callable[..., Any]:
    """Options of when workflows arrive; the command gets them as ``load: Load``."""

    @click.option("--session-rate", type=float, metavar="R", help="Poisson arrivals, R workflows per second.")
    @click.option("--concurrent-sessions", type=int, metavar="N", help="Closed loop, N workflows at any time.")
    @wraps(function)
    def wrapped(*args: Any, session_rate: float | None, concurrent_sessions: int | None, **kwargs: Any) -> Any:
        if session_rate is not None and concurrent_sessions is not None:
            raise RunError("--session-rate and --concurrent-sessions: give one of them")
        load: Load = Alone() if concurrent_sessions is None else ConcurrentSessions(concurrent_sessions)
        return function(*args, load=load if session_rate is None else SessionRate(session_rate), **kwargs)

    return wrapped


def possible(load: Load, workflows: int) -> Load:
    """The load, with no more sessions than there are workflows."""
    if not isinstance(load, ConcurrentSessions) or load.sessions <= workflows:
        return load
    click.echo(f"--concurrent-sessions {load.sessions}: only {workflows} can be under way, one per workflow", err=True)
    return ConcurrentSessions(workflows)


def read_traces(paths: Sequence[str], options: LoadOptions, brief: bool = False) -> list[Workflow]:
    """The workflows of the paths, or the embedded ones; what was read and what was not goes to stderr."""
    workflows, report = read(paths or [embedded_path()], options)
    tell(report, workflows, options, brief)
    return workflows


def tell(report: LoadReport, workflows: Sequence[Workflow], options: LoadOptions, brief: bool = False) -> None:
    """Say what was read, what was skipped and why, and what the workflows leave open; ``brief``: how much of that."""
    click.echo(f"read {report.line()}", err=True)
    shown = len(report.skipped) if options.all_skipped else _SHOWN
    for item in report.skipped[:shown]:
        click.echo(f"skipped {item.where}: {item.reason}", err=True)
    if len(report.skipped) > shown:
        reasons = Counter(item.reason for item in report.skipped[shown:])
        for reason, number in reasons.most_common():
            click.echo(f"skipped {number} more: {reason}", err=True)
    notes = Counter(note for workflow in workflows for note in workflow.notes).most_common()
    if brief and len(notes) > _SHOWN:
        noted = sum(bool(workflow.notes) for workflow in workflows)
        click.echo(f"{noted} workflows have notes on what was not recorded: workspan traces stats shows them", err=True)
        notes = []
    for note, number in notes:
        click.echo(f"note ({number} workflows): {note}", err=True)
    if number := estimated(workflows):
        click.echo(f"note ({number} workflows): token counts are estimated as characters / 4", err=True)
    if options.hidden_calls and not any(HIDDEN_CALLS_ADDED in workflow.notes for workflow in workflows):
        click.echo("--hidden-calls had no effect: give AG2's original files, with group chats", err=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, elsewhere a line for every tenth, on stderr; gives what to call for each that is done."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            click.echo(f"{done} of {total} {what}", err=True)

    yield advance
