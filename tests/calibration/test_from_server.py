"""A profile from a server: the fake one, whose coefficients are known."""

import numpy as np
import pytest
from strategies import profile, roomy

from calibration.experiment import Experiment, shuffled
from calibration.from_server import Bench
from calibration.grid import Cell
from calibration.step_log import StepLog
from live.fake import FakeServer
from sim.errors import RunError
from sim.latency import Overheads, StepClock, StepTime

TRUTH = StepTime(
    const_s=12e-3,
    prefill_token_s=1e-4,
    decode_seq_s=1e-3,
    kv_token_s=2e-6,
    distinct_kv_token_s=4e-6,
    attention_pair_s=1e-7,
)
ENGINE = roomy(max_num_seqs=16, max_num_batched_tokens=1024, num_gpu_blocks=2000, block_size=16, max_model_len=8192)
CELLS = [
    *(Cell("prefill", 1, 0, length) for length in (16, 128, 512, 1016, 1800)),
    *(Cell("cached", 1, context, 96) for context in (512, 1600)),
    *(Cell("decode", batch, context, 0) for batch in (1, 4, 8) for context in (48, 700)),
    *(Cell("shared", batch, 1024, 0) for batch in (4, 8)),
    *(Cell("mixed", batch, 200, 400) for batch in (1, 4)),
]


@pytest.fixture(scope="module")
def server():
    with FakeServer(profile(ENGINE, TRUTH, Overheads(input_s=0.004))) as running:
        yield running


def test_the_coefficients_of_a_server_are_found_again(server):
    bench = Bench(server.url, {})
    assert bench.engine.num_gpu_blocks == 2000
    samples = bench.measure(shuffled(CELLS, 2, 0))
    assert not samples.lost
    found, told = bench.profile("mine", "a laptop", samples)
    names, drawn = found.draws.names, np.array(found.draws.rows)
    values = found.step_time.model_dump() | found.overheads.model_dump()
    for name, value in TRUTH.model_dump().items():
        if value:
            low, high = np.percentile(drawn[:, names.index(name)], (0, 100))
            # A fake server in one process with its client is late by up to a millisecond in each step.
            slack = 0.1 * value + 1e-3 * (name == "const_s")
            assert low - slack <= value <= high + slack, name
            assert values[name] == pytest.approx(value, rel=0.3, abs=1e-6 if "kv" in name else 0), name
    assert (found.measured.request_tokens, found.measured.batch_size) == (1801, 8)
    # What is shared was read once: the largest sum is that of 8 requests behind 700 tokens of their own.
    assert 8 * 700 < found.measured.kv_tokens <= 8 * (700 + 24)
    assert told.accuracy["held_out_step_pct"] < 10


def test_one_sample_is_the_step_that_the_engine_made(server):
    """The composition that is assumed of a cell is that of the engine: its time is the formula's."""
    bench = Bench(server.url, {})
    for sample in bench.measure(CELLS[:2] + CELLS[5:6] + CELLS[10:15:2]).samples:
        clock = StepClock(server.engine.profile)
        expected = sum(clock.device_s(*step) for step in sample.steps) + 0.004 * sample.with_overhead
        assert expected * 0.97 < sample.seconds < expected * 1.25 + 3e-3, sample


def test_the_plan_fits_into_its_time(server):
    plan = Bench(server.url, {}).plan(quick=True, seed=0)
    assert plan.total_s <= 110
    assert {cell.kind for cell in plan.cells} == {"prefill", "cached", "decode", "shared", "mixed"}


def test_a_log_without_steps_is_refused(tmp_path):
    (tmp_path / "log").write_text("INFO all is well\n")
    with pytest.raises(RunError, match="no line of a step in it; start the server with --enable-logging-iteration-det"):
        StepLog(tmp_path / "log")
    with pytest.raises(RunError, match="cannot be read"):
        StepLog(tmp_path / "none")


LINE = (
    "INFO [loggers.py:199] Engine 000: Iteration({}): {} context requests, {} context tokens, {} generation requests, "
    "{} generation tokens, iteration elapsed time: {} ms, CPU KV cache usage: 0.8%\n"
)


def test_a_log_is_read_from_where_it_was_when_the_cell_began(tmp_path):
    path = tmp_path / "log"
    path.write_text(LINE.format(0, 1, 16, 0, 0, "9.50"))
    log = StepLog(path)
    log.skip()
    with path.open("a") as file:
        file.write("between\n" + LINE.format(1, 0, 0, 3, 3, "10.25"))
    (line,) = log.lines()
    assert line == (1, 0, 0, 3, 3, 0.01025)


def test_a_log_whose_times_are_not_those_of_the_steps_is_refused(server, tmp_path):
    path = tmp_path / "log"
    path.write_text(LINE.format(0, 1, 16, 0, 0, "0.01"))
    with pytest.raises(RunError, match="--step-log: of the time that the client sees, the log has 0%"):
        Bench(server.url, {}, path).plan(quick=True, seed=0)


def test_a_cell_that_something_else_was_cached_for_gives_no_sample(server):
    class Wrong(Experiment):
        def _prompt(self, cell, index):
            return [1] * 64 if cell.kind == "prefill" else super()._prompt(cell, index)

    bench = Bench(server.url, {})
    player = Wrong(bench._connect, bench.engine, "wrong")
    samples = player.run([Cell("prefill", 1, 0, 16), Cell("prefill", 1, 0, 16)])
    assert samples.lost == ("prefill of 1 x 0 + 16 tokens",)


def test_a_server_that_takes_prompts_in_small_chunks_is_timed_by_them():
    step = StepTime(const_s=6e-3, prefill_token_s=2e-5, decode_seq_s=2e-4, kv_token_s=1e-7, attention_pair_s=2e-9)
    engine = ENGINE.model_copy(update={"long_prefill_token_threshold": 128})
    with FakeServer(profile(engine, step)) as running:
        bench = Bench(running.url, {})
        (sample,) = bench.measure([Cell("mixed", 2, 200, 500)]).samples
    assert [one.prefill_tokens for one in sample.steps] == [128, 128, 128, 116]
    clock = StepClock(profile(engine, step))
    assert sample.seconds == pytest.approx(sum(clock.device_s(*one) for one in sample.steps), rel=0.25)


def test_a_server_that_is_too_small_is_refused_before_it_is_timed():
    with FakeServer(profile(roomy(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=120))) as running:
        bench = Bench(running.url, {})
        with pytest.raises(RunError, match=r"different batches \(.*\) cannot tell the coefficients; 8 or more"):
            bench.plan(quick=True, seed=0)
