"""`workspan regimes`: at which load and with how little KV cache policies start to matter."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sim.choices import Choices
from sim.commands.common import (
    choice_options,
    profile_option,
    progress,
    read_traces,
    reading_options,
    seed_option,
    traces_argument,
    view_option,
)
from sim.commands.complete import policy_names
from sim.compare import line_up
from sim.latency import load_profile
from sim.regime_map import Axes, map_regimes
from sim.regime_report import map_json, print_map, write_map
from sim.results import check_free
from sim.traces import LoadOptions

#: Runnable on a stock vLLM, and with no more information than a client has.
POLICIES = ("program_fcfs", "plas", "srpt_mean", "program_gate")
LOADS = (0.3, 0.6, 0.8, 0.95, 1.1)
KV_SHARES = (1.0, 0.5, 0.25, 0.125)

Share = click.FloatRange(0, 10, min_open=True)


@click.command()
@traces_argument
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="P",
    help=f"Instead of {', '.join(POLICIES)}.",
    shell_complete=policy_names,
)
@click.option(
    "--baseline",
    default="async",
    show_default=True,
    metavar="P",
    help="What speed-ups are over.",
    shell_complete=policy_names,
)
@profile_option
@click.option("--load", "loads", type=Share, multiple=True, metavar="X", help=f"Offered / sustained; else {LOADS}.")
@click.option("--kv", "kv", type=Share, multiple=True, metavar="X", help=f"Share of the KV blocks; else {KV_SHARES}.")
@click.option("--max-num-seqs", "slots", type=click.IntRange(1), multiple=True, metavar="N", help="Else the profile's.")
@click.option("--sessions", type=click.IntRange(2), default=300, show_default=True, help="Workflows drawn per seed.")
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True, help="Draws of workflows and arrivals.")
@click.option("-j", "jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Processes.")
@seed_option("For drawn tool times.")
@view_option
@choice_options
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="DIR", help="Write numbers and map there.")
def command(
    traces: tuple[str, ...],
    policies: tuple[str, ...],
    baseline: str,
    profile: str,
    loads: tuple[float, ...],
    kv: tuple[float, ...],
    slots: tuple[int, ...],
    sessions: int,
    seeds: int,
    jobs: int,
    seed: int,
    choices: Choices,
    options: LoadOptions,
    as_json: bool,
    output: Path | None,
) -> None:
    """Map where policies matter for TRACES: best speed-up over the baseline by load and KV capacity.

    Each cell draws workflows anew from the traces and simulates all policies on the same ones, with several seeds; what
    is within noise, corrected for the number of cells, is marked.

    \b
    workspan regimes my_traces/ --profile rtx4090-llama-3.1-8b -j 2 -o map/
    """
    lineup, base = line_up(policies or POLICIES, baseline)
    check_free(output)
    engine = load_profile(profile)
    workflows = choices.apply(read_traces(traces, options, brief=True), seed)
    # A value that is given twice is one: its runs would count twice.
    numbers = dict.fromkeys(slots or (engine.engine.max_num_seqs,))
    axes = Axes(sorted(set(loads or LOADS)), sorted(set(kv or KV_SHARES), reverse=True), tuple(numbers))
    cells = len(axes.loads) * len(axes.kv_shares) * len(axes.slots)
    with progress("runs", cells * seeds) as advance:
        found = map_regimes(workflows, lineup, base, engine, axes, sessions, seeds, jobs, advance)
    if as_json:
        click.echo(json.dumps(map_json(found, choices, workflows), indent=2, allow_nan=False))
    else:
        print_map(found, choices)
    if output:
        write_map(found, choices, workflows, output)
        click.echo(f"wrote {output}/", err=True)
