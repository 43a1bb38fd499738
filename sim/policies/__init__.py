"""Scheduling policies. One file each, found by its name.

A policy module defines one subclass of `Policy`, a frozen dataclass whose fields are its parameters.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import ClassVar, NamedTuple, get_type_hints

from sim.errors import PolicyError, nearest
from sim.workflow import Node


class View(NamedTuple):
    """What a policy may know of one workflow: nodes whose parents are done, and how many are under way.

    ``ready`` is in log order. No clock, no future nodes, no answer lengths, no tool times.
    """

    workflow_id: str
    framework: str
    ready: tuple[Node, ...]
    calls_in_flight: int
    tools_in_flight: int


@dataclass(frozen=True)
class Policy(ABC):
    """Decides which ready nodes of a workflow start now. A value: it keeps no state of its own."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    #: What the engine must be set to: vLLM's setting -> value.
    needs: ClassVar[Mapping[str, object]] = {}

    @abstractmethod
    def select(self, view: View) -> Sequence[Node]:
        """The nodes of ``view.ready`` to start now, first to last."""

    def __str__(self) -> str:
        """The policy as one would type it: ``async:max_parallel=4``."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        given = ",".join(f"{name}={value}" for name, value in values if value is not None)
        return f"{self.name}:{given}" if given else self.name


@cache
def policies() -> dict[str, type[Policy]]:
    """Every name and alias -> policy class."""
    known: dict[str, type[Policy]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, Policy):
                known.update(dict.fromkeys((value.name, *value.aliases), value))
    return known


def parse_policy(text: str) -> Policy:
    """``name`` or ``name:parameter=value,..`` as a policy. Raises PolicyError with the nearest name."""
    name, _, rest = text.partition(":")
    if name not in policies():
        raise PolicyError(f"no policy {name!r}{nearest(name, policies())}")
    kind = policies()[name]
    parameters = [_parameter(kind, item) for item in rest.split(",") if rest]
    if len(dict(parameters)) < len(parameters):
        raise PolicyError(f"policy {text}: a parameter occurs twice; give each once")
    return kind(**dict(parameters))


def _parameter(kind: type[Policy], item: str) -> tuple[str, int]:
    name, _, value = item.partition("=")
    hints = {field.name: get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
    if name not in hints:
        raise PolicyError(f"policy {kind.name} has no parameter {name!r}{nearest(name, hints)}")
    try:
        return name, int(value)
    except ValueError as error:
        raise PolicyError(f"policy {kind.name}: {name}={value!r} is not a whole number") from error
