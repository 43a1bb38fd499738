"""Everything that a study will run: its cells, named by what their results depend on."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sim import __version__
from sim.choices import Choices
from sim.compare import check_fit, line_up
from sim.comparison import digest, unknown_tools
from sim.data import embedded_path
from sim.errors import StudyError
from sim.fleet import Fleet
from sim.load import Load, OpenLoop
from sim.policies import own_sources
from sim.resample import resample
from sim.study.points import Files, Point, Resolver
from sim.study.spec import EMBEDDED, Study
from sim.study.store import FORMAT
from sim.study.table import Columns, column
from sim.study.version import engine_digest
from sim.tokens import ESTIMATED, tokenizer
from sim.tool_time import check_tools
from sim.traces import LoadOptions, LoadReport, read
from sim.workflow import Workflow

#: Arrivals of the A/A cells have seeds that no other cell has.
OTHER_ARRIVALS = 1_000_000
#: A chunk is some seconds of work, and never more rows than a worker holds with ease.
_CALLS_PER_CHUNK = 25_000
_SESSIONS_PER_CHUNK = 500_000
#: More files make a folder slow to read; then chunks get larger.
_MOST_CHUNKS = 2_000
#: So that several processes have something to do. How many there are must not matter to the files.
_FEWEST_CHUNKS = 16

T = TypeVar("T")


class Cell(NamedTuple):
    """One simulation. ``arrivals``: the seed of order and arrivals; ``seed`` is that of all else that is drawn."""

    key: str
    point: int
    policy: str
    seed: int
    arrivals: int


@dataclass(frozen=True)
class Corpus:
    """The workflows of a study, with dependencies as chosen, before anything is drawn."""

    workflows: Sequence[Workflow]
    digest: str
    skipped: int

    @cached_property
    def calls(self) -> float:
        """LLM calls of a workflow on average."""
        return sum(len(workflow.calls) for workflow in self.workflows) / len(self.workflows)

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "workflows": len(self.workflows),
            "digest": self.digest,
            "frameworks": dict(sorted(Counter(workflow.framework for workflow in self.workflows).items())),
            "documents_skipped": self.skipped,
            "tokenizers": sorted({workflow.tokenizer for workflow in self.workflows}),
            "tools_of_unknown_duration": unknown_tools(self.workflows),
        }


def read_corpus(study: Study, files: Files) -> tuple[Corpus, LoadReport, LoadOptions]:
    """The study's workflows, and what was read and skipped. Raises TraceError, RunError."""
    traces = study.traces
    paths = [embedded_path() if name == EMBEDDED else files.path(name) for name in traces.sources]
    counter = tokenizer(traces.tokenizer) if traces.tokenizer else ESTIMATED
    options = LoadOptions(counter, traces.hidden_calls, only=tuple(traces.only))
    workflows, report = read(paths, options)
    chosen = Choices(traces.view, traces.unknown_parts == "estimated").apply(workflows, 0)
    return Corpus(chosen, digest(chosen), len(report.skipped)), report, options


def kept_corpus(path: Path, skipped: int) -> Corpus:
    """The workflows of a study that has run, as its folder keeps them."""
    workflows, _ = read([path])
    return Corpus(workflows, digest(workflows), skipped)


@dataclass(frozen=True)
class Plan:
    """A study whose every point can be run."""

    study: Study
    corpus: Corpus
    points: Sequence[Point]
    baseline: str

    @classmethod
    def of(cls, study: Study, corpus: Corpus, files: Files) -> Plan:
        """Raises PolicyError, ProfileError or RunError for what cannot be run."""
        policies, baseline = line_up(study.policies, study.baseline)
        resolver = Resolver(files)
        points = [resolver.point(varied, settings, list(policies)) for varied, settings in study.points()]
        for fleet in {id(point.fleet): point.fleet for point in points}.values():
            check_fit(corpus.workflows, fleet)
        for tools in {point.tools for point in points}:
            check_tools(tools, corpus.workflows)
        plan = cls(study, corpus, points, baseline)
        plan._check_loads()
        errors = [point.settings.information_error for point in points]
        if errors != [None] * len(errors) and not any("_noisy" in name for name in policies):
            raise StudyError("information_error: no policy is _noisy, so it has no effect; take it out")
        return plan

    @property
    def policies(self) -> list[str]:
        """As they were typed, the baseline among them."""
        return list(self.points[0].policies)

    @property
    def sessions(self) -> int:
        """Workflows of a cell."""
        return self.study.traces.resample or len(self.corpus.workflows)

    @property
    def most_seeds(self) -> int:
        """Of a point, if the stopping rule never stops it."""
        return self.study.stop.max_runs if self.study.stop else self.study.seeds

    @cached_property
    def own(self) -> dict[str, str]:
        """The sources of the user's own rules: module -> digest."""
        return own_sources(policy for point in self.points for policy in point.policies.values())

    @property
    def aa_point(self) -> int:
        """The point at which the baseline is also compared with itself under other arrivals."""
        return len(self.points) // 2

    def cells(self) -> list[Cell]:
        """All that may run, seed by seed. What several points have in common is a cell of each, under one key."""
        prefixes = [{name: self._prefix(point, name) for name in point.policies} for point in self.points]
        found = []
        for seed in range(self.most_seeds):
            for number, names in enumerate(prefixes):
                found += [Cell(_key(prefix, seed, seed), number, name, seed, seed) for name, prefix in names.items()]
                if number == self.aa_point:
                    other = OTHER_ARRIVALS + seed
                    key = _key(names[self.baseline], seed, other)
                    found.append(Cell(key, number, self.baseline, seed, other))
        return found

    def table(self, cells: Sequence[Cell]) -> Columns:
        """The cells with the settings of their points: one array for each column."""
        numbers = np.array([cell.point for cell in cells])
        told = [point.columns() for point in self.points]
        settings = {name: column(name, [columns[name] for columns in told])[numbers] for name in told[0]}
        return {
            "cell": np.array([cell.key for cell in cells], object),
            "point": numbers,
            "policy": np.array([cell.policy for cell in cells], object),
            **settings,
            "seed": np.array([cell.seed for cell in cells]),
            "arrivals_seed": np.array([cell.arrivals for cell in cells]),
        }

    def chunks(self, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
        """The cells, each key once, in portions that are worth a file."""
        each = list({cell.key: cell for cell in cells}.values())
        by_work = max(1, round(_CALLS_PER_CHUNK / (self.corpus.calls * self.sessions)))
        by_number = max(min(by_work, len(each) // _FEWEST_CHUNKS), -(-len(each) // _MOST_CHUNKS))
        size = max(1, min(by_number, _SESSIONS_PER_CHUNK // self.sessions))
        for start in range(0, len(each), size):
            yield each[start : start + size]

    def manifest(self) -> dict[str, Any]:
        """What the results depend on; the same study of the same things gives the same bytes."""
        return {
            "format": FORMAT,
            "workspan": __version__,
            "engine": engine_digest(),
            "python": platform.python_version(),
            "study": self.study.model_dump(mode="json", by_alias=True, exclude_unset=True),
            "traces": self.corpus.facts(),
            "profiles": self._profiles(),
            "policies": {name: str(policy) for name, policy in self.points[0].policies.items()},
            "baseline": self.baseline,
            **({"rules_of_your_own": self.own} if self.own else {}),
            "points": len(self.points),
            "seeds": self.study.seeds,
            "stop": self.study.stop and self.study.stop.model_dump(),
        }

    def _profiles(self) -> dict[str, list[str]]:
        """Name -> digests of all profiles of that name, as they are set at the points, each once."""
        found: dict[str, dict[str, None]] = {}
        for fleet in {id(point.fleet): point.fleet for point in self.points}.values():
            for pool in fleet.pools:
                found.setdefault(pool.profile.name, {})[pool.profile.digest] = None
        return {name: list(digests) for name, digests in found.items()}

    def _check_loads(self) -> None:
        """Let every load say now that it cannot give so many arrivals, not in a worker."""
        number, workflows = self.study.traces.resample, self.corpus.workflows
        sessions = resample(workflows, number, 0) if number else workflows
        for load in {id(point.load): point.load for point in self.points}.values():
            if isinstance(load, OpenLoop):
                load.arrivals(sessions, 0)

    def _once(self, thing: T, say: Callable[[T], Any]) -> Any:
        """What is said of a thing that many points share."""
        if id(thing) not in self._said:
            self._said[id(thing)] = say(thing)
        return self._said[id(thing)]

    @cached_property
    def _said(self) -> dict[int, Any]:
        return {}

    def _prefix(self, point: Point, name: str) -> hashlib._Hash:
        """The hash of all that a cell depends on but its seeds."""
        policy, study = point.policies[name], self.study
        told = {
            "engine": engine_digest(),
            "workflows": self.corpus.digest,
            "resample": study.traces.resample,
            "fleet": self._once(point.fleet, Fleet.to_json),
            "load": self._once(point.load, _load_json),
            "tool_time": list(map(str, point.tools)),
            "policy": self._once(policy, lambda one: [str(one), own_sources([one])]),
            "window": study.window.model_dump(),
            "slo": study.slo and study.slo.model_dump(),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode())


def _key(prefix: hashlib._Hash, seed: int, arrivals: int) -> str:
    """Sixteen hexadecimal digits: of a million cells, two are the same by chance once in 40 million studies."""
    full = prefix.copy()
    full.update(f"{seed},{arrivals}".encode())
    return full.hexdigest()[:16]


def _load_json(load: Load) -> list[object]:
    """What a load is, exactly; of a file of arrivals its content."""
    return [type(load).__name__, getattr(load, "digest", repr(load)), getattr(load, "per_s", None)]
