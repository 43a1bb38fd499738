"""`workspan study`: policies over many workflows, servers and loads, resumable, with statistics."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sim.commands.cells import cell_progress, cores, minutes
from sim.commands.common import tell
from sim.errors import StudyError
from sim.study.again import Again
from sim.study.drive import Run, Shard
from sim.study.estimate import seconds_per_cell
from sim.study.plan import Plan, read_corpus
from sim.study.points import Files
from sim.study.report import print_report, print_rows, report_json
from sim.study.results import open_results
from sim.study.store import Store
from sim.study.studyfile import load_study, write_template

study_argument: Callable[[Any], Any] = click.argument("study", type=click.Path(path_type=Path))
folder_argument: Callable[[Any], Any] = click.argument("folder", type=click.Path(path_type=Path))
set_option: Callable[[Any], Any] = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Instead of the file's: server.max_num_seqs=64."
)


@click.group(name="study")
def command() -> None:
    """What-if studies: every policy at every point of a grid of servers and loads.

    \b
    workspan study init my-study
    workspan study plan my-study/study.yaml
    workspan study run my-study/study.yaml -o results -j 2
    workspan study report results
    """


@command.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write study.yaml, an example to change, and its JSON Schema, with which editors complete it.

    \b
    workspan study init my-study
    """
    for path in write_template(folder):
        click.echo(f"wrote {path}", err=True)


@command.command()
@study_argument
@set_option
@click.option("-j", "jobs", type=click.IntRange(1), metavar="N", help="Processes to reckon with; else all cores.")
def plan(study: Path, overrides: tuple[str, ...], jobs: int | None) -> None:
    """Say how many cells the study has and about how long they take; runs none of them.

    \b
    workspan study plan my-study/study.yaml --set seeds=20
    """
    found = _plan(study, overrides)
    jobs = jobs or cores()
    cells = found.cells()
    number = len({cell.key for cell in cells})
    calls = number * found.corpus.calls * found.sessions
    needed = number * seconds_per_cell(found) / jobs / 60
    upper = "up to " if found.study.stop else ""
    click.echo(
        f"{len(found.points)} points x {len(found.policies)} policies x {upper}{found.most_seeds} seeds, and an A/A"
        f" cell for each seed: {upper}{number:,} cells of {found.sessions:,} workflows ({calls:,.0f} calls)"
    )
    click.echo(
        f"about {minutes(needed)} in {jobs} processes of this machine; files: {len(list(found.chunks(cells))):,}"
    )


@command.command()
@click.argument("study", required=False, type=click.Path(path_type=Path))
@click.option("--from", "manifest", type=click.Path(path_type=Path), metavar="FILE", help="Repeat a manifest.json's.")
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="DIR", help="Results; else the study's name.")
@set_option
@click.option("-j", "jobs", type=click.IntRange(1), metavar="N", help="Processes; else one for each core.")
@click.option("--executor", default="local", show_default=True, metavar="WHERE", help="local, or dask:ADDRESS.")
@click.option("--shard", default="1/1", metavar="I/N", help="Only the I-th of N parts, for machines that share DIR.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with what is in DIR.")
@click.option("--continue-on-error", is_flag=True, help="A cell that fails does not stop the others.")
@click.option("--save-detailed", is_flag=True, help="Keep a row for each call, too.")
def run(
    study: Path | None,
    manifest: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    jobs: int | None,
    executor: str,
    shard: str,
    resume: bool,
    continue_on_error: bool,
    save_detailed: bool,
) -> None:
    """Run what is not done yet of the STUDY, a .yaml file.

    \b
    workspan study run study.yaml -o results -j 8
    workspan study run study.yaml -o /shared/results --shard $SLURM_ARRAY_TASK_ID/16
    workspan study run study.yaml -o /shared/results --executor dask:tcp://10.0.0.1:8786
    workspan study run --from results/manifest.json -o again
    """
    if (study is None) == (manifest is None) or (manifest and overrides):
        raise StudyError("run: give a study's file, or --from a manifest.json (without --set)")
    if manifest:
        again = Again.of(manifest)
        files, found = again.files, Plan.of(again.study, again.corpus(), again.files)
        again.check(found)
    else:
        assert study
        files, found = Files(study.parent), _plan(study, overrides)
    store = Store(output or Path(found.study.name))
    if not resume and store.manifest_path.exists():
        raise StudyError(f"{store.folder}: there is a study in it already; name another folder, or go on with --resume")
    began = time.monotonic()
    with cell_progress() as progress:
        done = Run(
            found, store, files, jobs or cores(), executor, _shard(shard), save_detailed, continue_on_error, progress
        ).run()
    spent_s = time.monotonic() - began
    rate = f" ({done.cells / spent_s:.3g} cells/s)" if done.cells else ""
    click.echo(
        f"{done.cells:,} cells done in {spent_s:.0f} s{rate}, {done.kept:,} were there; {store.folder}/", err=True
    )
    for line in done.failed:
        click.echo(f"failed: {line}", err=True)
    if done.complete:
        from sim.study.page import write_page  # jinja2 and matplotlib, a second that only a page needs

        results = open_results(store.folder)
        print_report(results)
        write_page(results, store.folder / "report.html")
    if done.failed:
        sys.exit(1)


@command.command()
@folder_argument
def status(folder: Path) -> None:
    """Say how far the study in FOLDER is.

    \b
    workspan study status results
    """
    results = open_results(folder)
    found, told = results.status, results.manifest
    most = "at most " if told["stop"] else ""
    seeds = f"{told['seeds']} to {told['stop']['max_runs']}" if told["stop"] else told["seeds"]
    click.echo(f"{found.done:,} of {most}{found.planned:,} cells done; files: {found.files:,}")
    click.echo(
        f"{told['points']} points x {len(told['policies'])} policies x {seeds} seeds; baseline {told['baseline']}"
    )


@command.command()
@folder_argument
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option(
    "-o", "page", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with figures, a .html file."
)
def report(folder: Path, as_json: bool, page: Path | None) -> None:
    """Say what the study in FOLDER shows, as far as it is done; figures alone are drawn by `workspan plot`.

    \b
    workspan study report results
    workspan study report results -o report.html
    """
    results = open_results(folder)
    if page:
        if page.suffix != ".html":
            raise StudyError(f"{page}: give a .html file; figures: workspan plot speedup {folder} -o {page}")
        from sim.study.page import write_page  # jinja2 and matplotlib, a second that only a page needs

        write_page(results, page)
        click.echo(f"wrote {page}", err=True)
    if as_json:
        click.echo(json.dumps(report_json(results), indent=2, allow_nan=False))
    elif not page:
        print_report(results)


@command.command()
@folder_argument
@click.argument("sql")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def query(folder: Path, sql: str, form: str) -> None:
    """Run SQL over the tables cells, sessions, calls, plan and comparisons of FOLDER.

    \b
    workspan study query results "SELECT policy, session_rate, quantile_cont(latency_s, 0.95) AS p95_s
      FROM sessions JOIN cells USING (cell) GROUP BY ALL ORDER BY ALL"
    """
    print_rows(open_results(folder).query(sql), form)


def _plan(path: Path, overrides: tuple[str, ...]) -> Plan:
    study, files = load_study(path, overrides), Files(path.parent)
    corpus, report, options = read_corpus(study, files)
    tell(report, corpus.workflows, options, brief=True)
    return Plan.of(study, corpus, files)


def _shard(text: str) -> Shard:
    if not re.fullmatch(r"\d+/\d+", text):
        raise StudyError(f"--shard {text}: give I/N, such as 1/4")
    return Shard(*map(int, text.split("/")))
