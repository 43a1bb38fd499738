"""What a regime map calls a difference."""

import json
import sys

import pytest
from commandline import WORKFLOW, jsonl
from strategies import profile, request

from sim import cli
from sim.compare import line_up
from sim.errors import RunError
from sim.regime_map import Axes, Cell, Gain, map_regimes


def test_a_policy_that_surely_gains_is_not_hidden_by_one_that_may_gain_more():
    noisy, sure = Gain("noisy", 1.5, (0.5, 4.5), 0.9), Gain("sure", 1.2, (1.1, 1.3), 0.01)
    cell = Cell(4, 1.0, 100, 0.5, 1.0, False, 10, [noisy, sure])
    assert cell.best == sure
    assert Cell(4, 1.0, 100, 0.5, 1.0, False, 10, [noisy]).best == noisy


def test_one_workflow_however_often_it_is_drawn_tells_nothing_of_others():
    with pytest.raises(RunError, match="one workflow"):
        map_regimes([request("r", 9, 9)], *line_up(["plas"], "async"), profile(), Axes([1], [1], [4]), 4, 2)


def test_a_load_given_twice_is_one_and_the_numbers_name_what_they_were_made_from(tmp_path, monkeypatch, capsys):
    traces = jsonl(tmp_path / "t.jsonl", WORKFLOW, {**WORKFLOW, "id": "v"})
    shown = "--sessions", 3, "--seeds", 2, *4 * ("--load", 0.5, "--kv", 1, "--max-num-seqs", 4), "--json"
    monkeypatch.setattr(sys, "argv", list(map(str, ["workspan", "regimes", traces, "--policy", "plas", *shown])))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    assert len(found["cells"]) == 1
    assert found["cells"][0]["sessions"] == 2 * 3
    assert found["provenance"]["workflows"] == 2
    assert found["profile_digest"]
