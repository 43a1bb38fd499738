"""Drawn and resampled workflows."""

import dataclasses
import hashlib
import inspect
import math
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, takewhile
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import workflows

import sim.synthetic
from sim.data import embedded_path
from sim.errors import RunError
from sim.patterns import Debate, FanOut, MapReduce, PlannerWorkers, TreeOfThought
from sim.resample import resample
from sim.synthetic import Lognormal, Pattern, generate, parse_pattern, patterns
from sim.traces import jsonl, read
from sim.workflow import Call, Segment, Tape, Workflow

SHIPPED = ["debate", "fan_out", "map_reduce", "planner_workers", "tree_of_thought"]
# Drawn only where a law needs many: every pattern with small counts.
few = st.integers(1, 4)
debates = st.integers(2, 4).flatmap(
    lambda agents: st.builds(
        Debate, agents=st.just(agents), rounds=few, neighbours=st.none() | st.integers(1, agents - 1)
    )
)
trees = few.flatmap(
    lambda n: st.builds(TreeOfThought, steps=few, thoughts=st.just(n), votes=few, beam=st.integers(1, n))
)
drawn = st.one_of(
    debates,
    trees,
    st.builds(FanOut, branches=few),
    st.builds(MapReduce, mappers=st.integers(2, 9), fan_in=st.integers(2, 4)),
    st.builds(PlannerWorkers, rounds=few, workers=few, tools=few),
)
laws = settings(max_examples=100, deadline=None)


def one(text, seed=0):
    return generate(parse_pattern(text), 1, seed)[0]


def bytes_of(found):
    return "".join(jsonl.dump(found, {}))


def lengths_of(workflow):
    return tuple((call.num_prompt_tokens, workflow.tape.output_tokens[call.id]) for call in workflow.calls)


@pytest.mark.parametrize(
    ("text", "calls", "tools", "span"),
    [
        ("debate:agents=3,rounds=4", 12, 0, 4),
        ("debate:agents=1,rounds=5", 5, 0, 5),
        ("debate:agents=4,rounds=2,neighbours=1", 8, 0, 2),
        ("fan_out:branches=5", 7, 0, 3),
        ("map_reduce:mappers=9,fan_in=3", 9 + 3 + 1, 0, 3),
        ("map_reduce:mappers=10,fan_in=3", 10 + 3 + 1 + 1, 0, 4),  # the tenth goes up until there is room for it
        ("map_reduce:mappers=2,fan_in=8", 3, 0, 2),
        ("tree_of_thought", 5 + 5 + 5 + 5 + 1, 0, 5),
        ("tree_of_thought:steps=3,thoughts=4,votes=3,beam=2", (4 + 3) + 2 * (8 + 3) + 1, 0, 7),
        ("planner_workers:rounds=2,workers=3,tools=4", 2 * (1 + 3 * 5) + 1, 2 * 3 * 4, 2 * 6 + 1),
    ],
)
def test_calls_tools_and_span_are_those_counted_by_hand(text, calls, tools, span):
    workflow = one(text)
    assert (len(workflow.calls), len(workflow.tools), workflow.span()) == (calls, tools, span)
    assert workflow.work() == calls


def test_tools_lengthen_the_span_of_planner_workers_by_what_they_take():
    workflow = one("planner_workers:rounds=2,workers=3,tools=4,tool_s=2.5,tool_s_sigma=0")
    assert set(workflow.tape.tool_s.values()) == {2.5}
    assert workflow.span({call.id: 0.0 for call in workflow.calls} | workflow.tape.tool_s) == 2 * 4 * 2.5


def names(workflow, call):
    """The prompt of the n-th call, its segments named by who said them."""
    said = {one.answer_id: one.id for one in workflow.calls}
    return [said.get(segment.segment_id, segment.segment_id) for segment in workflow.calls[call].prompt]


def test_a_debater_goes_on_from_its_own_history_and_reads_the_others():
    workflow = one("debate:agents=3,rounds=2,system_sigma=0")
    task, turn = workflow.task, "synthetic:turn"
    first = ["system:Synthetic-Debate:debater:201", turn, task, turn]
    assert [names(workflow, n) for n in range(3)] == [first] * 3
    assert names(workflow, 4) == [*first, "call-1", turn, "call-0", "call-2", turn]
    assert workflow.parents["call-4"] == ("call-1", "call-0", "call-2")
    assert [call.agent for call in workflow.calls] == ["debater-0", "debater-1", "debater-2"] * 2


def test_a_debater_waits_for_those_it_does_not_read_only_by_the_rule_of_rounds():
    workflow = one("debate:agents=4,rounds=2,neighbours=1")
    edges = [edge for edge in workflow.edges if edge.child == "call-7"]
    assert [(edge.parent, edge.kind, edge.used) for edge in edges] == [
        ("call-3", "visible", True),
        ("call-0", "visible", True),
        ("call-1", "control", False),
        ("call-2", "control", False),
    ]


def test_votes_decide_on_the_next_thought_without_being_shown():
    workflow = one("tree_of_thought:steps=2,thoughts=2,votes=2,beam=1")
    thoughts, votes, later = ("call-0", "call-1"), ("call-2", "call-3"), ("call-4", "call-5")
    for vote in votes:
        assert workflow.parents[vote] == thoughts
    for thought in later:
        edges = [(edge.parent, edge.kind) for edge in workflow.edges if edge.child == thought]
        assert edges[0] in [(thoughts[0], "visible"), (thoughts[1], "visible")]
        assert edges[1:] == [(vote, "control") for vote in votes]
    kept = workflow.parents[later[0]][0]
    assert names(workflow, 6)[3:7] == [kept, "call-4", kept, "call-5"]  # whole paths are voted on


def test_kept_thoughts_are_different_ones():
    for seed in range(5):
        workflow = one("tree_of_thought:steps=2,thoughts=3,votes=1,beam=3", seed)
        later = [names(workflow, n)[3] for n in range(4, 13)]
        assert sorted(set(later)) == ["call-0", "call-1", "call-2"]


def test_workers_share_the_plan_and_read_what_is_their_own_part_after_it():
    workflow = one("fan_out:branches=2")
    one_part, other_part = names(workflow, 1), names(workflow, 2)
    assert one_part[2:4] == [workflow.task, "call-0"]
    assert [a == b for a, b in zip(one_part, other_part, strict=True)] == [True] * 4 + [False, True]


def test_a_worker_reads_what_its_tool_gave_and_the_planner_every_last_report():
    workflow = one("planner_workers:rounds=1,workers=2,tools=1,tool_output=70,tool_output_sigma=0")
    planner, asks, reports, _, other, last = workflow.calls
    assert [node.id for node in workflow.nodes][:4] == [planner.id, asks.id, "tool-0", reports.id]
    assert workflow.parents[reports.id] == (asks.id, "tool-0")
    assert reports.prompt[: len(asks.prompt)] == asks.prompt
    assert [segment.num_tokens for segment in reports.prompt[-2:]] == [70, 4]
    assert workflow.parents[last.id] == (planner.id, reports.id, other.id)


@laws
@given(drawn, st.integers(0, 3))
def test_a_visible_edge_is_an_answer_in_the_prompt_and_no_prompt_holds_an_answer_of_no_ancestor(pattern, seed):
    workflow = generate(pattern, 1, seed)[0]
    answers = {call.answer_id: call.id for call in workflow.calls}
    ancestors = {}
    for node in workflow.order:
        parents = workflow.parents[node]
        ancestors[node] = set(parents).union(*(ancestors[parent] for parent in parents))
    for call in workflow.calls:
        read = {answers[s.segment_id] for s in call.prompt if s.segment_id in answers}
        visible = {edge.parent for edge in workflow.edges if edge.child == call.id and edge.kind == "visible"}
        assert visible & set(answers.values()) <= read <= ancestors[call.id]
        hidden = {edge.parent for edge in workflow.edges if edge.child == call.id and edge.kind == "control"}
        assert not hidden & read
    assert len({(edge.parent, edge.child) for edge in workflow.edges}) == len(workflow.edges)


@laws
@given(drawn)
def test_workflows_share_system_prompts_and_nothing_else(pattern):
    first, second = ({s for call in w.calls for s in call.prompt} for w in generate(pattern, 2, seed=1))
    shared = {segment.segment_id for segment in first & second} - {"synthetic:turn"}
    assert shared
    assert all(name.startswith(f"system:{pattern.framework}:") for name in shared)
    assert shared == {name for name in (s.segment_id for s in first) if name.startswith("system:")}


@laws
@given(drawn, st.integers(0, 2**40), st.integers(2, 4))
def test_the_same_seed_gives_the_same_bytes_and_workflow_i_whatever_the_number(pattern, seed, number):
    found = generate(pattern, number, seed)
    assert bytes_of(found) == bytes_of(generate(pattern, number, seed))
    assert found[:1] == generate(pattern, 1, seed)
    assert [workflow.id for workflow in found] == [f"synthetic/{pattern}/{seed}/{i}" for i in range(number)]
    other = generate(pattern, number, seed + 1)
    assert not {lengths_of(workflow) for workflow in found} & {lengths_of(workflow) for workflow in other}
    assert len({lengths_of(workflow) for workflow in found}) == number


def test_another_process_draws_the_same():
    code = "\n".join(
        [
            "import hashlib",
            "from sim.resample import resample",
            "from sim.synthetic import generate, parse_pattern",
            "from sim.traces import jsonl",
            f"found = [w for name in {SHIPPED} for w in generate(parse_pattern(name), 2, 7)]",
            "text = ''.join(jsonl.dump([*found, *resample(found, 9, 7)], {}))",
            "print(hashlib.sha256(text.encode()).hexdigest())",
        ]
    )
    found = [workflow for name in SHIPPED for workflow in generate(parse_pattern(name), 2, 7)]
    expected = hashlib.sha256(bytes_of([*found, *resample(found, 9, 7)]).encode()).hexdigest()
    for hashing in "1", "2":
        environment = {"PYTHONHASHSEED": hashing, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("length", [Lognormal(139, 0.72), Lognormal(20, 0.3), Lognormal(1200, 0.0)])
def test_drawn_lengths_have_the_stated_median_and_spread(length):
    pattern = FanOut(branches=40, answer=length)
    found = [
        workflow.tape.output_tokens[call.id]
        for workflow in generate(pattern, 100, seed=3)
        for call in workflow.calls
        if call.agent.startswith("worker")
    ]
    # Of 4,000 draws the median's logarithm has a standard error of 1.25 sigma / 63; four of them, and rounding.
    assert len(found) == 4000
    assert abs(math.log(median(found) / length.median)) <= 0.08 * length.sigma + 0.5 / length.median
    assert np.std(np.log(found)) == pytest.approx(length.sigma, rel=0.06, abs=1e-9)


def test_a_draw_is_at_least_one_token_and_at_most_a_million():
    rng = np.random.default_rng(0)
    assert {Lognormal(1e-3, 0.0).tokens(rng), Lognormal(1e6, 3.0).tokens(rng)} <= {1, *range(1, 10**6 + 1)}
    assert max(Lognormal(1e6, 3.0).tokens(rng) for _ in range(50)) == 10**6
    assert Lognormal(1e-3, 0.0).tokens(rng) == 1


def test_every_pattern_is_found_by_its_name_and_can_be_typed_back():
    assert set(SHIPPED) <= set(patterns())
    for name in SHIPPED:
        assert str(parse_pattern(name)) == name
        usual = parse_pattern(name).parameters()
        for parameter, value in usual.items():
            other = value / 2 if isinstance(value, float) else 2 if value in (None, 1) else value - 1
            changed = parse_pattern(f"{name}:{parameter}={other}")
            assert changed.parameters()[parameter] != value
            assert parse_pattern(str(changed)) == changed


@given(drawn)
def test_a_pattern_is_what_one_would_type_for_it(pattern):
    assert parse_pattern(str(pattern)) == pattern


def test_a_pattern_given_all_its_defaults_by_hand_is_named_like_the_default():
    assert str(parse_pattern("debate:answer=116.0,agents=3,answer_sigma=.23")) == "debate"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("debat", "no pattern 'debat'; did you mean 'debate'?"),
        ("", "no pattern ''; known: "),
        ("debate:agent=3", "pattern debate has no parameter 'agent'; did you mean 'agents'?"),
        ("debate:agents=3,", "pattern debate has no parameter ''; known: "),
        ("debate:agents=3,agents=4", "a parameter occurs twice; give each once"),
        ("debate:agents=x", "pattern debate: agents='x' is no whole number"),
        ("debate:agents=2.5", "pattern debate: agents='2.5' is no whole number"),
        ("debate:agents", "pattern debate: agents='' is no whole number"),
        ("debate:agents=0", "pattern debate: agents=0; give 1 to 1,000"),
        ("debate:neighbours=3", "pattern debate: neighbours=3; give less than agents=3, or leave it out"),
        ("debate:answer=many", "pattern debate: answer='many' is no number"),
        ("debate:answer=0", "pattern debate: answer=0; give more than 0 and at most 1,000,000"),
        ("debate:answer=nan", "pattern debate: answer=nan; give more than 0"),
        ("debate:answer=inf", "pattern debate: answer=inf; give more than 0"),
        ("debate:answer_sigma=-1", "pattern debate: answer_sigma=-1; give 0 to 3"),
        ("debate:system_sigma=nan", "pattern debate: system_sigma=nan; give 0 to 3"),
        ("map_reduce:fan_in=1", "pattern map_reduce: fan_in=1; give 2 or more"),
        ("map_reduce:mappers=1", "pattern map_reduce: mappers=1; give 2 or more"),
        ("tree_of_thought:beam=6", "pattern tree_of_thought: beam=6; give at most thoughts=5"),
        ("planner_workers:tool_s=0", "pattern planner_workers: tool_s=0; give more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused_on_one_line(text, message):
    with pytest.raises(RunError) as caught:
        parse_pattern(text)
    assert message in str(caught.value)


def test_a_workflow_of_more_than_a_thousand_nodes_and_none_at_all_are_refused():
    with pytest.raises(RunError, match=r"debate:agents=100,rounds=11: more than 1,000 calls and tools; give smaller"):
        one("debate:agents=100,rounds=11")
    assert len(one("debate:agents=100,rounds=10").calls) == 1000
    with pytest.raises(RunError, match="0 workflows of pattern debate: give 1 or more"):
        generate(Debate(), 0, 1)


def test_the_example_of_the_docstring_is_a_pattern():
    lines = inspect.getdoc(sim.synthetic).split("\n")
    begin = next(number for number, line in enumerate(lines) if line.startswith("    @dataclass"))
    code = takewhile(lambda line: not line or line.startswith("    "), lines[begin:])
    scope = {"dataclass": dataclass, "Pattern": Pattern, "Lognormal": Lognormal, "Sketch": sim.synthetic.Sketch}
    exec(inspect.cleandoc("\n".join(code)), scope)
    workflow = one("relay:runners=5,answer=300,answer_sigma=0")
    assert (workflow.framework, workflow.span(), len(workflow.calls)) == ("Synthetic-Relay", 5, 5)
    assert set(workflow.tape.output_tokens.values()) == {300}


def prefix(first, second):
    """The segments that two prompts have in common from their beginning on."""
    return [
        one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first.prompt, second.prompt, strict=False))
    ]


def build(name, *prompts):
    """A chain without edges: a call per prompt, whose segments have as many tokens as their names have letters."""
    calls = tuple(
        Call(f"c{n}", "agent", tuple(Segment(part, len(part)) for part in prompt.split()), f"{name}-answer{n}")
        for n, prompt in enumerate(prompts)
    )
    outputs = {call.id: len(call.answer_id) for call in calls}
    return Workflow(name, "test", "task", calls, (), Tape(outputs, {}))


def copies_of(workflow_id, copies):
    return [workflow for workflow in copies if workflow.id.rpartition("#")[0] == workflow_id]


def test_a_copy_keeps_what_runs_have_in_common_and_renames_what_is_its_own():
    one = build("one", "template problem", "template problem one-answer0 tool", "system:test:a unknown:1-1 chat:end")
    two = build("two", "template other")
    copy = copies_of("one", resample([two, one], 20, seed=0))[1]
    suffix = copy.id.removeprefix("one")
    prompts = [[s.segment_id for s in call.prompt] for call in copy.calls]
    assert prompts == [
        ["template", f"problem{suffix}"],
        ["template", f"problem{suffix}", f"one-answer0{suffix}", f"tool{suffix}"],
        ["system:test:a", f"unknown:1-1{suffix}", "chat:end"],
    ]
    assert [call.answer_id for call in copy.calls] == [f"one-answer{n}{suffix}" for n in range(3)]
    assert copy.calls[2].prompt[1].is_unknown


def test_copies_share_no_answer_even_of_runs_that_are_the_same_word_for_word():
    one = build("one", "template", "template one-answer0 problem")
    twins = [one, dataclasses.replace(one, id="two")]
    copies = resample(twins, 20, seed=0)
    for pair in (copies_of("one", copies)[:2], (copies_of("one", copies)[0], copies_of("two", copies)[0])):
        first, second = (workflow.calls[1] for workflow in pair)
        assert [s.segment_id for s in prefix(first, second)] == ["template"]
        assert first.prompt[2] == second.prompt[2]  # the task was run more than once


@laws
@given(st.lists(workflows(), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 5))
def test_a_copy_is_its_original_in_all_but_names(source, number, seed):
    source = [
        Workflow(f"w{n}", w.framework, w.task, w.nodes, w.edges, w.tape, notes=("note",)) for n, w in enumerate(source)
    ]
    before = bytes_of(source)
    copies = resample(source, number, seed)
    assert bytes_of(source) == before
    assert len({copy.id for copy in copies}) == len(copies) == number
    for copy in copies:
        original = next(w for w in source if w.id == copy.id.rpartition("#")[0])
        assert (copy.edges, copy.tape, copy.notes) == (original.edges, original.tape, original.notes)
        assert copy.order == original.order
        assert [len(call.prompt) for call in copy.calls] == [len(call.prompt) for call in original.calls]
        for one, two in combinations(range(len(copy.calls)), 2):
            assert len(prefix(copy.calls[one], copy.calls[two])) == len(
                prefix(original.calls[one], original.calls[two])
            )
        values = {name: getattr(copy, name) for name in Workflow.__dataclass_fields__}
        assert Workflow(**values) == copy  # nothing that a check would refuse
    assert [w.id for w in resample(source, number + 3, seed)][:number] == [w.id for w in copies]


@laws
@given(st.lists(workflows(max_nodes=4), min_size=2, max_size=3), st.integers(0, 5))
def test_copies_of_two_runs_have_as_much_in_common_as_the_runs_up_to_the_first_answer(source, seed):
    source = [dataclasses.replace(workflow, id=f"w{n}") for n, workflow in enumerate(source)]
    answers = {call.answer_id for workflow in source for call in workflow.calls}
    for first, second in combinations(resample(source, 6, seed), 2):
        originals = [next(w for w in source if w.id == copy.id.rpartition("#")[0]) for copy in (first, second)]
        if originals[0] != originals[1]:
            theirs = prefix(*(workflow.calls[-1] for workflow in originals))
            expected = list(takewhile(lambda segment: segment.segment_id not in answers, theirs))
            assert prefix(first.calls[-1], second.calls[-1]) == expected


def test_two_copies_of_an_embedded_run_have_only_what_runs_have_in_common():
    source, _ = read([embedded_path()])
    own = {workflow.id: {call.answer_id for call in workflow.calls} for workflow in source}
    copies = resample(source, 2000, seed=1)
    assert len({workflow.id for workflow in copies}) == 2000
    answers = [answer for workflow in copies for answer in {call.answer_id for call in workflow.calls}]
    assert len(answers) == len(set(answers))  # no answer of one is an answer of another
    drawn = Counter(workflow.id.partition("#")[0] for workflow in copies)
    twice = next(name for name, number in drawn.items() if number > 1 and name.startswith("ag2/trajs_gpt-4o_orig"))
    first, second = copies_of(twice, copies)[:2]
    for one, two in zip(first.calls, second.calls, strict=True):
        shared = prefix(one, two)
        assert shared
        assert not {s.segment_id for s in shared} & own[twice]


def test_nothing_is_not_resampled():
    with pytest.raises(RunError, match="0 of 1 workflows: give 1 or more"):
        resample([build("one", "a")], 0, seed=0)
    with pytest.raises(RunError, match="3 of 0 workflows"):
        resample([], 3, seed=0)
