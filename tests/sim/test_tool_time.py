import numpy as np
import pytest

from sim.errors import RunError
from sim.tool_time import parse_tool_times, with_tool_time
from sim.workflow import Call, Segment, Tape, Tool, Workflow


def tools(seed=0, *rules, number=1, name="w"):
    """Tool times by the rules: one python of 2 s, and unknown ones of python and bash."""
    nodes = [Tool("known", "python"), *(Tool(f"p{i}", "python") for i in range(number)), Tool("b", "bash")]
    seconds = {node.id: None for node in nodes} | {"known": 2.0}
    call = Call("a", "agent", (Segment("s", 5),), "answer")
    workflow = Workflow(name, "test", "", (call, *nodes), (), Tape({"a": 3}, seconds))
    return with_tool_time(workflow, parse_tool_times(rules), seed).tape.tool_s


def test_without_a_rule_unknown_stays_unknown():
    assert tools() == {"known": 2.0, "p0": None, "b": None}
    assert tools(0, "recorded") == tools()


def test_none_is_no_time_at_all_also_where_it_was_recorded():
    assert set(tools(0, "none").values()) == {0.0}


def test_a_constant_fills_what_is_unknown():
    assert tools(0, "constant:1.5") == {"known": 2.0, "p0": 1.5, "b": 1.5}


def test_a_rule_for_a_name_comes_before_the_one_for_all():
    assert tools(0, "bash=constant:7", "constant:1") == {"known": 2.0, "p0": 1.0, "b": 7.0}
    assert tools(0, "bash=constant:7") == {"known": 2.0, "p0": None, "b": 7.0}


def test_drawn_times_depend_on_seed_workflow_and_tool_only():
    rule = "lognormal:mean=3,sigma=1"
    some, more = tools(0, rule), tools(0, rule, number=5)
    assert some["p0"] == more["p0"]
    assert some["b"] == more["b"]
    assert some["p0"] == tools(0, rule, "bash=none")["p0"]
    assert some["p0"] != tools(1, rule)["p0"]
    assert some["p0"] != tools(0, rule, name="v")["p0"]
    assert len(set(more.values())) == len(more)


def test_drawn_times_have_the_mean_and_the_spread_that_were_asked_for():
    times = tools(0, "lognormal:mean=3,sigma=0.5", number=4000)
    drawn = np.array([times[name] for name in times if name.startswith("p")])
    assert drawn.mean() == pytest.approx(3, rel=0.05)
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (["sometimes"], "give recorded, none, constant:S"),
        (["none:3"], "give recorded, none"),
        (["constant"], "'' is not a number"),
        (["constant:-1"], "'-1' is not a number"),
        (["constant:nan"], "'nan' is not a number"),
        (["lognormal:mean=1"], "needs mean=S and sigma=X"),
        (["lognormal:mean=3,mean=4,sigma=1"], "needs mean=S and sigma=X"),
        (["lognormal:mean=0,sigma=1"], "above 0 s"),
        (["lognormal:mean=1,sigma=x"], "'x' is not a number"),
        (["=none"], "no tool's name"),
        (["none", "recorded"], "all tools given twice"),
        (["bash=none", "bash=constant:1"], "bash given twice"),
    ],
)
def test_a_rule_that_is_none_is_refused(rules, problem):
    with pytest.raises(RunError, match=problem):
        parse_tool_times(rules)
