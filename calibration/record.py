"""Records a run on a server for `calibration.from_run`: random requests, the token ids sent, and when tokens came.

    python -m calibration.record URL FOLDER

FOLDER gets ``requests.jsonl`` and ``workload.jsonl`` in the form that `calibration.from_run` reads, and
``server.json``. Prompts and answers have lognormal lengths, arrivals are Poisson, so that steps of all sizes occur; a
third of the prompts begins alike, so that prefixes are found cached.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from live.client import Answer, CallError, Client
from live.prompts import segment_ids
from live.server import Server
from sim.cli import execute
from sim.errors import RunError
from sim.load import generator
from sim.results import write_whole

_TIMEOUT_S = 300
_SHARED = 256


@click.command()
@click.argument("url")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--requests", "number", type=click.IntRange(10, 10_000), default=150, show_default=True)
@click.option("--rate", type=click.FloatRange(0.01), default=1.5, show_default=True, help="Requests per second.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def main(url: str, folder: Path, number: int, rate: float, seed: int) -> None:
    """Send random requests to the vLLM at URL and write what happened to FOLDER."""
    if folder.exists():
        raise RunError(f"{folder}: exists already; name another folder")
    server = Server(url)
    info = server.info()
    rng = generator(seed, "recorded requests")
    prompts, outputs = _prompts(number, rng), _lengths(rng, number, 40, 0.8, 160)
    instants = rng.exponential(1 / rate, number).cumsum()
    rows = _play(Client(info.url, info.model, _TIMEOUT_S), info.url, info.model, prompts, outputs, instants)
    folder.mkdir(parents=True)
    write_whole(folder / "server.json", json.dumps(info.to_json(), indent=1) + "\n")
    write_whole(folder / "workload.jsonl", "".join(json.dumps({"input_tok_ids": ids}) + "\n" for ids in prompts))
    write_whole(folder / "requests.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    click.echo(f"wrote {folder}: {number} requests in {instants[-1]:.0f} s", err=True)


def _prompts(number: int, rng: np.random.Generator) -> list[list[int]]:
    lengths = _lengths(rng, number, 300, 0.9, 2000)
    shared = segment_ids("calibration: what some prompts share", _SHARED)
    return [
        [*(shared if index % 3 == 0 else ()), *segment_ids(f"calibration {index}", length)]
        for index, length in enumerate(lengths)
    ]


def _lengths(rng: np.random.Generator, number: int, median: float, sigma: float, most: int) -> list[int]:
    return [int(min(most, max(2, value))) for value in median * np.exp(sigma * rng.standard_normal(number))]


def _play(
    warm: Client, url: str, model: str, prompts: list[list[int]], outputs: list[int], instants: Any
) -> list[dict[str, Any]]:
    warm.complete(segment_ids("warm-up", 64), 8)
    answers: dict[int, Answer] = {}
    failed: list[str] = []

    def one(index: int) -> None:
        try:
            answers[index] = Client(url, model, _TIMEOUT_S).complete(prompts[index], outputs[index])
        except CallError as error:
            failed.append(str(error))

    began, threads = time.monotonic(), []
    for index, instant in enumerate(instants):
        time.sleep(max(0.0, began + instant - time.monotonic()))
        threads.append(threading.Thread(target=one, args=(index,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if failed:
        raise RunError(f"{len(failed)} requests failed, the first: {failed[0]}")
    return [_row(answers[index], began) for index in range(len(prompts))]


def _row(answer: Answer, began: float) -> dict[str, Any]:
    return {
        "output_toks": len(answer.token_ids),
        "queued_ts": answer.sent_s - began,
        "first_token_ts": answer.token_times_s[0] - began,
        "last_token_ts": answer.token_times_s[-1] - began,
    }


if __name__ == "__main__":
    execute(main)
