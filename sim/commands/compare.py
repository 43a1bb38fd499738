"""`workspan compare`: how far a prediction agrees with a measurement."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sim.agreement import compare_results
from sim.agreement.data import read_side
from sim.agreement.limits import parse_condition
from sim.agreement.report import print_agreement, write_agreement
from sim.errors import RunError
from sim.results import check_free


@click.command()
@click.argument("predicted", type=click.Path(path_type=Path))
@click.argument("measured", type=click.Path(path_type=Path), required=False)
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="COND",
    help="Exit with 1 if so: 'session_latency.mean.error>4%'. The names are those of --json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="DIR", help="Write numbers and figures there.")
@click.pass_context
def command(
    context: click.Context,
    predicted: Path,
    measured: Path | None,
    conditions: tuple[str, ...],
    as_json: bool,
    output: Path | None,
) -> None:
    """Hold the result in folder PREDICTED against that in MEASURED: same traces, load, seed and policies.

    One folder is enough if `workspan replay --profile` has written it: it has both.

    \b
    workspan compare predicted/ measured/ --fail-if 'speedup.wrong_winner_rate>0' -o agreement/
    """
    limits = [parse_condition(text) for text in conditions]
    check_free(output)
    if measured is None:
        predicted, measured = predicted / "predicted", predicted
        if not predicted.is_dir():
            raise RunError(f"{measured}: no folder 'predicted' in it; name PREDICTED and MEASURED")
    agreement = compare_results(read_side(predicted), read_side(measured))
    metrics = agreement.metrics()
    violated = [line for limit in limits if (line := limit.violated(metrics))]
    if as_json:
        click.echo(json.dumps(agreement.to_json(), indent=2, allow_nan=False))
    else:
        print_agreement(agreement)
    if output:
        write_agreement(agreement, output)
        click.echo(f"wrote {output}/", err=True)
    for line in violated:
        click.echo(line, err=True)
    context.exit(bool(violated))
