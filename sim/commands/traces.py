"""`workspan traces`: what is in trace files, and traces in workspan's own form."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from sim.commands.common import hidden_calls_option, read_traces, tell, traces_argument
from sim.errors import TraceError, nearest
from sim.report import console
from sim.traces import LoadOptions, jsonl, read
from sim.workflow import Tool, Workflow


@click.group()
def command() -> None:
    """List, show and convert recorded runs."""


@command.command()
@traces_argument
@hidden_calls_option
def ls(traces: tuple[str, ...], hidden_calls: bool) -> None:
    """One line per workflow in TRACES (files or folders), or per embedded one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("workflow", overflow="fold")
    for name in ("framework", "calls", "tools", "prompt tokens", "output tokens", "depth", "work/span (calls)"):
        table.add_column(name, justify="right", overflow="fold")
    for workflow in read_traces(traces, hidden_calls):
        table.add_row(*_line(workflow))
    console().print(table)


@command.command()
@click.argument("workflow_id")
@traces_argument
@hidden_calls_option
def show(workflow_id: str, traces: tuple[str, ...], hidden_calls: bool) -> None:
    """The nodes of one workflow of TRACES, or of the embedded ones; * marks the critical path in calls."""
    found = {workflow.id: workflow for workflow in read_traces(traces, hidden_calls)}
    if workflow_id not in found:
        raise TraceError(f"no workflow {workflow_id!r}{_near(workflow_id, found)}")
    workflow = found[workflow_id]
    click.echo(f"{workflow.id}\nframework {workflow.framework}, task {workflow.task}, success {workflow.success}")
    for label in (name for name, present in workflow.labels.items() if present):
        click.echo(f"labelled: {label}")
    click.echo(f"work {workflow.work():g} calls, span {workflow.span():g}, parallelism {workflow.parallelism():.2f}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "node", "level", "agent or tool", "prompt", "output", "waits for"):
        table.add_column(name, overflow="fold")
    path = set(workflow.critical_path())
    for node in workflow.nodes:
        waits = ", ".join(f"{edge.parent} ({edge.kind})" for edge in workflow.edges if edge.child == node.id)
        star, level = "*" if node.id in path else "", str(workflow.levels[node.id])
        if isinstance(node, Tool):
            seconds = workflow.tape.tool_s[node.id]
            table.add_row(
                star, node.id, level, node.name, "", "unknown time" if seconds is None else f"{seconds:g} s", waits
            )
        else:
            output = workflow.tape.output_tokens[node.id]
            table.add_row(star, node.id, level, node.agent, f"{node.num_prompt_tokens}", f"{output}", waits)
    console().print(table)


@command.command(name="import")
@click.argument("traces", nargs=-1, required=True, type=click.Path())
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="A new .jsonl file.")
@hidden_calls_option
def import_(traces: tuple[str, ...], output: Path, hidden_calls: bool) -> None:
    """Convert TRACES to workspan's own form: structure and token counts, no text."""
    options = LoadOptions(hidden_calls=hidden_calls)
    workflows, report = read(traces, options)
    tell(report, workflows, options)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.writelines(jsonl.dump(workflows, {"origin": report.line()}))
    except FileExistsError as error:
        raise TraceError(f"{output}: exists already; name another file") from error
    except OSError as error:
        raise TraceError(f"{output}: cannot be written ({error.strerror})") from error
    click.echo(f"wrote {output}: {len(workflows)} workflows", err=True)


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


def _near(workflow_id: str, found: dict[str, Workflow]) -> str:
    return nearest(workflow_id, found) if len(found) < 20 else "; workspan traces ls lists them"
