"""A study's results as text for people, and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sim.metrics import percent
from sim.paired import ALPHA
from sim.report import console, new_table
from sim.study.answer import answer, question
from sim.study.panels import (
    SERVER,
    Row,
    is_alone,
    is_only_noise,
    noise_rows,
    policy_rows,
    rows_of,
    said,
    setting,
    telling,
)
from sim.study.spec import Window
from sim.study.table import Columns, written

if TYPE_CHECKING:
    from rich.console import Console

    from sim.study.results import Results

#: So many rows can be read; of more only the most telling are shown.
_MOST_ROWS = 40
COLUMNS = ("load", "policy", "speed-up [95 %]", "p", "", "ceiling", "no gain")


def print_report(results: Results, out: Console | None = None) -> None:
    """The question and its answer, a table for each server, and what the numbers leave out."""
    out, every, told = out or console(), rows_of(results.comparisons), results.manifest
    order = list(told["policies"]).index
    rows = sorted(policy_rows(every), key=lambda row: (row["point"], order(row["policy"])))
    out.print(f"\n{question(told)}")
    out.print(answer(rows, told))
    shown = most_telling(rows)
    for title, lines in tables(rows, shown, told["baseline"]):
        table = new_table(*COLUMNS, left=2)
        for line in lines:
            table.add_row(*line)
        out.print(f"\n{title}")
        out.print(table)
    out.print()
    for remark in (*marks(rows, shown), *noise_floor(every), *left_out(results, rows)):
        out.print(remark)


def report_json(results: Results) -> dict[str, Any]:
    """The same facts as plain data, with what they depend on; every row there is."""
    every, told = rows_of(results.comparisons), results.manifest
    planned, done, _ = results.status
    return {
        "provenance": told,
        "question": question(told),
        "answer": answer(policy_rows(every), told),
        "comparisons": every,
        "left_out": {**_window(told), "sessions": _ends(results), "documents": told["traces"]["documents_skipped"]},
        "cells": {"planned": planned, "done": done},
    }


def print_rows(columns: Columns, form: str = "table") -> None:
    """The rows of a query on stdout: as a table, csv or json."""
    if form != "table":
        click.echo(written(columns, form), nl=False)
        return
    table = new_table(*columns)
    for row in rows_of(columns):
        table.add_row(
            *(
                "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
                for value in row.values()
            )
        )
    console().print(table)


def most_telling(rows: Sequence[Row]) -> list[Row]:
    """Those to show, in their order: first what is more than noise, of that what the server sustains, by its size."""

    def dullness(row: Row) -> tuple[bool, bool, float]:
        noise = is_only_noise(row)
        return noise, row["saturated"] and not noise, -abs(row["speedup"] - 1)

    kept = {id(row) for row in sorted(rows, key=dullness)[:_MOST_ROWS]}
    return [row for row in rows if id(row) in kept]


def tables(rows: Sequence[Row], shown: Sequence[Row], baseline: str) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """A title and the lines of a table, with COLUMNS, for each server.

    What is asked at a point besides its load stands with the load.
    """
    others = telling(rows, ("tool_time", "information_error"))
    servers: dict[tuple[Any, ...], list[Row]] = {}
    for row in shown:
        servers.setdefault(tuple(row[name] for name in SERVER), []).append(row)
    for some in servers.values():
        lines, last = [], None
        for row in some:
            place = ", ".join((row["load"], *(setting(name, row[name]) for name in others)))
            lines.append(("" if place == last else place, *_cells(row)))
            last = place
        yield f"speed-up over {baseline} on {server_words(some[0])}", lines


def server_words(row: Row) -> str:
    """The server of a row's point."""
    names = ["profile", *(("fleet",) if row["fleet"] else ()), *(("replicas",) if row["replicas"] > 1 else ())]
    names += [*(("router",) if row["router"] else ()), "max_num_seqs", "max_num_batched_tokens", "num_gpu_blocks"]
    return said(row, names) + ("" if row["enable_prefix_caching"] else ", prefix caching off")


def _cells(row: Row) -> tuple[str, ...]:
    interval = "" if row["ci95_low"] is None else f" [{row['ci95_low']:.2f}, {row['ci95_high']:.2f}]"
    marks = ("*" if row["extrapolated"] else "") + ("!" if row["saturated"] else "")
    return (
        row["policy"],
        f"{row['speedup']:.2f}x{interval}{marks}",
        "-" if row["p_holm"] is None else "<0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}",
        row["verdict"],
        "-" if row["ceiling"] is None else f"{row['ceiling']:.2f}",
        percent(row["share_without_gain"]),
    )


def marks(rows: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    """What stands in the tables."""
    lines = []
    if hidden := len(rows) - len(shown):
        lines.append(
            f'{hidden:,} more rows say less; workspan study query FOLDER "SELECT * FROM comparisons" shows them.'
        )
    asked = sum(row["p"] is not None for row in rows)
    if asked:
        questions = f"{asked} question{'s'[: asked != 1]} (Holm)"
        lines.append(f"p: corrected for {questions}; below {ALPHA:g} a difference is more than noise.")
    if any(row["ceiling"] is not None for row in rows):
        lines.append("ceiling: no policy can gain more; no gain: share of workflows that get less than 1 % faster.")
    if any(row["saturated"] for row in shown):
        lines.append("!: the backlog still grows when the last sessions arrive: overload, or too short a run to tell.")
    if any(row["extrapolated"] for row in shown):
        lines.append("*: extrapolated, as some of it is beyond what the profile was measured with.")
    return lines


def noise_floor(rows: Sequence[Row]) -> list[str]:
    """What the baseline seems to gain over itself."""
    lines = []
    for row in noise_rows(rows):
        interval = "" if row["ci95_low"] is None else f" [{row['ci95_low']:.2f}, {row['ci95_high']:.2f}]"
        surprise = "" if is_only_noise(row) else "; more than noise, so do not trust what is nearer to 1 than this"
        name = row["baseline"]
        lines.append(
            f"A/A, the noise floor: {name} against {name} under other arrivals ({row['load']}):"
            f" {row['speedup']:.2f}x{interval}{surprise}."
        )
    return lines


def left_out(results: Results, rows: Sequence[Row]) -> list[str]:
    """What no number above is about, and how far the study is."""
    told, lines = results.manifest, []
    window, ends = _window(told), _ends(results)
    if any(window.values()) and not all(map(is_alone, rows)):
        lines.append(
            f"Not counted: the first {window['warm_up']:.0%} and the last {window['drain']:.0%} of each"
            " cell's sessions, which meet an emptier server."
        )
    lost = {name: number for name, number in ends.items() if name != "completed" and number}
    if lost:
        listed = ", ".join(f"{number:,} {name}" for name, number in lost.items())
        lines.append(f"Of {sum(ends.values()):,} sessions these did not finish: {listed}; compared are those that did.")
    if skipped := told["traces"]["documents_skipped"]:
        lines.append(f"{skipped:,} trace documents could not be read and are left out.")
    if unknown := told["traces"]["tools_of_unknown_duration"]:
        lines.append(f"{unknown:,} tool runs have no recorded duration: they take what tool_time says, else 0 s.")
    planned, done, _ = results.status
    rest = "" if done == planned else "; the others have failed or not run yet: workspan study run goes on"
    rest = "; the stopping rule may not need the others" if told["stop"] and rest else rest
    return [*lines, f"{done:,} of {planned:,} cells are done{rest}."]


def _window(told: Mapping[str, Any]) -> dict[str, float]:
    return Window(**told["study"].get("window", {})).model_dump()


def _ends(results: Results) -> dict[str, int]:
    """How sessions ended -> how many of them did so."""
    names = ("completed", "failed", "aborted", "unfinished")
    cells = results.cells
    return {name: int(cells[f"{name}_sessions"].sum()) if cells else 0 for name in names}
