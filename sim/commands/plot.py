"""`workspan plot`: the figures of papers, of results that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.commands.complete import figure_kinds
from sim.errors import RunError
from sim.figures import KINDS, draw
from sim.results import svg, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = max(map(len, KINDS))
_EPILOG = "\b\nKinds:\n" + "\n".join(f"  {name:{_WIDTH}}  {kind.shows}" for name, kind in KINDS.items())
_FORMATS = (".svg", ".png", ".pdf")
#: Of a PNG, in dots per inch.
_DPI = 200


@click.command(epilog=_EPILOG)
@click.argument("kind", shell_complete=figure_kinds)
@click.argument("folders", metavar="RESULT..", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The figure: .svg, .png or .pdf.",
)
@click.option("--policy", "policies", multiple=True, metavar="P", help="Only this one, and the baseline.")
@click.option("--point", type=click.IntRange(0), metavar="N", help="Of a study, by the column point of its tables.")
def command(kind: str, folders: tuple[Path, ...], output: Path, policies: tuple[str, ...], point: int | None) -> None:
    """Draw a figure of the KIND of RESULT: the folder of a study, of a run or of a replay.

    For predicted these are two, unless the folder of a replay has both.

    \b
    workspan plot speedup results -o speedup.svg
    workspan plot timeline results -o timeline.png --policy plas --point 3
    workspan plot predicted predicted/ measured/ -o agreement.pdf
    """
    if output.suffix not in _FORMATS:
        raise RunError(f"{output}: give a file that ends with {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    save(*draw(kind, folders, policies, point), output)
    click.echo(f"wrote {output}", err=True)


def save(figure: Figure, provenance: Any, path: Path) -> None:
    """Write the figure and what it depends on; the same figure gives the same bytes. Raises RunError."""
    told = json.dumps(provenance, separators=(",", ":"))
    try:
        if path.suffix == ".svg":
            write_whole(path, svg(figure, provenance))
        elif path.suffix == ".png":
            figure.savefig(path, dpi=_DPI, metadata={"Description": told})
        else:
            figure.savefig(path, metadata={"CreationDate": None, "Subject": told})
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name another file") from error
