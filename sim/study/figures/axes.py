"""What the figures along an axis have in common: scales, ticks, saturated parts and names of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sim.study.panels import Row, layout, policy_rows, rows_of, said, saturated, setting
from sim.study.results import Results
from sim.study.sheet import Sheet, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.curves import Curve

#: Inches of a panel.
PANEL = (3.2, 2.6)
#: How much less of a title than of the small print there is room for.
_LARGER = 0.8
#: How much of the width a foot takes in which there may be long names.
_ROOM = 0.88
#: A scale that spans more than this factor is logarithmic.
DECADE = 10.0


def ratio_title(sheet: Sheet) -> str:
    """The name of an axis of speed-ups."""
    return f"speed-up over {sheet.baseline} (ratio of mean session latency)"


def scale(axes: Sequence[Axes], low: float, high: float, linear: float) -> None:
    """From low to high; logarithmic where that is more than the factor ``linear``."""
    from sim.curves import plain_log

    for ax in axes:
        if high > linear * low > 0:
            plain_log(ax, "y", dense=high < 2 * DECADE * low)
        ax.set_ylim(low, high)


def saturated_spans(sheet: Sheet, panel: Sequence[Row]) -> list[tuple[float, float]]:
    """The saturated parts of the axis: from half-way to the neighbour that is not, to half-way to the next."""
    beyond = saturated(panel)
    places = sorted({(sheet.x(row), row["point"] in beyond) for row in panel})
    values = [x for x, _ in places]
    middles = [(left + right) / 2 for left, right in pairwise(values)]
    half = (middles[0] - values[0], values[-1] - middles[-1]) if middles else (0.5, 0.5)
    edges = [values[0] - half[0], *middles, values[-1] + half[1]]
    spans: list[tuple[float, float]] = []
    for (_, full), (start, end) in zip(places, pairwise(edges), strict=True):
        if full and spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        elif full:
            spans.append((start, end))
    return spans


def ticks(sheet: Sheet, axes: Sequence[Axes]) -> None:
    """Ticks of the axis; a logarithmic one where values span more than a decade."""
    from sim.curves import plain_log

    values = sorted({sheet.x(row) for row in sheet.rows})
    for ax in axes:
        if not sheet.layout.axis:
            names = [next(row for row in sheet.rows if row["point"] == point) for point in sheet.places]
            ax.set_xticks(values, [wrapped(said(row, sheet.layout.panels) or row["load"], 0.8) for row in names])
            ax.set_xlim(-0.6, len(values) - 0.4)
        elif values[0] > 0 and values[-1] >= DECADE * values[0]:
            plain_log(ax, "x")
            ax.set_xlim(values[0] / 1.08, values[-1] * 1.08)
        else:
            margin = 0.03 * (values[-1] - values[0])
            ax.set_xlim(values[0] - margin, values[-1] + margin)


def is_named(sheet: Sheet, axes: Mapping[Any, Axes]) -> bool:
    """Whether there is room for each line's name at its end."""
    return len(axes) == 1 and sheet.layout.axis is not None


def note_saturated(sheet: Sheet) -> None:
    """Say in the foot what grey means, if anything is grey."""
    if any(saturated(rows) for rows in sheet.panels.values()):
        sheet.notes.append("grey: saturated, the backlog grows as long as sessions arrive")


def name_ends(figure: Figure, ax: Axes, lines: Sequence[Curve]) -> None:
    """Each line's name at its end, for which the layout must be known."""
    from sim.curves import end_labels

    figure.draw_without_rendering()
    end_labels(ax, [(float(line.y[-1]), line.name, line.colour) for line in lines])


def place_title(results: Results, sheet: Sheet, row: Row) -> str:
    """The sheet's title, and at which of the study's points the row is."""
    found = layout(policy_rows(rows_of(results.comparisons)))
    names = [name for name in (found.axis, *found.panels) if name and setting(name, row[name]) not in sheet.title]
    return f"{sheet.title}, {said(row, names) or row['load']}"


def place_marks(row: Row) -> list[str]:
    """What must be said of numbers at the row's point."""
    marks = {
        "extrapolated": "extrapolated beyond what the profile measured",
        "saturated": "more offered than sustained",
    }
    return [text for name, text in marks.items() if row[name]]


def finish_bare(figure: Figure, title: str, notes: Sequence[str]) -> Figure:
    """Title and foot of a figure that has no axis of the study; the foot is the title of the legend if there is one."""
    from matplotlib.font_manager import FontProperties

    inches = figure.get_figwidth()
    figure.suptitle(wrapped(title, _LARGER * inches), fontsize=10)
    foot = wrapped("; ".join(notes), _ROOM * inches)
    if figure.legends:
        figure.legends[0].set_title(foot, FontProperties(size=8))
    else:
        figure.supxlabel(foot, fontsize=8)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.3 + 0.15 * (1 + foot.count("\n")))
    return figure
