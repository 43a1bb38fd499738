"""A comparison as text for people."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sim.choices import Choices
from sim.comparison import Comparison, unknown_shares, unknown_tools
from sim.failures import title
from sim.latency import Profile
from sim.load import Alone
from sim.metrics import percent
from sim.tokens import estimated
from sim.trust import profile_title
from sim.workflow import CLIENT, Workflow, origin_of


def console() -> Console:
    """Where tables go: as wide as the terminal, or as they need to be where there is none."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(highlight=False, markup=False, soft_wrap=True, width=None if terminal else 10_000)


#: From this share of the output tokens on, a framework's estimates are named apart.
_MUCH = 0.1

#: A speed-up so near to 1, interval and all, is none, however certain it is.
_NOTHING = 0.005

Cell = Callable[[dict[str, Any]], str]

_ROWS: tuple[tuple[str, Cell], ...] = (
    ("makespan, s", lambda p: _number(p["makespan_s"])),
    ("session latency: mean, s", lambda p: _number(p["session_latency_s"]["mean"])),
    ("  p50 / p95 / p99, s", lambda p: _percentiles(p["session_latency_s"])),
    ("ttft: mean / p99, ms", lambda p: _pair(p["ttft_s"], 1000)),
    ("tpot: mean / p99, ms", lambda p: _pair(p["tpot_s"], 1000)),
    ("output tokens/s", lambda p: _number(p["output_tokens_per_s"])),
    ("sessions/s", lambda p: _number(p["sessions_per_s"])),
    ("batches (steps)", lambda p: _count(p["steps"])),
    ("mean batch size", lambda p: _number(p["mean_batch_size"])),
    ("parallelism within a session", lambda p: _number(p["parallelism"])),
    ("GPU busy", lambda p: percent(p["gpu_busy_share"])),
    ("prefix-cache hits", lambda p: percent(p["prefix_cache_hit_share"])),
    ("preemptions", lambda p: _count(p["preemptions"])),
    ("calls finished / sent", lambda p: _finished(p["calls"])),
    ("sessions finished / all", lambda p: _finished(p["sessions"])),
)


def print_comparison(comparison: Comparison) -> None:
    """The result table, the gain per framework, and one sentence per policy that says whether it matters."""
    out = console()
    result = comparison.to_json()
    policies = result["policies"]
    workflows = len(comparison.workflows)
    out.print(f"\n{workflows} workflow{'s'[: workflows != 1]}, {comparison.load}, {comparison.engine}")
    table = new_table("", *(_marked(name, policy) for name, policy in policies.items()))
    for name, cell in _ROWS:
        table.add_row(name, *(cell(policy) for policy in policies.values()))
    if "cost_usd" in policies[comparison.baseline]:
        table.add_row("cost, $", *(_number(policy["cost_usd"]) for policy in policies.values()))
    table.add_section()
    table.add_row(f"speed-up over {comparison.baseline}", *(_gain(policy) for policy in policies.values()))
    table.add_row(comparison.bound_name, *(_bound(policy) for policy in policies.values()))
    out.print(table)
    if len(comparison.frameworks()) > 1:
        out.print(_by_framework(comparison, policies))
    for line in _sentences(comparison, result):
        out.print(line)


def new_table(*columns: str, left: int = 1) -> Table:
    """A table without lines, whose first ``left`` columns are text and the others numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < left else "right", overflow="fold")
    return table


def _by_framework(comparison: Comparison, policies: dict[str, Any]) -> Table:
    others = [name for name in policies if name != comparison.baseline]
    bound = comparison.bound_name.partition(":")[0]
    table = new_table(
        f"\nspeed-up over {comparison.baseline}", "\nworkflows", f"\n{bound}", *(f"\n{name}" for name in others)
    )
    for framework in comparison.frameworks():
        rows = [policies[name]["by_framework"][framework] for name in policies]
        gains = (_gain(policies[name]["by_framework"][framework]) for name in others)
        table.add_row(framework, str(rows[0]["workflows"]), _bound(rows[0]), *gains)
    return table


def _binds(ceilings: dict[str, Any]) -> str:
    sustained, most = (_number(ceilings[name]) for name in ("saturation_rate", "capacity_rate"))
    rates = f"async sustains about {sustained} sessions/s, no policy that sends every call more than {most}"
    return f"What binds: {ceilings['binds']}. {rates}."


def _sentences(comparison: Comparison, result: dict[str, Any]) -> list[str]:
    policies = result["policies"]
    lines = [""]
    lines += [_binds(result["ceilings"])] if "ceilings" in result else []
    lines.append(f"{str(comparison.choices).capitalize()}.")
    if not isinstance(comparison.load, Alone) and policies[comparison.baseline]["bound"] is not None:
        lines.append("Under load a speed-up can exceed the bound, which holds for a workflow alone on the server.")
    everything = len(comparison.workflows)
    for name, policy in policies.items():
        if name != comparison.baseline and policy["speedup_ci95"]:
            low, high = policy["speedup_ci95"]
            lines.append(f"{name} against {comparison.baseline}: {low:.3f}x to {high:.3f}x, {_verdict(policy)}.")
        if name != comparison.baseline and policy["workflows"] < everything:
            paired = f"{policy['workflows']} of {everything} workflows, which finished under both"
            lines.append(f"{name} against {comparison.baseline}: compared over {paired}.")
        for reason, number in policy["failures"].items():
            lines.append(f"{name}: {number} calls failed: {reason}")
    lines += _not_runnable(comparison)
    for name, policy in policies.items():
        lines += _extras(name, policy.get("extras", {}))
        aborts = comparison.aborts(name)
        lines += [f"{name}: {line}" for line in aborts.sentences()] if aborts else []
    originals = len({origin_of(workflow.id) for workflow in comparison.workflows})
    if originals < everything:
        lines.append(f"{everything} workflows are copies of {originals}; an interval counts the copies of one as one.")
    lines += comparison.limits()
    tools = sum(tool.name != CLIENT for workflow in comparison.workflows for tool in workflow.tools)
    if unknown := unknown_tools(comparison.workflows):
        lines.append(f"{unknown} of {tools} tool runs have no recorded duration and count as 0 s.")
    if unrecorded := not_recorded(comparison.workflows):
        lines += [*unrecorded, *_much_estimated(comparison)]
    return lines + not_counted(comparison.workflows)


def not_recorded(workflows: Sequence[Workflow]) -> list[str]:
    """A sentence on what of the tokens is an estimate of what was not recorded, if anything."""
    prompts, outputs = unknown_shares(workflows)
    if not (prompts or outputs):
        return []
    return [f"Not recorded and estimated: {prompts:.1%} of the prompt tokens, {outputs:.1%} of the output tokens."]


def not_counted(workflows: Sequence[Workflow]) -> list[str]:
    """A sentence on whose tokens no tokenizer has counted, if there are such workflows."""
    number = estimated(workflows)
    text = f"Token counts of {number} of {len(workflows)} workflows are estimated as characters / 4."
    return [text] if number else []


def _not_runnable(comparison: Comparison) -> list[str]:
    simulated = [name for name, policy in comparison.policies.items() if policy.runs_on == "simulation only"]
    oracles = [name for name, policy in comparison.policies.items() if policy.knows_the_future]
    lines = [f"No stock vLLM can run {', '.join(simulated)}: simulation only."] if simulated else []
    if oracles:
        lines.append(f"Nobody can run {', '.join(oracles)}: they know the future, and show what there is to gain.")
    return lines


def _extras(name: str, extras: dict[str, Any]) -> list[str]:
    lines = []
    if number := extras.get("ahead_calls"):
        lines.append(f"{name}: {number:,} prefills went ahead of calls and computed {extras['ahead_tokens']:,} tokens.")
    if number := extras.get("guessed_tools", 0) + extras.get("wasted_tools", 0):
        wrong, wasted_s = extras["wasted_tools"], extras["wasted_tool_s"]
        lines.append(f"{name}: {number:,} tools were guessed, {wrong:,} of them wrong: {wasted_s:,.1f} s in vain.")
    return lines


def _verdict(policy: dict[str, Any]) -> str:
    low, high = policy["speedup_ci95"]
    if low <= 1 <= high or max(abs(low - 1), abs(high - 1)) < _NOTHING:
        return "the policy does not matter here"
    error = policy.get("trust", {}).get("held_out_error_pct")
    if error is not None and 100 * abs(policy["speedup"] - 1) < error:
        return f"more than noise, but smaller than the profile's error of {error:.1f} % (most of it cancels in a ratio)"
    return "more than noise"


def _much_estimated(comparison: Comparison) -> list[str]:
    """The frameworks of whose output much is an estimate: their speed-ups rest on it."""
    lines = []
    for name in comparison.frameworks():
        some = [workflow for workflow in comparison.workflows if workflow.framework == name]
        if (share := unknown_shares(some)[1]) >= _MUCH and len(some) < len(comparison.workflows):
            lines.append(f"  {name}: {share:.0%} of its output tokens.")
    return lines


def _finished(counts: dict[str, int]) -> str:
    return f"{counts.get('finished', 0):,} / {sum(counts.values()):,}"


def _gain(row: dict[str, Any]) -> str:
    if row["speedup"] is None:
        return "-"
    low, high = row["speedup_ci95"] or (None, None)
    return _marked(f"{row['speedup']:.2f}x" + (f" [{low:.2f}, {high:.2f}]" if low is not None else ""), row)


def _marked(text: str, row: dict[str, Any]) -> str:
    """With the mark of a number that depends on more than was measured; a sentence below says on what."""
    return f"{text}*" if row.get("extrapolated") else text


def _bound(row: dict[str, Any]) -> str:
    return "-" if row["bound"] is None else f"{row['bound']:.2f}"


def _number(value: float | None, scale: float = 1) -> str:
    if value is None:
        return "-"
    return f"{value * scale:,.0f}" if abs(value * scale) >= 1000 else f"{value * scale:.3g}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _pair(values: dict[str, float | None], scale: float) -> str:
    return f"{_number(values['mean'], scale)} / {_number(values['p99'], scale)}"


def _percentiles(values: dict[str, float | None]) -> str:
    return " / ".join(_number(values[name]) for name in ("p50", "p95", "p99"))


_STATS: tuple[tuple[str, Cell], ...] = (
    ("workflows", lambda g: f"{g['workflows']:,}"),
    ("calls", lambda g: f"{g['calls']['sum']:,}"),
    ("  of a workflow: p50 / p95 / max", lambda g: _quantiles(g["calls"])),
    ("prompt tokens", lambda g: f"{g['prompt_tokens']['sum']:,}"),
    ("  of a call: p50 / p95 / max", lambda g: _quantiles(g["prompt_tokens"])),
    ("  estimated, not recorded", lambda g: percent(g["unknown_prompt_share"])),
    ("output tokens", lambda g: f"{g['output_tokens']['sum']:,}"),
    ("  of a call: p50 / p95 / max", lambda g: _quantiles(g["output_tokens"])),
    ("  estimated, not recorded", lambda g: percent(g["unknown_output_share"])),
    ("prefix reuse within a workflow", lambda g: percent(g["prefix_reuse"])),
    ("tool runs", lambda g: f"{g['tools']['sum']:,}"),
    ("  of a workflow: p50 / p95 / max", lambda g: _quantiles(g["tools"])),
    ("  of unknown duration", lambda g: f"{g['tools_of_unknown_duration']:,}"),
    ("tool time / client time, s", lambda g: f"{g['tool_s']:,.0f} / {g['client_s']:,.0f}"),
    ("work / span, calls: recorded", lambda g: f"{g['work_span']['recorded']['calls']:.2f}"),
    ("  visible", lambda g: f"{g['work_span']['visible']['calls']:.2f}"),
    ("  flow", lambda g: f"{g['work_span']['flow']['calls']:.2f}"),
    ("work / span, seconds: recorded", lambda g: f"{g['work_span']['recorded']['seconds']:.2f}"),
    ("  visible", lambda g: f"{g['work_span']['visible']['seconds']:.2f}"),
    ("  flow", lambda g: f"{g['work_span']['flow']['seconds']:.2f}"),
    ("succeeded / failed / unknown", lambda g: " / ".join(f"{g['success'][k]:,}" for k in ("true", "false", "none"))),
    ("labelled by annotators", lambda g: f"{g['labelled']:,}"),
)


def print_stats(groups: dict[str, dict[str, Any]], profile: Profile, choices: Choices) -> None:
    """The table of `sim.stats.stats`, and how often each failure mode was seen."""
    out = console()
    table = new_table("", *groups)
    for name, cell in _STATS:
        table.add_row(name, *map(cell, groups.values()))
    out.print(table)
    modes = {mode: None for group in groups.values() for mode in group["failure_modes"]}
    if modes:
        table = new_table("\nfailure modes (workflows)", *(f"\n{name}" for name in groups))
        for mode in sorted(modes):
            table.add_row(title(mode), *(str(group["failure_modes"].get(mode, "")) for group in groups.values()))
        out.print(table)
    out.print(f"\nSeconds: each call at batch size 1 with every reusable prefix cached, on {profile_title(profile)}.")
    out.print(f"Parts not recorded: {choices.unknown}; tool time: {choices.tools}.")
    out.print(f"Tokens: {', '.join(sorted({name for group in groups.values() for name in group['tokenizers']}))}.")


def _quantiles(values: dict[str, float]) -> str:
    return " / ".join(f"{values[name]:,.0f}" for name in ("p50", "p95", "max"))
