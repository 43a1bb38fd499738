"""Makes the embedded workflows from the MAST files: ``make corpus``.

    python -m sim.data.build MAST_DIR

MAST_DIR holds ``ag2_experiments.jsonl.gz``, ``peer_review.jsonl.gz`` and ``appworld/``, the original files of the
repositories that the header of the result names. Only structure and token counts are kept; names of segments are
hashes. Tokens are counted by tiktoken's cl100k_base, whose vocabulary is also in PyPI's litellm, so that nothing else
is downloaded. The same files give the same bytes.
"""

from __future__ import annotations

import gzip
import os
from importlib.util import find_spec
from pathlib import Path

import click

from sim.cli import execute
from sim.data import embedded_path
from sim.errors import TraceError
from sim.tokens import Tokenizer, tiktoken
from sim.traces import LoadOptions, jsonl, read
from sim.workflow import Workflow

_ORIGIN = (
    "structure and token counts, without any text, of runs in"
    " multi-agent-systems-failure-taxonomy/MASFT @ 37d1ebd2ee18a812cfae64b0023697841c9d9837"
    " (AG2/experiments/trajs_*_42, 42 of each of six settings; Multi-Agent-Peer-Review)"
    " and rkat7/multi-agent-system-traces @ 33bd355a4ffb4fe380fa097136593629395ad207 (AppWorld aa8502b_1);"
    " made by python -m sim.data.build"
)


@click.command()
@click.argument("mast", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(mast: Path) -> None:
    """Write the embedded workflows anew."""
    files = [mast / "ag2_experiments.jsonl.gz", mast / "peer_review.jsonl.gz", mast / "appworld" / "aa8502b_1_dag.json"]
    workflows, report = read(files, LoadOptions(tokenizer=_cl100k()))
    chosen = [workflow for workflow in workflows if _is_chosen(workflow)]
    text = "".join(jsonl.dump(chosen, {"origin": _ORIGIN}))
    embedded_path().write_bytes(gzip.compress(text.encode(), mtime=0))
    click.echo(f"read {report.line()}; wrote {len(chosen)} workflows to {embedded_path()}")


def _is_chosen(workflow: Workflow) -> bool:
    return workflow.framework != "AG2" or workflow.id.split("/")[1].endswith("_42")


def _cl100k() -> Tokenizer:
    package = find_spec("litellm")
    if package is None or package.origin is None:
        raise TraceError("the vocabulary of cl100k_base is missing; run make corpus, which installs it")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(package.origin).parent / "litellm_core_utils" / "tokenizers")
    return tiktoken("cl100k_base")


if __name__ == "__main__":
    execute(main)
