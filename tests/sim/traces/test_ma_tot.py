"""MA-ToT: the tree of one made-up round, damage, and counts on every real file."""

import ast
import gzip
import json
from collections import Counter

import pytest

from sim.choices import without_unknown
from sim.tokens import Tokenizer
from sim.traces import Document, LoadOptions, load_document, read

WORDS = LoadOptions(Tokenizer("words", lambda text: len(text.split())))
STARS = "*" * 50
DECISION = "At least two verified reasoners agree. Final Answer: 1"


def load(trajectory, **keys):
    data = {"instance_id": "id", "problem_statement": "how many", "trajectory": trajectory, **keys}
    (item,) = load_document(Document("some/folder/run.json", json.dumps(data)), WORDS)
    return item


def reasoner(number, *steps, final=None):
    """The log of a reasoner; a step is (thoughts, votes, the chosen thought)."""
    lines = [f"***** Reasoner {number} output: ***** ", "Starting reasoning process for question: how many", ""]
    for step, (thoughts, votes, chosen) in enumerate(steps, start=1):
        lines += [f"Step {step}: Generation", "", f"Generated thoughts: {[thoughts]}", f"Step {step}: Evaluation"]
        lines += [f"Votes for each thought: {votes}", f"Step {step}: Selection"]
        lines += [f"Selected thoughts for the next step: {[chosen]}"]
        final = chosen
    return [*lines, f"Final selected thought: {[final]}", "", STARS]


def verdict(number, text="right"):
    return [f"Reasoner {number}: Answer: None, Verified: True", "Verifier response:", *text.split("\n"), STARS]


def round_(number, *lines):
    return [f" ########## Round {number} ########## ", *(line for part in lines for line in part)]


ONE = reasoner(1, (["a b ", "c"], [2, 1], "a b "), (["a b d e f", "a b g"], [0, 3], "a b g"))
TWO = reasoner(2, (["h", "i"], [1, 1], "i"))
RUN = [*round_(1, ONE, TWO, verdict(1, "x\n\ny"), verdict(2)), DECISION]


def parents(workflow, kind):
    found = {}
    for edge in workflow.edges:
        if edge.kind == kind:
            found.setdefault(int(edge.child[5:]), []).append(int(edge.parent[5:]))
    return {child: sorted(them) for child, them in sorted(found.items())}


def test_a_round_is_reasoners_side_by_side_each_with_its_steps_and_then_their_verifiers():
    workflow = load(RUN)
    agents = ["reasoner-1"] * 2 + ["voter-1"] * 3 + ["reasoner-1"] * 2 + ["voter-1"] * 3
    agents += ["reasoner-2"] * 2 + ["voter-2"] * 2 + ["verifier"] * 2
    assert [call.agent for call in workflow.calls] == agents
    assert (workflow.work(), workflow.span()) == (16, 5)
    assert (workflow.id, workflow.task) == ("ma-tot/folder/run", "id")
    assert (workflow.success, workflow.labels) == (None, {})


def test_votes_read_the_thoughts_and_what_follows_reads_the_chosen_one_and_waits_for_all_votes():
    workflow = load(RUN)
    assert parents(workflow, "visible") == {
        **{vote: [0, 1] for vote in (2, 3, 4)},
        **{thought: [0] for thought in (5, 6)},
        **{vote: [0, 5, 6] for vote in (7, 8, 9)},
        **{vote: [10, 11] for vote in (12, 13)},
        14: [0, 6],
        15: [11],
    }
    assert parents(workflow, "control") == {5: [2, 3, 4], 6: [2, 3, 4], 14: [7, 8, 9], 15: [12, 13]}
    assert all(edge.used for edge in workflow.edges)


def test_a_thought_that_goes_on_from_another_only_has_what_is_new():
    outputs = list(load(RUN).tape.output_tokens.values())
    assert [outputs[index] for index in (0, 1, 5, 6, 10, 11)] == [2, 1, 3, 1, 1, 1]
    assert [outputs[index] for index in (14, 15)] == [2, 1]


def test_votes_are_unknown_texts_all_different_ones():
    workflow = load(RUN)
    votes = [call for call in workflow.calls if call.agent.startswith("voter")]
    assert len({call.answer_id for call in votes}) == 3 + 3 + 2
    assert all(call.answer_is_unknown and workflow.tape.output_tokens[call.id] == 400 for call in votes)
    assert "400 tokens" in workflow.notes[0]


def test_sequences_of_a_step_share_their_prompt_and_a_later_step_begins_with_it():
    calls = load(RUN).calls
    assert calls[0].prompt == calls[1].prompt == calls[10].prompt
    assert calls[5].prompt == calls[6].prompt
    assert calls[5].prompt[:3] == calls[0].prompt[:3]
    assert calls[2].prompt == calls[4].prompt != calls[12].prompt
    # Header, template, problem, thoughts, and the tokens that begin the answer.
    assert [segment.num_tokens for segment in calls[5].prompt] == [4, 60, 2, 2, 3]
    assert [segment.num_tokens for segment in calls[7].prompt] == [4, 70, 2, 2, 3, 2, 1, 3]
    assert [segment.num_tokens for segment in calls[14].prompt] == [4, 250, 2, 2, 1, 3]
    known = [call.num_prompt_tokens for call in without_unknown(load(RUN)).calls]
    assert [known[index] for index in (0, 2, 14)] == [4 + 2 + 3, 4 + 2 + 2 + 1 + 3, 4 + 2 + 2 + 1 + 3]


def test_a_round_waits_for_all_verifiers_of_the_last_but_does_not_read_them():
    both = [*round_(1, TWO, verdict(2)), "No agreement among verified answers.", *round_(2, ONE, TWO), *verdict(1)]
    workflow = load([*both, *verdict(2), "Maximum rounds reached."])
    assert [call.agent for call in workflow.calls].index("verifier") == 4
    control = parents(workflow, "control")
    assert [child for child, them in control.items() if them == [4]] == [5, 6, 15, 16]
    assert 4 not in {parent for them in parents(workflow, "visible").values() for parent in them}
    assert workflow.span() == 3 + 5


def test_of_equal_thoughts_the_one_with_more_votes_was_chosen():
    workflow = load([*round_(1, reasoner(1, (["a", "a"], [0, 2], "a")), verdict(1)), DECISION])
    assert parents(workflow, "visible")[4] == [1]


def test_a_log_that_ends_early_keeps_what_is_there_and_says_so():
    assert not any("later calls" in note for note in load(RUN).notes)
    calls = [(call.agent, call.prompt) for call in load(RUN).calls]
    for end, number in ((7, 2), (9, 5), (len(RUN) - 5, 15), (len(RUN) - 3, 16), (len(RUN) - 1, 16)):
        workflow = load(RUN[:end])
        assert "later calls may be missing" in workflow.notes[-1]
        assert [(call.agent, call.prompt) for call in workflow.calls] == calls[:number]


def test_a_question_of_several_lines_is_no_damage():
    lines = [*RUN[:3], "many and", "how much", *RUN[3:]]
    assert load(lines, problem_statement="how\nmany and\nhow much").span() == 5


def test_labels_are_kept():
    assert load(RUN, note={"options": {"Step repetition": "yes", "Other": "no"}}).labels == {
        "1.3": True,
        "Other": False,
    }


def without(text):
    return [line for line in RUN if text not in line]


def instead(old, new):
    return [line.replace(old, new) for line in RUN]


@pytest.mark.parametrize(
    ("trajectory", "problem"),
    [
        (without("Votes"), "selection after thoughts"),
        (without("Generated"), "votes after reasoner"),
        (without("Final"), "reasoner after selection"),
        (without("Reasoner 1: "), "no line of MA-ToT's log"),
        (without("Verifier response"), 'the next must be "Verifier response:"'),
        (without(STARS), "the line of asterisks before it is missing"),
        (RUN[1:], "reasoner after begin"),
        ([*RUN[:-5], DECISION], "a round ends before all its reasoners were verified"),
        ([*RUN[:-5], *round_(2, ONE)], "a round ends before"),
        ([*RUN, *round_(2, ONE)], "round after decision"),
        (instead("Reasoner 2:", "Reasoner 1:"), "no final thought in this round"),
        (instead("Reasoner 2 output", "Reasoner 1 output"), "different reasoners"),
        (round_(1, *(reasoner(number, (["a"], [1], "a")) for number in range(11))), "up to 10 different reasoners"),
        (round_(1, reasoner(1, *[(["a"], [1], "a")] * 11)), "more than 10 steps"),
        (instead("'a b d e f'", "'e f'"), "does not begin with the one that was chosen"),
        (instead("step: ['i']", "step: ['j']"), "one of those that were generated"),
        (instead("step: ['i']", "step: ['h', 'i']"), "needs one selected thought"),
        (instead("thought: ['i']", "thought: ['h']"), "not the one selected last"),
        (instead("[2, 1]", "[2, 1, 0]"), "each thought needs a number of votes"),
        (instead("[2, 1]", "[0, 0]"), "each thought needs a number of votes"),
        (instead("[2, 1]", "[2, 9]"), "all together 1 to 10"),
        (instead("[2, 1]", "[3, -1]"), "a number of votes is below 0"),
        (instead("[2, 1]", "[True, 1]"), "votes must be a list of 1 to 10 numbers"),
        (instead("[2, 1]", "[2, " + "9" * 5000 + "]"), "votes must be a list"),
        (instead("[['h', 'i']]", "[['h', 3]]"), "thoughts must be a list of 1 to 10 texts"),
        (instead("[['h', 'i']]", str([["h"] * 11])), "thoughts must be a list of 1 to 10 texts"),
        (instead("[['h', 'i']]", "[['h', 'i'"), "thoughts must be a list"),
        (instead("[['h', 'i']]", "[" * 100_000), "thoughts must be a list"),
        (instead("[['h', 'i']]", "-" * 100_000 + "1"), "thoughts must be a list"),
        (instead("[['h', 'i']]", "{[]: 1}"), "thoughts must be a list"),
        (instead("[['h', 'i']]", "[['h\x00']]"), "thoughts must be a list"),
        (instead("[['h', 'i']]", "[['h\ud800']]"), "thoughts must be a list"),
        (instead("[['h', 'i']]", "'" + "h" * 1_000_000 + "'"), "thoughts must be a list"),
        ([*RUN[:3], None, *RUN[3:]], "entry 3 of the trajectory: no text"),
        ([*RUN[:-3], 3, *RUN[-3:]], "no text"),
        (["***** Reasoner 1 output: *****"], "reasoner after begin"),
        (["########## Round 1 ##########"], "no LLM call"),
    ],
)
def test_damage_is_named(trajectory, problem):
    assert problem in load(trajectory).reason


def test_a_run_without_a_problem_or_a_name_is_named():
    assert "no problem" in load(RUN, problem_statement=["how many"]).reason
    assert "the instance has no usable name" in load(RUN, instance_id=3).reason


def test_no_text_gets_into_a_reason():
    for item in (load([*RUN, "a secret"]), load(instead("'a b d e f'", "'secret'"))):
        assert "secret" not in item.reason


@pytest.fixture(scope="module")
def trajectories(mast):
    with gzip.open(mast / "ma_tot.jsonl.gz", "rt") as lines:
        return [json.loads(json.loads(line)["text"])["trajectory"] for line in lines]


def count(trajectories):
    """Calls as the lines tell of them."""
    counts = Counter()
    for line in (line for lines in trajectories for line in lines):
        counts["rounds"] += "# Round " in line
        counts["verifications"] += ", Verified: " in line
        if line.startswith("Votes"):
            counts["votes"] += sum(ast.literal_eval(line.partition(": ")[2]))
        if line.startswith("Generated"):
            counts["generations"] += len(ast.literal_eval(line.partition(": ")[2])[0])
    return counts


def test_the_real_trees_are_as_wide_and_deep_as_measured(mast, trajectories):
    workflows, report = read([mast / "ma_tot.jsonl.gz"], WORDS)
    assert (len(workflows), report.skipped) == (5, [])
    agents = Counter(call.agent.split("-")[0] for workflow in workflows for call in workflow.calls)
    assert agents == {"reasoner": 330, "voter": 330, "verifier": 33}
    assert count(trajectories) == {"rounds": 11, "generations": 330, "votes": 330, "verifications": 33}
    assert [workflow.span() / 5 for workflow in workflows] == [1, 3, 3, 2, 2]
    work, span = (sum(getattr(workflow, what)() for workflow in workflows) for what in ("work", "span"))
    assert work / span == pytest.approx(12.6)
    assert not any("later calls" in note for workflow in workflows for note in workflow.notes)


def test_by_recorded_output_tokens_there_is_less_to_gain(mast):
    workflows, _ = read([mast / "ma_tot.jsonl.gz"], WORDS)
    work = span = 0
    for workflow in workflows:
        tokens = {
            call.id: 0 if call.answer_is_unknown else workflow.tape.output_tokens[call.id] for call in workflow.calls
        }
        work, span = work + workflow.work(tokens), span + workflow.span(tokens)
    assert work / span == pytest.approx(7.91, abs=0.05)  # in tokens of cl100k_base; these are words


def test_the_second_thoughts_all_repeat_the_first(mast, trajectories):
    """Counted on the lines: the outputs are the thoughts without what was chosen before."""
    characters = thoughts = 0
    for lines in trajectories:
        chosen = ""
        for line in lines:
            if line.startswith("***** Reasoner"):
                chosen = ""
            elif line.startswith("Selected"):
                (chosen,) = ast.literal_eval(line.partition(": ")[2])
            elif line.startswith("Generated"):
                for text in ast.literal_eval(line.partition(": ")[2])[0]:
                    thoughts += bool(chosen) and text.startswith(chosen)
                    characters += len(text) - len(chosen)
    assert thoughts == 165
    workflows, _ = read([mast / "ma_tot.jsonl.gz"], LoadOptions(Tokenizer("characters", len)))
    outputs = [
        workflow.tape.output_tokens[call.id]
        for workflow in workflows
        for call in workflow.calls
        if call.agent.startswith("reasoner")
    ]
    assert sum(outputs) == characters


def test_labels_of_the_real_trees_are_those_of_the_annotators(mast):
    labels = Counter(
        label
        for workflow in read([mast / "ma_tot.jsonl.gz"], WORDS)[0]
        for label, present in workflow.labels.items()
        if present
    )
    assert labels == {
        "Difficulty in agreeing with agents": 2,
        "Proceed with incorrect assumptions": 2,
        "2.5": 1,
        "2.2": 1,
    }
