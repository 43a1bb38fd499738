"""Embedded workflows: structure and token counts of recorded runs, never their text."""

from pathlib import Path


def embedded_path() -> Path:
    """The file of embedded workflows."""
    return Path(__file__).parent / "mast.jsonl.gz"
