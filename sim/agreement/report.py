"""An agreement as text for people, and as files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from sim.agreement import Agreement
from sim.agreement.join import QUEUED
from sim.agreement.speedups import Speedup
from sim.errors import RunError
from sim.report import console, new_table
from sim.results import svg, write_whole

#: Rows of the table of a policy: what it shows, where its numbers are, the unit's factor and its name.
_ROWS = (
    ("session latency", "session_latency", 1, "s"),
    ("e2el", "e2el", 1, "s"),
    ("ttft", "ttft", 1000, "ms"),
    ("tpot", "tpot", 1000, "ms"),
)
_STATISTICS = ("mean", "p50", "p90", "p99")


def print_agreement(agreement: Agreement) -> None:
    """Levels and errors per policy, errors call by call, speed-ups, tokens, and what to know about them."""
    out = console()
    for name, policy in agreement.numbers["policies"].items():
        out.print(_levels(name, policy))
    out.print(_one_by_one(agreement.numbers))
    if agreement.speedups:
        out.print(_speedups(agreement))
    out.print()
    for line in _sentences(agreement):
        out.print(line)


def write_agreement(agreement: Agreement, output: Path) -> None:
    """``agreement.json`` and the figures. Raises RunError where they cannot be written."""
    from sim.agreement.plots import figures

    result = agreement.to_json()
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, figure in figures(agreement):
            write_whole(output / f"{name}.svg", svg(figure, result["provenance"]))
        write_whole(output / "agreement.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror}); name another folder") from error


def _levels(name: str, policy: Mapping[str, Any]) -> Table:
    table = new_table(f"\n{name}: predicted / measured", *(f"\n{statistic}" for statistic in _STATISTICS))
    for title, metric, factor, unit in _ROWS:
        cells = (_both(policy[metric][statistic], factor, "_s") for statistic in _STATISTICS)
        table.add_row(f"{title}, {unit}", *cells)
    table.add_row("makespan, s", _both(policy["makespan"], 1, "_s"))
    table.add_row("output tokens/s", _both(policy["output_tokens_per_s"]))
    return table


def _both(row: Mapping[str, Any], factor: float = 1, unit: str = "") -> str:
    values = f"{_number(row[f'predicted{unit}'], factor)} / {_number(row[f'measured{unit}'], factor)}"
    if row["bias"] is None:
        return values
    noise = "" if row["noise"] is None else f", noise {row['noise']:.1%}"
    return f"{values} ({row['bias']:+.1%}{noise})"


def _one_by_one(numbers: Mapping[str, Any]) -> Table:
    table = new_table("\ncall by call: error (noise), bias, correlation", "\ncalls", "\ne2el", "\nttft", "\ntpot")
    groups = [
        *numbers["policies"].items(),
        *(numbers["by_framework"].items() if len(numbers["by_framework"]) > 1 else ()),
        *((f"regime {name}", group) for name, group in numbers["by_regime"].items()),
    ]
    for name, group in groups:
        cells = (_each(group[metric]["per_call"]) for metric in ("e2el", "ttft", "tpot"))
        table.add_row(name, f"{group['e2el']['per_call']['count']:,}", *cells)
    return table


def _each(row: Mapping[str, Any]) -> str:
    if row["mape"] is None:
        return "-"
    noise = "" if row["mape_noise"] is None else f" ({row['mape_noise']:.1%})"
    together = "-" if row["correlation"] is None else f"{row['correlation']:.3f}"
    return f"{row['mape']:.1%}{noise}, {row['bias']:+.1%}, {together}"


def _speedups(agreement: Agreement) -> Table:
    columns = (f"\n{name}" for name in ("workflows", "predicted", "measured", "error", "noise"))
    table = new_table(f"\nspeed-up over {agreement.measured.baseline}", *columns)
    several = len(agreement.numbers["by_framework"]) > 1
    for gain in agreement.speedups:
        if gain.order.framework is None or several:
            table.add_row(*_gain(gain))
    return table


def _gain(gain: Speedup) -> Iterator[str]:
    order, numbers = gain.order, gain.numbers
    yield order.other if order.framework is None else f"  {order.other}, {order.framework}"
    yield f"{gain.workflows:,}"
    for side, interval in (("predicted", gain.predicted_ci95), ("measured", gain.measured_ci95)):
        ends = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        yield f"{numbers[side]:.2f}x{ends}"
    yield f"{numbers['bias']:+.1%}"
    yield "unknown" if numbers["noise"] is None else f"{numbers['noise']:.1%}"


def _sentences(agreement: Agreement) -> Iterator[str]:
    for name, policy in agreement.numbers["policies"].items():
        yield f"{name}: {_tokens(policy)}"
    if agreement.speedups:
        yield from _decisions(agreement)
    if agreement.numbers["by_regime"]:
        yield (
            "Regimes are those of the prediction: preempting, the call was preempted; idle, no other call was under "
            f"way; saturated, it waited for more than {QUEUED:.0%} of its e2el; busy, the rest."
        )
    yield from agreement.notes


def _tokens(policy: Mapping[str, Any]) -> str:
    parts = []
    for name, title in (("cached_tokens", "cached"), ("computed_tokens", "computed")):
        row = policy[name]
        if not row["calls"]:
            parts.append(f"{title} prompt tokens unknown (workspan live check names the flags)")
            continue
        varying = f", {row['varying']:,} differ between repetitions" if row["varying"] else ""
        unknown = f", {row['unknown']:,} unknown" if row["unknown"] else ""
        totals = f"{row['predicted']:,.0f} / {row['measured']:,.0f} in all"
        parts.append(
            f"{title} prompt tokens equal in {row['equal']:,} of {row['calls']:,} calls ({totals}{varying}{unknown})"
        )
    return "; ".join(parts) + "."


def _decisions(agreement: Agreement) -> Iterator[str]:
    numbers = agreement.numbers["speedup"]
    tau = "-" if numbers["kendall_tau"] is None else f"{numbers['kendall_tau']:.2f}"
    sign = "-" if numbers["sign_agreement"] is None else f"{numbers['sign_agreement']:.0%}"
    yield f"Speed-ups: {sign} of {numbers['sign_counted']} on the same side of 1; Kendall's tau of their order {tau}."
    if numbers["wrong_winners"] is None:
        yield "Wrong winners: unknown, as the noise is."
    else:
        decided = f"{numbers['pairs_above_noise']} of {numbers['pairs']} pairs of policies differ by more than noise"
        yield f"Wrong winners: {numbers['wrong_winners']}; {decided}."
    for order in agreement.wrong:
        yield f"  wrong winner: {order}"


def _number(value: float | None, factor: float) -> str:
    if value is None:
        return "-"
    return f"{value * factor:,.0f}" if abs(value * factor) >= 1000 else f"{value * factor:.3g}"
