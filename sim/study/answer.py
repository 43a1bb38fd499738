"""The one sentence that a study is for: which policy is faster, by how much, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.study.panels import SERVER, Row, is_only_noise, layout, said, setting


def question(told: Mapping[str, Any]) -> str:
    """What the study asks."""
    others = [name for name in told["policies"] if name != told["baseline"]]
    if not others:
        return f"How does {told['baseline']} do? (There is no policy to compare it with.)"
    which = f"Which of {', '.join(others)} is" if len(others) > 1 else f"Is {others[0]}"
    return f"{which} faster than {told['baseline']}, by how much, and where?"


def answer(rows: Sequence[Row], told: Mapping[str, Any]) -> str:
    """In a sentence or two; what nobody can run, as it knows the future, is named apart."""
    if list(told["policies"]) == [told["baseline"]]:
        return "There is only the baseline, so nothing is compared; its numbers are in summary.csv."
    if not rows:
        return "Nothing can be said yet: no point has all of its policies finished."
    faster = [row for row in rows if row["verdict"] == "faster"]
    clairvoyant = {name for name, rules in told["policies"].items() if "_oracle" in rules}
    real = [row for row in faster if row["policy"] not in clairvoyant]
    best, most = _best(real), max(real, key=lambda row: row["speedup"], default=None)
    oracle = _best([row for row in faster if row["policy"] in clairvoyant])
    parts = [_gain(best, rows, told) if best else _nobody(rows, told)]
    if best:
        parts.append(_where_not(best, rows, clairvoyant))
    if most and most is not best:
        parts.append(f"where the backlog grows to the end, {most['policy']} is up to {_times(most)} faster")
    if oracle:
        known = f"{oracle['policy']}, which knows the future and nobody can run,"
        parts.append(f"{known} is {_times(oracle)} faster{at_place(oracle, rows)}{_beyond(oracle)}")
    if len(slower := sorted({row["policy"] for row in rows if row["verdict"] == "slower"})):
        count = sum(row["verdict"] == "slower" for row in rows)
        parts.append(f"slower by more than noise in {count} of {len(rows)} comparisons: {', '.join(slower)}")
    return "; ".join(part for part in parts if part) + "."


def _best(rows: Sequence[Row]) -> Row | None:
    """The largest gain, where the server sustains the load if there is such a one."""
    return max(rows, key=lambda row: (not row["saturated"], row["speedup"]), default=None)


def _gain(row: Row, rows: Sequence[Row], told: Mapping[str, Any]) -> str:
    return f"{row['policy']} is {_times(row)} faster than {told['baseline']}{at_place(row, rows)}{_beyond(row)}"


def _beyond(row: Row) -> str:
    return ", though the backlog still grows there when the last sessions arrive" if row["saturated"] else ""


def _nobody(rows: Sequence[Row], told: Mapping[str, Any]) -> str:
    many = len({row["point"] for row in rows}) > 1
    who = "no policy that can be run" if any("_oracle" in rules for rules in told["policies"].values()) else "no policy"
    small = sum(row["verdict"] == "within the profile's error" for row in rows)
    differences = "1 difference is" if small == 1 else f"{small} differences are"
    error = f" ({differences} more than noise, but within the profile's error)" if small else ""
    where = " at any point" if many else ""
    return f"{who.capitalize()} is faster than {told['baseline']} by more than noise{where}{error}"


def _where_not(best: Row, rows: Sequence[Row], clairvoyant: set[str]) -> str:
    """Up to which value of the axis nothing matters, on the best one's server and below it."""
    found = layout(rows)
    if not found.axis:
        return ""
    panel = [row for row in rows if found.at(row) == found.at(best) and row["policy"] not in clairvoyant]
    matters = min(row[found.axis] for row in panel if not is_only_noise(row))
    quiet = [row[found.axis] for row in panel if row[found.axis] < matters]
    if not quiet:
        return ""
    below = " and below" if len(set(quiet)) > 1 else ""
    return f"at {setting(found.axis, max(quiet))}{below} policies do not matter here"


def _times(row: Row) -> str:
    interval = "" if row["ci95_low"] is None else f" ({row['ci95_low']:.2f} to {row['ci95_high']:.2f})"
    return f"{row['speedup']:.2f}x{interval}"


def at_place(row: Row, rows: Sequence[Row]) -> str:
    """Where a row is, among these, as far as there are several places."""
    found = layout(rows)
    load = setting(found.axis, row[found.axis]) if found.axis else ""
    server = said(row, dict.fromkeys(("profile", *(name for name in found.panels if name in SERVER))))
    others = said(row, [name for name in found.panels if name not in SERVER])
    place = ", ".join(part for part in (load, others) if part)
    return (f" at {place}" if place else "") + f" on {server}"
