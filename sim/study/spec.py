"""What a study is: one model for the YAML file, the keyword arguments in Python, and the JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from sim.bench_row import Slo
from sim.errors import PolicyError
from sim.policies import parse_policy
from sim.study.settings import (
    RECORDED,
    Offer,
    Offered,
    PolicyName,
    Section,
    Server,
    Settings,
    Several,
    checked,
    tool_times,
)
from sim.views import View

if TYPE_CHECKING:
    from sim.study.results import Results

__all__ = [
    "EMBEDDED",
    "RECORDED",
    "Grid",
    "Offered",
    "Server",
    "Settings",
    "Stop",
    "Study",
    "Traces",
    "Window",
    "tool_times",
]

#: The embedded workflows, where a file of traces could be named.
EMBEDDED = "embedded"

#: Sessions of a cell, which a worker holds all at once.
_MOST_SESSIONS = 1_000_000
_MOST_SEEDS = 100_000

Source = Annotated[str, Offer(lambda: [EMBEDDED])]
Share = Annotated[float, Field(ge=0, le=0.9)]


class Traces(Section):
    """Which workflows run."""

    sources: Several[Source] = Field(default=[EMBEDDED], min_length=1)
    """Files and folders in any format that `workspan traces` reads; ``embedded`` are the workflows of MAST."""
    only: Several[str] = Field(default_factory=list)
    """Patterns of the ids to keep, as a shell's: ``peer-review/*``."""
    resample: Annotated[int, Field(ge=1, le=_MOST_SESSIONS)] | None = None
    """Draw so many workflows anew for each seed, with replacement; without it each runs once."""
    view: View = "visible"
    """Which dependencies count: the log's order, what the framework waits for, or what a prompt reads."""
    unknown_parts: Literal["estimated", "none"] = "estimated"
    """Texts that were not recorded: with estimated lengths, or left out."""
    hidden_calls: bool = False
    """Add LLM calls that the framework made but its log does not show."""
    tokenizer: str | None = None
    """Count tokens with this tokenizer.json, or with the vLLM at this address; else characters / 4."""


def _variable(of: Callable[[Any], Any]) -> dict[str, Any]:
    """Dotted key of what a grid can vary -> ``of`` its type, with its description."""
    return {
        f"{prefix}{name}": Annotated[of(kind), Field(description=section.model_fields[name].description)]
        for prefix, section in (("", Settings), ("server.", Server), ("load.", Offered))
        for name, kind in get_type_hints(section, include_extras=True).items()
        if name in section.model_fields
    }


if TYPE_CHECKING:
    Values = dict[str, Any]
    Lists = dict[str, list[Any]]
else:
    Values = TypedDict("Values", _variable(lambda kind: kind), total=False)
    Lists = TypedDict("Lists", _variable(lambda kind: Annotated[Several[kind], Field(min_length=1)]), total=False)
    Values.__doc__ = "A value for each of some dotted keys."
    Lists.__doc__ = "A list of values for each of some dotted keys."
    Values.__pydantic_config__ = Lists.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)


class Grid(Section):
    """Which points there are: every entry of ``points``, with every row of ``zip``, with every choice of ``product``.

    Keys are dotted: ``server.max_num_seqs``, ``load.session_rate``, ``tool_time``. All of ``load`` or ``server`` can be
    varied too, and then what is in it.
    """

    product: Lists = Field(default_factory=dict)
    """Every combination of these lists' values."""
    zip: Lists = Field(default_factory=dict)
    """Lists of equal length: the first values together, the second ones together, and so on."""
    points: Several[Values] = Field(default_factory=list)
    """Points by hand."""

    @model_validator(mode="after")
    def _points_differ(self) -> Self:
        lengths = {key: len(values) for key, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"zip: {', '.join(f'{key} has {n}' for key, n in lengths.items())}; give equal lengths")
        keys = [*self.product, *self.zip, *dict.fromkeys(key for entry in self.points for key in entry)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{twice[0]} is varied twice; name it in one of product, zip and points")
        for key, values in self.product.items():
            if len(set(map(repr, values))) < len(values):
                raise ValueError(f"product: {key} has a value twice; take one out")
        return self

    def variations(self) -> Iterator[dict[str, Any]]:
        """Dotted key -> value, for each point."""
        rows = [dict(zip(self.zip, values, strict=True)) for values in zip(*self.zip.values(), strict=True)]
        choices = [dict(zip(self.product, values, strict=True)) for values in product(*self.product.values())]
        for by_hand, row, choice in product(self.points or [{}], rows or [{}], choices):
            yield {**by_hand, **row, **choice}


class Stop(Section):
    """Add seeds to a point until its intervals are narrow."""

    ci_width: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Width of every 95 % interval at the point, as a share of the speed-up."""
    max_runs: Annotated[int, Field(ge=1, le=_MOST_SEEDS)]
    """The most seeds of a point."""


class Window(Section):
    """Which sessions count: not those that arrive first or last, which meet an emptier server."""

    warm_up: Share = 0.1
    """Share of the sessions, in the order of arrival, that come too early to count."""
    drain: Share = 0.1
    """Share of the sessions that come too late to count."""

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.warm_up + self.drain >= 1:
            raise ValueError("warm_up and drain leave no session; their sum must be below 1")
        return self


def _name_each_once(names: list[str]) -> None:
    rules = [parse_policy(name) for name in names]
    if again := [name for name, policy in zip(names, rules, strict=True) if rules.count(policy) > 1]:
        raise PolicyError(f"{' and '.join(again[:2])} are the same; name each once")


class Study(Settings):
    """Policies over the same workflows at every point of a grid. What is outside the grid is the same at all points."""

    name: Annotated[str, Field(min_length=1)] = "study"
    """What the study is called."""
    traces: Traces = Field(default_factory=Traces)
    """Which workflows run."""
    policies: Annotated[Several[PolicyName], Field(min_length=1), checked(_name_each_once)]
    """``async``, ``plas:levels=4``, ``srpt_mean+sticky``: `workspan policies ls`."""
    baseline: PolicyName | None = None
    """What speed-ups are over; else sequential if it is named, else the first policy."""
    grid: Grid = Field(default_factory=Grid)
    """Which points there are; without it there is one."""
    seeds: Annotated[int, Field(ge=1, le=_MOST_SEEDS)] = 5
    """How many draws of arrivals, and of workflows and tool times where those are drawn."""
    slo: Slo | None = None
    """What good service is, for goodput."""
    stop: Stop | None = None
    """Add seeds to a point until its intervals are narrow."""
    window: Window = Field(default_factory=Window)
    """Which sessions count."""

    @field_validator("grid")
    @classmethod
    def _points_make_sense(cls, grid: Grid, info: ValidationInfo) -> Grid:
        if {*Settings.model_fields, "traces"} <= set(info.data):  # else there is an error to mend first
            _points(info.data, grid)
        return grid

    @field_validator("stop")
    @classmethod
    def _goes_on(cls, stop: Stop | None, info: ValidationInfo) -> Stop | None:
        if stop and stop.max_runs < info.data.get("seeds", 0):
            raise ValueError(f"max_runs is below seeds ({info.data['seeds']}); raise it")
        return stop

    @model_validator(mode="after")
    def _the_only_point_makes_sense(self) -> Self:
        if "grid" not in self.model_fields_set:
            self.points()
        return self

    def run(self, folder: str | Path, jobs: int | None = None) -> Results:
        """Do what is not done yet, in so many processes (None: one for each core), and open the results.

        Files are looked for in the working directory. Raises WorkspanError.
        """
        from sim.study.drive import run_study

        return run_study(self, folder, jobs)

    def points(self) -> list[tuple[dict[str, Any], Settings]]:
        """What is varied, and all settings, of each point."""
        return _points(dict(self), self.grid)


def _points(study: Mapping[str, Any], grid: Grid) -> list[tuple[dict[str, Any], Settings]]:
    """The points of a study with these fields. Raises ValueError, naming the first point that makes no sense."""
    resampled = study["traces"].resample is not None

    @cache
    def section(name: str, varied: tuple[tuple[str, Any], ...]) -> Server | Offered:
        """What is varied comes on top of the study's; all of a section before what is in it."""
        whole: Server | Offered = dict(varied).get(name, study[name])
        inside = {key.removeprefix(f"{name}."): value for key, value in varied if key != name}
        made = type(whole).model_validate({**whole.model_dump(exclude_unset=True), **inside})
        if lack := made.lacks():
            raise _refusal(lack, name)
        return made

    def settings(varied: Mapping[str, Any]) -> Settings:
        found = {name: varied.get(name, study[name]) for name in Settings.model_fields}
        for name in ("server", "load"):
            found[name] = section(name, tuple(item for item in varied.items() if item[0].partition(".")[0] == name))
        if resampled and found["load"].arrivals == RECORDED:
            raise _refusal("resample makes copies, which have no recorded arrivals; take it out", "traces", "resample")
        return Settings.model_construct(**found)  # every value has been checked

    points = []
    known: dict[str, dict[str, Any]] = {}
    for varied in grid.variations():
        try:
            point = settings(varied)
        except ValidationError as error:
            if not varied:
                raise
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"point {_told(varied)}: {message}") from error
        # p would be corrected for a question that is asked twice.
        if (twin := known.setdefault(point.model_dump_json(), varied)) is not varied:
            raise ValueError(f"points {_told(twin)} and {_told(varied)} are the same; take one out")
        points.append((varied, point))
    return points


def _refusal(message: str, *place: str) -> ValidationError:
    problem = InitErrorDetails(type=PydanticCustomError("value_error", message), loc=place, input=None)
    return ValidationError.from_exception_data("Study", [problem])


def _told(varied: Mapping[str, Any]) -> str:
    plain = (value.model_dump(exclude_unset=True) if isinstance(value, Section) else value for value in varied.values())
    if not varied:
        return "{}"
    return ", ".join(f"{key}={value}" for key, value in zip(varied, plain, strict=True))
