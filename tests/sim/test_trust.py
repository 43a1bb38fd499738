"""What a prediction says of its own trustworthiness."""

import json
import math

import numpy as np
import pytest
import yaml
from commandline import WORKFLOW, assert_one_line, jsonl, workspan
from strategies import profile, request, roomy

from sim.compare import compare, line_up
from sim.errors import ProfileError, RunError
from sim.latency import Draws, Measured, StepTime
from sim.load import Alone, ConcurrentSessions
from sim.report import print_comparison
from sim.traces import read
from sim.trust import drawn_profiles, held_out_pct, num_draws

STEP = StepTime(const_s=0.01, prefill_token_s=1e-4, decode_seq_s=1e-4, kv_token_s=1e-7, attention_pair_s=1e-9)
DRAWS = Draws(names=["const_s", "decode_seq_s"], rows=[[0.01, 1e-4], [0.011, 1e-3], [0.009, 2e-3], [0.01, 5e-4]])
ACCURACY = {"held_out_e2el_mape_pct": 4.0, "held_out_decode_pct": -1.0}


def engine(**changes):
    """A profile with everything known about it."""
    known = {"measured": Measured(request_tokens=1000, batch_size=8, kv_tokens=9000), "accuracy": ACCURACY}
    return profile(roomy(), STEP).model_copy(update={**known, **changes})


@pytest.fixture
def workflows(tmp_path):
    workflow = {**WORKFLOW, "framework": "Other", "id": "v"}
    return read([jsonl(tmp_path / "traces.jsonl", WORKFLOW, workflow)])[0]


def predicted(workflows, engine, load=Alone(), draws=0):  # noqa: B008, a frozen value
    return compare(workflows, *line_up(["sequential", "async"], None), engine, load, seed=0, draws=draws)


def said(comparison, capsys):
    print_comparison(comparison)
    return capsys.readouterr().out


def test_what_is_within_the_measured_range_is_called_interpolated_and_has_no_star(workflows, capsys):
    text = said(predicted(workflows, engine()), capsys)
    assert "Interpolated: no call or step is larger than measured." in text
    assert "*" not in text


def test_what_was_not_recorded_of_the_range_is_said_to_be_unknown(workflows, capsys):
    text = said(predicted(workflows, engine(measured=Measured(request_tokens=1000))), capsys)
    assert "Interpolated: no call is larger than measured; how large the measured steps were is not known." in text


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        (Measured(request_tokens=85), "4 of 6 calls (66.7%) have more than the 85 tokens measured; how large"),
        (Measured(request_tokens=99, batch_size=1), "GPU time in steps with more than the 1 requests measured: sequ"),
        (Measured(request_tokens=99, kv_tokens=99), "GPU time in steps with more than the 99 KV tokens measured: se"),
    ],
    ids=["long calls", "large batches", "much KV"],
)
def test_every_number_that_depends_on_an_extrapolation_has_a_star(workflows, capsys, measured, sentence):
    comparison = predicted(workflows, engine(measured=measured))
    text = said(comparison, capsys)
    assert sentence in text
    assert "Extrapolated (*): " in text
    assert "async*" in text
    gains = [line for line in text.splitlines() if line.startswith(("speed-up over", "Other", "Test")) and "x" in line]
    assert len(gains) == 3
    assert all(line.rstrip().endswith("*") for line in gains)
    result = comparison.to_json()["policies"]["async"]
    assert result["extrapolated"]
    assert all(row["extrapolated"] for row in result["by_framework"].values())


def test_alone_a_framework_without_long_calls_is_not_extrapolated_but_on_a_shared_server_it_is():
    crowd = [request("short", 50, 20), request("long", 2000, 20, "Long")]
    for load, expected in ((Alone(), False), (ConcurrentSessions(2), True)):
        rows = predicted(crowd, engine(measured=Measured(request_tokens=1000)), load).to_json()["policies"]["async"]
        assert rows["by_framework"]["Long"]["extrapolated"]
        assert rows["by_framework"]["requests"]["extrapolated"] is expected


def test_the_share_of_time_outside_is_that_of_the_steps_of_several():
    # Two calls of equal length begin together: nothing but steps of two requests.
    crowd = [request("a", 50, 20), request("b", 50, 20)]
    trust = predicted(crowd, engine(measured=Measured(request_tokens=99, batch_size=1)), ConcurrentSessions(2)).trust
    assert trust.outside_share("async") == pytest.approx(1)
    assert trust.to_json("async")["gpu_time"]["prefill"] < 0.1 < trust.to_json("async")["gpu_time"]["decode"]


def test_the_held_out_error_is_weighted_by_the_time_in_each_regime():
    times = {"prefill": 1.0, "decode": 3.0, "kv": 0.0, "mixed": 0.0}
    assert held_out_pct(engine(), times) == pytest.approx((1 * 4 + 3 * 1) / 4)
    assert held_out_pct(engine()) == 4.0
    assert held_out_pct(engine(accuracy={"held_out_decode_pct": 1.0}), times) is None
    by_steps = {"held_out_decode_pct": 1.0, "held_out_prefill_pct": 9.0}
    assert held_out_pct(engine(accuracy=by_steps), times) == pytest.approx(3)


def test_a_gain_smaller_than_the_profiles_error_is_said_to_be_so(capsys, workflows):
    comparison = predicted(workflows, engine(accuracy={"held_out_e2el_mape_pct": 90.0}))
    gain = comparison.gain("async")
    assert gain["speedup_ci95"][0] > 1
    text = said(comparison, capsys)
    assert "more than noise, but smaller than the profile's error of 90.0 % (most of it cancels in a ratio)." in text
    assert "there, held out: 90.0 % (of whole requests; none of prefill, decode alone)." in text
    small = predicted(workflows, engine(accuracy={"held_out_e2el_mape_pct": 0.1}))
    assert "more than noise." in said(small, capsys)


def test_the_draws_widen_the_interval_as_squares_and_both_parts_are_told(workflows):
    without, with_draws = (predicted(workflows, engine(draws=DRAWS), draws=n).gain("async") for n in (0, 4))
    assert without["speedup_ci95"] == without["speedup_ci95_workflows"] == with_draws["speedup_ci95_workflows"]
    assert without["speedup_ci95_profile"] is None
    halves = [
        math.log(with_draws[f"speedup_ci95{part}"][1] / with_draws[f"speedup_ci95{part}"][0]) / 2
        for part in ("", "_workflows", "_profile")
    ]
    assert halves[0] == pytest.approx(math.hypot(halves[1], halves[2]))
    ratios = []
    for drawn in drawn_profiles(engine(draws=DRAWS), 4):
        ratios.append(predicted(workflows, drawn).gain("async")["speedup"])
    assert len(set(ratios)) == 4
    assert halves[2] == pytest.approx(3.182446305 * np.std(np.log(ratios), ddof=1))  # Student's t, 3 degrees


def test_equal_draws_leave_the_interval_as_it_is(workflows):
    same = Draws(names=["const_s"], rows=[[0.01]] * 3)
    gain = predicted(workflows, engine(draws=same), draws=3).gain("async")
    assert gain["speedup_ci95_profile"] == pytest.approx((gain["speedup"],) * 2)
    assert gain["speedup_ci95"] == pytest.approx(gain["speedup_ci95_workflows"], rel=1e-3)


def test_a_number_of_draws_that_there_is_not_is_refused():
    with pytest.raises(RunError, match=r"--draws 5: profile drawn has 4 draws of its coefficients; give 2 to 4, or 0"):
        drawn_profiles(engine(draws=DRAWS), 5)
    with pytest.raises(RunError, match="give 2 to 4, or 0"):
        drawn_profiles(engine(draws=DRAWS), 1)
    with pytest.raises(RunError, match="has 0 draws"):
        drawn_profiles(engine(), 2)
    broken = Draws(names=["const_s"], rows=[[0.01], [-1.0]])
    with pytest.raises(ProfileError, match="one of its draws is no step time"):
        drawn_profiles(engine(draws=broken), 2)
    assert [num_draws(engine(draws=drawn), None) for drawn in (DRAWS, None)] == [4, 0]


def test_the_command_takes_draws_where_there_are_some_and_says_what_an_interval_covers(tmp_path):
    traces = jsonl(tmp_path / "t.jsonl", WORKFLOW, {**WORKFLOW, "id": "v", "framework": "Other"})
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(engine(draws=DRAWS, derived="from a dream").model_dump()))
    done = workspan("run", traces, "--compare", "--profile", path, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "and the uncertainty of the profile (4 draws), not what the model lacks." in done.stdout
    assert "profile drawn (derived, not measured)" in done.stdout.splitlines()[1]
    assert "Derived, not measured: from a dream" in done.stdout
    assert "Extrapolated (*): nothing was measured on this hardware." in done.stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["provenance"]["profile_kind"], result["provenance"]["draws"]) == ("derived, not measured", 4)
    assert result["provenance"]["trust"]["async"] == result["policies"]["async"]["trust"]
    figure = (tmp_path / "out" / "speedup.svg").read_text()
    assert "derived, not measured" in figure.partition("<g")[2]
    assert "* extrapolated" in figure
    assert "95 % interval over workflows and profile draws" in figure
    off = workspan("run", traces, "--compare", "--profile", path, "--draws", 0)
    assert "not the uncertainty of the profile (0 draws)." in off.stdout
    assert_one_line(workspan("run", traces, "--compare", "--profile", path, "--draws", -1), "--draws")
    assert_one_line(workspan("run", traces, "--compare", "--profile", path, "--draws", 5), "give 2 to 4, or 0")


def test_steps_with_fewer_requests_than_measured_are_extrapolated(capsys, workflows):
    few = predicted(workflows, engine(measured=Measured(request_tokens=100_000, batch_size=64, least_batch_size=4)))
    assert few.trust.outside_share("async") == 1
    assert "GPU time in steps with more than the 64 requests, or fewer than 4 requests, measured" in said(few, capsys)
    one = predicted(workflows, engine(measured=Measured(request_tokens=100_000, batch_size=64)))
    assert one.trust.outside_share("async") == 0
