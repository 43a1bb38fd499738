"""What one point of a study is: engines, load, tool times. All of it can be varied by a grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator

from sim.errors import WorkspanError, nearest
from sim.fleet import MOST_REPLICAS
from sim.latency import DEFAULT_PROFILE, shipped
from sim.load import SessionRate
from sim.policies import parse_policy, policies
from sim.rules import Router
from sim.settings import Strict
from sim.tool_time import parse_tool_times

#: The load under which each workflow arrives when it did in the recording.
RECORDED = "recorded"

#: Larger numbers are slips of the pen, and no table holds them.
MOST = 10**9

T = TypeVar("T")


class Section(Strict):
    """A mapping of the file; what is said below a field describes it in the JSON Schema too."""

    model_config = ConfigDict(use_attribute_docstrings=True)


@dataclass(frozen=True)
class Offer:
    """Values that an editor offers for a text; others may do as well."""

    names: Callable[[], Iterable[str]]

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Any text, some of which are known."""
        return {"anyOf": [{"enum": sorted(self.names())}, handler(core)]}


def checked(parse: Callable[[T], object]) -> AfterValidator:
    """A value that must be readable by ``parse``; what that raises is the field's error."""

    def check(value: T) -> T:
        try:
            parse(value)
        except WorkspanError as error:
            raise ValueError(re.sub(r"^--\S+ ", "", str(error))) from error  # no option: the field is named
        return value

    return AfterValidator(check)


def _profile(name: str) -> None:
    if not name.endswith((".yaml", ".yml")) and name not in shipped():
        raise WorkspanError(f"no profile {name!r}{nearest(name, shipped())} (or the path of a .yaml file)")


def _router(name: str) -> None:
    # Round robin is a router, though none that a policy would keep: plain vLLM has it.
    if name not in _routers() and not parse_policy(name).rule(Router):
        raise WorkspanError(f"{name} is no router{nearest(name, _routers())}")


def _routers() -> list[str]:
    return [name for name, entry in policies().items() if issubclass(entry.rule, Router)]


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple | range) else value


def _texts(value: object) -> object:
    """One error for both forms that the value may have."""
    value = _as_list(value)
    if isinstance(value, str) or (value and isinstance(value, list) and all(isinstance(text, str) for text in value)):
        return value
    raise ValueError("input should be a rule, or a list of rules")


def tool_times(value: str | list[str]) -> list[str]:
    """The rules of ``tool_time``, of which there may be one or several."""
    return [value] if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1, le=MOST)]
#: Of a file.
FileName = Annotated[str, Field(min_length=1)]
#: Several values: a list in the file, in Python also a tuple or a range.
Several = Annotated[list[T], BeforeValidator(_as_list)]
ProfileName = Annotated[str, checked(_profile), Offer(shipped)]
RouterName = Annotated[str, checked(_router), Offer(_routers)]
PolicyName = Annotated[str, checked(parse_policy), Offer(policies)]
ToolTimes = Annotated[
    str | list[str], BeforeValidator(_texts), checked(lambda value: parse_tool_times(tool_times(value)))
]
Rate = Annotated[float, checked(SessionRate)]
Burstiness = Annotated[float, checked(lambda shape: SessionRate(1.0, shape))]
Arrivals = Annotated[FileName, Offer(lambda: [RECORDED])]


class Server(Section):
    """What the workflows run on; settings that are not given are the profile's."""

    profile: ProfileName = DEFAULT_PROFILE
    """A shipped profile (`workspan profiles ls`), or the path of a .yaml file."""
    replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 1
    """So many equal engines."""
    router: RouterName | None = None
    """Added to every policy that has no router."""
    fleet: FileName | None = None
    """The path of a file of pools of engines, instead of replicas."""
    max_num_seqs: Count | None = None
    """The most requests of a step, as vLLM's setting."""
    max_num_batched_tokens: Count | None = None
    """The most tokens of a step."""
    num_gpu_blocks: Annotated[int, Field(ge=2, le=MOST)] | None = None
    """KV blocks, the null block included."""
    enable_prefix_caching: bool | None = None
    """Whether prompts that begin alike share KV blocks."""

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

    def lacks(self) -> str:
        """What else must be given to run on it; empty if nothing."""
        alone = self.router and self.replicas == 1 and not self.fleet
        return "a router needs several replicas; give replicas or fleet" if alone else ""


class Offered(Section):
    """When workflows arrive. With nothing given each runs alone on an idle server."""

    session_rate: Rate | None = None
    """Workflows per second on average, in an open loop."""
    burstiness: Burstiness = 1.0
    """Shape of the gamma distribution of the gaps: 1 is Poisson, less is burstier (``vllm bench serve``)."""
    concurrent_sessions: Count | None = None
    """Workflows under way at any time, in a closed loop."""
    arrivals: Arrivals | None = None
    """``recorded``, or a file of arrivals (Azure, BurstGPT, Mooncake); ``session_rate`` rescales the file's."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.concurrent_sessions and (self.session_rate or self.arrivals):
            raise ValueError("concurrent_sessions is a closed loop; give it, or session_rate and arrivals")
        if self.burstiness != 1 and (self.arrivals or self.concurrent_sessions):
            raise ValueError("burstiness is of arrivals at a session_rate that are not from a file; take it out")
        if self.arrivals == RECORDED and self.session_rate:
            raise ValueError("recorded arrivals come when they came; take session_rate out")
        return self

    def lacks(self) -> str:
        """What else must be given to offer it; empty if nothing."""
        of_nothing = self.burstiness != 1 and self.session_rate is None
        return "burstiness is of arrivals at a session_rate; give that too" if of_nothing else ""


class Settings(Section):
    """What one point of a study is; each of these can be varied by the grid."""

    server: Server = Field(default_factory=Server)
    """What the workflows run on; settings that are not given are the profile's."""
    load: Offered = Field(default_factory=Offered)
    """When workflows arrive; with nothing given each runs alone on an idle server."""
    tool_time: ToolTimes = "recorded"
    """``recorded``, ``none``, or for unknown durations ``constant:S`` or ``lognormal:mean=S,sigma=X``; ``TOOL=..``."""
    information_error: Annotated[float, Field(ge=0, le=1)] | None = None
    """The error of every ``_noisy`` policy."""
