"""`workspan run`: policies over traces on the simulated engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sim.choices import Choices
from sim.commands.common import (
    baseline_option,
    choice_options,
    engine_options,
    load_options,
    possible,
    read_traces,
    reading_options,
    seed_option,
    traces_argument,
    view_option,
)
from sim.commands.complete import policy_names
from sim.compare import compare, line_up
from sim.errors import RunError
from sim.fleet import Fleet
from sim.load import Load
from sim.report import print_comparison
from sim.results import check_free, write
from sim.traces import LoadOptions
from sim.trust import DRAWS, num_draws

PROTOTYPE = ("sequential", "level_barrier", "async")

draws_option: Callable[[Any], Any] = click.option(
    "--draws",
    type=click.IntRange(0),
    metavar="N",
    help=f"Simulate N times more with draws of the profile's coefficients; {DRAWS} if it has them, else 0.",
)


@click.command()
@traces_argument
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="P",
    help="A policy: async, plas:levels=4, plas+sticky; workspan policies ls.",
    shell_complete=policy_names,
)
@click.option("--compare", "compare_all", is_flag=True, help=f"Short for the policies {', '.join(PROTOTYPE)}.")
@baseline_option
@engine_options
@draws_option
@load_options
@seed_option("For order, arrivals, drawn tool times, intervals.")
@view_option
@choice_options
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "-o", "output", type=click.Path(path_type=Path), metavar="DIR", help="Write result, records and figure there."
)
def command(
    traces: tuple[str, ...],
    policies: tuple[str, ...],
    compare_all: bool,
    baseline: str | None,
    fleet: Fleet,
    draws: int | None,
    load: Load,
    seed: int,
    choices: Choices,
    options: LoadOptions,
    as_json: bool,
    output: Path | None,
) -> None:
    """Predict how fast TRACES run under each policy, and how much faster than under the baseline.

    TRACES are files or folders in any format that `workspan traces` reads; without them, the embedded
    workflows. Without a load each workflow runs alone on an idle server.

    \b
    workspan run --compare
    workspan run my_traces/ --policy async --policy plas --policy srpt_oracle --session-rate 2
    workspan run --policy async --policy plas+sticky --replicas 4 --concurrent-sessions 32
    """
    names = [*policies, *(name for name in PROTOTYPE if compare_all and name not in policies)]
    if not names:
        raise RunError("no policy; give --policy NAME (several times, if you like) or --compare")
    lineup, base = line_up(names, baseline)
    check_free(output)
    draws = num_draws(fleet.pools[0].profile, draws)
    workflows = choices.apply(read_traces(traces, options, brief=True), seed)
    load = possible(load, len(workflows))
    if draws:
        click.echo(
            f"simulating, and {draws} times more with draws of the profile (--draws 0 leaves them out) ..", err=True
        )
    comparison = compare(workflows, lineup, base, fleet, load, seed, choices, draws=draws)
    if as_json:
        click.echo(json.dumps(comparison.to_json(), indent=2, allow_nan=False))
    else:
        print_comparison(comparison)
    if output:
        write(comparison, output)
        click.echo(f"wrote {output}/", err=True)
