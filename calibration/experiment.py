"""The cells of the grid on a real server, through its public API: samples of how long known steps take."""

from __future__ import annotations

import random
import statistics
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from calibration.grid import TAIL, Cell
from calibration.step_log import Iteration, StepLog
from live.client import Answer, CallError, Client
from live.prompts import segment_ids
from sim.errors import RunError
from sim.settings import EngineSettings

#: Steps of a window with all requests under way, below which a cell tells too little.
_FEWEST = 5
#: Seconds to wait until a request is written.
_WRITTEN_S = 5.0


class Step(NamedTuple):
    """The sums that a step's time depends on; `sim.request.Batch` says how each is counted."""

    prefill_tokens: int
    decode_seqs: int
    kv_tokens: int
    distinct_kv_tokens: int
    attention_pairs: int


@dataclass(frozen=True, slots=True)
class Sample:
    """``seconds`` is what the client saw of these ``steps``; ``with_overhead``: and of one request's way in and out.

    ``logged_s``: what the server's own log says of the steps, None without a log.
    """

    cell: Cell
    steps: tuple[Step, ...]
    seconds: float
    with_overhead: bool
    logged_s: float | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples of an experiment; ``gaps_s``: between requests that were sent at once. ``lost``: cells without."""

    samples: tuple[Sample, ...]
    gaps_s: tuple[float, ...]
    lost: tuple[str, ...] = ()

    def __add__(self, other: Samples) -> Samples:
        return Samples(self.samples + other.samples, self.gaps_s + other.gaps_s, self.lost + other.lost)


class Experiment:
    """Plays cells on a server; ``name`` makes its new prompts unlike those of every other experiment."""

    def __init__(
        self, connect: Callable[[], Client], engine: EngineSettings, name: str, log: StepLog | None = None
    ) -> None:
        self._connect = connect
        self._engine = engine
        self._name = name
        self._log = log
        self._number = 0
        self._gaps_s: list[float] = []

    def run(self, cells: Iterable[Cell], done: Callable[[Cell], None] = lambda cell: None) -> Samples:
        """One sample of each cell, in this order. Raises RunError where a call fails."""
        samples, lost = [], []
        for cell in cells:
            try:
                sample = self._play(cell)
            except CallError as error:
                raise RunError(f"{cell.kind} of {cell.batch} x {cell.context} + {cell.prompt}: {error}") from error
            if sample:
                samples.append(sample)
            else:
                lost.append(f"{cell.kind} of {cell.batch} x {cell.context} + {cell.prompt} tokens")
            done(cell)
        return Samples(tuple(samples), tuple(self._gaps_s), tuple(lost))

    def _play(self, cell: Cell) -> Sample | None:
        prompts = [self._prompt(cell, index) for index in range(cell.batch)]
        new = segment_ids(f"{self._name} {self._number}", cell.prompt) if cell.prompt else []
        self._number += 1
        if cell.kind in ("prefill", "cached"):
            if cell.context:
                self._together([prompts[0]], 1)
            self._mark()
            (answer,) = self._together([[*prompts[0], *new]], 1)
            return self._single(cell, answer)
        self._together(prompts[:1], 1)
        if cell.kind != "shared":
            self._together(prompts[1:], 1)
        self._mark()
        if cell.kind == "mixed":
            return self._mixed(cell, prompts, new)
        answers = self._together(prompts, cell.output_tokens)
        self._gaps_s += _gaps(answers)
        return self._joint(cell, answers)

    def _prompt(self, cell: Cell, index: int) -> list[int]:
        """Longer prompts of the same index begin with the shorter ones, so that their KV is there already."""
        if cell.kind == "shared":
            return [
                *segment_ids("calibration: shared", cell.context),
                *segment_ids(f"calibration: tail {index}", TAIL),
            ]
        root = "alone" if cell.kind == "cached" else "together"
        return list(segment_ids(f"calibration: {root} {index}", cell.context)) if cell.context else []

    def _together(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[Answer]:
        """The answers to prompts that are sent at once, each when the one before is on its way."""
        threads = [_Asked(self._connect(), prompt, num_tokens) for prompt in prompts]
        for thread in threads:
            thread.start()
            thread.sent.wait(_WRITTEN_S)
        return [thread.result() for thread in threads]

    def _mixed(self, cell: Cell, prompts: Sequence[Sequence[int]], new: Sequence[int]) -> Sample | None:
        """The new prompt is sent when the last of the others has begun to generate."""
        threads = [_Asked(self._connect(), prompt, cell.output_tokens) for prompt in prompts]
        late = _Asked(self._connect(), new, 1)
        for thread in threads:
            thread.start()
            thread.sent.wait(_WRITTEN_S)
        for thread in threads:
            thread.begun()
        late.start()
        joining = late.result()
        answers = [thread.result() for thread in threads]
        return self._gap(cell, answers, joining)

    def _mark(self) -> None:
        if self._log:
            self._log.skip()

    def _single(self, cell: Cell, answer: Answer) -> Sample | None:
        cached = (cell.context // self._engine.block_size) * self._engine.block_size if cell.context else 0
        if answer.num_cached_tokens not in (None, cached):
            return None  # something else was cached: evicted since, or of another experiment
        steps = tuple(self._chunks(cached, cell.context + cell.prompt - cached, 0, 0))
        logged = self._logged(lambda lines: _sum(lines, len(steps), sum(step.prefill_tokens for step in steps)))
        return Sample(cell, steps, answer.token_times_s[0] - answer.sent_s, True, logged)

    def _chunks(self, cached: int, new: int, decoding: int, kv_tokens: int) -> Iterable[Step]:
        """The steps of one prompt, beside so many decoding requests with so many KV tokens."""
        while new:
            size = min(new, self._chunk(decoding))
            pairs, context = size * cached + size * (size + 1) // 2, cached + size
            yield Step(size, decoding, kv_tokens + context, kv_tokens + context, pairs)
            cached, new, kv_tokens = context, new - size, kv_tokens + decoding

    def _chunk(self, decoding: int) -> int:
        """Prompt tokens that a step takes in beside so many decoding requests."""
        engine = self._engine
        alone = engine.exempts_lone_prefill and not decoding
        threshold = 0 if alone else engine.long_prefill_token_threshold
        room = engine.max_num_batched_tokens - decoding
        return min(room, threshold) if threshold else room

    def _joint(self, cell: Cell, answers: Sequence[Answer]) -> Sample | None:
        """The middle step of the window in which all requests generate."""
        began = max(answer.token_times_s[0] for answer in answers)
        ended = min(answer.token_times_s[-1] for answer in answers)
        gaps = [
            after - before
            for answer in answers
            for before, after in pairwise(answer.token_times_s)
            if before >= began - 1e-3 and after <= ended + 1e-3
        ]
        if len(gaps) < _FEWEST * len(answers):
            return None
        middle = (began + ended) / 2
        grown = [sum(time_s <= middle for time_s in answer.token_times_s) for answer in answers]
        prompt = cell.context + TAIL * (cell.kind == "shared")
        step = self._decode(cell, prompt, grown)
        logged = self._logged(lambda lines: _median(lines, len(answers)))
        return Sample(cell, (step,), statistics.median(gaps), False, logged)

    def _decode(self, cell: Cell, prompt: int, grown: Sequence[int]) -> Step:
        kv_tokens = sum(prompt + tokens for tokens in grown)
        size = self._engine.block_size
        common = (cell.context // size) * size if cell.kind == "shared" else 0
        return Step(0, len(grown), kv_tokens, kv_tokens - common * (len(grown) - 1), 0)

    def _gap(self, cell: Cell, answers: Sequence[Answer], joining: Answer) -> Sample | None:
        """The steps of the new prompt, as the requests beside it saw them: up to its first token."""
        count = -(-cell.prompt // self._chunk(cell.batch))
        end_s = joining.token_times_s[0]
        spans, grown = [], []
        for answer in answers:
            times = answer.token_times_s
            last = min(range(len(times)), key=lambda index: abs(times[index] - end_s))
            if not count <= last < len(times) - 1:
                return None
            spans.append(times[last] - times[last - count])
            grown.append(last - count + 1)
        kv_tokens = sum(cell.context + tokens for tokens in grown)
        steps = tuple(self._chunks(0, cell.prompt, cell.batch, kv_tokens))
        logged = self._logged(lambda lines: _sum(lines, count, cell.prompt))
        return Sample(cell, steps, statistics.median(spans), False, logged)

    def _logged(self, read: Callable[[Sequence[Iteration]], float | None]) -> float | None:
        return read(self._log.lines()) if self._log else None


class _Asked(threading.Thread):
    """A request under way."""

    def __init__(self, client: Client, prompt: Sequence[int], num_tokens: int) -> None:
        super().__init__(name="calibration", daemon=True)
        self._client, self._prompt, self._num_tokens = client, prompt, num_tokens
        self.sent, self._first = threading.Event(), threading.Event()
        self._answer: Answer | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._answer = self._client.complete(self._prompt, self._num_tokens, self.sent.set, self._first.set)
        except Exception as error:  # told by `result`, whatever it is
            self._error = error
        finally:
            self._first.set()

    def begun(self) -> None:
        """Wait for its first token."""
        self._first.wait()

    def result(self) -> Answer:
        """Its answer, once it is there. Raises what it raised."""
        self.join()
        if self._error:
            raise self._error
        assert self._answer is not None
        return self._answer


def shuffled(cells: Sequence[Cell], repeats: int, seed: int) -> list[Cell]:
    """Every cell so many times, in an order drawn anew for each time, so that drift of the machine hits all alike."""
    order = random.Random(seed)
    return [cell for _ in range(repeats) for cell in order.sample(cells, len(cells))]


def _gaps(answers: Sequence[Answer]) -> list[float]:
    sent = sorted(answer.sent_s for answer in answers)
    return [after - before for before, after in pairwise(sent)]


def _sum(lines: Sequence[Iteration], count: int, tokens: int) -> float | None:
    """Seconds of the steps that computed so many prompt tokens; None unless they are as many as expected."""
    some = [line for line in lines if line.context_tokens]
    if len(some) != count or sum(line.context_tokens for line in some) != tokens:
        return None
    return sum(line.seconds for line in some)


def _median(lines: Sequence[Iteration], batch: int) -> float | None:
    some = [line.seconds for line in lines if line.generation_tokens == batch and not line.context_tokens]
    return statistics.median(some) if len(some) >= _FEWEST else None
