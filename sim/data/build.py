"""Makes the embedded workflows from the MAST files: ``make corpus``.

    python -m sim.data.build MAST_DIR

MAST_DIR holds collections of original files (``*.jsonl.gz``, one file per line) of the repositories that the header of
the result names, and ``appworld/``. Only structure, token counts, labels and times are kept; names of segments are
hashes. Tokens are counted by tiktoken's cl100k_base, whose vocabulary is also in PyPI's litellm, so that nothing else
is downloaded. Every run is there once: of two records of one run the first is kept. The same files give the same bytes.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import click

from sim.cli import execute
from sim.commands.common import tell
from sim.data import embedded_path
from sim.errors import TraceError
from sim.tokens import Tokenizer, tiktoken
from sim.traces import LoadOptions, jsonl, read
from sim.workflow import Workflow

_ORIGIN = (
    "structure, token counts, labels and times, without any text, of runs in"
    " multi-agent-systems-failure-taxonomy/MASFT @ 37d1ebd2ee18a812cfae64b0023697841c9d9837"
    " (AG2, HyperAgent, MetaGPT, MA-ToT, Multi-Agent-Peer-Review),"
    " mert-cemri/openevolve-mast @ d84d53ae0b879b3eb7d1c8d20d4c10d13ea8fee9 (ChatDev)"
    " and rkat7/multi-agent-system-traces @ 33bd355a4ffb4fe380fa097136593629395ad207 (AppWorld aa8502b_1);"
    " made by python -m sim.data.build"
)


@click.command()
@click.argument("mast", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(mast: Path) -> None:
    """Write the embedded workflows anew."""
    options = LoadOptions(tokenizer=_cl100k())
    workflows, report = read([mast], options)
    tell(report, workflows, options)
    once = _once(workflows)
    data = gzip.compress("".join(jsonl.dump(once, {"origin": _ORIGIN})).encode(), mtime=0)
    embedded_path().write_bytes(data)
    click.echo(f"wrote {len(once)} workflows, {len(data):,} bytes, to {embedded_path()}")


def _once(workflows: Iterable[Workflow]) -> list[Workflow]:
    """Without the runs that are there already under another name: the same agents said the same."""
    seen: dict[object, Workflow] = {}
    for workflow in workflows:
        said = tuple((call.agent, call.answer_id, call.num_prompt_tokens) for call in workflow.calls)
        first = seen.setdefault((workflow.framework, said), workflow)
        if first is not workflow:
            click.echo(f"left out {workflow.id}: the same run as {first.id}", err=True)
    return list(seen.values())


def _cl100k() -> Tokenizer:
    package = find_spec("litellm")
    if package is None or package.origin is None:
        raise TraceError("the vocabulary of cl100k_base is missing; run make corpus, which installs it")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(package.origin).parent / "litellm_core_utils" / "tokenizers")
    return tiktoken("cl100k_base")


if __name__ == "__main__":
    execute(main)
