"""A run's result as files: written whole or not at all, never over another result."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.comparison import Comparison
from sim.errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_free(output: Path | None) -> None:
    """Raise RunError where `write` would find a result, or no folder that it could write to. Changes nothing."""
    if output is None:
        return
    try:
        if output.is_dir() and any(output.iterdir()):
            raise RunError(f"{output}: there is something in it already; name another folder")
        folder = next(place for place in (output, *output.parents) if place.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise RunError(f"{output}: cannot be written in {folder}; name another folder")
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror}); name another folder") from error


def write(comparison: Comparison, output: Path) -> None:
    """``result.json``, ``calls.jsonl``, ``sessions.jsonl`` (a header, then a row each) and ``speedup.svg``."""
    provenance = comparison.provenance()
    parts = list(comparison.parts())
    calls = ({**part, **record._asdict()} for part, run in parts for record in run.records)
    sessions = ({**part, **session._asdict()} for part, run in parts for session in run.sessions)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / "calls.jsonl", _lines({"records": "calls", **provenance}, calls))
        write_whole(output / "sessions.jsonl", _lines({"records": "sessions", **provenance}, sessions))
        write_whole(output / "speedup.svg", _figure(comparison))
        write_whole(output / "result.json", json.dumps(comparison.to_json(), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror}); name another folder") from error


def _lines(header: dict[str, Any], rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in (header, *rows))


def write_whole(path: Path, text: str) -> None:
    """The file with this text, never with a part of it."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def svg(figure: Figure, description: Any) -> str:
    """The figure's SVG with a description; without date and with fixed ids: the same result gives the same bytes."""
    from io import StringIO

    import matplotlib as mpl

    text = StringIO()
    metadata = {"Date": None, "Description": json.dumps(description, separators=(",", ":"))}
    with mpl.rc_context({"svg.hashsalt": "workspan", "svg.fonttype": "none"}), warnings.catch_warnings():
        # The SVG names its letters, it does not draw them: that our font lacks one is no matter.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(text, format="svg", metadata=metadata)
    return text.getvalue()


def _figure(comparison: Comparison) -> str:
    result = comparison.to_json()
    figure = speedup_figure(
        result["policies"], comparison.baseline, comparison.bound_name, f"{comparison.load}, {comparison.engine}"
    )
    return svg(figure, result["provenance"])


def speedup_figure(policies: Mapping[str, Any], baseline: str, bound: str, title: str) -> Figure:
    """The bars by framework of what a result says of its policies."""
    from matplotlib.figure import Figure

    from sim.plots import literal, speedup_by_framework

    rows = {name: policy["by_framework"] for name, policy in policies.items()}
    bars = len(next(iter(rows.values()))) * max(1, len(rows) - 1)
    figure = Figure(figsize=(7, 1.8 + 0.5 * bars), layout="constrained")
    axes = speedup_by_framework(figure.subplots(), rows, baseline, bound)
    mark = "\n* extrapolated" if any(policy.get("extrapolated") for policy in policies.values()) else ""
    axes.set_title(literal(f"{title}{mark}"), loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
