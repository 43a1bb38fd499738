"""`workspan demo`: the three policies of the prototype on the embedded workflows, without and with load."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.common import DEFAULT_PROFILE, read_traces
from sim.commands.run import PROTOTYPE
from sim.compare import Predicted, compare, line_up
from sim.comparison import Comparison
from sim.latency import load_profile
from sim.load import Alone, ConcurrentSessions
from sim.report import print_comparison
from sim.results import check_free, write
from sim.traces import LoadOptions

_SESSIONS = 64


@click.command()
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="DIR", help="Write results and figures there.")
def command(output: Path | None) -> None:
    """Predict what three scheduling policies gain on recorded MAST workflows.

    \b
    workspan demo -o demo
    """
    for load in (Alone(), ConcurrentSessions(_SESSIONS)):
        check_free(output and output / _folder(load))
    workflows = read_traces((), LoadOptions(), brief=True)
    profile = load_profile(DEFAULT_PROFILE)
    click.echo(
        f"Engine: {profile.model} on {profile.hardware}, vLLM {profile.engine.vllm_version}, fitted to a real run"
    )
    comparisons: list[Predicted] = []
    for load in (Alone(), ConcurrentSessions(_SESSIONS)):
        click.echo(f"simulating {len(workflows):,} workflows under {len(PROTOTYPE)} policies, {load} ..", err=True)
        bounds = comparisons[0].bounds if comparisons else None
        comparisons.append(compare(workflows, *line_up(PROTOTYPE, None), profile, load, seed=0, bounds=bounds))
        print_comparison(comparisons[-1])
        if output:
            write(comparisons[-1], output / _folder(load))
    _explain(comparisons[0])
    if output:
        click.echo(f"\nOpen {output / _folder(Alone())}/speedup.svg; every number is in result.json beside it.")
    click.echo("Next: workspan run YOUR_TRACES --compare --session-rate 2")


def _folder(load: object) -> str:
    return "alone" if isinstance(load, Alone) else f"concurrent-{_SESSIONS}"


def _explain(alone: Comparison) -> None:
    """Say which frameworks can gain at all; the numbers decide, not the text."""
    chains: list[str] = []
    graphs: list[str] = []
    for framework in alone.frameworks():
        bound = alone.gain(alone.baseline, framework)["bound"]
        (chains if bound < 1.005 else graphs).append(f"{framework} ({bound:.2f})")
    click.echo("\nWhat this means")
    click.echo(f"  Chains, work / span 1.00: {', '.join(chains) or 'none'}.")
    click.echo("    Each call waits for the one before it, so no policy can make such a workflow faster by itself.")
    click.echo(f"  Not chains: {', '.join(graphs) or 'none'}.")
    click.echo("    Calls that do not read each other can run together; the bound says how much that can gain.")
    click.echo("  Serving many workflows at once raises throughput under every policy; compare sessions/s above.")
