"""What every policy promises, on the day its file appears."""

import gc
import inspect
import json
import sys
from dataclasses import dataclass, replace
from subprocess import CompletedProcess
from types import FunctionType, ModuleType
from typing import ClassVar, get_args

import pytest
from commandline import WORKFLOW, assert_one_line, jsonl
from driving import Driver
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import profile, profiles, roomy, workflows

from sim import cli
from sim.detector import RepetitionDetector
from sim.errors import PolicyError
from sim.fleet import fleet_of
from sim.foresight import Information
from sim.load import ConcurrentSessions, SessionRate
from sim.policies import Policy, parse_policy, policies
from sim.retention import LRU
from sim.rules import KINDS, Ahead, Dispatch, Gate, Informed, Retention, Router, RunsOn, Speculation, Verdict
from sim.run import Run
from sim.session import Session
from sim.settings import EngineSettings
from sim.simulate import simulate
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow
from sim.world import World

NAMES = sorted(policies())
#: Those that are not made from what they should not know.
BLIND = [name for name in NAMES if not name.endswith(("_oracle", "_noisy"))]
#: Those whose decisions depend on when things happen, not only on their order.
TIMED = {
    "edf_mean": "a deadline is an instant",
    "edf_noisy": "a deadline is an instant",
    "edf_oracle": "a deadline is an instant",
    "pause": "the load of a workflow halves with each second that its tool runs",
}


@st.composite
def crowds(draw):
    """Three small workflows of two frameworks, of different tasks, so that one can be learned from another."""
    drawn = [draw(workflows(f"w{number}", max_nodes=6)) for number in range(3)]
    return [
        replace(workflow, framework="AB"[number % 2], task=f"t{number}", success=bool(number % 2))
        for number, workflow in enumerate(drawn)
    ]


some = settings(max_examples=6, deadline=None)
each = pytest.mark.parametrize("name", NAMES)


@each
def test_a_rule_is_a_frozen_value_that_says_what_it_is(name):
    entry = policies()[name]
    rule = entry.rule
    assert vars(rule)["__dataclass_params__"].frozen
    about = inspect.getdoc(rule)
    assert 0 < about.index("Information:") < about.index("Source:")
    assert sum(issubclass(rule, kind) for kind in KINDS) == 1
    assert rule.runs_on in get_args(RunsOn)
    assert set(rule.needs) <= set(EngineSettings.model_fields)
    assert set(entry.parameters.values()) <= {int, float, int | None, float | None}
    if issubclass(rule, Informed):
        assert ("oracle" in name) == (entry.given["information"] == "oracle")
        assert entry.given["information"] in get_args(Information)


@each
def test_a_rule_reads_back_from_its_own_name_with_any_parameters(name):
    plain = parse_policy(name)
    assert parse_policy(str(plain)) == plain
    assert hash(parse_policy(name)) == hash(plain)
    for parameter in policies()[name].parameters:
        changed = others(name, parameter)
        assert changed, f"no value of {parameter} makes sense but the default"
        for policy in changed:
            assert policy != plain
            assert parse_policy(str(policy)) == policy
            assert policy.rules[0] == parse_policy(str(policy)).rules[0]
    with pytest.raises(PolicyError, match="no parameter 'nonsense'"):
        parse_policy(f"{name}:nonsense=1")


def others(name, parameter):
    """The policy with other values of the parameter, where they make sense."""
    found = []
    for value in ("0.25", "0.95", "1e-07", "3", "1e+16", "70"):
        try:
            found.append(parse_policy(f"{name}:{parameter}={value}"))
        except PolicyError:
            continue
    return [policy for policy in found if policy != parse_policy(name)]


@each
@some
@given(crowds(), profiles(), st.sampled_from([ConcurrentSessions(2), SessionRate(2.0)]), st.integers(0, 9))
def test_under_every_policy_workflows_end_the_same_way_each_time_and_in_macro_steps(name, crowd, drawn, load, seed):
    settings = drawn.engine.model_copy(update={"enable_prefix_caching": True})
    # Reading KV makes every step another, so that nothing comes at the very end of one (see law 8 of the engine).
    engine = drawn.model_copy(update={"engine": settings})
    engine = engine.with_coefficients({"kv_token_s": engine.step_time.kv_token_s + 2**0.5 * 1e-6})
    policy, fleet = parse_policy(name), fleet_of(engine, 2)
    result, again = (simulate(crowd, policy, fleet, load, seed) for _ in range(2))
    assert sorted(session.workflow_id for session in result.sessions) == ["w0", "w1", "w2"]
    for session in result.sessions:
        calls = {call.id for workflow in crowd for call in workflow.calls if workflow.id == session.workflow_id}
        mine = [record for record in result.records if record.session == session.session]
        assert len({record.call_id for record in mine}) == len(mine)
        assert {record.status for record in mine} <= {"finished", "failed"}
        if session.status == "finished":
            assert {record.call_id for record in mine} == calls
        elif session.status == "aborted":
            assert policy.rule(Verdict).aborts
        else:
            assert any(record.reason for record in mine)
    assert again == result
    # Two replicas that end a step within a rounding of each other may do so in either order.
    fleet = fleet if policy.rule(Router) else fleet_of(engine)
    result, steps = (simulate(crowd, policy, fleet, load, seed, macro) for macro in (True, False))
    assert len(steps.records) == len(result.records)
    for one, other in zip(result.records, steps.records, strict=True):
        assert (one.finished_s or 0) == pytest.approx(other.finished_s or 0, rel=1e-9)
        assert one._replace(**TIMES) == other._replace(**TIMES)


#: What may differ by a rounding.
TIMES = dict.fromkeys(("sent_s", "scheduled_s", "first_token_s", "finished_s"), 0.0)


choices = st.lists(st.integers(0, 10_000), min_size=20, max_size=20)


def world(name, crowd):
    return World(parse_policy(name), fleet_of(profile(roomy()), 2), dict(enumerate(crowd)), 0)


@pytest.mark.parametrize("name", BLIND)
@settings(max_examples=20, deadline=None)
@given(crowds(), choices, st.integers(1, 15))
def test_9_no_decision_depends_on_what_has_not_happened(name, crowd, choices, events):
    one = Driver(world(name, crowd).run(), crowd).drive(choices[:events])
    # Who learns from other workflows expects something else if those were different, and nothing if it was itself.
    changed = crowd[:1] if "_mean" in name else crowd
    futures = [
        another_future(workflow, {node for session, node in one.ended if session == number}, parse_policy(name))
        for number, workflow in enumerate(changed)
    ]
    futures += crowd[len(changed) :]
    other = Driver(world(name, futures).run(), futures).drive(choices[:events])
    session = 0 if "_mean" in name else None
    assert one.starts(session) == other.starts(session)


def another_future(workflow, ended, policy):
    """The workflow with other lengths and times of what has not ended, another outcome, and another end of its graph.

    Where the policy may know which node comes next, the graph remains.
    """
    reached = {node for node, parents in workflow.parents.items() if ended.issuperset(parents)}
    kept = [node for node in workflow.nodes if node.id in reached or not policy.is_bounded]
    lengths = workflow.tape.output_tokens
    longer = {call.answer_id: 3 * lengths[call.id] + 1 for call in workflow.calls if call.id not in ended}
    nodes = [lengthened(node, longer) if isinstance(node, Call) else node for node in kept]
    edges = [edge for edge in workflow.edges if {edge.parent, edge.child} <= {node.id for node in kept}]
    if len(reached) < len(workflow.nodes):
        nodes.append(Call("later", "agent-0", (Segment("later", 7),), "answer-later"))
        edges += [Edge(node.id, "later", "visible") for node in kept]
    tape = Tape(
        {one.id: longer.get(one.answer_id) or lengths[one.id] for one in nodes if one.id in lengths} | {"later": 99},
        {one.id: 9.0 for one in kept if isinstance(one, Tool)},
    )
    if nodes[-1].id != "later":
        del tape.output_tokens["later"]
    success = not workflow.success
    return replace(
        workflow, nodes=tuple(nodes), edges=tuple(edges), tape=tape, success=success, labels={"1.3": success}
    )


def lengthened(call, longer):
    """The call with the new lengths of answers in its prompt."""
    prompt = (replace(one, num_tokens=longer.get(one.segment_id, one.num_tokens)) for one in call.prompt)
    return replace(call, prompt=tuple(prompt))


@pytest.mark.parametrize("name", ["srpt_oracle", "critical_path_noisy", "justitia_oracle"])
def test_9_would_notice_one_that_knows_the_future(name):
    calls = tuple(Call(name, "agent", (Segment(name, 5),), f"answer-{name}") for name in "ab")
    flow = Workflow("w", "f", "t", calls, (Edge("a", "b", "visible"),), Tape({"a": 3, "b": 3}, {}))
    future = another_future(flow, set(), parse_policy(name))
    one, other = (Driver(world(name, [flow]).run(), [flow]).drive([0]) for flow in (flow, future))
    assert [start[:2] for start in one.starts()[0]] == [start[:2] for start in other.starts()[0]] == [(0, "a")]
    assert one.starts() != other.starts()


@each
@settings(max_examples=8, deadline=None)
@given(crowds(), choices)
def test_10_the_same_order_of_events_gives_the_same_decisions_whenever_they_happen(name, crowd, choices):
    one, other = (
        Driver(world(name, crowd).run(), crowd, now_s).drive(choices)
        for now_s in (float, lambda number: 100 + number**2)
    )
    if name.startswith("edf"):
        assert one.starts() != other.starts()
    elif name not in TIMED:
        assert one.starts() == other.starts()


def test_only_existing_policies_are_excused_from_law_10():
    assert set(TIMED) <= set(NAMES)


#: Everything that the nosy rules below were told, and by which of their methods.
TOLD: list[object] = []
ASKED: set[str] = set()


def note(method, *told):
    ASKED.add(method)
    TOLD.extend(told)


class Nosy:
    def arrived(self, *told):
        note("arrived", *told)

    def finished(self, *told):
        note("finished", *told)

    def over(self, *told):
        note("over", *told)


@dataclass(frozen=True)
class NosyDispatch(Nosy, Dispatch):
    name = "nosy_dispatch"

    def select(self, *told):
        note("select", *told)
        return told[0].ready


@dataclass(frozen=True)
class NosyOrder(Nosy, Informed):
    name = "nosy"

    def key(self, *told):
        note("key", *told)
        return 0


@dataclass(frozen=True)
class NosyGate(Nosy, Gate):
    name = "nosy_gate"
    every_s: float = 1.0

    def tick(self, *told):
        note("tick", *told)

    def admitted(self, *told):
        note("admitted", *told)
        return [view.session for view in told[0]]


@dataclass(frozen=True)
class NosyRouter(Nosy, Router):
    name = "nosy_router"

    def route(self, *told):
        note("route", *told)
        return told[2][0].number


@dataclass(frozen=True)
class NosyRetention(Nosy, Retention):
    name = "nosy_retention"
    kept = LRU


@dataclass(frozen=True)
class NosyAhead(Nosy, Ahead):
    name = "nosy_ahead"

    def wants(self, *told):
        note("wants", *told)
        return True


@dataclass(frozen=True)
class NosySpeculation(Nosy, Speculation):
    name = "nosy_speculation"

    def guessed(self, *told):
        note("guessed", *told)
        return bool(told[1] == "t")


@dataclass(frozen=True)
class NosyVerdict(Nosy, Verdict):
    name = "nosy_verdict"
    aborts = False
    detector: ClassVar[RepetitionDetector] = RepetitionDetector()


NOSY = (
    NosyDispatch(),
    NosyOrder(),
    NosyGate(),
    NosyRouter(),
    NosyRetention(),
    NosyAhead(),
    NosySpeculation(),
    NosyVerdict(),
)


def reachable(*roots):
    """Everything that these objects hold, and what that holds; not what belongs to the program itself."""
    seen, left = {}, list(roots)
    while left:
        one = left.pop()
        if id(one) not in seen and not isinstance(one, type | ModuleType | FunctionType):
            seen[id(one)] = one
            left += gc.get_referents(one)
    return list(seen.values())


def test_9_from_what_a_rule_is_told_no_workflow_can_be_reached():
    assert len(NOSY) == len(KINDS)
    calls = [Call(name, "agent", (Segment("s", 5),), f"answer-{name}") for name in "abc"]
    nodes = (calls[0], Tool("t", "tool"), Tool("u", "tool"), calls[1], calls[2])
    edges = tuple(Edge(*pair, "visible") for pair in ("at", "au", "tb", "uc"))
    flow = Workflow("w", "f", "task", nodes, edges, Tape(dict.fromkeys("abc", 3), {"t": 1.0, "u": 1.0}))
    TOLD.clear()
    driver = Driver(World(Policy(NOSY), fleet_of(profile(), 2), {0: flow, 1: flow}, 0).run(), [flow, flow])
    driver.drive(range(30))
    assert {"arrived", "finished", "over"} < ASKED
    assert {"select", "key", "tick", "admitted", "route", "wants", "guessed"} < ASKED
    hidden = Workflow, Tape, Session, Run, World
    assert not [one for one in reachable(*TOLD) if isinstance(one, hidden)]
    assert {type(one).__name__ for one in reachable(*TOLD) if type(one).__module__ == "sim.foresight"} == {"Estimate"}
    # The search finds them where they are.
    assert {type(one) for one in reachable(driver.run)} >= {Workflow, Tape, Session, Run}


MINE = '''
from __future__ import annotations

from dataclasses import dataclass

from sim.rules import Order, Submission, View


@dataclass(frozen=True)
class Mine(Order):
    """Short prompts first. Information: the prompt. Source: ours."""

    name = "mine"

    weight: int = 1

    def key(self, submission: Submission, view: View, memory: object) -> float:
        return self.weight * submission.call.num_prompt_tokens
'''

PICK = """
from dataclasses import dataclass

from sim.rules import Dispatch


@dataclass(frozen=True)
class Pick(Dispatch):
    name = "pick"

    def select(self, view):
        return {}
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`workspan run` in a folder with these files, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    traces = jsonl(tmp_path / "traces.jsonl", WORKFLOW)

    def run(policy, source):
        (tmp_path / "mymod.py").write_text(source)
        arguments = ["run", traces.name, "--policy", policy, "--baseline", "sequential", "--json"]
        monkeypatch.setattr(sys, "argv", ["workspan", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return CompletedProcess(arguments, end.value.code or 0, out, err)

    yield run
    sys.modules.pop("mymod", None)


@pytest.mark.parametrize(
    ("text", "name"),
    [("mymod:Mine", "mine"), ("mymod:Mine:weight=2+async:max_parallel=2", "async:max_parallel=2+mine:weight=2")],
)
def test_a_rule_in_a_file_of_ones_own_is_a_policy(run, text, name):
    done = run(text, MINE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["policies"][text]["policy"] == name


def test_a_result_names_the_source_of_a_rule_of_ones_own(run):
    names = []
    for source in (MINE, MINE + "#"):
        names.append(json.loads(run("mymod:Mine", source).stdout)["provenance"]["rules_of_your_own"]["mymod"])
        sys.modules.pop("mymod")
    assert names[0] != names[1]
    assert "rules_of_your_own" not in json.loads(run("async", MINE).stdout)["provenance"]


def test_an_object_of_a_rule_of_ones_own_is_a_policy(run):
    done = run("mymod:THREE", MINE + "THREE = Mine(3)")
    assert json.loads(done.stdout)["policies"]["mymod:THREE"]["policy"] == "mine:weight=3"
    assert parse_policy("mymod:THREE") == parse_policy("mymod:Mine:weight=3")


@pytest.mark.parametrize(
    ("text", "source", "problem"),
    [
        ("mimod:Mine", MINE, "no policy 'mimod'"),
        ("mymod:Mein", MINE, "mymod has no 'Mein'"),
        ("mymod:Mine:wait=1", MINE, "no parameter 'wait'; did you mean 'weight'?"),
        ("mymod:Mine:weight=x", MINE, "weight='x' is not a whole number"),
        ("mymod:Mine+plas", MINE, "both say what becomes of the queue"),
        ("mymod:Mine", MINE.replace("@dataclass(frozen=True)", ""), "no frozen dataclass of a kind"),
        ("mymod:Mine", MINE.replace("(frozen=True)", ""), "mymod cannot be imported (TypeError"),
        ("mymod:Mine", MINE.replace("class Mine(Order)", "class Mine"), "no frozen dataclass of a kind"),
        ("mymod:MINE", MINE + "def MINE(): pass", "no frozen dataclass of a kind"),
        ("mymod:Mine", MINE.replace('name = "mine"', 'name = "fcfs"'), "the rule's name is 'fcfs'; give it one"),
        ("mymod:Mine", MINE.replace('name = "mine"', ""), "the rule's name is ''; give it one"),
        ("mymod:Mine", MINE.replace("def key", "def kye"), "abstract"),
        ("mymod:Mine", MINE.replace("weight: int = 1", "weight: int"), "weight"),
        ("mymod:Mine", "import nonexistent_module", "mymod cannot be imported (ModuleNotFoundError"),
        ("mymod:Mine", "1 / 0", "mymod cannot be imported (ZeroDivisionError"),
        ("mymod:Mine", "def f(:\n", "mymod cannot be imported (SyntaxError"),
    ],
)
def test_what_is_wrong_with_ones_own_rule_is_said_in_one_line(run, text, source, problem):
    assert_one_line(run(text, source), problem)


@pytest.mark.parametrize(
    ("text", "source", "problem"),
    [
        ("mymod:Mine", MINE.replace("self.weight *", "1e999 *"), "the key of a call is inf; give a number"),
        ("mymod:Mine", MINE.replace("self.weight *", "(1e999 - 1e999) *"), "the key of a call is nan; give a number"),
        ("mymod:Mine", MINE.replace("self.weight *", "None and"), "the key of a call is None; give a number"),
        ("mymod:Pick", PICK.format("()"), "policy pick: it starts nothing of"),
        ("mymod:Pick", PICK.format("view.ready * 2"), "starts what is not ready"),
    ],
)
def test_what_ones_own_rule_may_not_answer_is_said_in_one_line(run, text, source, problem):
    done = run(text, source)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("PolicyError: ")
    assert problem in done.stderr.splitlines()[-1]
