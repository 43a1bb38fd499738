"""`workspan policies`: which rules there are, and what one of them is."""

from __future__ import annotations

import dataclasses
import inspect
from typing import get_args

import click

from sim.commands.complete import policy_names
from sim.errors import PolicyError, nearest
from sim.foresight import Information
from sim.policies import ABOUT, PLAIN, Entry, policies
from sim.report import console, new_table
from sim.rules import Informed, Rule
from sim.settings import flag


@click.group()
def command() -> None:
    """The scheduling rules that there are; a policy is rules joined by +, at most one of each kind.

    \b
    workspan policies ls
    workspan policies show plas
    """


@command.command()
def ls() -> None:
    """Every rule: what it decides, who can carry it out, and what it does.

    \b
    workspan policies ls
    """
    out = console()
    table = new_table("policy", "who can run it", "what it does", left=3)
    for kind, about in ABOUT.items():
        table.add_section()
        table.add_row(f"[{kind}: {about}]")
        rules = {entry.rule.name: entry.rule for entry in policies().values() if entry.rule.kind == kind}
        for rule in rules.values():
            table.add_row(_names(rule), rule.runs_on, _first_sentence(rule))
    out.print(table)
    out.print(
        "\n_oracle knows the future, _noisy:error=0.3 is off by up to 30 %, _mean has learned from other workflows."
    )
    out.print("Yours: --policy module:attribute, a rule of your own (docs/policies.md).")


@command.command()
@click.argument("name", shell_complete=policy_names)
def show(name: str) -> None:
    """The rule NAME: what it does, what it must know, where it comes from, and its parameters.

    \b
    workspan policies show srpt_mean
    """
    if name not in policies():
        raise PolicyError(f"no policy {name!r}{nearest(name, policies())}")
    entry = policies()[name]
    out = console()
    needs = ", ".join(flag(*need) for need in entry.rule.needs.items())
    out.print(f"{name}: {entry.rule.kind}, {entry.rule.runs_on}{f', needs {needs}' if needs else ''}\n")
    out.print(inspect.getdoc(entry.rule) or "")
    if parameters := _parameters(entry):
        table = new_table("\nparameter", "\ntype", "\ndefault", left=3)
        for parameter, kind, default in parameters:
            table.add_row(parameter, kind, "none" if default is None else str(default))
        out.print(table)


def _parameters(entry: Entry) -> list[tuple[str, str, object]]:
    defaults = {field.name: field.default for field in dataclasses.fields(entry.rule)}
    kinds = entry.parameters
    return [(name, "whole number" if kinds[name] in (int, int | None) else "number", defaults[name]) for name in kinds]


def _names(rule: type[Rule]) -> str:
    if issubclass(rule, Informed):
        return f"{rule.name}_{' _'.join(get_args(Information))}"
    return " ".join(
        [f"{rule.name}{' (default)' if rule.name in PLAIN else ''}", *(f"= {name}" for name in rule.aliases)]
    )


def _first_sentence(rule: type[Rule]) -> str:
    return (inspect.getdoc(rule) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")
