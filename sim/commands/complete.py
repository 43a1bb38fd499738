"""What a shell completes the values of options and arguments from."""

from __future__ import annotations

import click

from sim.latency import shipped


def policy_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Rules that the last part of a policy may be: ``plas+s`` goes on with ``plas+sticky``."""
    from sim.policies import policies

    done, plus, last = incomplete.rpartition("+")
    return [f"{done}{plus}{name}" for name in sorted(policies()) if name.startswith(last)]


def profile_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Profiles that come with workspan."""
    return [name for name in shipped() if name.startswith(incomplete)]


def pattern_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Patterns of `workspan traces generate`."""
    from sim.synthetic import patterns

    return [name for name in sorted(patterns()) if name.startswith(incomplete)]


def figure_kinds(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Figures of `workspan plot`."""
    from sim.figures import KINDS

    return [name for name in KINDS if name.startswith(incomplete)]
