"""The embedded workflows: what they are, and that no text came with them."""

import gzip
import re
from collections import Counter

from sim.data import embedded_path
from sim.traces import read


def test_some_hundred_real_workflows_are_embedded():
    workflows, report = read([embedded_path()])
    assert Counter(workflow.framework for workflow in workflows) == {"AG2": 252, "Peer-Review": 5, "AppWorld": 1}
    assert report.skipped == []
    assert {workflow.tokenizer for workflow in workflows} == {"tiktoken cl100k_base"}
    for workflow in workflows:
        assert workflow.parallelism() == (3 if workflow.framework == "Peer-Review" else 1)


def test_names_are_hashes_identifiers_or_agents_and_never_text():
    workflows, _ = read([embedded_path()])
    identifier = re.compile(r"[\w./:-]+")
    for workflow in workflows:
        assert identifier.fullmatch(workflow.id)
        assert identifier.fullmatch(workflow.task)
        for call in workflow.calls:
            assert re.fullmatch(r"answer:[0-9a-f]{12}", call.answer_id)
            for segment in call.prompt:
                known = segment.segment_id.startswith(("system:", "chat:", "answer:"))
                assert known or re.fullmatch(r"[0-9a-f]{12}", segment.segment_id)
    agents = {node.agent for workflow in workflows for node in workflow.calls}
    assert all(identifier.fullmatch(agent) for agent in agents)
    assert len(agents) < 10
    assert {tool.name for workflow in workflows for tool in workflow.tools} == {"python", "code"}


def test_runs_of_one_setting_begin_their_prompts_alike():
    workflows, _ = read([embedded_path()])
    pairs = [workflow for workflow in workflows if "gpt-4o_orig_prompt_orig" in workflow.id]
    first = pairs[0].calls[0].prompt[:2]
    assert {workflow.calls[0].prompt[:2] for workflow in pairs} == {first}
    # System message and instructions; 46.9 % of the prompt tokens of the full set.
    prompts = [call.prompt for workflow in pairs for call in workflow.calls]
    total = sum(segment.num_tokens for prompt in prompts for segment in prompt)
    assert 0.4 < len(prompts) * sum(segment.num_tokens for segment in first) / total < 0.55


def test_the_file_says_where_it_comes_from():
    with gzip.open(embedded_path(), "rt") as lines:
        header = next(lines)
    assert "MASFT @ 37d1ebd2" in header
    assert "without any text" in header
