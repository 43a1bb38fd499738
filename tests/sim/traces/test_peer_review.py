import json

import pytest

from sim.traces import Document, LoadOptions, load_document, read


def debate(trajectory, **keys):
    data = {"instance_id": "id", "trajectory": trajectory, **keys}
    (item,) = load_document(Document("d.json", json.dumps(data)), LoadOptions())
    return item


def talk(*texts):
    """Messages that alternate between user and assistant."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def test_a_review_reads_its_own_history_and_the_answer_quoted_in_it():
    workflow = debate(
        {
            "0": talk(
                "question", "alpha", "Here is a solution from another agent: \n\n beta\n\n Review.", "fine by me"
            ),
            "1": talk("question", "beta", "Here is a solution from another agent: \n\n alpha\n\n Review.", "not so"),
        }
    )
    assert [node.agent for node in workflow.calls] == ["agent-0", "agent-1", "agent-0", "agent-1"]
    assert {(edge.parent, edge.child) for edge in workflow.edges} == {
        ("call-0", "call-2"),
        ("call-1", "call-2"),
        ("call-1", "call-3"),
        ("call-0", "call-3"),
    }
    assert workflow.span() == 2


def test_a_short_answer_that_only_occurs_in_the_wording_is_not_read():
    review = "Here is a solution from another agent: \n\n {}\n\n Please examine a solution."
    feedback = "Here are the feedbacks: \n\n One agent feedback: {} \n\n One agent feedback: {}\n\n What now?"
    workflow = debate(
        {
            "0": talk("question", "a", review.format("b"), "no", feedback.format("on", "or"), "b"),
            "1": talk("question", "b", review.format("c"), "on", feedback.format("no", "or"), "b"),
            "2": talk("question", "c", review.format("b"), "or", feedback.format("no", "on"), "b"),
        }
    )
    assert [workflow.parents[f"call-{number}"] for number in range(3)] == [()] * 3
    assert [workflow.parents[f"call-{number}"] for number in range(3, 6)] == [
        ("call-0", "call-1"),
        ("call-1", "call-2"),
        ("call-2", "call-1"),
    ]
    assert workflow.parents["call-8"] == ("call-5", "call-3", "call-4")


def test_a_long_answer_is_read_wherever_it_stands():
    answer = "beta, because of everything that has been said so far about it"
    workflow = debate({"0": talk("question", "alpha", f"Of '{answer}' what?", "fine"), "1": talk("question", answer)})
    assert workflow.parents["call-2"] == ("call-0", "call-1")


def test_labels_are_kept():
    workflow = debate(
        {"0": talk("question", "answer")}, note={"options": {"Derailing from task objectives": "yes", "Other": "no"}}
    )
    assert workflow.labels == {"2.3": True, "Other": False}


@pytest.mark.parametrize(
    ("trajectory", "problem"),
    [
        ({"0": "text"}, "agent 0 has no list"),
        ({"0": [{"role": "judge", "content": "x"}]}, "agent 0, message 0"),
        ({"0": [{"role": "user", "content": None}]}, "agent 0, message 0"),
        ({"0": []}, "no LLM call"),
        ({"0": talk("question")}, "no LLM call"),
        ({"0": [{"role": "assistant", "content": "x"}]}, None),
    ],
)
def test_a_message_that_cannot_be_read_is_named(trajectory, problem):
    item = debate(trajectory)
    assert problem in item.reason if problem else len(item.calls) == 1


def test_the_five_real_debates_have_twelve_calls_of_depth_four(mast):
    workflows, report = read([mast / "peer_review.jsonl.gz"])
    assert (len(workflows), report.skipped) == (5, [])
    for workflow in workflows:
        assert (len(workflow.calls), workflow.span(), workflow.parallelism()) == (12, 4, 3)
        assert len(workflow.edges) == 21
        # First answers; each review reads its own last call and one answer; the revision reads both reviews.
        assert any(workflow.labels.values())
        assert sorted(len(workflow.parents[call.id]) for call in workflow.calls) == [0] * 3 + [2] * 6 + [3] * 3
