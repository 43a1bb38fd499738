"""`workspan plot`: every kind of every result, its numbers against the tables, and what it refuses."""

import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from commandline import jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from strategies import POLICIES, profiles, workflows

from sim.cli import workspan
from sim.compare import compare, line_up
from sim.errors import RunError, StudyError, WorkspanError
from sim.figures import KINDS, PAIR, RUN, STUDY, draw
from sim.latency import load_profile
from sim.load import ConcurrentSessions, SessionRate
from sim.overtime import LOOKS, hit_rates
from sim.policies import parse_policy
from sim.probe import Probe
from sim.result_figures import RESULT_FIGURES
from sim.results import svg, write
from sim.signals import Signals
from sim.simulate import simulate
from sim.sizes import shares
from sim.steps import Step, step_bars, steps_of
from sim.study import Study
from sim.study.figures import FIGURES
from sim.study.panels import policy_rows, rows_of
from sim.traces import read

POLICY_NAMES = ["async", "plas", "plas+least_loaded", "srpt_oracle"]


def fan(number):
    """A plan, and two calls that read it."""
    nodes = [
        {"call": name, "agent": name, "prompt": prompt, "answer": name.upper(), "output_tokens": tokens}
        for name, prompt, tokens in (
            ("plan", [["system", 200]], 40 + number),
            ("one", [["system", 200], ["PLAN", 40 + number]], 100 * (1 + 2 * (number % 3))),
            ("two", [["system", 200], ["PLAN", 40 + number]], 60),
        )
    ]
    edges = [["plan", "one", "visible"], ["plan", "two", "visible"]]
    return {"id": f"w{number}", "framework": f"f{number % 2}", "task": "t", "nodes": nodes, "edges": edges}


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return jsonl(tmp_path_factory.mktemp("plot") / "traces.jsonl", *map(fan, range(8)))


@pytest.fixture(scope="module")
def results(traces):
    """Two rates on one and two replicas."""
    return Study(
        name="small",
        traces={"sources": [str(traces)]},
        policies=POLICY_NAMES,
        server={"profile": "rtx4090-llama-3.1-8b", "max_num_seqs": 1},
        grid={"product": {"load.session_rate": [0.5, 2.0], "server.replicas": [2, 4]}},
        seeds=2,
        window={"warm_up": 0, "drain": 0},
    ).run(traces.parent / "results", jobs=1)


@pytest.fixture(scope="module")
def run(traces):
    """A run's folder, with another profile's in it as what was predicted."""
    folder = traces.parent / "run"
    policies, baseline = line_up(["sequential", "async"], None)
    for place, profile in ((folder, "h100-llama-3.1-8b"), (folder / "predicted", "rtx4090-llama-3.1-8b")):
        some = compare(read([traces])[0], policies, baseline, load_profile(profile), ConcurrentSessions(4), 0)
        write(some, place)
    return folder


def rows(results):
    return policy_rows(rows_of(results.comparisons))


def lines(ax):
    """Label -> line, of the lines that have points."""
    return {line.get_label(): line for line in ax.lines if len(line.get_xdata()) and line.get_label()[0] != "_"}


def test_what_a_kind_can_be_drawn_of_is_what_is_drawn():
    assert [kind for kind in KINDS if STUDY in KINDS[kind].of] == list(FIGURES)
    assert {kind for kind in KINDS if RUN in KINDS[kind].of} == {*RESULT_FIGURES}


@pytest.mark.parametrize("kind", FIGURES)
def test_every_figure_of_a_study_is_the_same_to_the_byte_and_names_its_axes(results, kind):
    figure = results.figure(kind)
    text = svg(figure, results.manifest)
    assert json.dumps(results.manifest["traces"]["digest"]) in text.replace("&quot;", '"')
    named = [str(ax.get_xlabel()) + str(ax.get_ylabel()) for ax in figure.axes]
    named += [figure.get_supylabel(), figure.get_supxlabel()]
    assert re.search("sessions?|seconds|time, s|speed-up|replicas|tokens", " ".join(named))
    if kind in ("timeline", "gantt", "throughput"):  # those that do most besides drawing
        assert svg(results.figure(kind), results.manifest) == text


@pytest.mark.parametrize("kind", ["latency", "cdf", "ablation", "breakdown"])
def test_a_policy_that_is_asked_for_is_drawn_alone_and_looks_as_it_did(results, kind):
    policies = ("plas", "plas+least_loaded") if kind == "ablation" else ("plas+least_loaded",)
    text = svg(results.figure(kind, policies), None)
    assert "plas+least_loaded" in text or "+ least_loaded" in text
    assert "srpt_oracle" not in text
    if kind == "cdf":
        colours = [
            lines(results.figure(kind, some).axes[-1])["plas+least_loaded"].get_color() for some in ((), policies)
        ]
        assert colours[0] == colours[1]


def test_throughput_is_the_mean_over_seeds_of_what_the_cells_say(results):
    figure = results.figure("throughput")
    cells = [one for one in rows_of(results.cells) if one["seed"] == one["arrivals_seed"]]
    for place, (replicas, policy) in enumerate([(2, "plas"), (4, "async")]):  # async has A/A cells there
        mine = [one for one in cells if (one["policy"], one["replicas"]) == (policy, replicas)]
        for ax, metric in zip(figure.axes[2 * place :], ("session_throughput", "output_throughput"), strict=False):
            means = [np.mean([one[metric] for one in mine if one["session_rate"] == rate]) for rate in (0.5, 2.0)]
            shape = "--" if policy == "async" else "-"
            drawn = [
                line.get_ydata() for line in ax.lines if (line.get_linestyle(), len(line.get_ydata())) == (shape, 2)
            ]
            assert np.allclose(drawn[0], means)
    assert list(lines(figure.axes[0])["offered"].get_ydata()) == [0.5, 2.0]


def test_scaling_has_a_line_that_is_linear_and_the_gap_to_the_oracle(results):
    figure = results.figure("replicas")
    left, right = figure.axes[2:4]
    ideal = lines(left)["linear in replicas"].get_ydata()
    assert ideal[1] == pytest.approx(2 * ideal[0])
    rate = 2.0
    mine = {one["policy"]: one for one in rows(results) if (one["session_rate"], one["replicas"]) == (rate, 2)}
    gap = mine["plas"]["session_latency_s"] / mine["srpt_oracle"]["session_latency_s"]
    assert gap > 1.01
    drawn = [line.get_ydata() for line in right.lines if (line.get_linestyle(), len(line.get_ydata())) == ("-", 2)]
    assert drawn[0][0] == pytest.approx(gap)
    assert "srpt_oracle" in right.get_ylabel()


def test_a_sensitivity_varies_one_setting_at_a_time_around_the_point(results):
    figure = results.figure("sensitivity", ("plas",), 3)
    at = {(one["session_rate"], one["replicas"]): one["speedup"] for one in rows(results) if one["policy"] == "plas"}
    drawn = [line.get_ydata() for ax in figure.axes for line in ax.lines if len(line.get_ydata()) == 2]
    for ends in ([at[0.5, 4], at[2.0, 4]], [at[2.0, 2], at[2.0, 4]]):
        assert any(np.allclose(one, ends) for one in drawn)
    assert len(figure.axes) == 2


def test_a_breakdown_adds_up_to_the_latency(results):
    figure = results.figure("breakdown", ("plas",), 2)
    told = rows_of(
        results.query(
            "SELECT avg(latency_s) AS mean FROM sessions JOIN cells USING (cell)"
            " WHERE point = 2 AND policy = 'plas' AND seed = arrivals_seed"
        )
    )[0]["mean"]
    bars = [bar for bar in figure.axes[0].patches if round(bar.get_y() + bar.get_height() / 2) == 1]
    assert sum(bar.get_width() for bar in bars) == pytest.approx(told)


def test_a_timeline_begins_and_ends_with_an_empty_engine(results):
    figure = results.figure("timeline", ("plas",), 3)
    assert [ax.get_ylabel().split("\n")[0] for ax in figure.axes] == ["KV blocks", "prefix hit", "calls", "calls"]
    for ax in (figure.axes[0], *figure.axes[2:]):
        assert [line.get_ydata()[0] for line in ax.lines] == [0, 0]
    assert max(figure.axes[2].lines[1].get_ydata()) <= 4


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_probe_changes_nothing_and_sees_what_a_step_by_step_engine_sees(data):
    some = [data.draw(workflows(f"w{number}")) for number in range(data.draw(st.integers(1, 4)))]
    engine, policy = data.draw(profiles()), parse_policy(data.draw(st.sampled_from(POLICIES)))
    load = data.draw(st.sampled_from([ConcurrentSessions(2), SessionRate(5.0)]))
    plain = simulate(some, policy, engine, load, 0)
    instants = np.linspace(0, 1.1 * plain.makespan_s + 1, 30).tolist()
    probe, slow = Probe(instants), Probe(instants)
    assert simulate(some, policy, engine, load, 0, probe=probe) == plain
    simulate(some, policy, engine, load, 0, macro_steps=False, probe=slow)
    assert len(probe.signals) == len(instants)
    done = [record for record in plain.records if record.status == "finished"]
    if any(abs(instant - edge) < 1e-6 for instant in instants for record in done for edge in record[7:11] if edge):
        return
    for seen, stepped in zip(probe.signals, slow.signals, strict=True):
        assert seen._replace(kv_use=0) == stepped._replace(kv_use=0)
        assert seen.kv_use <= stepped.kv_use + 1e-9


def test_a_hit_rate_is_of_the_last_looks():
    signals = [Signals(), Signals(prefix_queries=10), *(Signals(prefix_queries=30, prefix_hits=15),) * LOOKS]
    found = hit_rates(signals)
    assert np.isnan(found[0])
    assert list(found[1:3]) == [0.0, 0.5]
    assert found[LOOKS + 1] == pytest.approx(15 / 20)


def test_steps_follow_what_they_are_made_of():
    assert steps_of(["a+b+c", "x", "a", "a+c", "a+b", "y+a"]) == [
        ("a", "a", 0),
        ("a+c", "+ c", 1),
        ("a+b+c", "+ b", 2),
        ("a+b", "+ b", 1),
        ("y+a", "+ y", 1),
    ]
    assert steps_of(["a", "b"]) == []


@given(st.lists(st.sets(st.sampled_from("abcd"), min_size=1).map(lambda rules: "+".join(sorted(rules))), unique=True))
def test_every_related_policy_is_a_step_once_and_behind_its_parent(names):
    found = steps_of(names)
    order = [name for name, _, _ in found]
    rules = {name: set(name.split("+")) for name in names}
    assert len(set(order)) == len(order)
    assert {name for name in names if any(rules[one] < rules[name] for one in names)} <= {*order}
    assert not found or found[-1][2] > 0
    for place, (name, label, depth) in enumerate(found):
        if depth:
            parent = next(one for one, _, above in reversed(found[:place]) if above == depth - 1)
            assert rules[name] == rules[parent] | set(label.removeprefix("+ ").split(" + "))


def test_a_step_is_as_long_as_its_gain_and_pale_where_it_is_noise():
    steps = [Step("a", 0, 0.9, (0.8, 1.0), False, False), Step("+ b", 1, 1.5, None, True, True)]
    ax = step_bars(Figure().subplots(), steps)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([-0.1, 0.5])
    assert ax.patches[0].get_alpha() is None
    assert [bar.get_facecolor()[3] for bar in ax.patches] == [1.0, 0.35]
    assert {"0.90", "1.50*", "a", "+ b"} <= {text.get_text() for text in ax.texts}


def test_shares_are_of_what_is_no_larger():
    line = shares(Figure().subplots(), {"g": [3, 1, 2, 2]}).lines[0]
    at = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert at == {1: 0.25, 2: 0.75, 3: 1.0}


@pytest.mark.parametrize("kind", [*RESULT_FIGURES, "predicted"])
def test_every_figure_of_a_run(run, kind):
    figure, told = draw(kind, [run])
    assert svg(figure, told) == svg(draw(kind, [run])[0], told)
    assert ("measured" in told) == (kind == "predicted")


def test_two_folders_are_what_was_predicted_and_what_was_measured(run):
    assert draw("predicted", [run / "predicted", run])[1] == draw("predicted", [run])[1]


def test_the_distribution_of_a_run_is_of_its_sessions(run):
    sessions = [json.loads(text) for text in (run / "sessions.jsonl").read_text().splitlines()[1:]]
    mine = sorted(one["finished_s"] - one["arrived_s"] for one in sessions if one["policy"] == "async")
    assert list(lines(draw("cdf", [run])[0].axes[0])["async"].get_xdata()) == mine


@pytest.mark.parametrize(
    ("kind", "more", "problem"),
    [
        ("speedups", {}, "did you mean 'speedup'"),
        ("predicted", {}, "predicted takes a predicted and a measured result"),
        ("latency", {"policies": ["nothing"]}, "no policy 'nothing'; known:"),
        ("latency", {"policies": ["async"]}, "async is the baseline"),
        ("latency", {"point": 1}, "latency draws all points"),
        ("cdf", {"point": 9}, "no point 9; they are 0 to 3"),
        ("workload", {"policies": ["plas"]}, "leave --policy out"),
        ("ablation", {"policies": ["srpt_oracle"]}, "let the study compare plas and plas+sticky"),
    ],
)
def test_what_a_study_cannot_give_is_one_line(results, kind, more, problem):
    with pytest.raises(WorkspanError) as error:
        draw(kind, [results.folder], **more)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_run_cannot_give_is_one_line(run, tmp_path):
    with pytest.raises(RunError, match=r"throughput takes the folder of a study .* there are: .*frameworks, cdf"):
        draw("throughput", [run])
    with pytest.raises(RunError, match="no policy 'asinc'; did you mean 'async'"):
        draw("cdf", [run], ["asinc"])
    with pytest.raises(RunError, match="only a study has points"):
        draw("cdf", [run], point=0)
    with pytest.raises(RunError, match="no result in it"):
        draw("cdf", [tmp_path])
    with pytest.raises(RunError, match="leave it out"):
        draw("predicted", [run], ["async"])
    with pytest.raises(RunError, match="name one, or for predicted two"):
        draw("predicted", [run] * 3)


def test_a_timeline_needs_a_clock_that_workflows_share(results, tmp_path, traces):
    alone = Study(traces={"sources": [str(traces)]}, policies=["sequential", "async"]).run(tmp_path / "alone", jobs=1)
    with pytest.raises(StudyError, match="on a clock of its own"):
        alone.figure("timeline")
    with pytest.raises(StudyError, match=r"vary server\.replicas"):
        alone.figure("replicas")
    with pytest.raises(StudyError, match="give the study a grid"):
        alone.figure("sensitivity")


def test_a_study_of_another_workspan_is_not_simulated_again(results, tmp_path):
    folder = shutil.copytree(results.folder, tmp_path / "old")
    told = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**told, "engine": "another"}))
    with pytest.raises(StudyError, match="workspan has changed since"):
        draw("timeline", [folder])


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_a_file_is_the_same_to_the_byte_and_has_its_provenance(run, tmp_path, suffix):
    written = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}{suffix}"
        done = CliRunner().invoke(workspan, ["plot", "cdf", str(run), "-o", str(path)])
        assert (done.exit_code, done.output) == (0, f"wrote {path}\n")
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert b"workflows_digest" in written[0]


def test_without_a_file_or_with_one_of_another_kind_nothing_is_drawn(run, tmp_path):
    done = CliRunner().invoke(workspan, ["plot", "cdf", str(run)])
    assert (done.exit_code, "'-o'" in done.output) == (2, True)
    done = CliRunner().invoke(workspan, ["plot", "cdf", str(run), "-o", str(tmp_path / "x.gif")])
    assert "give a file that ends with .svg, .png or .pdf" in str(done.exception)
    done = CliRunner().invoke(workspan, ["plot", "cdf", str(run), "-o", str(tmp_path / "no" / "x.png")])
    assert "x.png: cannot be written" in str(done.exception)
    assert PAIR in KINDS["predicted"].of


def test_the_help_has_a_line_for_every_kind():
    text = CliRunner().invoke(workspan, ["plot", "--help"], terminal_width=80).output
    for name, kind in KINDS.items():
        assert f"{name:11}  {kind.shows}" in text
