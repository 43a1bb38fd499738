"""How far a prediction can be trusted: what of it was measured, how wrong the profile was, and how certain it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from sim.errors import ProfileError, RunError
from sim.latency import Measured, Profile
from sim.metrics import ratio
from sim.record import EngineStats
from sim.regimes import REGIMES

DERIVED = "derived, not measured"
#: How many draws a prediction takes where the user does not say.
DRAWS = 5

_CALLED = {"prefill": "prefill", "decode": "decode", "kv": "decode bound by KV", "mixed": "mixed"}


def kind(profile: Profile) -> str:
    """Whether somebody measured the profile."""
    return DERIVED if profile.derived else "measured"


def profile_title(profile: Profile) -> str:
    """The profile's name, marked where nobody measured it."""
    return f"{profile.name} ({DERIVED})" if profile.derived else profile.name


def held_out_pct(profile: Profile, seconds: Mapping[str, float] | None = None) -> float | None:
    """The profile's error in percent where it was not fitted, weighted by the time in each regime; None: unknown.

    A regime without an error of its own has that of whole requests, or of all steps.
    """
    known_of_all = (profile.accuracy.get(f"held_out_{name}_pct") for name in ("e2el_mape", "step"))
    overall = next((error for error in known_of_all if error is not None), None)
    errors = {name: profile.accuracy.get(f"held_out_{name}_pct", overall) for name in REGIMES}
    weights = {name: seconds[name] for name in REGIMES if seconds[name]} if seconds else {}
    known = [(abs(error), weight) for name, weight in weights.items() if (error := errors[name]) is not None]
    if not weights:
        return overall
    return (
        sum(error * weight for error, weight in known) / sum(weights.values()) if len(known) == len(weights) else None
    )


@dataclass(frozen=True, slots=True)
class Trust:
    """What a prediction rests on. ``engines``: what the engines did, by policy; ``profiles``: theirs, each once.

    ``outside_calls``: of all ``calls`` those with more tokens than any request that their profile was measured with.
    """

    profiles: Sequence[Profile]
    outside_calls: int
    calls: int
    engines: Mapping[str, EngineStats]

    def outside_share(self, policy: str) -> float | None:
        """Share of the GPU's time in steps with more requests or KV tokens than measured; None: not known."""
        return ratio(self.engines[policy].outside_s, self.engines[policy].busy_s)

    def error_pct(self, policy: str) -> float | None:
        """The held-out error in percent in the regimes of this policy, of several profiles the worst; None: unknown."""
        seconds = _seconds(self.engines[policy])
        errors = [held_out_pct(profile, seconds) for profile in self.profiles]
        known = [error for error in errors if error is not None]
        return max(known) if len(known) == len(errors) else None

    def to_json(self, policy: str) -> dict[str, Any]:
        """The same as plain data; shares from 0 to 1."""
        seconds = _seconds(self.engines[policy])
        return {
            "calls_outside": ratio(self.outside_calls, self.calls),
            "gpu_time_outside": self.outside_share(policy),
            "gpu_time": {name: ratio(part, sum(seconds.values())) for name, part in seconds.items()},
            "held_out_error_pct": self.error_pct(policy),
        }

    def sentences(self) -> list[str]:
        """The same in words; policies of which the same can be said, together."""
        lines = [f"{DERIVED.capitalize()}: {profile.derived}" for profile in self.profiles if profile.derived]
        times, errors = (_together({name: say(name) for name in self.engines}) for say in (self._time, self._error))
        return [*lines, self._range(), f"GPU time{times}.", f"Error of the profile there, held out{errors}."]

    def _range(self) -> str:
        found = ["nothing was measured on this hardware"] if any(one.derived for one in self.profiles) else []
        told = all(_largest_step(one.measured) for one in self.profiles)
        if self.outside_calls:
            share = f"{self.outside_calls / self.calls:.1%}"
            found.append(
                f"{self.outside_calls} of {self.calls} calls ({share}) have more than the"
                f" {self._each(lambda measured: f'{measured.request_tokens} tokens')} measured"
            )
        if any(self.outside_share(name) for name in self.engines):
            shares = {name: f"{self.outside_share(name) or 0.0:.1%}" for name in self.engines}
            found.append(f"GPU time in steps with more than the {self._each(_steps)} measured{_together(shares)}")
        unknown = "" if told else "; how large the measured steps were is not known"
        if found:
            return f"Extrapolated (*): {'; '.join(found)}{unknown}."
        return f"Interpolated: no call {'or step ' if told else ''}is larger than measured{unknown}."

    def _each(self, say: Callable[[Measured], str]) -> str:
        """What is said of a profile, or of each of several that there is something to say of."""
        said = [(say(profile.measured), profile.name) for profile in self.profiles]
        return said[0][0] if len(said) == 1 else ", ".join(f"{text} of {name}" for text, name in said if text)

    def _time(self, policy: str) -> str:
        seconds = _seconds(self.engines[policy])
        total = sum(seconds.values())
        shares = [f"{part / total:.0%} {_CALLED[name]}" for name, part in seconds.items() if part >= 0.005 * total > 0]
        return ", ".join(shares) or "none"

    def _error(self, policy: str) -> str:
        error = self.error_pct(policy)
        if error is None:
            return "unknown"
        own = {name for name in REGIMES if all(f"held_out_{name}_pct" in one.accuracy for one in self.profiles)}
        lacking = [_CALLED[name] for name, part in _seconds(self.engines[policy]).items() if part and name not in own]
        return f"{error:.1f} %" + (f" (of whole requests; none of {', '.join(lacking)} alone)" if lacking else "")


def num_draws(profile: Profile, asked: int | None) -> int:
    """How many draws to take: as many as asked; else `DRAWS`, as far as there are. Raises RunError."""
    there = len(profile.draws.rows) if profile.draws else 0
    if asked is None:
        return min(DRAWS, there) if there > 1 else 0
    if asked and not 2 <= asked <= there:
        mend = f"give 2 to {there}, or 0" if there > 1 else "give 0, or a profile of `workspan calibrate`"
        raise RunError(f"--draws {asked}: profile {profile.name} has {there} draws of its coefficients; {mend}")
    return asked


def drawn_profiles(profile: Profile, number: int) -> list[Profile]:
    """The profile with each of its first ``number`` draws. Raises RunError, ProfileError."""
    try:
        return [profile.drawn(index) for index in range(num_draws(profile, number))]
    except ValidationError as error:
        raise ProfileError(
            f"profile {profile.name}: one of its draws is no step time: {error.errors()[0]['msg']}; calibrate it again"
        ) from error


def half_width(ratios: Sequence[float]) -> float:
    """Half of the 95 % interval of the ratio's logarithm, from its scatter over draws (Student's t)."""
    from scipy.special import stdtrit  # a second to load, which only a result with draws needs

    return float(stdtrit(len(ratios) - 1, 0.975)) * float(np.std(np.log(ratios), ddof=1))


def around(speedup: float, half: float) -> tuple[float, float]:
    """The interval of so much of the logarithm to both sides."""
    return speedup * math.exp(-half), speedup * math.exp(half)


def _largest_step(measured: Measured) -> str:
    limits = [(measured.batch_size, "requests"), (measured.kv_tokens, "KV tokens")]
    return " or ".join(f"{limit:,} {what}" for limit, what in limits if limit is not None)


def _steps(measured: Measured) -> str:
    fewer = f", or fewer than {least} requests," if (least := measured.least_batch_size) > 1 else ""
    return f"{_largest_step(measured)}{fewer}"


def _seconds(engine: EngineStats) -> dict[str, float]:
    """Regime -> seconds; a simulated engine knows them all."""
    parts = {name: getattr(engine, f"{name}_s") for name in REGIMES}
    return {name: seconds or 0.0 for name, seconds in parts.items()}


def _together(said: Mapping[str, str]) -> str:
    """``: x`` where the same is said of all, else ``: a: x; b, c: y``."""
    groups: dict[str, list[str]] = {}
    for name, text in said.items():
        groups.setdefault(text, []).append(name)
    if len(groups) == 1:
        return f": {next(iter(groups))}"
    return ": " + "; ".join(f"{', '.join(names)}: {text}" for text, names in groups.items())
