"""`workspan export`: a result in the files of other tools."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click

from sim.agreement.data import read_side
from sim.commands.common import read_traces, reading_options
from sim.data import embedded_path
from sim.errors import RunError
from sim.export import Result, Written, as_run, formats, result_of
from sim.results import check_free, write_whole
from sim.traces import LoadOptions, read
from sim.workflow import Workflow


@click.command()
@click.argument("folder", metavar="RESULT", type=click.Path(path_type=Path))
@click.option("--to", "name", required=True, type=click.Choice(list(formats())), help="The format: docs/export.md.")
@click.option("--policy", metavar="P", help="Only this one, by the name that the result has for it.")
@click.option("--repetition", type=click.IntRange(0), metavar="N", help="Only this one, of a replay with --repeat.")
@click.option("--sessions", type=click.IntRange(1), metavar="N", help="perfetto: draw the first N sessions; 50.")
@click.option(
    "--traces",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="What was run, to know what waits for what; embedded workflows are found without it.",
)
@reading_options
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="PATH", help="A new file, or a folder.")
def command(
    folder: Path,
    name: str,
    policy: str | None,
    repetition: int | None,
    sessions: int | None,
    traces: tuple[str, ...],
    options: LoadOptions,
    output: Path | None,
) -> None:
    """Write the result in folder RESULT, as `run -o` or `replay -o` wrote it, in another tool's format.

    Without -o a format of one file goes to stdout.

    \b
    workspan export result/ --to perfetto -o result.perfetto.json
    workspan export result/ --to agentic_mooncake --policy async --traces my_traces/ > work.jsonl
    """
    if sessions and name != "perfetto":
        raise RunError("--sessions: only perfetto draws single sessions; leave it out")
    module = formats()[name]
    result = replace(result_of(read_side(folder), policy, repetition), sessions=sessions)
    if module.USES_WORKFLOWS:
        result = replace(result, workflows=_workflows(result, traces, options))
    elif traces:
        raise RunError(f"--traces: {name} does not say what waits for what; leave it out")
    written: Written = module.write(result)
    _put(written, name, output)
    for note in written.notes:
        click.echo(f"note: {note}", err=True)


def _workflows(result: Result, traces: tuple[str, ...], options: LoadOptions) -> dict[str, Workflow]:
    """What was run: the traces that are given, else the embedded ones if it was these."""
    if traces:
        return as_run(result.provenance, read_traces(traces, options, brief=True))
    ids = {session.workflow_id for part in result.parts for session in part.run.sessions}
    workflows = [workflow for workflow in read([embedded_path()])[0] if workflow.id in ids]
    try:
        return as_run(result.provenance, workflows)
    except RunError:
        return {}


def _put(written: Written, name: str, output: Path | None) -> None:
    if len(written.files) > 1:
        if output is None:
            raise RunError(f"{name} is {len(written.files)} files: {', '.join(written.files)}; name a folder with -o")
        check_free(output)
        _write({output / name: pieces for name, pieces in written.files.items()})
        return
    (pieces,) = written.files.values()
    if output is None:
        sys.stdout.writelines(pieces)
    elif output.exists():
        raise RunError(f"{output}: exists already; name another file")
    else:
        _write({output: pieces})


def _write(files: dict[Path, Iterable[str]]) -> None:
    for path, pieces in files.items():
        text = "".join(pieces)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror})") from error
        click.echo(f"wrote {path}", err=True)
