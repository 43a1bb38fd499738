"""How far what was predicted agrees with what was measured, held against the measured noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.agreement.data import Side, check_comparable, side_of
from sim.agreement.join import REGIMES, Joint, Values, join_calls, join_sessions
from sim.agreement.speedups import Order, Speedup, orders, ranks, speedups, winners
from sim.agreement.stats import Number, exact, of_run, times
from sim.comparison import Comparison
from sim.errors import RunError

_OF_CALL = ("ttft", "tpot", "e2el")
_TOKENS = ("cached_tokens", "computed_tokens")
#: What stands at the top is the worst of all policies.
_WORST: dict[str, Callable[[Iterable[float]], float]] = {
    **dict.fromkeys(("error", "error_over_noise", "mape", "mape_over_noise"), max),
    **dict.fromkeys(("correlation", "equal_share"), min),
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """``numbers``: nested; what a name like ``policies.async.ttft.mean.error`` means is in docs/compare.md.

    ``speedups`` of all workflows first, then of each framework; ``wrong``: pairs of policies of which the prediction
    names the wrong winner.
    """

    predicted: Side
    measured: Side
    calls: Joint
    sessions: Joint
    numbers: Mapping[str, Any]
    speedups: Sequence[Speedup]
    wrong: Sequence[Order]
    notes: Sequence[str]

    def metrics(self) -> dict[str, Number]:
        """Every number by its flat name; None where it is not known."""
        return dict(_flat(self.numbers))

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the provenance of both sides."""
        return {
            "provenance": {"predicted": dict(self.predicted.provenance), "measured": dict(self.measured.provenance)},
            "notes": list(self.notes),
            "wrong_winners": [str(order) for order in self.wrong],
            "metrics": self.metrics(),
        }


def compare_results(predicted: Comparison | Side, measured: Comparison | Side) -> Agreement:
    """The agreement of two results of the same workflows, load and seed, under the policies that were measured.

    Raises RunError where they are of different things, not whole, or where nothing finished on both sides.
    """
    one = predicted if isinstance(predicted, Side) else side_of(predicted, "predicted")
    other = measured if isinstance(measured, Side) else side_of(measured, "measured")
    check_comparable(one, other)
    calls, sessions = join_calls(one, other), join_sessions(one, other)
    if not sessions.keys:
        raise RunError(f"{one.where}, {other.where}: no session finished on both sides; there is nothing to compare")
    return _agreement((one, other), calls, sessions)


def _agreement(sides: tuple[Side, Side], calls: Joint, sessions: Joint) -> Agreement:
    frameworks = sorted(set(sessions.labels["framework"]))
    gains = {name: speedups(sides, sessions, name) for name in (None, *frameworks)}
    pairs = {name: orders(sides, sessions, name) for name in (None, *frameworks)}
    policies = {
        name: _of_policy(sides, name, calls.part(policy=name), sessions.part(policy=name), gains[None].get(name))
        for name in sides[1].runs
    }
    ranked = [gain for name in frameworks for gain in gains[name].values()]
    worst = _worst(policies)
    numbers = {
        **worst,
        "speedup": {**worst.get("speedup", {}), **ranks(ranked), **winners(pairs[None])},
        "policies": policies,
        "by_framework": {
            name: {
                **_times(calls.part(framework=name), sessions.part(framework=name)),
                "speedup": {
                    **{policy: gain.to_json() for policy, gain in gains[name].items()},
                    **winners(pairs[name]),
                },
            }
            for name in frameworks
        },
        "by_regime": {name: _times(calls.part(regime=name)) for name in REGIMES if name in calls.labels["regime"]},
        "left_out": {"calls": calls.left_out, "sessions": sessions.left_out},
    }
    shown = [gain for some in gains.values() for gain in some.values()]
    # With one framework its pairs are those of all.
    of_some = pairs.values() if len(frameworks) > 1 else [pairs[None]]
    wrong = [pair for some in of_some for pair in some if pair.wrong]
    return Agreement(*sides, calls, sessions, numbers, shown, wrong, list(_notes(*sides, calls, sessions)))


def _of_policy(
    sides: tuple[Side, Side], name: str, calls: Joint, sessions: Joint, gain: Speedup | None
) -> dict[str, Any]:
    spans = Values(*(np.array([run.makespan_s for run in side.runs[name]]) for side in sides))
    tokens = calls.values["output_tokens"].map(lambda side: side.sum(axis=1))
    pace = Values(tokens.predicted / spans.predicted, tokens.measured / spans.measured)
    return {
        **_times(calls, sessions),
        "makespan": of_run(spans, "_s"),
        "output_tokens_per_s": of_run(pace),
        **{kind: exact(calls.values[kind]) for kind in _TOKENS},
        **({"speedup": gain.to_json()} if gain else {}),
    }


def _times(calls: Joint, sessions: Joint | None = None) -> dict[str, Any]:
    found = {name: times(calls.values[name], "per_call") for name in _OF_CALL}
    if sessions:
        found["session_latency"] = times(sessions.values["session_latency"], "per_session")
    return found


def _worst(policies: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Errors, and what is the better the larger, of the policy where they are worst; unknown if one is unknown."""
    found: dict[str, Any] = {}
    names = {name: None for policy in policies.values() for name, _ in _flat(policy)}
    flat = [dict(_flat(policy)) for policy in policies.values()]
    for name in names:
        *path, last = name.split(".")
        if last not in _WORST:
            continue
        place = found
        for part in path:
            place = place.setdefault(part, {})
        known = [numbers[name] for numbers in flat if name in numbers]
        values = [value for value in known if value is not None]
        place[last] = _WORST[last](values) if len(values) == len(known) else None
    return found


def _flat(numbers: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Number]]:
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _notes(predicted: Side, measured: Side, calls: Joint, sessions: Joint) -> Iterator[str]:
    """What a reader of the numbers must know."""
    facts = measured.provenance
    if facts["engine"] != "vllm":
        yield f"{measured.where} is no measurement: its engine is {facts['engine']}."
    if measured.repetitions < 2:
        yield "The noise floor is unknown: one repetition cannot tell. Measure with --repeat 5."
    if facts.get("degraded"):
        yield f"{measured.where} is degraded: calls were sent late, so the load was another; measure at a lower load."
    if facts.get("requests_of_others"):
        yield f"{facts['requests_of_others']} requests of others were served meanwhile: the load was not only this one."
    if sessions.left_out or calls.left_out:
        yield (
            f"Left out, as they did not finish everywhere: {sessions.left_out} sessions, {calls.left_out} calls; an "
            "interval that is stated with them is not shown."
        )
    if more := [name for name in predicted.runs if name not in measured.runs]:
        yield f"Predicted, but not measured: {', '.join(more)}."
    if "unknown" in calls.labels["regime"]:
        yield "Some calls have no regime: the predicted records do not tell when they were scheduled."
    tokens = calls.values["output_tokens"]
    if other := int((tokens.measured != tokens.predicted[:1]).any(axis=0).sum()):
        yield f"{other} calls had answers of another length than predicted."
    if (kind := predicted.provenance.get("profile_kind", "measured")) != "measured":
        yield f"The profile {predicted.provenance['profile']} is {kind}."
    if outside := predicted.provenance.get("calls_outside_the_measured_range"):
        yield f"Extrapolated: {outside} calls are longer than what the profile was measured with."
    yield from _settings(predicted.provenance, facts)


def _settings(predicted: Mapping[str, Any], measured: Mapping[str, Any]) -> Iterator[str]:
    """Settings of the profile which the server does not have, as far as it tells."""
    scheduler = measured.get("scheduler") or {}
    told = {**measured, **scheduler, "scheduling_policy": scheduler.get("policy")}
    for name, value in (predicted.get("engine_settings") or {}).items():
        actual = told.get(name)
        # What a policy needs was set for it, and "default" are the sizes that vLLM makes itself.
        if name in predicted.get("needs", {}) or value == "default":
            continue
        if actual not in (None, "unknown") and str(actual).lower() != str(value).lower():
            yield f"The profile has {name} {value}, the server {actual}."
