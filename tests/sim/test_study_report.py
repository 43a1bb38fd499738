"""What a study says of its results, in words and figures: of rows made by hand, and of a small study that has run."""

import io
import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import made, row
from rich.console import Console

from sim.curves import _apart
from sim.errors import StudyError
from sim.study import Study, open_results
from sim.study.drive import Run
from sim.study.panels import layout, saturated
from sim.study.plan import Plan, read_corpus
from sim.study.points import Files
from sim.study.report import print_report, print_rows, report_json
from sim.study.store import Store


def text_of(results):
    out = io.StringIO()
    print_report(results, Console(file=out, width=200, markup=False, highlight=False))
    return out.getvalue()


def answer_of(results):
    return text_of(results).splitlines()[2]


def test_the_answer_names_the_best_policy_its_interval_and_where_nothing_matters():
    rows = [row(0, 0.2), row(1, 0.4), row(2, 0.6, speedup=1.3, verdict="faster")]
    assert answer_of(made(*rows)) == (
        "plas is 1.30x (1.20 to 1.40) faster than async at 0.6 sessions/s on fast-gpu;"
        " at 0.4 sessions/s and below policies do not matter here."
    )


def test_a_gain_that_the_server_sustains_comes_before_a_larger_one_that_it_does_not():
    steady, beyond = row(0, 0.4, speedup=1.1, verdict="faster"), row(1, 0.9, speedup=2.0, verdict="faster")
    said = answer_of(made(steady, {**beyond, "saturated": True}))
    assert said.startswith("plas is 1.10x")
    assert "where the backlog grows to the end, plas is up to 2.00x" in said


def test_without_a_gain_the_answer_says_so():
    said = answer_of(made(row(0, 0.2), row(1, 0.4, speedup=1.005, verdict="within the profile's error")))
    assert said.startswith("No policy is faster than async by more than noise at any point (1 difference is")


def test_a_policy_that_knows_the_future_is_never_the_answer():
    oracle = row(0, 0.4, "srpt_oracle", 2.0, "faster")
    results = made(row(0, 0.4), oracle, row(1, 0.6), policies=("async", "plas", "srpt_oracle"))
    assert answer_of(results).startswith("No policy that can be run is faster")
    assert "srpt_oracle, which knows the future and nobody can run, is 2.00x" in answer_of(results)


def test_a_policy_that_is_slower_is_named():
    assert "slower by more than noise in 1 of 1 comparisons: plas" in answer_of(made(row(0, 1, verdict="slower")))


def test_marks_are_explained_only_where_they_stand():
    plain = text_of(made(row(0, 0.2)))
    marked = text_of(made(row(0, 0.2, saturated=True, extrapolated=True)))
    assert "1.00x [0.90, 1.10]*!" in marked
    assert ("*: extrapolated" in marked, "!: the backlog still grows" in marked) == (True, True)
    assert ("*: extrapolated" in plain, "!: the backlog still grows" in plain) == (False, False)


def test_the_report_counts_what_is_left_out():
    said = text_of(made(row(0, 0.2)))
    assert "the first 20% and the last 10% of each cell's sessions" in said
    assert "Of 60 sessions these did not finish: 3 unfinished" in said
    assert "2 trace documents could not be read" in said
    assert "10 of 12 cells are done; the others have failed or not run yet" in said


def test_the_noise_floor_is_the_baseline_against_itself():
    floor = row(0, 0.2, "async", 1.02, kind="A/A")
    assert "async against async under other arrivals (0.2 sessions/s (Poisson)): 1.02x [0.92, 1.12]" in text_of(
        made(row(0, 0.2), floor)
    )
    assert "do not trust" in text_of(made(row(0, 0.2), {**floor, "verdict": "faster"}))


def test_of_many_rows_the_most_telling_are_shown_and_the_others_counted():
    rows = [row(point, 1 + point) for point in range(60)]
    rows[37] = row(37, 38, speedup=1.5, verdict="faster")
    said = text_of(made(*rows))
    assert len(re.findall("plas +1", said)) == 40
    assert "1.50x" in said
    assert "20 more rows" in said


def test_an_unfinished_study_says_that_nothing_can_be_said():
    assert "Nothing can be said yet" in text_of(made())


def test_the_same_facts_are_json():
    told = json.loads(json.dumps(report_json(made(row(0, 0.2, p=None, p_holm=None))), allow_nan=False))
    assert told["comparisons"][0]["p"] is None
    assert told["answer"] == answer_of(made(row(0, 0.2)))
    assert told["cells"] == {"planned": 12, "done": 10}
    assert told["left_out"]["sessions"]["unfinished"] == 3


def test_an_axis_is_the_load_and_panels_are_what_varies_besides():
    servers = [{"profile": "one", "num_gpu_blocks": 10}, {"profile": "two", "num_gpu_blocks": 20}]
    rows = [
        row(2 * place + which, rate, **server)
        for place, server in enumerate(servers)
        for which, rate in enumerate((1, 2))
    ]
    assert (layout(rows).axis, layout(rows).panels) == ("session_rate", ("profile",))
    apart = [rows[0], rows[3]]
    assert (layout(apart).axis, layout(apart).panels) == (None, ("profile",))


def test_a_point_is_saturated_if_it_is_so_under_every_policy():
    rows = [row(0, 1, saturated=True), row(0, 1, "fair"), row(1, 2, saturated=True), row(1, 2, "fair", saturated=True)]
    assert saturated(rows) == {1}


def test_noise_is_small_what_is_extrapolated_hollow_saturation_grey_and_the_ceiling_dashed():
    last = row(2, 0.6, speedup=1.3, verdict="faster", saturated=True, extrapolated=True, ceiling=1.35)
    rows = [row(0, 0.2), row(1, 0.4), last]
    figure = made(*rows, row(1, 0.4, "async", kind="A/A")).figure("speedup")
    ax = figure.axes[0]
    points = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    hollow = {float(x): line.get_markerfacecolor() == "white" for line in points for x in line.get_xdata()}
    small = {float(x): line.get_markersize() < 5 for line in points for x in line.get_xdata()}
    assert hollow == {0.2: False, 0.4: False, 0.6: True}
    assert small == {0.2: True, 0.4: True, 0.6: False}
    said = {text.get_text() for text in ax.texts}
    assert {"saturated", "A/A", "plas"} <= said
    grey = next(patch for patch in ax.patches if patch.get_facecolor()[:3] == (0.93, 0.93, 0.93))
    assert grey.get_x() == pytest.approx(0.5)
    assert "ceiling: no policy can gain more" in ax.get_legend_handles_labels()[1]


def test_a_figure_of_nothing_or_of_too_much_is_refused():
    with pytest.raises(StudyError, match="no policy can be compared"):
        made().figure()
    many = [row(2 * n + which, rate, max_num_seqs=n + 1) for n in range(13) for which, rate in enumerate((1, 2))]
    with pytest.raises(StudyError, match="max_num_seqs differ too much"):
        made(*many).figure()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_labels_keep_apart_and_in_order(wanted, gap):
    places = _apart(wanted, gap)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    assert all(places[high] - places[low] >= gap - 1e-9 for low, high in pairwise(order))
    assert sum(places) == pytest.approx(sum(wanted))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Two frameworks under two loads."""
    study = Study(
        traces={"only": ["peer-review/*", "ma-tot/*"]},
        policies=["async", "plas"],
        grid={"product": {"load.session_rate": [0.05, 0.5]}},
        seeds=2,
    )
    corpus, _, _ = read_corpus(study, Files())
    folder = tmp_path_factory.mktemp("study") / "results"
    Run(Plan.of(study, corpus, Files()), Store(folder), Files()).run()
    return open_results(folder)


def test_the_distribution_is_of_the_sessions_that_count(ran):
    longest = ran.query(
        "SELECT max(latency_s) AS most FROM sessions JOIN cells USING (cell)"
        " WHERE counted AND policy = 'async' AND seed = arrivals_seed GROUP BY point"
    )["most"]
    assert ran.figure("cdf").axes[0].lines[0].get_xdata()[-1] in longest


def test_a_report_of_a_study_that_has_run(ran):
    said = text_of(ran)
    assert said.startswith("\nIs plas faster than async, by how much, and where?")
    assert "10 of 10 cells are done." in said
    assert json.dumps(report_json(ran), allow_nan=False)


def test_rows_of_a_query_are_a_table_csv_or_json(ran, capsys):
    columns = ran.query("SELECT policy, count(*) AS cells FROM plan GROUP BY ALL ORDER BY ALL")
    print_rows(columns)
    table = capsys.readouterr().out
    print_rows(columns, "csv")
    csv = capsys.readouterr().out
    print_rows(columns, "json")
    assert table.split() == ["policy", "cells", "async", "6", "plas", "4"]
    assert csv.split() == ["policy,cells", "async,6", "plas,4"]
    assert json.loads(capsys.readouterr().out)[1] == {"policy": "plas", "cells": 4}
