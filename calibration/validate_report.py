"""What a validation found, as a table, as sentences and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from calibration.validate import Replayed, Validation
from sim.agreement import Agreement
from sim.report import console, new_table

#: What is judged, by its name among the metrics of an agreement.
_JUDGED = {
    "makespan": "makespan",
    "session latency, mean": "session_latency.mean",
    "session latency, p99": "session_latency.p99",
}


def facts(result: Validation) -> dict[str, Any]:
    """Everything as plain data: the summary, and the metrics of each load."""
    return {
        "profile": {"name": result.profile.name, "digest": result.profile.digest},
        "calibration": dict(result.profile.accuracy),
        "drift_between_calibrations": result.drift,
        "summary": summary(result.replays),
        "loads": {str(one.load): one.agreement.to_json() for one in result.replays},
    }


def summary(replays: Sequence[Replayed]) -> dict[str, Any]:
    """Over all loads and policies: mean and worst error, and the noise between repetitions where it is worst."""
    found: dict[str, Any] = {}
    for name, metric in _JUDGED.items():
        rows = [(one["error"], one["noise"] or 0.0) for one in _numbers(replays, metric)]
        worst = max(rows)
        found[name] = {
            "mean_error": float(np.mean([error for error, _ in rows])),
            "worst_error": worst[0],
            "noise_of_the_worst": worst[1],
            "mean_noise": float(np.mean([noise for _, noise in rows])),
        }
    pairs = [one.agreement.metrics() for one in replays]
    tokens = ("cached_tokens", "computed_tokens")
    return {
        **found,
        "pairs_above_noise": sum(one["speedup.pairs_above_noise"] or 0 for one in pairs),
        "wrong_winners": sum(one["speedup.wrong_winners"] or 0 for one in pairs),
        **{f"{name}_equal_share": min(one[f"{name}.equal_share"] or 0.0 for one in pairs) for name in tokens},
    }


def print_validation(result: Validation) -> None:
    """A row for each load and policy, then what follows from all."""
    out = console()
    table = new_table("", *_JUDGED, "speed-up: predicted / measured")
    for one in result.replays:
        table.add_section()
        table.add_row(str(one.load))
        for policy in one.measured.policies:
            table.add_row(f"  {policy}", *_row(one.agreement, policy))
    out.print("\npredicted / measured, seconds (error; noise between repetitions)")
    out.print(table)
    for line in _sentences(result):
        out.print(line)


def _row(agreement: Agreement, policy: str) -> Iterator[str]:
    metrics = agreement.metrics()
    for metric in _JUDGED.values():
        predicted, measured, bias, noise = (
            metrics[f"policies.{policy}.{metric}.{what}"] for what in ("predicted_s", "measured_s", "bias", "noise")
        )
        scatter = "" if noise is None else f"; {noise:.1%}"
        yield f"{predicted:.3g} / {measured:.3g} ({bias:+.1%}{scatter})"
    sides = [metrics.get(f"policies.{policy}.speedup.{side}") for side in ("predicted", "measured")]
    yield " / ".join(f"{side:.2f}x" for side in sides if side is not None)


def _sentences(result: Validation) -> Iterator[str]:
    found = summary(result.replays)
    yield ""
    for name in _JUDGED:
        one = found[name]
        yield (
            f"{name}: {one['mean_error']:.1%} off on average, {one['worst_error']:.1%} at worst"
            f" (noise there {one['noise_of_the_worst']:.1%}; noise on average {one['mean_noise']:.1%})."
        )
    wrong, pairs = found["wrong_winners"], found["pairs_above_noise"]
    yield f"Wrong winners: {wrong} of {pairs} pairs of policies that differ by more than noise."
    cached, computed = (found[f"{name}_equal_share"] for name in ("cached_tokens", "computed_tokens"))
    yield f"Calls with exactly the tokens predicted, in the worst load: cached {cached:.1%}, computed {computed:.1%}."
    yield f"Between the two calibrations the machine's steps changed by {result.drift:+.1%}."
    notes = [note for one in result.replays for note in one.agreement.notes]
    yield from dict.fromkeys(notes)


def _numbers(replays: Sequence[Replayed], metric: str) -> list[Mapping[str, float]]:
    found: list[Mapping[str, float]] = []
    for one in replays:
        metrics = one.agreement.metrics()
        for policy in one.measured.policies:
            values = {what: metrics[f"policies.{policy}.{metric}.{what}"] for what in ("error", "noise")}
            if values["error"] is not None:
                found.append({"error": values["error"], "noise": values["noise"] or 0.0})
    return found
