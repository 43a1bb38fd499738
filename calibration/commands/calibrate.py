"""`workspan calibrate`: a profile from a running server, or from a run that was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from calibration.from_server import Bench
from calibration.inverse import calibrate
from calibration.profile_file import check_new, request_row, sample_row, write_profile
from calibration.recorded import read_run
from calibration.report import show_run, show_server
from calibration.settings import profile_for, read_settings
from sim.commands.common import progress
from sim.commands.complete import profile_names
from sim.errors import RunError
from sim.latency import Profile


@click.command()
@click.option("--server", "url", metavar="URL", help="A vLLM to time, such as http://127.0.0.1:8000.")
@click.option("--quick", is_flag=True, help="Time it for two minutes instead of eight.")
@click.option(
    "--step-log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The log of a server with --enable-logging-iteration-details.",
)
@click.option("--hardware", metavar="TEXT", help="What the engine runs on, where nobody tells.")
@click.option("--from", "run_at", type=click.Path(path_type=Path), metavar="RUN", help="A record: file or folder.")
@click.option("--workload", type=click.Path(path_type=Path), metavar="FILE", help="Its prompts, where they are apart.")
@click.option(
    "--profile",
    "base",
    metavar="BASE",
    help="A profile with the engine settings that the record lacks.",
    shell_complete=profile_names,
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A setting of the engine.")
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), metavar="PROFILE.yaml", help="To write.")
def command(
    url: str | None,
    quick: bool,
    step_log: Path | None,
    hardware: str | None,
    run_at: Path | None,
    workload: Path | None,
    base: str | None,
    changes: Sequence[str],
    output: Path,
) -> None:
    """Make a profile: how long the steps of an engine take, and its settings.

    From a server: known batches are timed through its API, while nobody else uses it. From a record: the step times
    with which the simulated run has the times of the recorded one; reads what vLLM's, LLMServingSim's, BLIS's,
    guidellm's and aiperf's benchmarks record, and our own replays.

    \b
    workspan calibrate --server http://127.0.0.1:8000 --quick -o mine.yaml
    workspan calibrate --from result.json --profile rtx4090-llama-3.1-8b --set max_num_seqs=256 -o mine.yaml
    """
    if (url is None) == (run_at is None):
        raise RunError("give --server URL or --from RUN, one of them")
    others = {"--workload": workload, "--profile": base} if url else {"--quick": quick, "--step-log": step_log}
    if wrong := [name for name, value in others.items() if value]:
        raise RunError(f"{wrong[0]} has no meaning with {'--server' if url else '--from'}; leave it out")
    check_new(output)
    if url is not None:
        written = _from_server(url, quick, step_log, hardware or "unknown", changes, output)
    else:
        assert run_at is not None
        written = _from_run(run_at, workload, base, hardware, changes, output)
    click.echo(f"wrote {output} ({written.digest}) and {next(iter(written.samples))}", err=True)


def _from_server(
    url: str, quick: bool, step_log: Path | None, hardware: str, changes: Sequence[str], output: Path
) -> Profile:
    bench = Bench(url, read_settings(changes), step_log)
    plan = bench.plan(quick, seed=0)
    click.echo(f"{len(plan.cells)} cells, some {max(1, round(plan.total_s / 60))} minutes", err=True)
    with progress("cells", len(plan.cells)) as advance:
        samples = bench.measure(plan.cells, lambda _: advance())
    for cell in samples.lost:
        click.echo(f"no sample: {cell}", err=True)
    profile, found = bench.profile(output.stem, hardware, samples)
    show_server(profile, found, plan)
    return write_profile(profile, map(sample_row, samples.samples), output)


def _from_run(
    run_at: Path,
    workload: Path | None,
    base: str | None,
    hardware: str | None,
    changes: Sequence[str],
    output: Path,
) -> Profile:
    run = read_run(run_at, workload)
    click.echo(f"read {run_at}: {len(run.requests)} requests ({run.format})", err=True)
    for reason, number in run.skipped.items():
        click.echo(f"skipped {number}: {reason}", err=True)
    start, notes = profile_for(run, run_at, base, changes, output.stem)
    start = start.model_copy(update={"hardware": hardware or start.hardware})
    for note in (*run.assumptions, *notes):
        click.echo(f"note: {note}", err=True)
    found = calibrate(run, start, lambda text: click.echo(text, err=True))
    show_run(found)
    return write_profile(found.profile, map(request_row, run.requests), output)
