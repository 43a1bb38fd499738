"""Coefficients from samples of known steps: found again where the samples tell them, refused where they do not."""

import random

import numpy as np
import pytest
from strategies import profile, roomy

from calibration.experiment import Experiment, Sample, Samples, Step, shuffled
from calibration.fit import Data, Model, calibrate, fit, models, predict
from calibration.grid import Cell, cells
from sim.errors import RunError
from sim.latency import Overheads, StepClock, StepTime

TRUTH = {
    "const_s": 8e-3,
    "prefill_token_s": 2e-4,
    "decode_seq_s": 3e-4,
    "kv_token_s": 3e-7,
    "distinct_kv_token_s": 7e-7,
    "attention_pair_s": 1e-7,
}


def sampled(step_time, noise=0.02, repeats=3, engine=None, overhead_s=0.004, seed=1, quick=False):
    """What an experiment would give on a server with these coefficients."""
    engine = engine or roomy(max_num_seqs=64, max_num_batched_tokens=2048, block_size=16)
    clock, drawn = StepClock(profile(engine, step_time)), random.Random(seed)
    player = Experiment(lambda: None, engine, "drawn")
    samples = []
    for cell in shuffled(cells(engine, quick), repeats, seed):
        steps = steps_of(player, cell)
        seconds = sum(clock.device_s(*step) for step in steps)
        alone = cell.kind in ("prefill", "cached")
        samples.append(Sample(cell, steps, (seconds + overhead_s * alone) * drawn.gauss(1, noise), alone))
    return Samples(tuple(samples), (1e-3, 2e-3))


def steps_of(player, cell):
    if cell.kind in ("decode", "shared"):
        return (player._decode(cell, cell.context + 30, [10] * cell.batch),)
    if cell.kind == "mixed":
        return tuple(player._chunks(0, cell.prompt, cell.batch, cell.context * cell.batch))
    cached = cell.context // 16 * 16
    return tuple(player._chunks(cached, cell.context + cell.prompt - cached, 0, 0))


def test_known_coefficients_are_found_within_their_intervals():
    found = calibrate(sampled(StepTime(**TRUTH)), ())
    assert found.fitted.model == Model()
    truth = TRUTH | {"input_s": 0.004}
    drawn = np.array(found.draws.rows)
    low, high = np.percentile(drawn, (1, 99), axis=0)
    for name, least, most in zip(found.draws.names, low, high, strict=True):
        assert least * 0.99 <= truth[name] <= most * 1.01, name
        assert found.fitted.coefficients[name] == pytest.approx(truth[name], rel=0.15), name
    assert found.accuracy["held_out_step_pct"] < 3
    assert {"held_out_prefill_pct", "held_out_decode_pct", "held_out_mixed_pct"} <= found.accuracy.keys()


def test_free_tokens_and_graph_padding_are_found_where_they_are_and_only_there():
    free = calibrate(sampled(StepTime(**TRUTH, free_tokens=8), noise=0.005), ())
    assert free.fitted.model.free_tokens in (6, 8)
    engine = roomy(max_num_seqs=64, max_num_batched_tokens=2048, block_size=16, cudagraph_capture_sizes="default")
    padded = calibrate(sampled(StepTime(**TRUTH), noise=0.002, engine=engine), engine.graph_sizes)
    assert padded.fitted.model == Model(graph_sizes=engine.graph_sizes)
    alone = calibrate(sampled(StepTime(**TRUTH), noise=0.02, overhead_s=0.0), engine.graph_sizes)
    assert alone.fitted.model in (Model(overhead=False), Model())
    assert not alone.fitted.model.graph_sizes


def test_a_fit_without_noise_is_exact_for_every_model():
    for model in (Model(), Model(free_tokens=8), Model(overhead=False)):
        step_time = StepTime(**TRUTH, free_tokens=model.free_tokens)
        samples = sampled(step_time, noise=0, repeats=1, overhead_s=0.004 * model.overhead)
        data = Data(samples.samples)
        np.testing.assert_allclose(predict(data, fit(data, model)), data.seconds, rtol=1e-4)


def test_what_a_fit_predicts_is_what_the_engine_takes():
    """The columns of the fit are the formula of the engine, padding and free tokens included."""
    engine = roomy(max_num_seqs=64, max_num_batched_tokens=2048, block_size=16, cudagraph_capture_sizes="default")
    for changes in ({}, {"decode_seq_s": 1e-4}):
        step_time = StepTime(**TRUTH | changes, free_tokens=12)
        samples = sampled(step_time, noise=0, repeats=1, engine=engine)
        data = Data(samples.samples)
        found = fit(data, Model(free_tokens=12, graph_sizes=engine.graph_sizes))
        np.testing.assert_allclose(predict(data, found), data.seconds, rtol=1e-4)
        for name, value in (TRUTH | changes).items():
            assert found.coefficients[name] == pytest.approx(value, rel=0.01), name


def test_the_servers_own_log_tells_device_from_host():
    samples = sampled(StepTime(**TRUTH, host_s=1e-3, host_seq_s=1e-5), noise=0.002)
    host = [Sample(s.cell, s.steps, s.seconds + sum(1e-3 + 1e-5 * max(1, step.decode_seqs) for step in s.steps),
                   s.with_overhead, s.seconds - 0.004 * s.with_overhead) for s in samples.samples]  # fmt: skip
    found = calibrate(Samples(tuple(host), ()), ()).fitted.coefficients
    assert found["host_s"] == pytest.approx(1e-3, rel=0.1)
    assert found["host_seq_s"] == pytest.approx(1e-5, rel=0.3)
    assert found["const_s"] == pytest.approx(8e-3, rel=0.02)


def test_what_cannot_tell_the_coefficients_is_refused():
    everything = sampled(StepTime(**TRUTH)).samples
    decodes = tuple(sample for sample in everything if sample.cell.kind == "decode")
    with pytest.raises(
        RunError, match=r"different batches \(decode\) cannot tell the coefficients; 8 or more are needed"
    ):
        calibrate(Samples(decodes, ()), ())
    with pytest.raises(RunError, match=r"0 different batches \(none\)"):
        calibrate(Samples((), ()), ())


@pytest.mark.parametrize("quick", [True, False])
def test_the_grid_asks_for_nothing_that_the_engine_cannot_hold(quick):
    small = roomy(max_num_seqs=8, max_num_batched_tokens=512, max_model_len=1500, num_gpu_blocks=200, block_size=16)
    found = cells(small, quick)
    assert {cell.kind for cell in found} >= {"prefill", "decode", "mixed"}
    for cell in found:
        assert cell.batch + (cell.kind == "mixed") <= 8
        assert cell.request_tokens <= 1500
        assert cell.kv_tokens <= 199 * 16
    uncached = small.model_copy(update={"enable_prefix_caching": False})
    assert {cell.kind for cell in cells(uncached, quick)} == {"prefill", "decode", "mixed"}


def test_every_cell_is_played_equally_often_in_an_order_that_changes():
    order = shuffled([Cell("decode", size, 48, 0) for size in range(1, 9)], 3, seed=0)
    assert len(order) == 24
    assert all(order.count(cell) == 3 for cell in order)
    assert order[:8] != order[8:16]


def test_candidates_come_simplest_first():
    found = models((1, 2, 4))
    assert found[0] == Model(overhead=False)
    assert [model.complexity for model in found] == sorted(model.complexity for model in found)


def test_chunks_are_those_of_the_scheduler():
    engine = roomy(max_num_batched_tokens=100, max_num_seqs=8)
    found = list(Experiment(lambda: None, engine, "x")._chunks(0, 150, 2, 1000))
    assert found == [Step(98, 2, 1098, 1098, 98 * 99 // 2), Step(52, 2, 1152, 1152, 52 * 98 + 52 * 53 // 2)]
    assert Overheads().input_s == 0


def test_what_is_not_there_is_exactly_nought():
    found = calibrate(sampled(StepTime(**TRUTH | {"distinct_kv_token_s": 0.0}), noise=0.01), ())
    column = [row[found.draws.names.index("distinct_kv_token_s")] for row in found.draws.rows]
    assert min(column) == 0


def test_intervals_cover_what_is_true_nearly_as_often_as_they_say():
    truth, covered = TRUTH | {"input_s": 0.004}, []
    for seed in range(15):
        draws = calibrate(sampled(StepTime(**TRUTH), repeats=2, seed=seed, quick=True), ()).draws
        low, high = np.percentile(np.array(draws.rows), (2.5, 97.5), axis=0)
        covered += [least <= truth[name] <= most for name, least, most in zip(draws.names, low, high, strict=True)]
    assert len(covered) > 90
    assert np.mean(covered) > 0.85
