"""`workspan calibrate`: a profile from a run that was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from calibration.report import files, show, write
from calibration.settings import profile_for


@click.command()
@click.option(
    "--from",
    "run_at",
    required=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="The record: file or folder.",
)
@click.option("--workload", type=click.Path(path_type=Path), metavar="FILE", help="Its prompts, where they are apart.")
@click.option("--profile", "base", metavar="BASE", help="A profile with the engine settings that the record lacks.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A setting of the recorded engine.")
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), metavar="PROFILE.yaml", help="To write.")
def command(run_at: Path, workload: Path | None, base: str | None, changes: Sequence[str], output: Path) -> None:
    r"""Find the step times with which the simulated run has the times of a recorded one.

    Reads what vLLM's, LLMServingSim's, BLIS's, guidellm's and aiperf's benchmarks record, and our own replays.

    \b
    workspan calibrate --from result.json --set max_num_seqs=256 ... -o my-gpu.yaml
    """
    from calibration.inverse import calibrate
    from calibration.recorded import read_run

    files(output)
    run = read_run(run_at, workload)
    click.echo(f"read {run_at}: {len(run.requests)} requests ({run.format})", err=True)
    for reason, number in run.skipped.items():
        click.echo(f"skipped {number}: {reason}", err=True)
    start, notes = profile_for(run, run_at, base, changes, output.stem)
    for note in (*run.assumptions, *notes):
        click.echo(f"note: {note}", err=True)
    found = calibrate(run, start, lambda text: click.echo(text, err=True))
    show(found)
    written = write(found.profile, run, output)
    click.echo(f"wrote {output} and {next(iter(written.samples))} beside it", err=True)
