"""Scheduling policies. One rule a file, found by its name; a policy is rules put together: ``plas:levels=4+sticky``.

A module here defines one subclass of a kind of `sim.rules.Rule`, a frozen dataclass whose fields are its parameters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

from sim.errors import PolicyError, nearest
from sim.foresight import Information
from sim.own import import_own
from sim.rules import KINDS, Informed, Rule, RunsOn

R = TypeVar("R", bound=Rule)


@dataclass(frozen=True)
class Policy:
    """At most one rule of each kind. What is not given is plain vLLM: `async`, `fcfs`, `round_robin`, `lru`.

    Equal policies have equal rules; the rules that plain vLLM has anyway are left out. Raises PolicyError for rules
    that make no sense together.
    """

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        self._check()
        kept = [rule for kind in KINDS for rule in self.rules if isinstance(rule, kind) and str_of(rule) not in PLAIN]
        object.__setattr__(self, "rules", tuple(kept))

    def rule(self, kind: type[R]) -> R | None:
        """The rule of a kind, or None where it is that of plain vLLM."""
        return next((rule for rule in self.rules if isinstance(rule, kind)), None)

    @property
    def needs(self) -> dict[str, object]:
        """What the engine must be set to: vLLM's setting -> value."""
        return {name: value for rule in self.rules for name, value in rule.needs.items()}

    @property
    def runs_on(self) -> RunsOn:
        """Who can carry it out: as far as the most demanding of its rules."""
        ranked = get_args(RunsOn)
        return max((rule.runs_on for rule in self.rules), key=ranked.index, default="client side")

    @property
    def knows_the_future(self) -> bool:
        """Whether one of its rules is clairvoyant, as its name then says."""
        return any("_oracle" in str_of(rule) for rule in self.rules)

    @property
    def is_bounded(self) -> bool:
        """Whether work / span bounds it: nothing starts before what it waits for is done."""
        return not any(rule.kind in ("ahead", "speculation") for rule in self.rules)

    def __str__(self) -> str:
        """The policy as one would type it: ``async:max_parallel=4+plas``."""
        return "+".join(map(str_of, self.rules)) or "async"

    def _check(self) -> None:
        for kind in KINDS:
            if len(same := [str_of(rule) for rule in self.rules if isinstance(rule, kind)]) > 1:
                raise PolicyError(f"policy {'+'.join(same)}: both say what becomes of {ABOUT[kind.kind]}; give one")
        names = {rule.kind: rule.name for rule in self.rules}
        one_by_one = names.get("dispatch") in ("sequential", "level_barrier")
        for kind_name in ("speculation", "ahead"):
            if one_by_one and kind_name in names:
                raise PolicyError(
                    f"policy {names['dispatch']}+{names[kind_name]}: the one waits until nothing is under way, the"
                    " other starts something meanwhile; leave one out"
                )


#: Kind -> what its rules decide, for messages and tables.
ABOUT = {
    "dispatch": "ready calls",
    "order": "the queue",
    "gate": "workflows at the door",
    "router": "which replica",
    "retention": "idle KV blocks",
    "ahead": "the time while a tool runs",
    "speculation": "tools to come",
    "verdict": "workflows that will fail",
}
#: The rules of plain vLLM and a client that sends what is ready.
PLAIN = ("async", "fcfs", "round_robin", "lru")


class Entry(NamedTuple):
    """A rule by a name: its class, and what the name says of its parameters."""

    rule: type[Rule]
    given: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """Name -> type of the parameters that may still be given."""
        hints = get_type_hints(self.rule)
        names = (field.name for field in dataclasses.fields(self.rule) if field.name not in self.given)
        return {name: hints[name] for name in names}


@cache
def policies() -> dict[str, Entry]:
    """Every name and alias -> the rule that it means."""
    known: dict[str, Entry] = {}
    for info in pkgutil.iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, Rule):
                known |= dict(_entries(value))
    return known


def _entries(rule: type[Rule]) -> Iterator[tuple[str, Entry]]:
    for name in (rule.name, *rule.aliases):
        if not issubclass(rule, Informed):
            yield name, Entry(rule, {})
            continue
        for information in get_args(Information):
            given = {"information": information} | ({} if information == "noisy" else {"error": 0.0})
            yield f"{name}_{information}", Entry(rule, given)


def str_of(rule: Rule) -> str:
    """The rule as one would type it: ``plas:quantum_s=0.5``; parameters that are as by default are left out."""
    fields = {field.name: field for field in dataclasses.fields(rule)}
    values = {name: getattr(rule, name) for name in fields if getattr(rule, name) != fields[name].default}
    name = f"{rule.name}_{rule.information}" if isinstance(rule, Informed) else rule.name
    given = ",".join(f"{name}={value}" for name, value in values.items() if name != "information")
    return f"{name}:{given}" if given else name


def parse_policy(text: str) -> Policy:
    """Rules joined by ``+``, each ``name``, ``name:parameter=value,..`` or ``module:attribute`` of the user's own.

    Raises PolicyError with the nearest name.
    """
    # The + of 1e+16 joins nothing; no name begins with a digit.
    return Policy(tuple(map(_parse_rule, re.split(r"\+(?!\d)", text))))


def _parse_rule(text: str) -> Rule:
    name, _, rest = text.partition(":")
    attribute, _, given = rest.partition(":")
    if name not in policies() and attribute.isidentifier():
        entry, rest = _own(name, attribute), given
    elif name in policies():
        entry = policies()[name]
    else:
        raise PolicyError(f"no policy {name!r}{nearest(name, policies())} (or module:attribute of your own)")
    parameters = [_parameter(text, entry, item) for item in rest.split(",") if rest]
    if len(dict(parameters)) < len(parameters):
        raise PolicyError(f"policy {text}: a parameter occurs twice; give each once")
    try:
        rule = entry.rule(**entry.given, **dict(parameters))
    except TypeError as error:  # a rule of the user's own that lacks a method, or a parameter
        raise PolicyError(f"policy {text}: {error}") from error
    if isinstance(rule, Informed) and not 0 <= rule.error <= 1:
        raise PolicyError(f"policy {text}: error={rule.error:g}; give 0 to 1")
    return rule


def _own(module: str, attribute: str) -> Entry:
    """A user's own rule, also from the working directory: a class, or one object of it."""
    where = f"policy {module}:{attribute}"
    try:
        there = import_own(module)
    except Exception as error:  # importing runs what the user wrote
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise PolicyError(f"no policy {module!r}{nearest(module, policies())} ({error})") from error
        raise PolicyError(f"{where}: {module} cannot be imported ({type(error).__name__}: {error})") from error
    if not hasattr(there, attribute):
        raise PolicyError(f"{where}: {module} has no {attribute!r}; define it there, or give another name")
    found = getattr(there, attribute)
    rule = found if isinstance(found, type) else type(found)
    if not issubclass(rule, KINDS) or "__dataclass_params__" not in vars(rule):
        raise PolicyError(f"{where}: no frozen dataclass of a kind in sim.rules; see docs/policies.md")
    name = str(getattr(rule, "name", ""))
    if name in policies() or not name.isidentifier():
        raise PolicyError(f"{where}: the rule's name is {name!r}; give it one of its own: name = 'mine'")
    given = {} if found is rule else {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return Entry(rule, given)


def own_sources(lineup: Iterable[Policy]) -> dict[str, str]:
    """Module -> twelve hexadecimal digits of its source's SHA-256, of the rules that are not in this package."""
    rules = [rule for policy in lineup for rule in policy.rules]
    modules = sorted(
        {type(rule).__module__ for rule in rules} - {entry.rule.__module__ for entry in policies().values()}
    )
    files = {module: getattr(sys.modules[module], "__file__", None) for module in modules}
    return {module: _digest(Path(file)) if file else "unknown" for module, file in files.items()}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _parameter(text: str, entry: Entry, item: str) -> tuple[str, Any]:
    name, _, value = item.partition("=")
    known = entry.parameters
    if name not in known:
        raise PolicyError(f"policy {text}: no parameter {name!r}{nearest(name, known)}")
    whole = known[name] in (int, int | None)
    try:
        return name, int(value) if whole else float(value)
    except ValueError as error:
        kind = "whole number" if whole else "number"
        raise PolicyError(f"policy {text}: {name}={value!r} is not a {kind}") from error


SEQUENTIAL = parse_policy("sequential")
