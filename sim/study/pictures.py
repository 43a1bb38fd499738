"""The figures of a study's page: SVG that stands in HTML, each with its numbers in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from sim.breakdown import Breakdown
from sim.gantt import STYLES, seconds_text
from sim.results import svg
from sim.study.figures.along import draw_speedup
from sim.study.figures.closely import draw_frameworks
from sim.study.figures.closeup import draw_breakdown, draw_gantt
from sim.study.focus import Example, Where
from sim.study.panels import Row, layout, said, setting
from sim.study.report import most_telling
from sim.study.results import Results
from sim.study.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches: on a phone letters of 8 points are then about as large as those of the text.
_WIDTH = 4.6
#: More points and panels than these make a picture that nobody can read, and a page that is too large.
_MOST_POINTS = 72
_MOST_PANELS = 6
#: Numbers of a description.
_MOST_NUMBERS = 40


@dataclass(frozen=True)
class Picture:
    """``svg`` for HTML, with its text alternative in it; ``caption``: what its marks mean; ``width``: in points."""

    svg: Markup
    caption: str
    width: float


def speedup_picture(results: Results, rows: Sequence[Row], chosen: Row) -> Picture:
    """Speed-up along the axis; of a study with very many points those around the chosen one."""
    points = _points(rows, chosen)
    sheet = Sheet.of(results, points)
    sheet.width, sheet.bare = _WIDTH, True
    figure = draw_speedup(sheet)
    all_points = len({row["point"] for row in rows})
    if len(points) < all_points:
        sheet.notes.append(f"{len(points)} of {all_points:,} points are drawn")
    words = f"Speed-up over {sheet.baseline}. {_in_words(sheet.rows)}"
    return _picture(figure, "speedup", "Speed-up of each policy along the load", words, _sentence(sheet.notes))


def frameworks_picture(results: Results, chosen: Row) -> Picture | None:
    """Speed-up and ceiling by framework at the chosen point; None where there is one framework."""
    sheet = Sheet.of(results, {chosen["point"]})
    mine = (row for row in sheet.every if (row["kind"], row["policy"]) == ("policy", chosen["policy"]))
    rows = [row for row in mine if row["framework"] != "all"]
    if not rows:
        return None
    sheet.width, sheet.bare, sheet.policies = _WIDTH, True, [chosen["policy"]]
    figure = draw_frameworks(sheet, results.manifest)
    for ax in figure.axes:
        ax.set_title("", loc="left")
    told = (
        f"{row['framework']}, {row['policy']}: {row['speedup']:.2f}x{_ceiling(row)}" for row in rows[:_MOST_NUMBERS]
    )
    return _picture(figure, "frameworks", "Speed-up and ceiling by framework", _sentence(told), _sentence(sheet.notes))


def where_picture(where: Where) -> Picture:
    """A bar for each policy."""
    figure = draw_breakdown(where, _WIDTH)
    told = (f"{name}: {parts_in_words(parts)}" for name, parts in where.parts.items())
    return _picture(figure, "where", "Mean seconds of a session by policy", _sentence(told), "")


def example_picture(example: Example) -> Picture:
    """One workflow under each policy, on one time axis."""
    figure = draw_gantt(example, _WIDTH)
    told = (
        f"under {name} it takes {seconds_text(ran.session.latency_s)} s, and its critical path has {len(ran.path())} of"
        f" {len(ran.workflow.nodes)} nodes"
        for name, ran in example.runs.items()
    )
    return _picture(figure, "example", "One workflow under two policies", _sentence(told), "")


def parts_in_words(parts: Breakdown) -> str:
    """How long in all, and of what that is made."""
    told = (f"{STYLES[name].label} {seconds_text(value)} s" for name, value in parts._asdict().items() if value > 0)
    return f"{seconds_text(sum(parts))} s ({', '.join(told)})"


def _points(rows: Sequence[Row], chosen: Row) -> set[int]:
    """Those to draw: of each panel some that lie evenly, and the chosen one's panel alone where there are many."""
    found = layout(rows)
    panels: dict[tuple[object, ...], list[Row]] = {}
    for row in {row["point"]: row for row in rows}.values():
        panels.setdefault(found.at(row) if found.axis else (), []).append(row)
    mine = found.at(chosen) if found.axis else ()
    if len(panels) > _MOST_PANELS:
        panels = {mine: panels[mine]}
    each = _MOST_POINTS // len(panels) if found.axis else 2 * _MOST_PANELS
    points = {chosen["point"]}
    for some in panels.values():
        along = [row["point"] for row in sorted(some, key=lambda row: row[found.axis] if found.axis else row["point"])]
        number = min(each - 1, len(along))
        points |= {along[round(place * (len(along) - 1) / max(1, number - 1))] for place in range(number)}
    return points


def _in_words(rows: Sequence[Row]) -> str:
    found, shown = layout(rows), most_telling(rows)
    names = (*((found.axis,) if found.axis else ()), *found.panels)
    told = (
        f"{row['policy']} {row['speedup']:.2f}x{_interval(row)}" + (f" at {said(row, names)}" if names else "")
        for row in shown
    )
    more = f" And {len(rows) - len(shown)} more." if len(rows) > len(shown) else ""
    beyond = sorted({row[found.axis] for row in rows if row["saturated"]}) if found.axis else []
    overload = f" Overload begins at {setting(str(found.axis), beyond[0])}." if beyond else ""
    return f"{'; '.join(told)}.{more}{overload}"


def _interval(row: Row) -> str:
    return "" if row["ci95_low"] is None else f" ({row['ci95_low']:.2f} to {row['ci95_high']:.2f})"


def _ceiling(row: Row) -> str:
    return "" if row["ceiling"] is None else f" of at most {row['ceiling']:.2f}x"


def _sentence(parts: Iterable[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _picture(figure: Figure, name: str, title: str, description: str, caption: str) -> Picture:
    return Picture(inline(svg(figure, None), name, title, description), caption, 72 * figure.get_figwidth())


def inline(text: str, name: str, title: str, description: str) -> Markup:
    """An SVG file as a part of HTML: ids begin with ``name``, so that two figures have none in common."""
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<[^<>]+>", lambda tag: _named(tag.group(), name), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    size = re.search(r'viewBox="[^"]+"', text)
    assert size
    # Safe: the figure's own words are escaped by matplotlib, ours here.
    head = Markup(
        '<svg role="img" aria-labelledby="{0}-title {0}-desc" {1} xmlns="http://www.w3.org/2000/svg">'
    ).format(name, Markup(size.group()))
    words = Markup('<title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>').format(name, title, description)
    return head + words + Markup(text[text.index(">") + 1 :])


def _named(tag: str, name: str) -> str:
    for mark in (' id="', 'href="#', "url(#"):
        tag = tag.replace(mark, f"{mark}{name}-")
    # A hundredth of a point cannot be seen.
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}", tag)
