"""A real server is calibrated: what its cells show is what its steps are."""

import pytest

from calibration.experiment import shuffled
from calibration.from_server import Bench
from calibration.grid import Cell

CELLS = [
    *(Cell("prefill", 1, 0, length) for length in (16, 128, 500, 1200)),
    *(Cell("cached", 1, 640, length) for length in (64, 300)),
    *(Cell("decode", batch, context, 0) for batch in (1, 2, 4) for context in (48, 900)),
    Cell("shared", 4, 900, 0),
    *(Cell("mixed", batch, 300, 500) for batch in (1, 3)),
]


@pytest.fixture(scope="module")
def told(server):
    bench = Bench(server, {})
    samples = bench.measure(shuffled(CELLS, 3, seed=0))
    return bench, samples, *bench.profile("here", "this machine", samples)


def test_the_engine_of_the_profile_is_that_of_the_server(told):
    bench, _, profile, _ = told
    assert profile.engine.model_dump() == bench.engine.model_dump()
    assert (profile.engine.max_num_seqs, profile.engine.block_size) == (4, 128)
    assert profile.engine.num_gpu_blocks == 1024
    assert not profile.engine.async_scheduling


def test_every_cell_gives_a_sample_and_what_was_assumed_cached_was(told):
    _, samples, _, _ = told
    assert samples.lost == ()
    assert len(samples.samples) == 3 * len(CELLS)


def test_more_work_takes_longer_and_cached_work_does_not_count(told):
    seconds = {}
    for sample in told[1].samples:
        seconds.setdefault(sample.cell, []).append(sample.seconds)
    best = {cell: min(some) for cell, some in seconds.items()}
    prefill = [best[Cell("prefill", 1, 0, length)] for length in (16, 128, 500, 1200)]
    assert prefill == sorted(prefill)
    # 300 new tokens behind 640 cached ones are cheaper than 940 new ones.
    assert best[Cell("cached", 1, 640, 300)] < best[Cell("prefill", 1, 0, 1200)]
    assert best[Cell("decode", 4, 48, 0)] < best[Cell("decode", 4, 900, 0)] < best[Cell("mixed", 3, 300, 500)]
    # One common prefix is read from memory once.
    assert best[Cell("shared", 4, 900, 0)] < best[Cell("decode", 4, 900, 0)]


def test_the_model_tells_the_steps_within_the_noise_of_a_shared_machine(told):
    _, _, profile, found = told
    assert found.accuracy["held_out_step_pct"] < 30
    assert 1e-3 < profile.step_time.const_s < 0.05
    assert 5e-5 < profile.step_time.prefill_token_s < 2e-3
    assert 0 < profile.overheads.input_gap_s < 0.05
    assert profile.measured.batch_size == 4
