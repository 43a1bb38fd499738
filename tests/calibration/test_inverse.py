"""Inverse calibration: on runs with known coefficients, on runs that tell too little, and on those of the two GPUs."""

from pathlib import Path

import numpy as np
import pytest
from recorded_runs import of_gpu, simulated, varied
from strategies import profile, roomy

from calibration.candidates import Candidate, candidates, simplest
from calibration.inverse import START, calibrate, determined, fit
from calibration.recorded import read_run
from calibration.report import undetermined
from calibration.rerun import Recorded, accuracy, errors, measured, regimes, rerun
from sim.errors import RunError
from sim.latency import StepTime, load_profile

TRUTH = {
    "const_s": 8e-3,
    "prefill_token_s": 6e-5,
    "decode_seq_s": 4e-4,
    "kv_token_s": 3e-7,
    "attention_pair_s": 1e-8,
}
ENGINE = profile(roomy(max_num_seqs=16, vllm_version="0.32.0"), StepTime(**TRUTH))
ONE_BY_ONE = [(10.0 * number, 100 + 150 * (number % 7), 20 + number % 5) for number in range(24)]
GPUS = ("rtx4090-llama-3.1-8b", "rtxpro6000-llama-3.1-8b")


@pytest.fixture(scope="module")
def found():
    return calibrate(simulated(ENGINE, varied(60), noise=0.005), ENGINE)


def test_known_coefficients_are_found_again_within_their_intervals(found):
    step = found.profile.step_time
    assert found.model == "linear"
    assert set(found.deviations) == set(TRUTH)
    for name, deviation in found.deviations.items():
        assert deviation < 0.3, name
        assert getattr(step, name) == pytest.approx(TRUTH[name], rel=3 * deviation), name


def test_draws_lie_around_what_was_found_and_are_profiles(found):
    draws = found.profile.draws
    assert len(draws.rows) == 40
    for number in range(40):
        assert found.profile.drawn(number).step_time != found.profile.step_time
    middle = dict(zip(draws.names, np.mean(draws.rows, axis=0), strict=True))
    for name, deviation in found.deviations.items():
        assert middle[name] == pytest.approx(getattr(found.profile.step_time, name), rel=deviation + 0.01), name


def test_what_was_fitted_predicts_the_half_that_was_held_out(found):
    known = found.profile.accuracy
    assert known["held_out_e2el_mape_pct"] < 1
    assert {f"held_out_{name}_pct" for name in found.regimes} <= set(known)
    assert found.profile.measured.batch_size == 16


def test_requests_one_by_one_leave_the_cost_of_a_batch_open():
    found = calibrate(simulated(ENGINE, ONE_BY_ONE, noise=0.003), ENGINE)
    assert "decode_seq_s" in undetermined(found)
    # It counts as a prompt token, and the constant has the rest.
    step = found.profile.step_time
    assert step.decode_seq_s == step.prefill_token_s
    drawn = [found.profile.drawn(number).step_time for number in range(40)]
    shares = [one.decode_seq_s / one.prefill_token_s for one in drawn]
    # But how large it is is open, and the constant with it.
    assert 0 < min(shares) < 0.3
    assert 1.7 < max(shares) < 2
    assert np.ptp([one.const_s + one.decode_seq_s for one in drawn]) < 0.1 * step.const_s
    assert step.const_s + step.decode_seq_s == pytest.approx(TRUTH["const_s"] + TRUTH["decode_seq_s"], rel=0.1)


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        ([(10.0 * number, 1 + number % 2, 50) for number in range(24)], "does not determine prefill_token_s"),
        ([(10.0 * number, 500 + number, 1) for number in range(24)], "or none has two tokens"),
        (ONE_BY_ONE[:19], "19 requests are too few"),
    ],
)
def test_a_run_that_cannot_determine_a_step_is_refused(requests, problem):
    with pytest.raises(RunError, match=problem):
        calibrate(simulated(ENGINE, requests, noise=0.01), ENGINE)


def test_one_step_from_the_optimum_is_about_what_a_full_refit_finds():
    run = Recorded.of(simulated(ENGINE, varied(60), noise=0.01))
    everything = np.ones(60, dtype=bool)
    full = fit(run, ENGINE, Candidate("linear"), everything, START, 10, 100)
    fewer = np.arange(60) < 50
    quick = full.changes(fewer.astype(float))
    refit = fit(run, ENGINE, Candidate("linear"), fewer, full.values, 4, 100)
    for number, name in enumerate(full.candidate.fitted):
        change = refit.values[name] / full.values[name] - 1
        assert quick[number] == pytest.approx(change, abs=2 * full.deviations()[number] + 0.01), name


def test_a_coefficient_that_nothing_depends_on_is_nought():
    engine = profile(roomy(max_num_seqs=16, async_scheduling=True), StepTime(**TRUTH))
    run = Recorded.of(simulated(engine, varied(40), noise=0.003))
    everything = np.ones(40, dtype=bool)
    with_host = Candidate("host", (*TRUTH, "host_s"))
    found = determined(run, engine, fit(run, engine, with_host, everything, {**TRUTH, "host_s": 1e-4}, 3), everything)
    assert "host_s" not in found.candidate.fitted
    assert found.profile(engine).step_time.host_s == 0


def test_the_simplest_model_wins_unless_another_is_better_by_more_than_noise():
    assert simplest(np.array([[5.0, 4.0, 6.0, 5.0], [4.9, 4.1, 5.8, 5.1]])) == 0
    assert simplest(np.array([[5.0, 4.0, 6.0, 5.0], [1.0, 0.9, 1.1, 1.0]])) == 1


def test_models_of_host_and_graphs_are_tried_only_where_the_engine_has_them():
    names = [one.name for one in candidates(roomy())]
    both = roomy(async_scheduling=True, cudagraph_capture_sizes="default")
    assert len(candidates(both)) == len(names) + 2
    assert names[0] == "linear"


def test_free_tokens_are_never_more_than_the_constant_pays_for():
    tight = Candidate("roofline", free_tokens=1000).profile(ENGINE, TRUTH).step_time
    assert 0 < tight.free_tokens * 6e-5 <= TRUTH["const_s"]


def test_a_request_is_told_by_where_its_time_went():
    slow_kv = profile(roomy(max_num_seqs=1), StepTime(**{**TRUTH, "kv_token_s": 1e-5}))
    run = simulated(slow_kv, [(0.0, 20, 50), (100.0, 6000, 50), (100.1, 20, 5), (200.0, 6000, 2)])
    again = rerun(Recorded.of(run), slow_kv)
    assert regimes(Recorded.of(run), again) == ["decode", "kv", "queue", "prefill"]


def test_a_rerun_of_its_own_run_has_no_errors_and_says_what_was_largest():
    run = Recorded.of(simulated(ENGINE, varied(30)))
    again = rerun(run, ENGINE)
    assert np.abs(errors(run, again)).max() < 1e-9
    assert all(abs(value) < 1e-9 for value in accuracy(run, again, np.ones(30, dtype=bool)).values())
    largest = measured(run, again)
    assert largest.request_tokens == max(prompt + output for _, prompt, output in varied(30))
    assert largest.batch_size <= 16
    assert largest.kv_tokens > largest.request_tokens / 2


def test_a_rerun_stops_when_all_that_are_judged_have_their_answers():
    run = Recorded.of(simulated(ENGINE, varied(30)))
    early = rerun(run, ENGINE, np.arange(30) < 5)
    np.testing.assert_allclose(early.last_token[:5], run.last_token[:5])
    assert np.isnan(early.last_token[-1])


def test_a_request_that_the_engine_cannot_run_is_named():
    run = Recorded.of(simulated(ENGINE, [(0.0, 500, 5)]))
    with pytest.raises(RunError, match=r"request r0: .*max_model_len is 60; give the settings"):
        rerun(run, profile(roomy(max_model_len=60), StepTime(**TRUTH)))


@pytest.mark.parametrize("name", GPUS)
def test_the_accuracy_that_a_profile_of_a_gpu_states_is_reproduced(name, groundtruth):
    known, run = load_profile(name), Recorded.of(of_gpu(groundtruth / name.replace("-", "_", 1)))
    again = rerun(run, known)
    for key, value in accuracy(run, again, np.ones(len(run.sent), dtype=bool)).items():
        # The coefficients are stored with six digits.
        assert known.accuracy[key] == pytest.approx(value, abs=0.02), key
    assert known.measured == measured(run, again)
    assert known.accuracy["held_out_e2el_mape_pct"] < 2


def test_a_profile_from_known_batches_predicts_random_requests_of_another_day():
    """120 Poisson requests on the same CPU build, recorded before the profile was measured."""
    folder = Path(__file__).parent / "examples/cpu-random-requests"
    run = Recorded.of(read_run(folder, folder / "workload.jsonl.gz"))
    found = accuracy(run, rerun(run, load_profile("cpu-tiny-llama")), np.ones(len(run.sent), dtype=bool))
    assert abs(found["e2el_mean_error_pct"]) < 3
    assert abs(found["ttft_mean_error_pct"]) < 3
    assert abs(found["tpot_mean_error_pct"]) < 3
    assert found["e2el_mape_pct"] < 8
