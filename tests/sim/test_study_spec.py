"""A study as file and as keyword arguments: what is accepted, what is refused and how, and what an editor is told."""

import json
import time

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from json_schema import violations
from pydantic import ValidationError

from sim.bench_row import Slo
from sim.errors import StudyError
from sim.study import Study
from sim.study.spec import Grid, Offered, Server, Stop, Traces
from sim.study.studyfile import load_study, study_schema

LEAST = "policies: [async]\n"


def load(folder, text, *overrides):
    path = folder / "study.yaml"
    path.write_text(text)
    return load_study(path, overrides)


def problems(folder, text, *overrides):
    """What is said after the file's name."""
    with pytest.raises(StudyError) as error:
        load(folder, text, *overrides)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{folder / 'study.yaml'}")
    return str(error.value).removeprefix(f"{folder / 'study.yaml'}").lstrip(":, ").split("; line ")


# From text to settings


def test_file_and_keyword_arguments_are_one_model(tmp_path):
    text = """
traces: {only: ['ag2/*'], resample: 100}
policies: [sequential, plas:levels=4]
server: {max_num_seqs: 64}
load: {burstiness: 5e-1}
grid: {product: {load.session_rate: [1, 2]}, zip: {server.replicas: [1, 2]}, points: [{tool_time: none}]}
slo: {ttft_s: 1}
stop: {ci_width: 0.1, max_runs: 9}
"""
    study = load(tmp_path, text)
    assert study == Study(**yaml.safe_load(text.replace("5e-1", "0.5")))
    assert study == Study(
        traces=Traces(only=("ag2/*",), resample=100),
        policies=("sequential", "plas:levels=4"),
        server=Server(max_num_seqs=64),
        load=Offered(burstiness=0.5),
        grid=Grid(
            product={"load.session_rate": (1, 2)}, zip={"server.replicas": range(1, 3)}, points=({"tool_time": "none"},)
        ),
        slo=Slo(ttft_s=1),
        stop=Stop(ci_width=0.1, max_runs=9),
    )


def test_points_are_those_by_hand_with_every_row_with_every_choice():
    study = Study(
        policies=["async"],
        server={"max_num_seqs": 8},
        load={"session_rate": 5.0, "burstiness": 0.5},
        grid={
            "points": [{"load": {"session_rate": 1.0}}, {"load.session_rate": 2.0}],
            "zip": {"server.replicas": [1, 2], "information_error": [0.1, 0.2]},
            "product": {"tool_time": ["none", ["constant:1", "x=none"]]},
        },
    )
    found = study.points()
    assert len(found) == 2 * 2 * 2
    varied, point = found[0]
    assert list(varied.items()) == [
        ("load", Offered(session_rate=1.0)),
        ("information_error", 0.1),
        ("server.replicas", 1),
        ("tool_time", "none"),
    ]
    # All of a section replaces the study's; one key of it leaves the others.
    assert (point.load.burstiness, found[-1][1].load.burstiness) == (1.0, 0.5)
    assert {point.server.max_num_seqs for _, point in found} == {8}
    assert [point.server.replicas for _, point in found] == [1, 1, 2, 2] * 2
    assert found[-1][1].tool_time == ["constant:1", "x=none"]


def test_what_only_a_grid_completes_is_no_mistake():
    study = Study(
        policies=["async"],
        server={"router": "sticky"},
        load={"burstiness": 0.5},
        grid={"product": {"server.replicas": [2, 4], "load.session_rate": [1.0]}},
    )
    assert [str(point.server.router) for _, point in study.points()] == ["sticky", "sticky"]


def test_without_a_grid_there_is_one_point():
    ((varied, point),) = Study(policies=["async"], load={"concurrent_sessions": 3}).points()
    assert (varied, point.load, point.server) == ({}, Offered(concurrent_sessions=3), Server())


def test_fifty_thousand_points_are_quickly_there(tmp_path):
    rates = [round(0.1 * number, 1) for number in range(1, 501)]
    text = f"{LEAST}grid: {{product: {{load.session_rate: {rates}, server.max_num_seqs: {list(range(1, 101))}}}}}"
    began = time.process_time()
    study = load(tmp_path, text)
    assert time.process_time() - began < 3
    assert len(study.points()) == 50_000


# What is refused


def test_all_problems_are_told_at_once_with_lines_and_nearest_names(tmp_path):
    text = """name: 3
seeds: 5
seeds: 6
traces: {sources: [], only: 'ag2/*', resmple: 3}
policies: [asink, 3, 'plas:level=4']
server: {profile: h10, replicas: 2, fleet: f.yaml}
load:
  session_rate: 0
  burstiness: 1000
tool_time: 3
information_error: 2
grid:
  product:
    server.max_num_seq: [16]
    server.num_gpu_blocks:
      - 100
      - 1
    tool_time: [none, soon]
  zip: [1]
  points:
    - load: {session_rat: 2}
    - 4
window: {warm_up: 0.6, drain: 0.6}
stop: {max_runs: 5, ci_width: .nan}
slo: 4
polices: x
"""
    told = problems(tmp_path, text)
    assert told[0] == "line 1: name: input should be a valid string"
    assert told[1:] == [
        "3: key 'seeds' occurs twice; remove one",
        "4: traces.only: input should be a valid list",
        "4: traces.resmple: unknown key; did you mean 'resample'?",
        "4: traces.sources: empty; give it one or more",
        "5: policies.0: no policy 'asink'; did you mean 'async'? (or module:attribute of your own)",
        "5: policies.1: input should be a valid string",
        "5: policies.2: policy plas:level=4: no parameter 'level'; did you mean 'levels'?",
        "6: server.profile: no profile 'h10'; did you mean 'h100-llama-3.1-8b'? (or the path of a .yaml file)",
        "8: load.session_rate: 0: give 0.0001 to 1e+06 workflows per second",
        "9: load.burstiness: burstiness 1000: give 0.01 to 100; 1 is Poisson, less is burstier",
        "10: tool_time: input should be a rule, or a list of rules",
        "11: information_error: input should be less than or equal to 1",
        "14: grid.product.server.max_num_seq: unknown key; did you mean 'server.max_num_seqs'?",
        "17: grid.product.server.num_gpu_blocks.1: input should be greater than or equal to 2",
        "18: grid.product.tool_time.1: soon: give recorded, none, constant:S or lognormal:mean=S,sigma=X, with a tool's"
        " name and = before it if you like",
        "19: grid.zip: not a mapping; give it keys and values, or {}",
        "21: grid.points.0.load.session_rat: unknown key; did you mean 'session_rate'?",
        "22: grid.points.1: not a mapping; give it keys and values, or {}",
        "23: window: warm_up and drain leave no session; their sum must be below 1",
        "24: stop.ci_width: input should be a finite number",
        "25: slo: not a mapping; give it keys of session_latency_s, ttft_s, tpot_s, e2el_s, or {}",
        "26: polices: unknown key; did you mean 'policies'?",
    ]


REFUSED = {
    "replicas and a fleet": ("server: {replicas: 2, fleet: f}", "line 2: server: give replicas or fleet"),
    "a router alone": ("server: {router: sticky}", "line 2: server: a router needs several replicas"),
    "no router": ("server: {router: plas}", "line 2: server.router: plas is no router; known: least_loaded"),
    "both loops": ("load: {concurrent_sessions: 2, session_rate: 1}", "line 2: load: concurrent_sessions is a closed"),
    "a bursty closed loop": ("load: {concurrent_sessions: 2, burstiness: 2}", "line 2: load: burstiness is of"),
    "bursts of nothing": ("load: {burstiness: 2}", "line 2: load: burstiness is of arrivals at a session_rate; give"),
    "bursts of a file": ("load: {burstiness: 2, session_rate: 1, arrivals: a.csv}", "not from a file; take it out"),
    "a rate of recorded ones": ("load: {arrivals: recorded, session_rate: 1}", "line 2: load: recorded arrivals"),
    "recorded copies": (
        "load: {arrivals: recorded}\ntraces: {resample: 3}",
        "line 3: traces.resample: resample makes copies, which have no recorded arrivals; take it out",
    ),
    "two rules for all tools": ("tool_time: [none, recorded]", "line 2: tool_time: all tools given twice"),
    "an unknown baseline": ("baseline: asyn", "line 2: baseline: no policy 'asyn'; did you mean 'async'?"),
    "few runs": ("seeds: 10\nstop: {ci_width: 1, max_runs: 9}", "line 3: stop: max_runs is below seeds (10); raise it"),
    "no seed": ("seeds: 0", "line 2: seeds: input should be greater than or equal to 1"),
    "unequal rows": (
        "grid: {zip: {server.replicas: [1, 2], load.session_rate: [1]}}",
        "line 2: grid: zip: server.replicas has 2, load.session_rate has 1; give equal lengths",
    ),
    "a key in two places": (
        "grid: {product: {tool_time: [none]}, points: [{tool_time: none}]}",
        "line 2: grid: tool_time is varied twice; name it in one of product, zip and points",
    ),
    "a value twice": (
        "grid: {product: {load.session_rate: [1, 1e0]}}",
        "line 2: grid: product: load.session_rate has a",
    ),
    "no value": ("grid: {product: {load.session_rate: []}}", "grid.product.load.session_rate: empty; give it one or"),
    "a point that cannot be": (
        "load: {session_rate: 2}\ngrid:\n  product: {load.concurrent_sessions: [4]}",
        "line 3: grid: point load.concurrent_sessions=4: concurrent_sessions is a closed loop; give it, or",
    ),
    "a point that lacks something": (
        "grid: {points: [{load.session_rate: 1}, {load: {burstiness: 2}}]}",
        "line 2: grid: point load={'burstiness': 2.0}: burstiness is of arrivals at a session_rate; give that too",
    ),
    "recorded copies at a point": (
        "traces: {resample: 3}\ngrid: {product: {load.arrivals: [recorded]}}",
        "line 3: grid: point load.arrivals=recorded: resample makes copies",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_line(tmp_path, case):
    text, problem = REFUSED[case]
    assert problem in "; line ".join(problems(tmp_path, LEAST + text))


def test_the_same_policy_under_two_names_is_refused(tmp_path):
    (told,) = problems(tmp_path, "policies: [plas, async, async+fcfs]")
    assert told == "line 1: policies: async and async+fcfs are the same; name each once"


def test_a_grid_that_makes_no_sense_and_a_wrong_field_hide_neither(tmp_path):
    told = problems(
        tmp_path,
        f"{LEAST}grid: {{product: {{load.burstiness: [2]}}}}\nseeds: 3\nstop: {{max_runs: 2, ci_width: 1}}\nslo: 4",
    )
    assert [text[:8] for text in told] == ["line 2: ", "4: stop:", "5: slo: "]


def test_keyword_arguments_are_checked_as_a_file_is():
    with pytest.raises(ValidationError) as error:
        Study(policies=["asink"], seed=3, grid={"product": {"load.rate": [1]}})
    assert {problem["loc"] for problem in error.value.errors()} == {
        ("policies", 0),
        ("seed",),
        ("grid", "product", "load.rate"),
    }


# What manifests rely on

rates = st.floats(1e-4, 1e6)
few = st.integers(1, 1024)
tools = st.sampled_from(["none", "recorded", ["constant:1", "x=none"], "lognormal:mean=2,sigma=1"])
routers = st.none() | st.sampled_from(["sticky", "round_robin"])


def optional(**keys):
    return st.fixed_dictionaries({}, optional=keys)


servers = optional(
    profile=st.sampled_from(["h100-llama-3.1-8b", "mine.yaml"]),
    max_num_seqs=st.none() | few,
    enable_prefix_caching=st.booleans(),
)
loads = st.one_of(
    optional(session_rate=st.none() | rates, arrivals=st.just("a.csv")),
    st.fixed_dictionaries({"session_rate": rates, "burstiness": st.floats(0.01, 100)}),
    st.fixed_dictionaries({"concurrent_sessions": few}),
)
VALUES = {
    "load": loads,
    "tool_time": tools,
    "information_error": st.none() | st.floats(0, 1),
    "server": servers,
    "server.replicas": few,
    "server.max_num_batched_tokens": st.none() | few,
}
FORMS = ("product", "zip", "points", None)


@st.composite
def grids(draw):
    """Each key is varied in one of three ways or in none."""
    forms = {key: draw(st.sampled_from(FORMS)) for key in VALUES}
    rows = draw(st.integers(1, 3))

    def lists(form, **size):
        return {
            key: draw(st.lists(VALUES[key], unique_by=repr if form == "product" else None, **size))
            for key in VALUES
            if forms[key] == form
        }

    by_hand = optional(**{key: VALUES[key] for key in VALUES if forms[key] == "points"})
    return {
        "product": lists("product", min_size=1, max_size=3),
        "zip": lists("zip", min_size=rows, max_size=rows),
        "points": draw(st.lists(by_hand, max_size=3)),
    }


studies = st.fixed_dictionaries(
    {"policies": st.sampled_from([["async"], ["plas:levels=4", "sequential"]])},
    optional={
        "name": st.text(min_size=1),
        "traces": optional(
            only=st.lists(st.text()), resample=st.none() | few, view=st.sampled_from(["flow", "recorded"])
        ),
        "baseline": st.none() | st.just("fair"),
        "server": servers,
        "load": loads,
        "tool_time": tools,
        "information_error": st.none() | st.floats(0, 1),
        "grid": grids(),
        "seeds": st.integers(1, 100),
        "slo": st.none() | optional(ttft_s=st.none() | st.floats(0.1, 1e9), tpot_s=rates),
        "stop": st.none()
        | st.fixed_dictionaries({"ci_width": st.floats(1e-9, 1e9), "max_runs": st.integers(100, 999)}),
        "window": optional(warm_up=st.floats(0, 0.4), drain=st.floats(0, 0.4)),
    },
)


def made(drawn):
    """The study, or where it is refused."""
    try:
        return Study(**drawn), []
    except ValidationError as error:
        return None, [problem["loc"] for problem in error.errors()]


@given(studies)
@settings(max_examples=150, deadline=None)
def test_a_study_is_the_same_after_its_way_through_a_manifest(drawn):
    study, problems = made(drawn)
    if not study:  # the values are good, so only together can they make no sense
        assert problems == [("grid",)]
        return
    told = json.loads(json.dumps(study.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    again = Study.model_validate(told)
    assert again == study
    assert again.points() == study.points()
    assert told == again.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert violations(told, study_schema()) == []


def test_numbers_of_numpy_are_numbers():
    study = Study(policies=["async"], grid={"product": {"load.session_rate": list(np.linspace(1, 2, 3))}})
    assert json.dumps(study.model_dump(mode="json")["grid"]["product"]) == '{"load.session_rate": [1.0, 1.5, 2.0]}'
