"""A replay's prediction with the profile's draws."""

import json

import yaml
from commandline import WORKFLOW, assert_one_line, jsonl, workspan
from strategies import profile

from live.fake import FakeServer
from sim.latency import Draws


def test_the_prediction_beside_a_replay_takes_the_draws_too(tmp_path):
    traces = jsonl(tmp_path / "t.jsonl", WORKFLOW)
    path, folder = tmp_path / "mine.yaml", tmp_path / "out"
    rows = [[0.010], [0.011], [0.012]]
    path.write_text(
        yaml.safe_dump(profile().model_copy(update={"draws": Draws(names=["const_s"], rows=rows)}).model_dump())
    )
    with FakeServer(profile()) as server:
        common = "replay", traces, "--server", server.url, "--policy", "async", "--profile", path
        done = workspan(*common, "--draws", 2, "-o", folder)
        assert done.returncode == 0, done.stderr
        assert "the uncertainty of the profile (2 draws)" in done.stdout
        assert json.loads((folder / "predicted" / "result.json").read_text())["provenance"]["draws"] == 2
        assert_one_line(workspan(*common, "--draws", 4), "3 draws of its coefficients; give 2 to 3, or 0")
        assert_one_line(workspan(*common[:-2], "--draws", 2), "no prediction to draw for; give --profile NAME")
