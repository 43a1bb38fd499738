"""`workspan doctor`: what will not work here, and the mend."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

import click

from sim.doctor import Check, checks

_HEADINGS = ("what", "found", "verdict", "mend")


@click.command()
@click.option("--server", "url", metavar="URL", help="Also try out this vLLM, such as http://127.0.0.1:8000.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(url: str | None, as_json: bool) -> None:
    """Look at Python, packages, GPU, vLLM, ports and clock; say what will not work, and the mend.

    Exit code 1 if something fails without which workspan, or the server that was named, is of no use.

    \b
    workspan doctor
    workspan doctor --server http://127.0.0.1:8000
    """
    found = list(_all(url))
    good = not any(check.fails for check in found)
    if as_json:
        click.echo(json.dumps({"ok": good, "checks": [check.to_json() for check in found]}, indent=2))
    else:
        _print(found)
        click.echo("\n" + _summary(found))
    if not good:
        sys.exit(1)


def _all(url: str | None) -> Iterator[Check]:
    yield from checks()
    try:
        from live import doctor

        yield from doctor.installed()
        yield from doctor.server(url) if url else doctor.port()
    except ImportError:  # what is missing is named above
        return


def _print(found: Sequence[Check]) -> None:
    rows = [(check.what, check.found, _verdict(check), check.mend) for check in found]
    try:
        from rich.table import Table

        from sim.report import console
    except ImportError:  # what is missing is named in the rows
        for row in rows:
            click.echo(" | ".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _verdict(check: Check) -> str:
    return f"{check.verdict}: {check.says}" if check.says else check.verdict


def _summary(found: Sequence[Check]) -> str:
    failing = [check.what for check in found if check.fails]
    return f"mend first: {', '.join(failing)}" if failing else "nothing essential is missing"
