import json

import pytest

from sim.traces import Document, LoadOptions, load_document, read


def node(kind, text, agent=None):
    return {"type": kind, "content": f"Header\n    {text}", "agent": agent}


RUN = (
    node("agent_response", "send_message('app', 'go')", "Supervisor"),
    node("code_execution", "# CallExtension\n    send_message"),
    node("agent_entry", "", "App"),
    node("agent_message", "go", "App"),
    node("agent_response", "print(1)", "App"),
    node("agent_message", "1", "App"),
    node("agent_response", "reply('one')", "App"),
    node("agent_reply", "one"),
    node("agent_exit", "", "App"),
    node("api_response", "one"),
    node("agent_message", "one", "Supervisor"),
    node("agent_response", "print(2)", "Supervisor"),
    {"type": "code_execution", "content": 'Code\n\n    2\n\nEvaluation\n{\n    "success": true,\n    "difficulty": 1}'},
)


def task(nodes, edges=(), **metadata):
    data = {"metadata": {"task_id": "t_1", **metadata}, "nodes": list(nodes), "edges": edges}
    (item,) = load_document(Document("d.json", json.dumps(data)), LoadOptions())
    return item


def test_a_message_to_an_app_is_a_stack_of_calls_and_what_its_code_printed_is_a_tool():
    workflow = task(RUN, task_description="do it")
    assert [node.id for node in workflow.nodes] == ["call-0", "call-1", "tool-0", "call-2", "call-3", "tool-1"]
    assert [call.agent for call in workflow.calls] == ["Supervisor", "App", "App", "Supervisor"]
    assert workflow.parallelism() == 1
    assert workflow.success is True


def test_a_sub_agent_starts_fresh_each_time_and_the_supervisor_remembers():
    workflow = task((*RUN[:-1], *RUN[1:7]))
    first, again = workflow.calls[1], workflow.calls[4]
    assert first.prompt == again.prompt
    supervisor, later = workflow.calls[0], workflow.calls[3]
    assert later.prompt[: len(supervisor.prompt)] == supervisor.prompt
    assert later.prompt[len(supervisor.prompt)].segment_id == supervisor.answer_id


def test_an_agent_whose_name_is_spelt_in_two_ways_is_one():
    small = [{**item, "agent": "app"} if item["type"] == "agent_message" else item for item in RUN[:10]]
    spelt = task([*small, *RUN[10:]])
    assert spelt == task(RUN)


def test_the_system_prompt_has_a_guessed_length_that_can_be_told_from_what_was_recorded():
    workflow = task(RUN, task_description="do it")
    unknown = [segment.num_tokens for call in workflow.calls for segment in call.prompt if segment.is_unknown]
    assert unknown == [500] * 4
    assert any("500 tokens" in note for note in workflow.notes)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"type": "agent_response", "content": "x"}, "node 1 is an agent_response of nobody"),
        ({"type": "new_kind", "content": "x"}, "'new_kind' is not known"),
        ({"content": "x"}, 'node 1 needs a "type"'),
        ({"type": "agent_exit", "content": None}, 'node 1 needs a "type"'),
        (["x"], 'node 1 needs a "type"'),
    ],
)
def test_a_node_that_cannot_be_read_is_named(broken, problem):
    assert problem in task([RUN[0], broken]).reason


@pytest.mark.parametrize(
    ("edge", "problem"),
    [
        ({"source": "n0", "target": "n99"}, "edge 1 needs the ids of two nodes"),
        ({"source": "n0"}, "edge 1 needs the ids of two nodes"),
        ("n0 -> n1", "edge 1 needs the ids of two nodes"),
        ({"source": "n1", "target": "n0"}, "edge 1 leads back, from n1 to n0"),
        ({"source": "n1", "target": "n1"}, "edge 1 leads back, from n1 to n1"),
    ],
)
def test_an_edge_that_leads_nowhere_or_back_is_named(edge, problem):
    nodes = [{**node, "id": f"n{number}"} for number, node in enumerate(RUN)]
    good = {"source": "n0", "target": "n1"}
    assert len(task(nodes, [good]).calls) == 4
    assert problem in task(nodes, [good, edge]).reason


def test_the_real_file_has_eleven_calls_of_two_agents_in_a_chain(mast):
    (workflow,), report = read([mast / "appworld" / "aa8502b_1_dag.json"])
    assert report.skipped == []
    agents = [call.agent for call in workflow.calls]
    assert (agents.count("Supervisor"), agents.count("Spotify"), len(agents)) == (7, 4, 11)
    assert len(workflow.tools) == 7
    assert workflow.parallelism() == 1
    assert workflow.success is False
