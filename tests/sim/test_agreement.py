"""Agreement of hand-made results, whose numbers can be computed by hand."""

import math

import pytest

from sim.agreement import compare_results
from sim.agreement.data import Side, makespan_s
from sim.agreement.join import regimes
from sim.agreement.limits import parse_condition
from sim.agreement.timeline import timeline
from sim.errors import RunError
from sim.record import EngineStats, Record, RunResult, SessionRecord

FACTS = {"engine": "vllm", "workflows_digest": "abc", "load": "2 concurrent sessions", "seed": 0}


def call(workflow="w", name="a", sent=0.0, scheduled=0.0, first=1.0, end=2.0, **other):
    fields = {"num_cached_tokens": 5, "num_output_tokens": 11, "num_preemptions": 0, "session": 0, "status": "finished"}
    return Record(
        workflow_id=workflow,
        call_id=name,
        agent="x",
        num_prompt_tokens=20,
        sent_s=sent,
        scheduled_s=scheduled,
        first_token_s=first,
        finished_s=end,
        **{**fields, **other},
    )


def run(*calls):
    """One run: of each workflow a session from 0 to its last call's end; frameworks are the workflows' first letter."""
    workflows = {record.workflow_id: None for record in calls}
    sessions = tuple(
        SessionRecord(
            number,
            workflow,
            workflow[0].upper(),
            0.0,
            max(record.finished_s for record in calls if record.workflow_id == workflow),
            1.0,
            1,
            "finished",
        )
        for number, workflow in enumerate(workflows)
    )
    return RunResult(calls, sessions, EngineStats(), makespan_s(sessions, False))


def gain(workflows=1, interval=None):
    return {"speedup": 1.0, "speedup_ci95": interval, "workflows": workflows}


def side(where="m", facts=FACTS, stated=None, **policies):
    """A result with these runs per policy; the first policy is the baseline."""
    frameworks = {session.framework for runs in policies.values() for one in runs for session in one.sessions}
    everything = {name: {**gain(), "by_framework": dict.fromkeys(frameworks, gain())} for name in policies}
    return Side(where, facts, next(iter(policies)), stated or everything, policies)


def latencies(**of):
    """A run whose workflows take so long, each with one call."""
    return run(*(call(workflow, end=seconds, first=seconds / 2) for workflow, seconds in of.items()))


def metrics(predicted, measured):
    return compare_results(predicted, measured).metrics()


def test_levels_and_errors_are_those_computed_by_hand():
    predicted = side(base=[run(call("w", first=1.0, end=3.0), call("v", first=2.0, end=5.0))])
    measured = side(base=[run(call("w", first=1.0, end=2.0), call("v", first=4.0, end=6.0))])
    found = metrics(predicted, measured)
    of = {name.removeprefix("policies.base."): value for name, value in found.items() if name.startswith("policies.")}
    assert (of["e2el.mean.predicted_s"], of["e2el.mean.measured_s"]) == (4.0, 4.0)
    assert of["e2el.mean.error"] == 0
    assert of["e2el.p50.bias"] == 0
    assert of["e2el.p90.measured_s"] == pytest.approx(5.6)
    assert of["e2el.p99.bias"] == pytest.approx((3 + 2 * 0.99) / (2 + 4 * 0.99) - 1)
    assert of["ttft.mean.bias"] == pytest.approx(1.5 / 2.5 - 1)
    assert of["ttft.mean.error"] == pytest.approx(0.4)
    assert of["tpot.mean.predicted_s"] == pytest.approx((2 / 10 + 3 / 10) / 2)
    assert of["e2el.per_call.mape"] == pytest.approx((1 / 2 + 1 / 6) / 2)
    assert of["e2el.per_call.bias"] == pytest.approx((1 / 2 - 1 / 6) / 2)
    assert of["e2el.per_call.correlation"] == pytest.approx(1.0)
    assert of["e2el.per_call.count"] == 2
    assert of["session_latency.per_session.mape"] == pytest.approx(1 / 3)
    assert (of["makespan.predicted_s"], of["makespan.measured_s"]) == (5.0, 6.0)
    assert of["output_tokens_per_s.predicted"] == pytest.approx(22 / 5)
    assert found["e2el.p99.error"] == of["e2el.p99.error"]


def test_a_call_of_one_token_has_no_time_per_token():
    one = side(base=[run(call(num_output_tokens=1))])
    found = metrics(one, one)
    assert found["policies.base.tpot.mean.predicted_s"] is None
    assert found["tpot.mean.error"] is None
    assert found["e2el.mean.error"] == 0


def test_measured_values_are_means_over_repetitions_of_the_same_call():
    measured = side(base=[run(call("w", end=2.0), call("v", end=8.0)), run(call("w", end=4.0), call("v", end=2.0))])
    predicted = side(base=[run(call("w", end=3.0), call("v", end=5.0))])
    found = metrics(predicted, measured)
    assert found["policies.base.e2el.per_call.mape"] == 0
    # A level is the mean of the repetitions' own: of the medians 5 and 3, not the median of the means.
    assert found["policies.base.e2el.p99.measured_s"] == pytest.approx((2 + 6 * 0.99 + 2 + 2 * 0.99) / 2)


def test_the_noise_is_the_error_of_a_repetition_against_the_mean_of_the_others():
    measured = side(base=[latencies(w=1.0), latencies(w=1.2), latencies(w=1.4)])
    found = metrics(side(base=[latencies(w=1.8)]), measured)
    noise = (abs(1 / 1.3 - 1) + 0 + 1.4 / 1.1 - 1) / 3
    assert found["session_latency.mean.error"] == pytest.approx(0.5)
    assert found["policies.base.session_latency.mean.noise"] == pytest.approx(noise)
    assert found["policies.base.e2el.per_call.mape_noise"] == pytest.approx(noise)
    assert found["session_latency.mean.error_over_noise"] == pytest.approx(0.5 / noise)


def test_without_repetitions_the_noise_is_unknown_and_said_to_be():
    one = side(base=[latencies(w=1.0)], other=[latencies(w=2.0)])
    agreement = compare_results(one, one)
    found = agreement.metrics()
    assert found["policies.base.session_latency.mean.noise"] is None
    assert found["session_latency.mean.error_over_noise"] is None
    assert found["speedup.wrong_winner_rate"] is None
    assert found["speedup.wrong_winners"] is None
    assert any("noise floor is unknown" in note for note in agreement.notes)


def test_what_stands_at_the_top_is_the_worst_policy():
    measured = side(base=[latencies(w=1.0, v=2.0)], other=[latencies(w=1.0, v=2.0)])
    predicted = side(base=[latencies(w=1.0, v=2.0)], other=[latencies(w=0.5, v=2.0)])
    found = metrics(predicted, measured)
    assert found["session_latency.mean.error"] == pytest.approx(1 / 6)
    assert found["policies.base.session_latency.mean.error"] == 0
    assert found["policies.other.session_latency.mean.bias"] == pytest.approx(-1 / 6)
    fewer = side(base=[run(call("w"))], other=[run(call("w", num_cached_tokens=1))])
    assert metrics(fewer, side(base=[run(call("w"))], other=[run(call("w"))]))["cached_tokens.equal_share"] == 0


def test_speedups_are_ratios_of_means_with_the_intervals_that_each_side_states():
    stated = {
        name: {**gain(2, (1.5, 2.5)), "by_framework": {"W": gain(), "V": gain(7, (1, 3))}} for name in ("base", "fast")
    }
    predicted = side(base=[latencies(w=2.0, v=4.0)], fast=[latencies(w=2.0, v=1.0)], stated=stated)
    measured = side(base=[latencies(w=2.0, v=4.0)], fast=[latencies(w=1.0, v=3.0)])
    found = metrics(predicted, measured)
    of = {name.rpartition(".")[2]: value for name, value in found.items() if name.startswith("policies.fast.speedup.")}
    assert (of["predicted"], of["measured"], of["workflows"]) == (2.0, 1.5, 2)
    assert of["bias"] == pytest.approx(1 / 3)
    assert (of["predicted_low"], of["predicted_high"], of["measured_low"]) == (1.5, 2.5, None)
    # Stated of seven workflows, one of which is here: another number's interval.
    assert found["by_framework.V.speedup.fast.predicted_low"] is None
    # Over W and V: predicted 1, 4; measured 2, 4/3; and 1 of the baseline, twice.
    assert found["speedup.kendall_tau"] == pytest.approx(_tau_b([1, 1, 1, 4], [1, 1, 2, 4 / 3]))
    assert found["speedup.sign_agreement"] == 0.5
    assert found["speedup.sign_counted"] == 2


def _tau_b(xs, ys):
    """Kendall (1945), pair by pair."""
    pairs = [(i, j) for i in range(len(xs)) for j in range(i)]

    def sign(values, i, j):
        return (values[i] > values[j]) - (values[i] < values[j])

    score = sum(sign(xs, *pair) * sign(ys, *pair) for pair in pairs)
    untied = [sum(sign(values, *pair) != 0 for pair in pairs) for values in (xs, ys)]
    return score / math.sqrt(untied[0] * untied[1])


def three(*seconds):
    return [latencies(w=one) for one in seconds]


def test_a_winner_is_wrong_only_where_the_measured_difference_is_larger_than_the_noise():
    predicted = side(a=three(1.0), b=three(1.1), c=three(1.2), d=three(1.2 - 1e-12))
    # a and b differ within the noise, c is clearly the fastest; c and d are predicted equal, but for rounding.
    measured = side(a=three(2.0, 2.1, 1.9), b=three(1.9, 2.0, 2.1), c=three(1.0, 1.01, 1.02), d=three(3.0, 3.01, 3.02))
    agreement = compare_results(predicted, measured)
    found = agreement.metrics()
    assert found["speedup.pairs"] == 6
    assert found["speedup.pairs_above_noise"] == 5
    assert [(order.one, order.other) for order in agreement.wrong] == [("a", "c"), ("b", "c")]
    assert found["speedup.wrong_winner_rate"] == pytest.approx(2 / 5)
    assert "predicted 0.833, measured 1.980" in str(agreement.wrong[0])


def test_where_no_difference_is_larger_than_the_noise_no_winner_is_wrong():
    predicted = side(a=three(1.0), b=three(2.0))
    measured = side(a=three(2.0, 1.0, 3.0), b=three(1.0, 2.0, 2.0))
    found = metrics(predicted, measured)
    assert (found["speedup.pairs_above_noise"], found["speedup.wrong_winner_rate"]) == (0, 0.0)
    assert found["speedup.sign_agreement"] is None


@pytest.mark.parametrize(
    ("records", "regime"),
    [
        ([call(end=2.0), call(name="b", sent=2.0, end=3.0)], "idle"),
        ([call(end=2.0, scheduled=1.5), call(name="b", sent=5.0, end=6.0)], "idle"),
        ([call(end=2.0, scheduled=0.2), call(name="b", sent=1.9, end=3.0)], "busy"),
        ([call(end=2.0, scheduled=0.21), call(name="b", sent=1.9, end=3.0)], "saturated"),
        ([call(end=2.0, scheduled=0.21), call(name="b", sent=-1.0, end=9.0)], "saturated"),
        ([call(num_preemptions=1)], "preempting"),
        ([call(scheduled=None)], "unknown"),
        ([call(num_preemptions=None)], "unknown"),
    ],
)
def test_a_call_has_the_regime_that_the_rule_gives_it(records, regime):
    assert regimes(records, alone=False)["w", "a"] == regime


def test_calls_of_a_chain_are_by_themselves():
    records = [call(end=2.0), call(name="b", sent=2.0, first=2.5, end=3.0)]
    assert set(regimes(records, alone=False).values()) == {"idle"}


def test_workflows_that_run_alone_do_not_share_a_clock():
    records = [call("w", end=2.0), call("v", session=1, end=2.0)]
    assert set(regimes(records, alone=True).values()) == {"idle"}
    assert set(regimes(records, alone=False).values()) == {"busy"}


def test_both_sides_of_a_regime_are_the_calls_that_the_prediction_puts_there():
    predicted = side(base=[run(call("w", end=2.0), call("v", sent=1.0, first=3.0, end=4.0, scheduled=2.5))])
    # Measured in another regime, which does not matter.
    measured = side(base=[run(call("w", end=2.0), call("v", sent=3.0, first=4.0, end=9.0, num_preemptions=None))])
    found = metrics(predicted, measured)
    assert found["by_regime.busy.e2el.per_call.count"] == 1
    assert found["by_regime.busy.e2el.mean.error"] == 0
    assert found["by_regime.saturated.e2el.mean.bias"] == pytest.approx(3 / 6 - 1)
    assert "by_regime.idle.e2el.mean.bias" not in found


def test_tokens_are_equal_where_every_repetition_has_what_was_predicted():
    def cached(*numbers):
        return run(*(call(f"w{i}", num_cached_tokens=number) for i, number in enumerate(numbers)))

    predicted = side(base=[cached(0, 8, 8, 8)])
    measured = side(base=[cached(0, 8, 4, None), cached(0, 0, 4, 8)])
    found = metrics(predicted, measured)
    of = {name.rpartition(".")[2]: v for name, v in found.items() if name.startswith("policies.base.cached_tokens.")}
    assert (of["calls"], of["unknown"], of["equal"], of["varying"]) == (3, 1, 1, 1)
    assert (of["predicted"], of["measured"]) == (16, 8)
    assert found["policies.base.computed_tokens.predicted"] == 60 - 16
    assert found["cached_tokens.equal_share"] == pytest.approx(1 / 3)


def test_what_did_not_finish_everywhere_is_left_out_and_counted():
    failed = SessionRecord(1, "v", "V", 0.0, 3.0, 1.0, 1, "failed")
    broken = run(call("w"), call("v", end=3.0))
    broken = RunResult(
        (broken.records[0], call("v", status="failed", end=None)), (broken.sessions[0], failed), EngineStats(), 3.0
    )
    agreement = compare_results(side(base=[run(call("w"), call("v", end=3.0))]), side(base=[broken]))
    found = agreement.metrics()
    assert (found["left_out.sessions"], found["left_out.calls"]) == (1, 1)
    assert found["policies.base.e2el.per_call.count"] == 1
    assert any("1 sessions, 1 calls" in note for note in agreement.notes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seed": 1}, "p has seed 0, m has 1"),
        ({"load": "3 concurrent sessions"}, "p has load 2 concurrent sessions, m has 3"),
        ({"workflows_digest": "abd"}, "p has workflows_digest abc, m has abd"),
        ({"interrupted": True}, "m: unfinished"),
    ],
)
def test_results_of_different_things_are_refused(change, problem):
    with pytest.raises(RunError, match=problem):
        compare_results(side("p", base=[run(call())]), side("m", {**FACTS, **change}, base=[run(call())]))


def test_a_policy_that_was_not_predicted_is_refused_and_one_not_measured_is_told():
    two, one = side("p", base=[run(call())], other=[run(call())]), side("m", base=[run(call())])
    with pytest.raises(RunError, match="m: no policy 'other'; known: base; predict it too"):
        compare_results(one, two)
    assert "Predicted, but not measured: other." in compare_results(two, one).notes


def test_repetitions_that_are_not_all_there_are_refused():
    with pytest.raises(RunError, match="not the same number of repetitions"):
        compare_results(side(a=[run(call())], b=[run(call())]), side(a=three(1.0, 2.0), b=three(1.0)))


def test_settings_that_the_server_does_not_have_are_told():
    settings = {"num_gpu_blocks": 100, "max_num_seqs": 8, "enable_prefix_caching": True, "scheduling_policy": "fcfs"}
    told = {
        "num_gpu_blocks": 90,
        "enable_prefix_caching": "true",
        "scheduler": {"max_num_seqs": 8, "policy": "priority"},
    }
    agreement = compare_results(
        side("p", {**FACTS, "engine_settings": settings}, a=[run(call())]),
        side("m", {**FACTS, **told}, a=[run(call())]),
    )
    assert [note for note in agreement.notes if note.startswith("The profile has")] == [
        "The profile has num_gpu_blocks 100, the server 90.",
        "The profile has scheduling_policy fcfs, the server priority.",
    ]
    needs = {"needs": {"scheduling_policy": "priority"}, "engine_settings": {**settings, "num_gpu_blocks": 90}}
    set_for_it = compare_results(
        side("p", {**FACTS, **needs}, a=[run(call())]), side("m", {**FACTS, **told}, a=[run(call())])
    )
    assert not [note for note in set_for_it.notes if note.startswith("The profile has")]


METRICS = {
    "session_latency.mean.error": 0.05,
    "speedup.wrong_winner_rate": None,
    "policies.async:max_parallel=2.e": 1.0,
}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("session_latency.mean.error>4%", "session_latency.mean.error>4%: it is 0.05"),
        ("session_latency.mean.error > 0.05", ""),
        ("session_latency.mean.error>=5%", "session_latency.mean.error>=5%: it is 0.05"),
        ("session_latency.mean.error<.1", "session_latency.mean.error<.1: it is 0.05"),
        ("session_latency.mean.error <= 4.9e-2", ""),
        ("policies.async:max_parallel=2.e<1", ""),
        ("speedup.wrong_winner_rate>0", "speedup.wrong_winner_rate>0: speedup.wrong_winner_rate is not known"),
    ],
)
def test_a_condition_is_violated_or_not(text, line):
    assert parse_condition(text).violated(METRICS) == line


@pytest.mark.parametrize("text", ["", "error", "error>", ">4", "error=4", "error>4%%", "error>4 s", "error>nan"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(RunError, match="write METRIC OP NUMBER"):
        parse_condition(text)


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(RunError, match=r"did you mean 'session_latency\.mean\.error'"):
        parse_condition("session_latency.mean.eror>1").violated(METRICS)
    with pytest.raises(RunError, match="--json shows their names"):
        parse_condition("qqq>1").violated(METRICS)


def test_the_timeline_has_the_averages_computed_by_hand():
    # Waits from 0 to 2, prefills to 4 (5 tokens cached, 20 in all), writes 11 tokens to 8.
    line = timeline([call(scheduled=2.0, first=4.0, end=8.0)])
    step = line.instants[1] - line.instants[0]
    assert (line.waiting.sum() * step, line.running.sum() * step) == (
        pytest.approx(2, abs=0.1),
        pytest.approx(6, abs=0.1),
    )
    assert line.tokens.sum() * step == pytest.approx(2 * 12.5 + 4 * 25.5, rel=0.01)
    assert line.tokens.max() == pytest.approx(31, rel=0.02)
    assert timeline([call(scheduled=None)]).waiting is None
