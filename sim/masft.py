"""What the JSON records of MASFT, the repository of the annotated MAST runs, have in common."""

from __future__ import annotations

from typing import Any

from sim.failures import from_options
from sim.traces import identifier


def labels(data: dict[str, Any]) -> dict[str, bool]:
    """Failure labels; none where nobody annotated the run.

    Every record has options, all "no" in a run that nobody annotated. An annotator left a remark or said "yes".
    """
    note = data.get("note")
    options = note.get("options") if isinstance(note, dict) else None
    if not isinstance(note, dict) or not isinstance(options, dict):
        return {}
    present = {identifier(name, "a failure label"): value == "yes" for name, value in options.items()}
    return from_options(present) if any(present.values()) or _remark(note) else {}


def _remark(note: dict[str, Any]) -> bool:
    text = note.get("text")
    lines = text if isinstance(text, list) else [text]
    return any(isinstance(line, str) and line.strip() for line in lines)
