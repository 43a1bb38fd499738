"""`workspan live`: what a server can do, and a server for laptops that only plays one."""

from __future__ import annotations

import sys

import click
from rich.table import Table

from live.check import Finding, check
from live.server import Server
from sim.commands.common import profile_option
from sim.report import console

_SIGN = {True: "yes", False: "NO", None: "?"}


@click.group()
def command() -> None:
    """Check a vLLM server, or play one.

    \b
    workspan live mock --port 8001
    workspan live check --server http://127.0.0.1:8001
    """


@command.command(name="check")
@click.option("--server", "url", required=True, metavar="URL", help="A vLLM, such as http://127.0.0.1:8000.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1), default=60, show_default=True, help="Seconds.")
def check_(url: str, timeout_s: float) -> None:
    """Try out what a replay uses, and name the flag that would enable what is missing.

    \b
    workspan live check --server http://127.0.0.1:8000
    """
    info, findings = check(Server(url), timeout_s)
    kind = "vLLM" if info.engine == "vllm" else "a fake vLLM"
    click.echo(f"{kind} {info.version}, model {info.model}, max_model_len {info.max_model_len}")
    click.echo(
        f"KV cache: {info.cache.get('num_gpu_blocks', '?')} blocks of {info.cache.get('block_size', '?')} tokens\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "works", "seen", "to enable it"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        table.add_row(finding.what, _SIGN[finding.works], finding.detail, "" if finding.works else finding.mend)
    console().print(table)
    if any(_prevents(finding) for finding in findings):
        click.echo("nothing can be replayed on this server", err=True)
        sys.exit(1)


@command.command()
@profile_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
def mock(profile: str, host: str, port: int) -> None:
    """Play a vLLM at the pace of a profile: for laptops and tests, never a measurement.

    \b
    workspan live mock --profile rtx4090-llama-3.1-8b --port 8001
    """
    from live.fake import FakeServer
    from sim.latency import load_profile

    server = FakeServer(load_profile(profile), host, port)
    click.echo(f"a fake vLLM at the pace of {profile} listens on {server.url} (Ctrl-C stops it)", err=True)
    server.serve_forever()


def _prevents(finding: Finding) -> bool:
    return finding.needed and finding.works is False
