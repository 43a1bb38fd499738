"""`workspan traces`: what is in trace files, traces in workspan's own form, and workloads that nobody recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from sim.bounds import least_times_s
from sim.choices import Choices
from sim.commands.common import (
    choice_options,
    profile_option,
    read_traces,
    reading_options,
    seed_option,
    tell,
    traces_argument,
    view_option,
)
from sim.commands.complete import pattern_names
from sim.errors import RunError, TraceError, nearest
from sim.failures import title
from sim.latency import Profile, load_profile
from sim.report import console, print_stats
from sim.resample import resample as resampled
from sim.results import svg, write_whole
from sim.stats import stats as numbers
from sim.synthetic import generate as generated
from sim.synthetic import parse_pattern
from sim.synthetic import patterns as known_patterns
from sim.traces import LoadOptions, jsonl, read
from sim.trust import profile_title
from sim.workflow import Tool, Workflow

_number_option = click.option("-n", "number", type=click.IntRange(1, 1_000_000), required=True, help="How many.")
_output_option = click.option(
    "-o", "output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="A new .jsonl file."
)


@click.group()
def command() -> None:
    """List, show, count, convert and make workflows.

    \b
    workspan traces ls my_traces/
    workspan traces stats --only 'peer-review/*'
    """


@command.command()
@traces_argument
@reading_options
def ls(traces: tuple[str, ...], options: LoadOptions) -> None:
    """One line per workflow in TRACES (files or folders), or per embedded one.

    \b
    workspan traces ls --only 'metagpt/*'
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("workflow", overflow="fold")
    for name in ("framework", "calls", "tools", "prompt tokens", "output tokens", "depth", "work/span (calls)"):
        table.add_column(name, justify="right", overflow="fold")
    for workflow in read_traces(traces, options):
        table.add_row(*_line(workflow))
    console().print(table)


@command.command()
@traces_argument
@profile_option
@choice_options
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def stats(traces: tuple[str, ...], profile: str, choices: Choices, options: LoadOptions, as_json: bool) -> None:
    """Sizes, prefix reuse, tools, work / span and failures of TRACES, or of the embedded workflows, per framework.

    \b
    workspan traces stats --only 'peer-review/*'
    """
    settings = load_profile(profile)
    result = numbers(choices.apply(read_traces(traces, options), seed=0), settings)
    if as_json:
        click.echo(json.dumps({"profile": profile_title(settings), **_made(choices), "frameworks": result}, indent=2))
    else:
        print_stats(result, settings, choices)


@command.command()
@click.argument("workflow_id")
@traces_argument
@profile_option
@view_option
@choice_options
@reading_options
@click.option("--svg", "picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw it in a new .svg file.")
def show(
    workflow_id: str,
    traces: tuple[str, ...],
    profile: str,
    choices: Choices,
    options: LoadOptions,
    picture: Path | None,
) -> None:
    """The nodes of one workflow of TRACES, or of the embedded ones; * marks the critical path in calls.

    \b
    workspan traces show ID my_traces/ --svg workflow.svg
    """
    found = {workflow.id: workflow for workflow in read_traces(traces, options)}
    if workflow_id not in found:
        raise TraceError(f"no workflow {workflow_id!r}{_near(workflow_id, found)}")
    (workflow,) = choices.apply([found[workflow_id]], seed=0)
    _print(workflow)
    if picture:
        _draw(workflow, load_profile(profile), choices, picture)


@command.command(name="import")
@click.argument("traces", nargs=-1, required=True, type=click.Path())
@_output_option
@reading_options
def import_(traces: tuple[str, ...], output: Path, options: LoadOptions) -> None:
    """Convert TRACES to workspan's own form: structure and token counts, no text.

    \b
    workspan traces import my_traces/ -o mine.jsonl
    """
    workflows, report = read(traces, options)
    tell(report, workflows, options)
    _write(workflows, report.line(), output)


@command.command()
def patterns() -> None:
    """The patterns that `generate` knows, with their parameters and defaults.

    \b
    workspan traces patterns
    """
    for name, pattern in known_patterns().items():
        values = (f"{key}={value:g}" for key, value in pattern().parameters().items() if value is not None)
        click.echo(f"{name}: {(pattern.__doc__ or '').splitlines()[0]}\n    {', '.join(values)}")


@command.command()
@click.argument("pattern", shell_complete=pattern_names)
@_number_option
@seed_option("For everything that is drawn.")
@_output_option
def generate(pattern: str, number: int, seed: int, output: Path) -> None:
    """Draw workflows of a PATTERN, such as debate:agents=5,rounds=4; `patterns` lists them.

    \b
    workspan traces generate planner_workers -n 200 -o planners.jsonl
    """
    drawn = parse_pattern(pattern)
    _write(generated(drawn, number, seed), f"generated: {number} of {drawn}, seed {seed}", output)


@command.command()
@traces_argument
@_number_option
@seed_option("For what is drawn.")
@_output_option
@reading_options
def resample(traces: tuple[str, ...], number: int, seed: int, output: Path, options: LoadOptions) -> None:
    """Draw whole workflows of TRACES, or embedded ones, with replacement: a larger population of the same kind.

    Copies of one workflow share what different runs shared, and not their conversations. Intervals count them as one.

    \b
    workspan traces resample my_traces/ -n 1000 -o more.jsonl
    """
    drawn = resampled(read_traces(traces, options), number, seed)
    _write(drawn, f"resampled: {number} workflows, seed {seed}", output)


def _made(choices: Choices) -> dict[str, Any]:
    """The choices, without the view: all three are counted."""
    return {name: value for name, value in choices.to_json().items() if name != "view"}


def _print(workflow: Workflow) -> None:
    click.echo(f"{workflow.id}\nframework {workflow.framework}, task {workflow.task}, success {workflow.success}")
    for label in (name for name, present in workflow.labels.items() if present):
        click.echo(f"labelled: {title(label)}")
    click.echo(f"work {workflow.work():g} calls, span {workflow.span():g}, parallelism {workflow.parallelism():.2f}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "node", "level", "agent or tool", "prompt", "output", "waits for"):
        table.add_column(name, overflow="fold")
    path = set(workflow.critical_path())
    waits: dict[str, list[str]] = {node.id: [] for node in workflow.nodes}
    for edge in workflow.edges:
        waits[edge.child].append(f"{edge.parent} ({edge.kind}{'' if edge.used else ', not in the prompt'})")
    for node in workflow.nodes:
        star, level = "*" if node.id in path else "", str(workflow.levels[node.id])
        if isinstance(node, Tool):
            seconds = workflow.tape.tool_s[node.id]
            size = "", "unknown time" if seconds is None else f"{seconds:g} s"
            table.add_row(star, node.id, level, node.name, *size, ", ".join(waits[node.id]))
        else:
            size = f"{node.num_prompt_tokens}", f"{workflow.tape.output_tokens[node.id]}"
            table.add_row(star, node.id, level, node.agent, *size, ", ".join(waits[node.id]))
    console().print(table)


def _draw(workflow: Workflow, profile: Profile, choices: Choices, picture: Path) -> None:
    from matplotlib.figure import Figure

    from sim.drawing import legend, num_rows, workflow_lanes
    from sim.plots import literal

    seconds = least_times_s(workflow, profile)
    figure = Figure(figsize=(9, 1.6 + 0.3 * num_rows(workflow, seconds)), layout="constrained")
    axes = workflow_lanes(figure.subplots(), workflow, seconds)
    work, span = workflow.work(seconds), workflow.span(seconds)
    numbers = f"work {work:.3g} s, span {span:.3g} s, work / span {work / span if span else 1:.2f}"
    axes.set_title(literal(f"{workflow.id}\n{numbers}, {profile_title(profile)}"), loc="left", fontsize=10)
    figure.legend(handles=legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    _new(picture, svg(figure, {"workflow": workflow.id, "profile": profile_title(profile), **choices.to_json()}))


def _write(workflows: list[Workflow], origin: str, output: Path) -> None:
    _new(output, "".join(jsonl.dump(workflows, {"origin": origin})))
    click.echo(f"wrote {output}: {len(workflows)} workflows", err=True)


def _new(path: Path, text: str) -> None:
    """A new file; one that is there already is not touched."""
    if path.exists():
        raise RunError(f"{path}: exists already; name another file")
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error


def _line(workflow: Workflow) -> tuple[str, ...]:
    return (
        workflow.id,
        workflow.framework,
        str(len(workflow.calls)),
        str(len(workflow.tools)),
        f"{sum(call.num_prompt_tokens for call in workflow.calls):,}",
        f"{sum(workflow.tape.output_tokens.values()):,}",
        str(round(workflow.span())),
        f"{workflow.parallelism():.2f}",
    )


def _near(workflow_id: str, found: dict[str, Any]) -> str:
    return nearest(workflow_id, found) if len(found) < 20 else "; workspan traces ls lists them"
