"""A regime map as text for people, and as files."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim import __version__
from sim.choices import Choices
from sim.comparison import digest
from sim.errors import RunError
from sim.paired import ALPHA
from sim.regime_map import Cell, RegimeMap
from sim.report import console, new_table
from sim.results import svg, write_whole
from sim.workflow import Workflow


def print_map(found: RegimeMap, choices: Choices) -> None:
    """One table per number of slots, then what the marks mean."""
    out = console()
    cells = f"{found.sessions} sessions x {found.seeds} seeds a cell, profile {found.profile}"
    out.print(f"\n{cells}; best policy and its speed-up over {found.baseline}")
    for slots in found.axes.slots:
        table = new_table(f"\nmax_num_seqs {slots}", *(f"\n{name}" for name in _loads(found)))
        for share in found.axes.kv_shares:
            row = [found.at(slots, share, load) for load in found.axes.loads]
            table.add_row(_kv(row[0]), *map(_text, row))
        out.print(table)
    out.print(f"\n{str(choices).capitalize()}.")
    rate = f"{found.saturation_rate:.3g} sessions/s"
    out.print(f"Load is offered / sustained: with the most KV blocks, async sustains about {rate}.")
    if found.left_out:
        out.print(f"{found.left_out} workflows are left out, as they cannot finish on the smallest engine.")
    out.print("! more is offered than the server of this row sustains: the gain depends on how long the run is.")
    real = [cell for cell in found.cells if cell.best and cell.best.is_real]
    if len(real) < len(found.cells):
        noise = f"p >= {ALPHA:g}, Holm over {_questions(found)} questions"
        out.print(f"- no policy is better by more than noise ({noise}).")
    out.print(_sentence(found, real))
    for name in found.policies:
        if slower := sum(gain.policy == name and gain.is_worse for cell in found.cells for gain in cell.gains):
            out.print(f"{name} is slower than {found.baseline} by more than noise in {slower} cells.")


def map_json(found: RegimeMap, choices: Choices, workflows: Sequence[Workflow]) -> dict[str, Any]:
    """All numbers as plain data, with their provenance."""
    provenance = {
        "workspan": __version__,
        "python": platform.python_version(),
        "workflows": len(workflows),
        "workflows_digest": digest(workflows),
        **choices.to_json(),
    }
    return {"provenance": provenance, **found.to_json()}


def write_map(found: RegimeMap, choices: Choices, workflows: Sequence[Workflow], output: Path) -> None:
    """``regimes.json`` and ``regimes.svg``."""
    told = map_json(found, choices, workflows)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / "regimes.svg", _figure(found, told["provenance"]))
        write_whole(output / "regimes.json", json.dumps(told, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror}); name another folder") from error


def _sentence(found: RegimeMap, real: Sequence[Cell]) -> str:
    if not real:
        return f"None of {', '.join(found.policies)} matters anywhere on this map."
    where = f"Policies matter in {len(real)} of {len(found.cells)} cells"
    steady = [cell.best for cell in real if cell.best and not cell.saturated]
    if not steady:
        return f"{where}, all of them beyond saturation."
    top = max(steady, key=lambda gain: gain.speedup)
    cell = next(cell for cell in real if cell.best is top)
    place = f"{100 * cell.load:.0f} % load and {cell.num_gpu_blocks:,} KV blocks"
    return f"{where}; below saturation most at {place}: {top.policy}, {top.speedup:.2f}x [{_range(top.ci95)}]."


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f}, {ends[1]:.2f}"


def _questions(found: RegimeMap) -> int:
    return sum(len(cell.gains) for cell in found.cells)


def _loads(found: RegimeMap) -> list[str]:
    rates = {cell.load: cell.rate for cell in found.cells}
    return [f"{100 * load:.0f} % ({rates[load]:.3g}/s)" for load in found.axes.loads]


def _kv(cell: Cell) -> str:
    return f"{100 * cell.kv_share:.3g} % KV, {cell.num_gpu_blocks:,} blocks"


def _text(cell: Cell) -> str:
    mark = " !" if cell.saturated else ""
    if not cell.best:
        return f"none finished{mark}"
    if not cell.best.is_real:
        return f"-{mark}"
    return f"{cell.best.policy} {cell.best.speedup:.2f}x{mark}"


def _figure(found: RegimeMap, provenance: dict[str, Any]) -> str:
    from matplotlib.figure import Figure

    from sim.plots import literal, regime_map

    slots, shares, loads = found.axes.slots, found.axes.kv_shares, found.axes.loads
    figure = Figure(
        figsize=(1.6 + 1.15 * len(loads), len(slots) * (1.1 + 0.62 * len(shares)) + 0.6), layout="constrained"
    )
    for ax, number in zip(figure.subplots(len(slots), squeeze=False)[:, 0], slots, strict=True):
        cells = [[found.at(number, share, load) for load in loads] for share in shares]
        regime_map(
            ax, cells, [f"{100 * load:.0f} %" for load in loads], [f"{row[0].num_gpu_blocks:,}" for row in cells]
        )
        ax.set_title(literal(f"{found.profile}, max_num_seqs {number}"), loc="left", fontsize=9)
        ax.set_ylabel("KV blocks")
        ax.set_xlabel(f"offered load, 100 % = {found.saturation_rate:.3g} sessions/s")
    figure.supxlabel(
        f"best speed-up over {found.baseline}; hatched: within noise; dashed: more offered than sustained", fontsize=8
    )
    return svg(figure, provenance)
