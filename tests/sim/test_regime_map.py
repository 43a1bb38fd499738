"""Where policies matter: gains, what is noise, and the files of the map."""

import json
import sys
from xml.etree import ElementTree

import pytest
from commandline import WORKFLOW, jsonl
from strategies import profile, request, roomy

import sim.regime_map
from sim import cli
from sim.compare import line_up
from sim.errors import RunError
from sim.regime_map import Axes, Cell, Gain, _effect, map_regimes
from sim.resample import resample
from sim.simulate import simulate
from sim.workflow import Call, Edge, Segment, Tape, Workflow

AXES = Axes((0.5, 1.2), (1.0, 0.5), (4,))


def fork(name, output):
    """A call and then four at once."""
    calls = tuple(Call(one, "x", (Segment("s", 30), Segment(f"{name}-{one}", 5)), f"{name}{one}") for one in "abcde")
    edges = tuple(Edge("a", other, "control") for other in "bcde")
    return Workflow(name, "forks", name, calls, edges, Tape(dict.fromkeys("abcde", output), {}))


FORKS = [fork(f"w{n}", 4 + 3 * n) for n in range(3)]


def mapped(*policies, baseline="async", workflows=FORKS, axes=AXES, seeds=2, jobs=1, **engine):
    settings = roomy(max_num_seqs=4, **{"num_gpu_blocks": 200, **engine})
    return map_regimes(
        workflows, *line_up(policies, baseline), profile(settings), axes, sessions=4, seeds=seeds, jobs=jobs
    )


def test_copies_of_a_workflow_are_one_and_its_seeds_are_apart():
    found = _effect([{"w#0": (2.0, 1.0), "w#1": (2.0, 1.0), "v": (1.0, 1.0)}, {"w#3": (8.0, 1.0)}])
    assert (found.workflows, found.seeds, found.speedup) == (2, 2, 13 / 4)


def test_where_nobody_finished_with_some_seed_nothing_is_said():
    assert _effect([{"w#0": (2.0, 1.0)}, {}]) is None
    assert Cell(4, 1.0, 99, 0.5, 1.0, False, 0, []).best is None


def test_a_policy_against_itself_gains_nothing_anywhere():
    found = mapped("async:max_parallel=1000")
    assert len(found.cells) == 4
    for cell in found.cells:
        assert cell.gains == [Gain("async:max_parallel=1000", 1.0, (1.0, 1.0), 1.0)]
        assert not cell.best.is_real


def test_what_is_better_for_sure_is_real_and_what_is_worse_is_not():
    found = mapped("async", "async:max_parallel=1", baseline="sequential", axes=Axes((0.1,), (1.0,), (4,)), seeds=3)
    (cell,) = found.cells
    gains = {gain.policy: gain for gain in cell.gains}
    # Two calls of time instead of five, but steps of four calls are longer.
    assert cell.best == gains["async"]
    assert 2 < gains["async"].speedup < 5 / 2
    assert gains["async"].is_real
    assert not gains["async:max_parallel=1"].is_real
    worse = mapped("sequential", axes=Axes((0.1,), (1.0,), (4,)), seeds=3).cells[0].best
    assert worse.ci95[1] < 1
    assert worse.p_holm < 0.05
    assert not worse.is_real


def test_cells_have_their_engine_and_load_and_say_where_more_is_offered_than_sustained():
    found = mapped("program_fcfs")
    assert [(cell.slots, cell.kv_share, cell.num_gpu_blocks, cell.load) for cell in found.cells] == [
        *[(4, 1.0, 200, 0.5), (4, 1.0, 200, 1.2)],
        # 199 of them hold tokens.
        *[(4, 0.5, 101, 0.5), (4, 0.5, 101, 1.2)],
    ]
    assert [cell.rate for cell in found.cells] == [load * found.saturation_rate for load in (0.5, 1.2, 0.5, 1.2)]
    assert [cell.saturated for cell in found.cells] == [False, True] * 2
    assert [cell.sessions for cell in found.cells] == [2 * 4] * 4


def test_who_cannot_finish_on_the_smallest_engine_is_on_no_engine():
    # 94 tokens of KV are six blocks; half of the nine are four.
    without, found = (
        mapped("sequential", workflows=crowd, num_gpu_blocks=10) for crowd in (FORKS, [*FORKS, fork("long", 60)])
    )
    assert (without.left_out, found.left_out) == (0, 1)
    assert found.cells == without.cells


def test_12_all_policies_of_a_cell_see_the_same_workflows_arrivals_and_engine(monkeypatch):
    seen = []

    def noted(workflows, policy, engine, load, seed):
        seen.append((str(policy), tuple(workflow.id for workflow in workflows), engine, load, seed))
        return simulate(workflows, policy, engine, load, seed)

    monkeypatch.setattr(sim.regime_map, "simulate", noted)
    mapped("program_fcfs", "sequential")
    by_policy = {name: [run[1:] for run in seen if run[0] == name] for name in ("async", "program_fcfs", "sequential")}
    assert by_policy["async"] == by_policy["program_fcfs"] == by_policy["sequential"]
    assert len(by_policy["async"]) == 4 * 2
    for ids, _, _, seed in by_policy["async"]:
        assert list(ids) == [workflow.id for workflow in resample(FORKS, 4, seed)]
    assert len({(ids, seed) for ids, _, _, seed in by_policy["async"]}) == 2


def test_7_two_processes_draw_the_same_map_as_one():
    policies = "program_fcfs", "plas:quantum_s=0.1", "async:max_parallel=1"
    one, two = (mapped(*policies, jobs=jobs) for jobs in (1, 2))
    assert one == two
    assert len({gain.speedup for cell in one.cells for gain in cell.gains}) > 1


@pytest.mark.parametrize(
    ("policies", "changes", "problem"),
    [
        (["plas"], {"num_gpu_blocks": 4}, "--kv: no workflow can finish on the smallest engine (needs 3 KV blocks"),
        (["async"], {}, "--policy async: there is only the baseline; give another policy"),
        (["plas+sticky"], {}, "--policy plas+sticky: a router needs several replicas, a map is of one; take it out"),
        (["plas"], {"seeds": 1}, "--seeds 1: a map needs several"),
    ],
)
def test_what_cannot_be_mapped_is_refused_in_one_line(policies, changes, problem):
    with pytest.raises(RunError) as error:
        mapped(*policies, axes=Axes((0.5,), (1.0, 0.3), (4,)), **changes)
    assert str(error.value).startswith(problem)
    assert "\n" not in str(error.value)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`workspan regimes` over two small workflows in this process; exit code, stdout and stderr."""
    traces = jsonl(tmp_path / "t.jsonl", WORKFLOW, {**WORKFLOW, "id": "v", "framework": "Other"})

    def run(*arguments):
        shown = "--sessions", 3, "--seeds", 2, "--load", 1.2, "--load", 0.5
        monkeypatch.setattr(sys, "argv", list(map(str, ["workspan", "regimes", traces, *shown, *arguments])))
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_the_command_prints_the_map_and_writes_its_numbers_and_its_figure(run, tmp_path):
    arguments = "--policy", "program_fcfs", "--kv", 0.01, "--kv", 1, "--max-num-seqs", 8
    code, text, _ = run(*arguments, "-o", tmp_path / "map")
    assert code == 0
    assert "max_num_seqs 8" in text
    assert "None of program_fcfs matters anywhere on this map." in text
    found = json.loads((tmp_path / "map" / "regimes.json").read_text())
    assert found["provenance"]["workflows"] == 2
    assert (found["baseline"], found["policies"]) == ("async", ["program_fcfs"])
    places = [(cell["kv_share"], cell["load"]) for cell in found["cells"]]
    assert places == [(1.0, 0.5), (1.0, 1.2), (0.01, 0.5), (0.01, 1.2)]
    written = (tmp_path / "map" / "regimes.svg").read_text()
    words = " ".join(ElementTree.fromstring(written).itertext())
    for word in ("KV blocks", "max_num_seqs 8", "best speed-up over async", "50 %", "120 %", "1.00x"):
        assert word in words
    code, text, _ = run(*arguments, "--json", "-o", tmp_path / "again")
    assert json.loads(text) == found
    for name in ("regimes.json", "regimes.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "map" / name).read_bytes()


def test_the_text_says_how_many_cells_matter_and_where_most(run):
    code, text, _ = run("--policy", "async", "--baseline", "sequential", "--kv", 1)
    assert code == 0
    assert "Policies matter in" in text
    assert "below saturation most at 50 % load" in text
    assert "async 1." in text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--kv", 0.0001), "RunError: --kv: no workflow can finish on the smallest engine"),
        (("--policy", "async"), "RunError: --policy async: there is only the baseline"),
    ],
)
def test_a_map_that_cannot_be_made_is_exit_2(run, arguments, problem):
    code, text, err = run(*arguments)
    assert (code, text) == (2, "")
    assert err.splitlines()[-1].startswith(problem)
    assert "Traceback" not in err


def test_for_workflows_of_one_call_no_order_within_them_matters():
    found = mapped("sequential", workflows=[request(f"r{n}", 10, 5 + n) for n in range(3)])
    assert all(gain.speedup == 1 and not gain.is_real for cell in found.cells for gain in cell.gains)
