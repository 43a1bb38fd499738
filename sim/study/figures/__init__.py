"""The figures of a study's results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sim.study.figures.along import latency, speedup, throughput
from sim.study.figures.closely import cdf, frameworks, workload
from sim.study.figures.closeup import breakdown, gantt, timeline
from sim.study.figures.grid import ablation, replicas, sensitivity
from sim.study.panels import Asked
from sim.study.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: Mapping[str, Callable[[Results, Asked], Figure]] = {
    "speedup": speedup,
    "latency": latency,
    "throughput": throughput,
    "frameworks": frameworks,
    "cdf": cdf,
    "workload": workload,
    "breakdown": breakdown,
    "timeline": timeline,
    "gantt": gantt,
    "sensitivity": sensitivity,
    "ablation": ablation,
    "replicas": replicas,
}

#: Those that are no figures of one point.
ALL_POINTS = ("speedup", "latency", "throughput", "replicas", "workload")
