"""What a study is: one model for the YAML file, the keyword arguments in Python, and the JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from sim.bench_row import Slo
from sim.errors import WorkspanError, nearest
from sim.fleet import MOST_REPLICAS
from sim.latency import shipped
from sim.load import SessionRate
from sim.policies import parse_policy
from sim.rules import Router
from sim.settings import Count, Strict
from sim.tool_time import parse_tool_times
from sim.views import View

DEFAULT_PROFILE = "rtxpro6000-llama-3.1-8b"
#: The embedded workflows, where a file of traces could be named.
EMBEDDED = "embedded"
#: The load under which each workflow arrives when it did in the recording.
RECORDED = "recorded"

T = TypeVar("T")
Share = Annotated[float, Field(ge=0, le=0.9)]


def _checked(parse: Callable[[T], object]) -> AfterValidator:
    """A value that must be readable by ``parse``; what that raises is the field's error."""

    def check(value: T) -> T:
        try:
            parse(value)
        except WorkspanError as error:
            raise ValueError(str(error).replace("--tool-time", "tool_time")) from error
        return value

    return AfterValidator(check)


def _profile(name: str) -> None:
    if not name.endswith((".yaml", ".yml")) and name not in shipped():
        raise WorkspanError(f"no profile {name!r}{nearest(name, shipped())} (or the path of a .yaml file)")


def _router(name: str) -> None:
    if not parse_policy(name).rule(Router):
        raise WorkspanError(f"{name} is no router; workspan policies ls names them")


def tool_times(value: str | list[str]) -> list[str]:
    """The rules of ``tool_time``, of which there may be one or several."""
    return [value] if isinstance(value, str) else value


PolicyName = Annotated[str, _checked(parse_policy)]
ToolTimes = Annotated[str | list[str], _checked(lambda value: parse_tool_times(tool_times(value)))]


class _Part(Strict):
    """A key by its name in the file or by the field's in Python."""

    model_config = ConfigDict(populate_by_name=True, use_attribute_docstrings=True)


class Traces(_Part):
    """Which workflows run."""

    sources: Annotated[list[str], Field(min_length=1, default_factory=lambda: [EMBEDDED])]
    """Files and folders in any format that `workspan traces` reads; ``embedded`` are the workflows of MAST."""
    only: list[str] = Field(default_factory=list)
    """Patterns of the ids to keep, as a shell's: ``peer-review/*``."""
    resample: Count | None = None
    """Draw so many workflows anew for each seed, with replacement; without it each runs once."""
    view: View = "visible"
    """Which dependencies count: the log's order, what the framework waits for, or what a prompt reads."""
    unknown_parts: Literal["estimated", "none"] = "estimated"
    """Texts that were not recorded: with estimated lengths, or left out."""
    hidden_calls: bool = False
    """Add LLM calls that the framework made but its log does not show."""
    tokenizer: str | None = None
    """Count tokens with this tokenizer.json, or with the vLLM at this address; else characters / 4."""


class Server(_Part):
    """What the workflows run on; settings that are not given are the profile's."""

    profile: Annotated[str, _checked(_profile)] = DEFAULT_PROFILE
    """A shipped profile, or the path of a .yaml file."""
    replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 1
    """So many equal engines."""
    router: Annotated[str, _checked(_router)] | None = None
    """Added to every policy that has no router."""
    fleet: str | None = None
    """The path of a file of pools of engines, instead of replicas."""
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    num_gpu_blocks: Annotated[int, Field(ge=2)] | None = None
    """KV blocks, the null block included."""
    enable_prefix_caching: bool | None = None

    @model_validator(mode="after")
    def _one_way_to_have_several(self) -> Self:
        if self.fleet and self.replicas > 1:
            raise ValueError("give replicas or fleet; a pool of a fleet has its replicas")
        return self

    @property
    def settings(self) -> dict[str, object]:
        """The engine's settings that differ from the profile's, by vLLM's names."""
        names = ("max_num_seqs", "max_num_batched_tokens", "num_gpu_blocks", "enable_prefix_caching")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Offered(_Part):
    """When workflows arrive. With nothing given each runs alone on an idle server."""

    session_rate: float | None = None
    """Workflows per second on average, in an open loop."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the gaps: 1 is Poisson, less is burstier (``vllm bench serve``)."""
    concurrent_sessions: Count | None = None
    """Workflows under way at any time, in a closed loop."""
    arrivals: str | None = None
    """``recorded``, or a file of arrivals (Azure, BurstGPT, Mooncake); ``session_rate`` rescales the file's."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.concurrent_sessions and (self.session_rate or self.arrivals):
            raise ValueError("concurrent_sessions is a closed loop; give it, or session_rate and arrivals")
        if self.burstiness != 1 and (self.arrivals or not self.session_rate):
            raise ValueError("burstiness is of arrivals at a session_rate that are not from a file; take it out")
        if self.arrivals == RECORDED and self.session_rate:
            raise ValueError("recorded arrivals come when they came; take session_rate out")
        if self.session_rate is not None:
            try:
                SessionRate(self.session_rate, self.burstiness)
            except WorkspanError as error:
                raise ValueError(str(error).replace("--session-rate", "session_rate")) from error
        return self


class Settings(_Part):
    """What one point of a study is; each of these can be varied by the grid."""

    server: Server = Server()
    load: Offered = Offered()
    tool_time: ToolTimes = "recorded"
    """``recorded``, ``none``, or for unknown durations ``constant:S`` or ``lognormal:mean=S,sigma=X``; ``TOOL=..``."""
    information_error: Annotated[float, Field(ge=0, le=1)] | None = None
    """The error of every ``_noisy`` policy."""


if TYPE_CHECKING:
    _Lists = _Values = BaseModel
else:
    _types = {name: field.annotation for name, field in Settings.model_fields.items()}
    for _group in ("server", "load"):
        for _name, _field in _types[_group].model_fields.items():
            _constraints = tuple(_field.metadata)
            _types[f"{_group}.{_name}"] = (
                Annotated[(_field.annotation, *_constraints)] if _constraints else _field.annotation
            )

    def _model(name: str, doc: str, of: Callable[[Any], Any]) -> type[BaseModel]:
        """A model whose keys are those of a point, dotted."""
        fields = {key.replace(".", "_in_"): (of(kind), Field(default=None, alias=key)) for key, kind in _types.items()}
        return create_model(name, __base__=_Part, __doc__=doc, **fields)

    _Lists = _model("Lists", "Lists of values, by dotted key.", lambda kind: Annotated[list[kind], Field(min_length=1)])
    _Values = _model("Values", "One value for each dotted key.", lambda kind: kind)


def _given(keys: BaseModel) -> dict[str, Any]:
    """Dotted key -> value, of those that are given."""
    names = {field.alias or name: name for name, field in type(keys).model_fields.items()}
    return {key: getattr(keys, name) for key, name in names.items() if name in keys.model_fields_set}


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _with(base: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the values at these dotted keys; a whole part comes before what is in it."""
    settings = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for key, value in sorted(varied.items(), key=lambda item: "." in item[0]):
        part, _, name = key.partition(".")
        if name:
            settings[part][name] = value
        else:
            settings[part] = dict(_plain(value)) if isinstance(value, BaseModel) else value
    return settings


class Grid(_Part):
    """Which points there are: every entry of ``points``, with every row of ``zip``, with every choice of ``product``.

    Keys are dotted: ``server.max_num_seqs``, ``load.session_rate``, ``tool_time``.
    """

    product: _Lists = _Lists()
    """Every combination of these lists' values."""
    zip: _Lists = _Lists()
    """Lists of equal length: the first values together, the second ones together, and so on."""
    points: list[_Values] = Field(default_factory=list)
    """Points by hand."""

    @model_validator(mode="after")
    def _rows_are_whole(self) -> Self:
        lengths = {key: len(values) for key, values in _given(self.zip).items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"zip: {', '.join(f'{key} has {n}' for key, n in lengths.items())}; give equal lengths")
        keys = [*_given(self.product), *lengths, *{key for entry in self.points for key in _given(entry)}]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{twice[0]} is varied twice; name it in one of product, zip and points")
        return self

    def variations(self) -> Iterator[dict[str, Any]]:
        """Dotted key -> value, for each point."""
        rows = _given(self.zip)
        zipped = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)] or [{}]
        axes = _given(self.product)
        combined = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        for by_hand, row, choice in product([_given(entry) for entry in self.points] or [{}], zipped, combined):
            yield {**by_hand, **row, **choice}


class Stop(_Part):
    """Add seeds to a point until its intervals are narrow."""

    ci_width: Annotated[float, Field(gt=0)]
    """Width of every 95 % interval at the point, as a share of the speed-up."""
    max_runs: Count
    """The most seeds of a point."""


class Window(_Part):
    """Which sessions count: not those that arrive first or last, which meet an emptier server."""

    warm_up: Share = 0.1
    """Share of the sessions, in the order of arrival."""
    drain: Share = 0.1

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.warm_up + self.drain >= 1:
            raise ValueError("warm_up and drain leave no session; their sum must be below 1")
        return self


class Study(Settings):
    """Policies over the same workflows at every point of a grid."""

    name: str = "study"
    traces: Traces = Traces()
    policies: Annotated[list[PolicyName], Field(min_length=1)]
    """``async``, ``plas:levels=4``, ``srpt_mean+sticky``: `workspan policies ls`."""
    baseline: PolicyName | None = None
    """What speed-ups are over; else sequential if it is named, else the first policy."""
    grid: Grid = Grid()
    seeds: Annotated[int, Field(ge=1, le=100_000)] = 5
    """Draws of arrivals (and of workflows and tool times, where they are drawn)."""
    slo: Slo | None = None
    stop: Stop | None = None
    window: Window = Window()

    @model_validator(mode="after")
    def _points_make_sense(self) -> Self:
        self.points()
        if self.stop and self.stop.max_runs < self.seeds:
            raise ValueError(f"stop.max_runs is below seeds ({self.seeds}); raise it")
        return self

    def points(self) -> list[tuple[dict[str, Any], Settings]]:
        """What is varied, and all settings, of each point. Raises ValueError, naming the first that makes no sense."""
        given = {name: getattr(self, name) for name in Settings.model_fields}
        base = {name: _plain(value) for name, value in given.items()}
        found = []
        for varied in self.grid.variations():
            try:
                found.append((varied, Settings.model_validate(_with(base, varied))))
            except ValidationError as error:
                first = error.errors()[0]
                what = ", ".join(f"{key}={value}" for key, value in varied.items())
                raise ValueError(f"grid, point {what}: {first['msg'].removeprefix('Value error, ')}") from error
        return found
