"""The embedded workflows: what they are, and that no text came with them."""

import gzip
import re
from collections import Counter

import pytest

from sim.choices import without_unknown
from sim.data import embedded_path
from sim.stats import prefix_reuse
from sim.traces import read


@pytest.fixture(scope="module")
def embedded():
    """All embedded workflows."""
    workflows, report = read([embedded_path()])
    assert report.skipped == []
    return workflows


def test_every_run_that_can_be_made_from_the_originals_is_embedded(embedded):
    assert Counter(workflow.framework for workflow in embedded) == {
        "AG2": 1540,
        "AppWorld": 1,
        "ChatDev": 153,
        "HyperAgent": 337,
        "MA-ToT": 5,
        "MetaGPT": 31,
        "Peer-Review": 5,
    }
    assert {workflow.tokenizer for workflow in embedded} == {"tiktoken cl100k_base"}
    assert embedded_path().stat().st_size < 3_000_000


def test_only_two_frameworks_are_no_chains_under_the_conservative_rule(embedded):
    for workflow in embedded:
        if workflow.framework == "MA-ToT":
            assert workflow.parallelism() > 12
        else:
            assert workflow.parallelism() == (3 if workflow.framework == "Peer-Review" else 1)


# The originals' own share, counted on their texts with an infinite cache: AG2's on the runs that are here (0.623 on all
# 7,146 of the release), the others' on the whole release.
REUSE = {"AG2": 0.653, "HyperAgent": 0.826, "MetaGPT": 0.296, "Peer-Review": 0.69, "AppWorld": 0.754}


@pytest.mark.parametrize(("framework", "share"), REUSE.items())
def test_prefix_reuse_is_what_the_texts_imply(embedded, framework, share):
    known = [without_unknown(workflow) for workflow in embedded if workflow.framework == framework]
    tokens = sum(call.num_prompt_tokens for workflow in known for call in workflow.calls)
    assert sum(map(prefix_reuse, known)) / tokens == pytest.approx(share, abs=0.02)


def test_names_are_hashes_identifiers_or_agents_and_never_text(embedded):
    identifier = re.compile(r"[\w./:#-]+")
    hashed = re.compile(r"[0-9a-f]{12}|answer:[0-9a-f]{12}|unknown:[0-9a-f]{12}-\d+|chat:\w+")
    for workflow in embedded:
        assert identifier.fullmatch(workflow.id)
        assert identifier.fullmatch(workflow.task)
        for call in workflow.calls:
            assert hashed.fullmatch(call.answer_id)
    segments = {segment.segment_id for workflow in embedded for call in workflow.calls for segment in call.prompt}
    named = {name for name in segments if not hashed.fullmatch(name)}
    assert all(re.fullmatch(r"(unknown:)?(system|issue|template|chat):[\w :-]+", name) for name in named), named
    agents = {node.agent for workflow in embedded for node in workflow.calls}
    assert len(agents) < 60
    assert all(re.fullmatch(r"[\w -]+", agent) for agent in agents)
    tools = {tool.name for workflow in embedded for tool in workflow.tools}
    assert tools == {"python", "code", "client", "pip", "request"}
    notes = {note for workflow in embedded for note in workflow.notes}
    assert len(notes) < 25


def test_runs_of_one_setting_begin_their_prompts_alike(embedded):
    pairs = [workflow for workflow in embedded if "gpt-4o_orig_prompt_orig_topology_42" in workflow.id]
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
