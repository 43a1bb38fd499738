"""`workspan profiles`: the engines that can be simulated, what is known of each, and how two differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from sim.commands.complete import profile_names
from sim.latency import load_profile, shipped
from sim.profile_report import difference, facts, print_difference, print_facts, print_list

_json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")


@click.group(name="profiles")
def command() -> None:
    """Engines that can be simulated: list them, look at one, compare two.

    \b
    workspan profiles ls
    workspan profiles show rtx4090-llama-3.1-8b
    """


@command.command()
@_json_option
def ls(as_json: bool) -> None:
    """List the profiles that come with workspan.

    \b
    workspan profiles ls
    """
    profiles = list(map(load_profile, shipped()))
    if as_json:
        _dump(list(map(facts, profiles)))
    else:
        print_list(profiles)


@command.command()
@click.argument("name", shell_complete=profile_names)
@_json_option
def show(name: str, as_json: bool) -> None:
    """Show what is known of the profile NAME, or of the one in a .yaml file.

    \b
    workspan profiles show rtx4090-llama-3.1-8b
    workspan profiles show mine.yaml --json
    """
    profile = load_profile(name)
    if as_json:
        _dump(facts(profile))
    else:
        print_facts(profile)


@command.command()
@click.argument("one", shell_complete=profile_names)
@click.argument("other", shell_complete=profile_names)
@_json_option
def diff(one: str, other: str, as_json: bool) -> None:
    """Compare two profiles, by name or .yaml file: steps, coefficients and settings, and OTHER / ONE.

    \b
    workspan profiles diff rtx4090-llama-3.1-8b rtxpro6000-llama-3.1-8b
    """
    sides = load_profile(one), load_profile(other)
    if as_json:
        _dump(difference(*sides))
    else:
        print_difference(*sides)


def _dump(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, allow_nan=False))
