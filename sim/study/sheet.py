"""A figure of a study in the making: one panel for each combination of what varies besides the axis."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.errors import StudyError, nearest
from sim.study.panels import (
    Asked,
    Layout,
    Row,
    is_only_noise,
    layout,
    layout_along,
    policy_rows,
    rows_of,
    said,
    saturated,
    setting,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.curves import Curve, Floats
    from sim.study.results import Results

#: Panels of a figure that can still be read, and how many stand side by side.
_MOST_PANELS = 12
_COLUMNS = 3
#: Inches of a figure at whose side a long name does not fit.
_LOW = 4.5
#: Of the small print.
_LETTERS_PER_INCH = 17


Panels = dict[tuple[Any, ...], list[Row]]


@dataclass
class Sheet:
    """The rows to draw and how their points lie. ``notes``: what the foot must say; ``every``: all rows there are.

    ``asked``: over how many questions p is corrected; ``order``: of all policies of the study; ``width``: inches of a
    figure of one panel; ``bare``: without title and foot, which stand elsewhere.
    """

    every: Sequence[Row]
    rows: Sequence[Row]
    layout: Layout
    baseline: str
    policies: Sequence[str]
    title: str
    asked: int
    order: Sequence[str] = ()
    width: float = 7.2
    bare: bool = False
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        results: Results,
        points: Collection[int] | None = None,
        only: Collection[str] = (),
        axis: str | None = None,
    ) -> Sheet:
        """Of all points and policies, or of these, along this column or the most telling one.

        Raises StudyError where there is nothing to draw, or too much.
        """
        every, told = rows_of(results.comparisons), results.manifest
        asked = sum(row["p"] is not None for row in policy_rows(every))
        every = [row for row in every if points is None or row["point"] in points]
        rows = [row for row in policy_rows(every) if not only or row["policy"] in only]
        if not rows:
            raise StudyError(
                f"{results.folder}: no policy can be compared with the baseline yet; run more of the study"
            )
        there = {row["policy"] for row in rows}
        policies = [name for name in told["policies"] if name in there]
        order = [name for name in told["policies"] if name != told["baseline"]]
        placed = layout_along(axis, rows) if axis else layout(rows)
        sheet = cls(every, rows, placed, told["baseline"], policies, _title(told, rows), asked, order)
        if len(sheet.panels) > _MOST_PANELS or (not sheet.layout.axis and len(sheet.places) > _MOST_PANELS):
            names = ", ".join(sheet.layout.panels)
            raise StudyError(
                f"{results.folder}: {names} differ too much for {_MOST_PANELS} panels; take the rows that matter with"
                " workspan study query, and draw those"
            )
        return sheet

    @classmethod
    def asked_for(cls, results: Results, asked: Asked, axis: str | None = None) -> Sheet:
        """Of what was asked for. Raises StudyError where the study has no such thing."""
        told = results.manifest
        for name in asked.policies:
            if name not in told["policies"]:
                raise StudyError(f"{results.folder}: no policy {name!r}{nearest(name, told['policies'])}")
        if set(asked.policies) == {told["baseline"]}:
            raise StudyError(f"{told['baseline']} is the baseline, which is drawn anyway; name another policy")
        if asked.point is not None and not 0 <= asked.point < told["points"]:
            raise StudyError(f"{results.folder}: no point {asked.point}; they are 0 to {told['points'] - 1}")
        return cls.of(results, None if asked.point is None else {asked.point}, asked.policies, axis)

    @cached_property
    def panels(self) -> Panels:
        """Rows by panel; a single one where points have no order."""
        found: Panels = {}
        for row in self.rows:
            found.setdefault(self.layout.at(row) if self.layout.axis else (), []).append(row)
        return found

    @cached_property
    def places(self) -> list[int]:
        """All points."""
        return sorted({row["point"] for row in self.rows})

    def x(self, row: Row) -> float:
        """Where the row's point is on the axis."""
        return float(row[self.layout.axis] if self.layout.axis else self.places.index(row["point"]))

    def curve(self, name: str, panel: Iterable[Row], column: str) -> Curve:
        """A policy's column along the axis; with its interval where the column is the speed-up."""
        from sim.curves import Curve

        rows = sorted((row for row in panel if row["policy"] == name), key=self.x)
        is_ratio = column == "speedup"
        low, high = ("ci95_low", "ci95_high") if is_ratio else (column, column)
        colour, marker = self.style(name)
        return Curve(
            name,
            x=np.array([self.x(row) for row in rows]),
            y=floats(rows, column),
            low=floats(rows, low),
            high=floats(rows, high),
            hollow=np.array([row["extrapolated"] for row in rows], bool),
            small=np.array([is_ratio and is_only_noise(row) for row in rows], bool),
            colour=colour,
            marker=marker,
            dashed=name == self.baseline,
        )

    def style(self, name: str) -> tuple[str, str]:
        """A policy's colour and marker, the same in every figure of the study."""
        from sim.curves import MARKERS
        from sim.plots import COLOURS

        if name == self.baseline:
            return "0.25", "."
        index = self.order.index(name)
        return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]

    def note_marks(self) -> None:
        """Say in the foot what is extrapolated."""
        marks = {row["extrapolated"] for row in self.rows}
        if True in marks:
            which = "hollow" if len(marks) > 1 else "hollow, as all points are"
            self.notes.append(f"{which}: extrapolated beyond what the profile measured")

    def steady_point(self, panel: Sequence[Row]) -> Row:
        """A row of the panel's last point on the axis that is not saturated; of its first where all are."""
        beyond = saturated(panel)
        rows = sorted(panel, key=self.x)
        return next((row for row in reversed(rows) if row["point"] not in beyond), rows[0])

    def subplots(
        self,
        titles: Mapping[tuple[Any, ...], str],
        share: bool,
        size: tuple[float, float],
        room: float = 0.8,
        abreast: int = _COLUMNS,
    ) -> tuple[Figure, dict[tuple[Any, ...], Axes]]:
        """A figure, and the axes of each panel under its title; ``room``: inches beside them."""
        from matplotlib.figure import Figure

        columns = min(abreast, len(titles))
        lines = -(-len(titles) // columns)
        width, height = 0.6 + size[0] * columns, 1.3 + size[1] * lines
        if columns == 1:
            width, height = self.width, 1.6 * size[1]
        figure = Figure(figsize=(width, height), layout="constrained")
        every = figure.subplots(lines, columns, squeeze=False, sharex=share, sharey=share)
        for ax in every.ravel()[len(titles) :]:
            ax.remove()
        if share and len(titles) < every.size:
            for ax in every[-2, len(titles) - every.size :]:
                ax.tick_params(labelbottom=True)
        for ax, title in zip(every.ravel(), titles.values(), strict=False):
            ax.set_title(wrapped(title, width / columns - room), loc="left", fontsize=8.5)
        return figure, dict(zip(titles, every.ravel(), strict=False))

    def panel_titles(self) -> dict[tuple[Any, ...], str]:
        """What tells each panel apart."""
        return {key: said(rows[0], self.layout.panels) if key else "" for key, rows in self.panels.items()}

    def finish(self, figure: Figure, axes: Sequence[Axes], x: str, y: str, legend: bool) -> Figure:
        """Title, names of the axes, and the foot."""
        if not self.bare:
            figure.suptitle(wrapped(self.title, figure.get_figwidth()), fontsize=10)
        if len(axes) == 1:
            axes[0].set(xlabel=x.replace(" (", "\n(") if self.bare else x, ylabel=y.replace(" (", "\n("))
        else:
            figure.supylabel(y.replace(" (", "\n(") if figure.get_figheight() < _LOW else y, fontsize=9)
            for ax in axes:
                ax.set_xlabel(x if ax.xaxis.get_tick_params()["labelbottom"] else "", fontsize=8.5)
        foot = "" if self.bare else wrapped("; ".join(self.notes), figure.get_figwidth())
        if legend:
            pairs = (zip(*ax.get_legend_handles_labels(), strict=True) for ax in axes)
            handles = {text: handle for some in pairs for handle, text in some}
            columns = 2 if self.bare else 4
            place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 8}
            figure.legend(handles.values(), handles.keys(), title=foot, title_fontsize=8, **place)
        elif foot:
            figure.supxlabel(foot, fontsize=8)
        return figure


def floats(rows: Sequence[Row], column: str) -> Floats:
    """A column of these rows, nan where nothing is."""
    return np.array([np.nan if row[column] is None else row[column] for row in rows], float)


def wrapped(text: str, inches: float) -> str:
    """Lines that are no wider, and no TeX."""
    from sim.plots import literal

    return literal(textwrap.fill(text, max(16, round(_LETTERS_PER_INCH * inches))))


def _title(told: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The study's name, and what all its points share."""
    common = [name for name in ("profile", "replicas", "max_num_seqs") if len({row[name] for row in rows}) == 1]
    parts = [setting(name, rows[0][name]) for name in common if name != "replicas" or rows[0][name] != 1]
    seeds = max(row["seeds"] for row in rows)
    sessions = told["study"].get("traces", {}).get("resample") or told["traces"]["workflows"]
    parts.append(f"{sessions:,} workflows x {seeds} seed{'s'[: seeds != 1]}")
    return f"{told['study'].get('name', 'study')}: {', '.join(parts)}"
