"""What the JSON records of MASFT, the repository of the annotated MAST runs, have in common."""

from __future__ import annotations

from typing import Any

from sim.traces import identifier


def labels(data: dict[str, Any]) -> dict[str, bool]:
    """Failure modes, true where an annotator said "yes". A run that nobody annotated says "no" everywhere."""
    note = data.get("note")
    options = note.get("options") if isinstance(note, dict) else None
    if not isinstance(options, dict):
        return {}
    return {identifier(name, "a failure mode"): value == "yes" for name, value in options.items()}
