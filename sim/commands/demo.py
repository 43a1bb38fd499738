"""`workspan demo`: what work / span allows, then four policies at four loads, on the embedded workflows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from sim.bounds import least_times_s
from sim.commands.cells import cell_progress, cores
from sim.commands.common import read_traces
from sim.latency import Profile
from sim.report import console, new_table
from sim.study.drive import Run
from sim.study.plan import Plan, read_corpus
from sim.study.points import Files
from sim.study.report import print_report
from sim.study.results import open_results
from sim.study.spec import Grid, Server, Study, Traces
from sim.study.store import Store
from sim.traces import LoadOptions
from sim.trust import held_out_pct
from sim.workflow import Workflow

#: AG2's are most of the workflows, and short enough that a run under a minute reaches a steady state. With 16 slots
#: calls queue before the server is saturated.
STUDY = Study(
    name="demo",
    traces=Traces(only=["ag2/*"], resample=500),
    policies=["async", "program_fcfs", "plas", "srpt_mean"],
    server=Server(max_num_seqs=16),
    grid=Grid(product={"load.session_rate": [0.5, 1, 1.5, 2]}),
    seeds=5,
)

_NEXT = """
Open {folder}/report.html first: the same with pictures, one workflow under two policies, and what every word means.
Then try
  workspan traces stats                                   what the workflows are like
  workspan study query {folder} "FROM comparisons"
                                                          all numbers; docs/study.md says what they are
  workspan study init my-study                            a study of your own traces, policies and servers
  workspan run my_traces/ --compare                       your own traces, each alone on an idle server
"""


@click.command()
@click.option("-o", "output", type=click.Path(path_type=Path), default="demo", show_default=True, metavar="DIR")
def command(output: Path) -> None:
    """Predict what scheduling policies gain on recorded MAST workflows, alone and under load.

    \b
    workspan demo -o demo
    """
    files = Files()
    workflows = read_traces((), LoadOptions(), brief=True)
    plan = Plan.of(STUDY, read_corpus(STUDY, files)[0], files)
    profile = plan.points[0].fleet.pools[0].profile
    click.echo(_engine(profile, workflows))
    _print_bounds(profile, workflows)
    click.echo(
        f"\nsimulating {len(plan.cells())} cells: {plan.sessions} AG2 workflows under {len(plan.policies)} policies at"
        f" {len(plan.points)} loads with {STUDY.seeds} seeds ..",
        err=True,
    )
    with cell_progress() as progress:
        Run(plan, Store(output), files, cores(), progress=progress).run()
    from sim.study.page import write_page  # jinja2 and matplotlib, a second that only a page needs

    results = open_results(output)
    print_report(results)
    write_page(results, output / "report.html")
    click.echo(_NEXT.format(folder=output), nl=False)


def _engine(profile: Profile, workflows: Sequence[Workflow]) -> str:
    """What the engine is, and how far it is to be trusted with these workflows."""
    calls = [workflow.num_tokens(call) for workflow in workflows for call in workflow.calls]
    longest = profile.measured.request_tokens
    beyond = sum(tokens > longest for tokens in calls) / len(calls)
    error = held_out_pct(profile)
    return (
        f"Engine: {profile.model} on {profile.hardware}, vLLM {profile.engine.vllm_version}, fitted to a real run"
        f" (error on the half that was held out: {'unknown' if error is None else f'{error:.1f} %'}).\n"
        f"{beyond:.0%} of the calls are longer than the {longest:,} tokens measured: extrapolated (*)."
    )


def _print_bounds(profile: Profile, workflows: Sequence[Workflow]) -> None:
    """What any policy can gain on one workflow that is alone: work / span, both at best-case times."""
    table = new_table(
        "alone on an idle server", "workflows", "calls", "at most this much faster than one call at a time"
    )
    for name in sorted({workflow.framework for workflow in workflows}):
        some = [workflow for workflow in workflows if workflow.framework == name]
        times = [least_times_s(workflow, profile) for workflow in some]
        work_s = sum(one.work(seconds) for one, seconds in zip(some, times, strict=True))
        span_s = sum(one.span(seconds) for one, seconds in zip(some, times, strict=True))
        calls = sum(len(workflow.calls) for workflow in some)
        table.add_row(name, f"{len(some):,}", f"{calls:,}", f"{work_s / span_s:.2f}x")
    out = console()
    out.print()
    out.print(table)
