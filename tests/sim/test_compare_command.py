"""`workspan compare` on results in folders, and its figures."""

import json
from xml.etree import ElementTree

import pytest
from commandline import HEADER, WORKFLOW, assert_one_line, jsonl, workspan
from matplotlib.figure import Figure
from strategies import profile

from sim.agreement import compare_results
from sim.agreement.data import read_side, side_of
from sim.agreement.plots import cdf, figures, scatter, speedups
from sim.compare import compare, line_up
from sim.errors import WorkspanError
from sim.latency import StepTime
from sim.load import Alone, ConcurrentSessions, SessionRate
from sim.results import write
from sim.settings import EngineSettings
from sim.traces import read

FAST = profile()
SLOW = profile(
    step_time=StepTime(
        const_s=0.02,
        prefill_token_s=1e-4,
        decode_seq_s=1e-3,
        kv_token_s=1e-7,
        distinct_kv_token_s=0,
        attention_pair_s=0,
    )
)


@pytest.fixture(scope="module")
def workflows(tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "traces.jsonl"
    return read([jsonl(path, WORKFLOW, {**WORKFLOW, "id": "v", "framework": "Other"}, header=HEADER)])[0]


TWO = ConcurrentSessions(2)


def predict(workflows, engine=FAST, load=TWO, seed=0, names=("sequential", "async")):
    return compare(workflows, *line_up(names, None), engine, load, seed)


@pytest.fixture
def folders(workflows, tmp_path):
    write(predict(workflows), tmp_path / "p")
    write(predict(workflows, SLOW), tmp_path / "m")
    return tmp_path / "p", tmp_path / "m"


def known(metrics):
    return {name: value for name, value in metrics.items() if value is not None}


@pytest.mark.parametrize("load", [Alone(), ConcurrentSessions(2), SessionRate(20)], ids=str)
def test_a_result_read_from_its_folder_is_the_one_in_memory(workflows, load, tmp_path):
    predicted, measured = predict(workflows, load=load), predict(workflows, SLOW, load)
    write(predicted, tmp_path / "p")
    write(measured, tmp_path / "m")
    for name, run in predicted.runs.items():
        assert read_side(tmp_path / "p").runs[name][0].makespan_s == pytest.approx(run.makespan_s, rel=1e-12)
    in_memory = compare_results(predicted, measured).metrics()
    from_folders = compare_results(read_side(tmp_path / "p"), read_side(tmp_path / "m")).metrics()
    assert from_folders.keys() == in_memory.keys()
    assert known(from_folders) == pytest.approx(known(in_memory), rel=1e-9)
    # What the comparison says of its speed-ups is what is shown of them.
    stated = predicted.gain("async")
    names = ("predicted", "predicted_low", "predicted_high")
    shown = [in_memory[f"policies.async.speedup.{name}"] for name in names]
    assert shown == pytest.approx([stated["speedup"], *stated["speedup_ci95"]])


def test_a_result_agrees_with_itself(workflows):
    one = predict(workflows)
    found = compare_results(one, one).metrics()
    assert {value for name, value in found.items() if name.endswith((".error", ".bias", ".mape"))} == {0}
    assert found["cached_tokens.equal_share"] == 1
    assert found["speedup.sign_agreement"] == 1
    assert found["speedup.kendall_tau"] == pytest.approx(1)
    assert found["e2el.per_call.correlation"] == pytest.approx(1)


def test_calls_that_wait_for_the_only_slot_are_saturated(workflows):
    small = EngineSettings(
        vllm_version="0.32.0",
        max_num_seqs=1,
        max_num_batched_tokens=64,
        max_model_len=1000,
        num_gpu_blocks=100,
        block_size=4,
    )
    one = predict(workflows, profile(small))
    assert compare_results(one, one).metrics()["by_regime.saturated.e2el.per_call.count"] > 0


def test_the_command_prints_tables_and_names_of_metrics(folders):
    done = workspan("compare", *folders)
    assert done.returncode == 0, done.stderr
    assert "sequential: predicted / measured" in done.stdout
    assert "m is no measurement: its engine is simulated." in done.stdout
    result = json.loads(workspan("compare", *folders, "--json").stdout)
    assert result["provenance"]["measured"]["engine"] == "simulated"
    assert result["metrics"]["session_latency.mean.error"] > 0.1
    assert result["metrics"] == compare_results(*map(read_side, folders)).to_json()["metrics"]


def test_a_violated_condition_is_exit_code_1_and_a_line_each(folders):
    wrong = ("--fail-if", "session_latency.mean.error>1%", "--fail-if", "speedup.wrong_winner_rate>0")
    done = workspan("compare", *folders, *wrong, "--fail-if", "cached_tokens.equal_share<1", "--json")
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [wrong[1], wrong[3]]
    assert json.loads(done.stdout)
    assert workspan("compare", *folders, "--fail-if", "session_latency.mean.error>1000").returncode == 0


def test_a_condition_that_is_none_is_one_line(folders):
    assert_one_line(workspan("compare", *folders, "--fail-if", "ttft.mean.eror>1"), "did you mean 'ttft.mean.error'?")
    assert_one_line(workspan("compare", *folders, "--fail-if", "ttft"), "write METRIC OP NUMBER")


def test_the_figures_are_written_with_the_numbers(folders, tmp_path):
    done = workspan("compare", *folders, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "agreement.json",
        *(f"{name}.svg" for name in ("cdf", "scatter", "speedup", "timeline")),
    ]
    for path in (tmp_path / "out").glob("*.svg"):
        description = ElementTree.parse(path).find(".//{http://purl.org/dc/elements/1.1/}description")
        assert set(json.loads(description.text)) == {"predicted", "measured"}
    assert_one_line(workspan("compare", *folders, "-o", tmp_path / "out"), "there is something in it already")


def test_one_folder_without_a_prediction_in_it_is_one_line(folders):
    assert_one_line(workspan("compare", folders[0]), "no folder 'predicted' in it; name PREDICTED and MEASURED")


def test_another_seed_or_load_or_policy_is_one_line(workflows, folders, tmp_path):
    write(predict(workflows, seed=1), tmp_path / "seed")
    write(predict(workflows, names=("sequential", "level_barrier")), tmp_path / "policies")
    assert_one_line(workspan("compare", tmp_path / "seed", folders[1]), "has seed 1,")
    assert_one_line(workspan("compare", tmp_path / "policies", folders[1]), "policies: no policy 'async'")


def damage(path, number, key, value):
    """Give line ``number`` of the file another value, or none, of this key."""
    lines = path.read_text().splitlines()
    row = json.loads(lines[number - 1])
    assert key in row
    lines[number - 1] = json.dumps({name: v for name, v in {**row, key: value}.items() if v != "gone"})
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("name", "key", "value", "problem"),
    [
        ("calls", "sent_s", "gone", "m/calls.jsonl, line 2: no 'sent_s'; add it"),
        ("calls", "sent_s", "soon", "m/calls.jsonl, line 2: 'sent_s' is of the wrong type (str)"),
        ("calls", "sent_s", float("nan"), "m/calls.jsonl, line 2: a time that is no number"),
        ("calls", "first_token_s", None, "m/calls.jsonl, line 2: finished, but without its times"),
        ("calls", "policy", "asink", "m: records of a policy 'asink'; did you mean 'async'?"),
        ("calls", "call_id", "b", "m: v b occurs twice in one run"),
        ("sessions", "finished_s", None, "m/sessions.jsonl, line 2: finished, but without its times"),
        ("sessions", "status", "unfinished", "m: unfinished, it was interrupted"),
    ],
)
def test_a_damaged_record_is_one_line(folders, name, key, value, problem):
    damage(folders[1] / f"{name}.jsonl", 2, key, value)
    with pytest.raises(WorkspanError) as caught:
        compare_results(*map(read_side, folders))
    assert problem in str(caught.value)


def test_a_damaged_result_is_one_line(folders):
    path = folders[1] / "result.json"
    text = path.read_text()
    for old, new, problem in (
        ('"provenance"', "provenance", "result.json: not JSON"),
        ('"seed"', '"sead"', "result.json, provenance: no 'seed'"),
        ('"seed": 0', '"seed": 7', "calls.jsonl, line 1: not the provenance that result.json has"),
    ):
        path.write_text(text.replace(old, new))
        assert_one_line(workspan("compare", *folders), problem)


def test_a_folder_that_is_no_result_is_one_line(folders, tmp_path):
    assert_one_line(workspan("compare", folders[0], tmp_path), "is no folder that run -o or replay -o has written")
    (folders[1] / "sessions.jsonl").unlink()
    assert_one_line(workspan("compare", *folders), "sessions.jsonl: No such file")


def drawn(draw, *arguments):
    axes = draw(Figure().subplots(), *arguments)
    axes.figure.draw_without_rendering()
    return axes


def test_the_scatter_has_every_call_and_the_identity(workflows):
    agreement = compare_results(predict(workflows), predict(workflows, SLOW))
    axes = drawn(scatter, agreement.calls, "e2el", "e2el, s")
    *points, identity = axes.lines
    assert [len(line.get_xdata()) for line in points] == [6, 6]
    assert list(identity.get_xdata()) == list(identity.get_ydata())
    assert all(axes.get_xlim()[0] < x < axes.get_xlim()[1] for line in points for x in line.get_xdata())
    assert "±10%" in axes.texts[0].get_text()


def test_the_cdf_reaches_one_on_both_sides(workflows):
    agreement = compare_results(predict(workflows), predict(workflows, SLOW))
    lines = drawn(cdf, agreement.calls, "e2el", "e2el, s").lines
    assert [line.get_linestyle() for line in lines] == ["-", "--"] * 2
    assert {line.get_ydata()[-1] for line in lines} == {1.0}


def test_the_speedup_figure_says_that_noise_is_unknown_or_how_large_it_is(workflows):
    predicted, measured = side_of(predict(workflows), "p"), side_of(predict(workflows, SLOW), "m")
    agreement = compare_results(predicted, measured)
    axes = drawn(speedups, agreement.speedups, "sequential")
    assert "noise unknown" in axes.texts[0].get_text()
    labels = [name for text in axes.texts[1:] for name in text.get_text().split("\n")]
    assert sorted(labels) == ["Other", "Test", "all"]


def test_workflows_that_run_alone_have_no_timeline(workflows):
    one, two = predict(workflows, load=Alone()), predict(workflows)
    assert [name for name, _ in figures(compare_results(one, one))] == ["scatter", "cdf", "speedup"]
    assert [name for name, _ in figures(compare_results(two, two))] == ["scatter", "cdf", "speedup", "timeline"]
