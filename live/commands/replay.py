"""`workspan replay`: policies over traces on a real vLLM, and beside them what the simulator predicts."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import click

from live.measure import Setup, measure
from live.measured import Measured
from live.refusals import check_policies
from live.server import Server
from live.text import check_texts, load_texts
from live.tools import parse_executor
from sim.agreement import compare_results
from sim.agreement.report import print_agreement
from sim.choices import Choices
from sim.commands.common import (
    baseline_option,
    choice_options,
    load_options,
    possible,
    progress,
    read_traces,
    reading_options,
    seed_option,
    traces_argument,
    view_option,
)
from sim.commands.complete import policy_names, profile_names
from sim.commands.run import draws_option
from sim.compare import compare, line_up
from sim.comparison import Comparison
from sim.errors import RunError
from sim.fleet import fleet_of
from sim.latency import load_profile
from sim.load import Load
from sim.report import print_comparison
from sim.results import check_free, write
from sim.traces import LoadOptions, segment_id, text_of
from sim.trust import num_draws


@click.command()
@traces_argument
@click.option(
    "--server",
    "urls",
    multiple=True,
    required=True,
    metavar="URL",
    help="A vLLM, such as http://127.0.0.1:8000; several are replicas.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    required=True,
    metavar="P",
    help="A policy, with parameters: async:max_parallel=4.",
    shell_complete=policy_names,
)
@baseline_option
@click.option(
    "--profile",
    metavar="NAME",
    help="Also simulate the same on this profile, and print both; estimates of policies are in its seconds.",
    shell_complete=profile_names,
)
@draws_option
@click.option("--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Repetitions, in turn.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1), default=300, show_default=True, help="Seconds without a token."
)
@click.option(
    "--texts",
    "texts_at",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Your own prompts for calls, sent as chats, with tools if you like; live/text.py says in which form.",
)
@click.option(
    "--tools",
    "tools",
    default="recorded",
    show_default=True,
    metavar="HOW",
    help="Who carries out the tools that a chat offers: recorded (waits), MODULE:FUNCTIONS, or appworld:URL.",
)
@click.option("--hardware", default="unknown", metavar="TEXT", help="What the server runs on, for the records.")
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
    urls: tuple[str, ...],
    policies: tuple[str, ...],
    baseline: str | None,
    profile: str | None,
    draws: int | None,
    repeat: int,
    timeout_s: float,
    texts_at: Path | None,
    tools: str,
    hardware: str,
    load: Load,
    seed: int,
    choices: Choices,
    options: LoadOptions,
    as_json: bool,
    output: Path | None,
) -> None:
    """Run TRACES on a vLLM server under each policy: the objects that `workspan run` simulates, with threads as hands.

    Prompts are token ids made from segments, answers have exactly the recorded lengths, tools wait for their time;
    no text of a trace is sent. A key for the server is taken from VLLM_API_KEY.

    \b
    workspan replay my_traces/ --server http://127.0.0.1:8000 --policy sequential --policy async --repeat 5
    """
    lineup, base = line_up(policies, baseline)
    check_free(output)
    settings = load_profile(profile) if profile else None
    if draws and not settings:
        raise RunError(f"--draws {draws}: there is no prediction to draw for; give --profile NAME")
    number = num_draws(settings, draws) if settings else 0
    texts = load_texts(texts_at) if texts_at else {}
    digest = segment_id(text_of(texts_at)) if texts_at else ""
    executor = parse_executor(tools, timeout_s)
    check_policies(lineup, len(urls), settings, texts, executor)
    workflows = choices.apply(read_traces(traces, options, brief=True), seed)
    load = possible(load, len(workflows))
    check_texts(texts, workflows)
    # First what can fail without a server: nothing that was measured may be lost for it.
    engine = fleet_of(settings, len(urls)) if settings else None
    predicted = compare(workflows, lineup, base, engine, load, seed, choices, draws=number) if engine else None
    # Whoever ends the program keeps what has finished, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with progress("sessions", repeat * len(lineup) * len(workflows)) as advance:
        setup = Setup(repeat, timeout_s, texts, digest, hardware, executor, settings, advance)
        measured = measure(workflows, lineup, base, list(map(Server, urls)), load, seed, choices, setup)
    if as_json:
        click.echo(json.dumps(_json(measured, predicted), indent=2, allow_nan=False))
    else:
        print_comparison(measured)
        if predicted:
            print_comparison(predicted)
    if output:  # after all that can be said, as a disk may be full
        write(measured, output)
        if predicted:
            write(predicted, output / "predicted")
        click.echo(f"wrote {output}/", err=True)
    try:
        if predicted and not as_json and not measured.interrupted:
            print_agreement(compare_results(predicted, measured))
    finally:  # where nothing can be compared, the reason is a call's
        _end(measured)


def _json(measured: Measured, predicted: Comparison | None) -> dict[str, object]:
    return {"measured": measured.to_json(), **({"predicted": predicted.to_json()} if predicted else {})}


def _end(measured: Measured) -> None:
    """Tell by the exit code whether everything went as it should."""
    if measured.interrupted:
        raise KeyboardInterrupt
    records = [record for run in measured.runs.values() for record in run.records]
    failed = [record for record in records if record.status == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {len(records)} calls failed, the first: {failed[0].reason}")
