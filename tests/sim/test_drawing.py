from itertools import pairwise

import pytest
from hypothesis import given, settings
from matplotlib.figure import Figure
from strategies import workflows

from sim.drawing import legend, num_rows, workflow_lanes
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow


def fan():
    prompt = (Segment("s", 5),)
    nodes = (*(Call(name, agent, prompt, f"answer-{name}") for name, agent in ("ax", "by", "cy")), Tool("t", "python"))
    edges = tuple(Edge(*pair, "visible") for pair in ("ab", "ac", "bt", "ct"))
    return Workflow("w", "test", "", nodes, edges, Tape(dict.fromkeys("abc", 3), {"t": 1.0}))


SECONDS = {"a": 1.0, "b": 3.0, "c": 2.0, "t": 1.0}


def test_agents_are_lanes_and_what_one_can_do_at_once_stands_in_rows():
    axes = workflow_lanes(Figure().subplots(), fan(), SECONDS)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y", "tool: python"]
    bars = {(bar.get_x(), bar.get_width()): bar.get_y() + bar.get_height() / 2 for bar in axes.patches}
    assert bars == {(0, 1): 0, (1, 3): 1, (1, 2): 2, (4, 1): 3}
    assert num_rows(fan(), SECONDS) == 4


def test_the_critical_path_has_its_colour():
    axes = workflow_lanes(Figure().subplots(), fan(), SECONDS)
    path, call, *_ = (handle.get_facecolor() for handle in legend()[:3])
    colours = {bar.get_x() + bar.get_width(): bar.get_facecolor() for bar in axes.patches}
    assert colours == {1: path, 4: path, 3: call, 5: path}


@settings(max_examples=25, deadline=None)
@given(workflows())
def test_every_node_is_drawn_and_no_bar_covers_another(workflow):
    seconds = {node.id: 1.0 for node in workflow.nodes}
    axes = workflow_lanes(Figure().subplots(), workflow, seconds)
    bars = [(bar.get_y(), bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert len(bars) == len(workflow.nodes)
    for row in {bar[0] for bar in bars}:
        starts = sorted(bar[1] for bar in bars if bar[0] == row)
        assert all(other - one >= 1 - 1e-9 for one, other in pairwise(starts))
    assert max(bar[1] + bar[2] for bar in bars) == pytest.approx(workflow.span(seconds))
