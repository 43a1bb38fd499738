"""MAST's failure modes, and what the lists that came before them are called there.

The 14 modes are those of the taxonomy "Why Do Multi-Agent LLM Systems Fail?" (Cemri et al. 2025), by their codes. The
runs that were annotated before it use 12, 13 or 22 options in words. Those that mean a mode are renamed here; this
mapping is ours. The others keep their words: they have no mode of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.errors import TraceError

MODES: Mapping[str, str] = {
    "1.1": "disobey task specification",
    "1.2": "disobey role specification",
    "1.3": "step repetition",
    "1.4": "loss of conversation history",
    "1.5": "unaware of termination conditions",
    "2.1": "conversation reset",
    "2.2": "fail to ask for clarification",
    "2.3": "task derailment",
    "2.4": "information withholding",
    "2.5": "ignored other agent's input",
    "2.6": "reasoning-action mismatch",
    "3.1": "premature termination",
    "3.2": "no or incomplete verification",
    "3.3": "incorrect verification",
}

#: Option of an older list -> mode. None: no mode means the same.
OLDER: Mapping[str, str | None] = {
    "Fail to detect ambiguities/contradictions": "2.2",
    "Fail to elicit clarification": "2.2",
    "Proceed with incorrect assumptions": None,
    "Tendency to overachieve": None,
    "Underperform by waiting on instructions": None,
    "Withholding relevant information": "2.4",
    "Derailing from task objectives": "2.3",
    "Waiting on agents to discover known insights for increased confidence": None,
    "Redundant conversation turns for iterative tasks rather than batching": None,
    "Unaware of stopping conditions": "1.5",
    "Difficulty in agreeing with agents": None,
    "No attempt to verify outcome": "3.2",
    "Evaluator agent fails to be critical": "3.3",
    "Poor adherence to specified constraints": "1.1",
    "Misalignment between internal thoughts and response message": "2.6",
    "Claiming that a task is done while it is not true.": None,
    "Ignoring good suggestions from other agent": "2.5",
    "Not exploring every option proposed by other agents": None,
    "Discontinued reasoning": None,
    "Trajectory restart": "2.1",
    "Step repetition": "1.3",
    "Invented content": None,
    "Blurring roles": "1.2",
    "Blurring role": "1.2",
}


def from_options(options: Mapping[str, bool]) -> dict[str, bool]:
    """Labels by mode for an annotation in an older list's words. A mode is present if any option that means it is."""
    labels: dict[str, bool] = {}
    for option, present in options.items():
        name = OLDER.get(option) or option.rstrip(".")
        labels[name] = labels.get(name, False) or present
    return labels


def from_codes(codes: Mapping[str, object]) -> dict[str, bool]:
    """Labels for an annotation by codes, 1 or 0. Raises TraceError for a code that is none of MAST's 14."""
    for code, value in codes.items():
        if code not in MODES or value not in (0, 1):
            raise TraceError(
                f"mast_annotation must have MAST's codes ({', '.join(MODES)}) as keys, and 0 or 1 as values"
            )
    return {code: bool(value) for code, value in codes.items()}


def title(label: str) -> str:
    """A label for people: a mode's code with its name, anything else as it is."""
    return f"{label} {MODES[label]}" if label in MODES else label
