"""`workspan validate`: calibrate, replay, predict and compare, in one go."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import click

from calibration.from_server import Bench
from calibration.validate import Study, Validation, validate
from calibration.validate_report import facts, print_validation
from live.measure import Setup
from live.refusals import check_policies, check_servers
from sim.choices import Choices
from sim.commands.common import (
    baseline_option,
    choice_options,
    possible,
    progress,
    read_traces,
    reading_options,
    seed_option,
    traces_argument,
    view_option,
)
from sim.commands.complete import policy_names
from sim.compare import line_up
from sim.errors import RunError
from sim.load import Alone, ConcurrentSessions, Load, SessionRate
from sim.results import check_free, write_whole
from sim.traces import LoadOptions


@click.command()
@traces_argument
@click.option("--server", "url", required=True, metavar="URL", help="A vLLM, such as http://127.0.0.1:8000.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    required=True,
    metavar="P",
    help="A policy, with parameters.",
    shell_complete=policy_names,
)
@baseline_option
@click.option(
    "--concurrent-sessions", "sessions", type=int, multiple=True, metavar="N", help="A closed loop to replay."
)
@click.option("--session-rate", "rates", type=float, multiple=True, metavar="R", help="Poisson arrivals to replay.")
@click.option("--repeat", type=click.IntRange(2, 1000), default=3, show_default=True, help="Repetitions, in turn.")
@click.option("--quick", is_flag=True, help="Calibrate in two minutes before and after, instead of eight.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1), default=300, show_default=True, help="Seconds.")
@click.option("--hardware", default="unknown", metavar="TEXT", help="What the server runs on, for the profile.")
@seed_option("For order, arrivals, drawn tool times, intervals.")
@view_option
@choice_options
@reading_options
@click.option(
    "-o", "output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Write all of it there."
)
def command(
    traces: tuple[str, ...],
    url: str,
    policies: tuple[str, ...],
    baseline: str | None,
    sessions: Sequence[int],
    rates: Sequence[float],
    repeat: int,
    quick: bool,
    timeout_s: float,
    hardware: str,
    seed: int,
    choices: Choices,
    options: LoadOptions,
    output: Path,
) -> None:
    """Measure how well TRACES are predicted on a server: calibrate, replay, calibrate again, predict, compare.

    Without a load each workflow runs alone on the idle server.

    \b
    workspan validate my_traces/ --server http://127.0.0.1:8000 --policy sequential --policy async \\
      --concurrent-sessions 2 --concurrent-sessions 16 -o proof/
    """
    lineup, base = line_up(policies, baseline)
    check_free(output)
    if len({*sessions}) < len(sessions) or len({*rates}) < len(rates):
        raise RunError("the same load twice; name each once")
    workflows = choices.apply(read_traces(traces, options, brief=True), seed)
    loads: list[Load] = [possible(ConcurrentSessions(one), len(workflows)) for one in sessions]
    loads += map(SessionRate, rates)
    loads = loads or [Alone()]
    bench = Bench(url, {})
    check_policies(lineup, 1, None, {}, None)
    check_servers(lineup, [bench.server], [bench.info])
    # Whoever ends the program keeps the loads that were measured, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = bench.plan(quick, seed)
    total = 2 * len(plan.cells) + len(loads) * repeat * len(lineup) * len(workflows)
    with progress("cells and sessions", total) as advance:
        setup = Setup(repeat, timeout_s, hardware=hardware, progress=advance)
        study = Study(workflows, lineup, base, loads, seed, choices, setup)
        say = lambda text: click.echo(text, err=True)  # noqa: E731
        result = validate(bench, plan, study, output.name, output, say, lambda _: advance())
    print_validation(result)
    _write(result, output)


def _write(result: Validation, output: Path) -> None:
    write_whole(output / "agreement.json", json.dumps(facts(result), indent=1, allow_nan=False) + "\n")
    click.echo(f"wrote {output}/", err=True)
