"""vLLM's rules, each by hand on a tiny engine."""

import pytest
from strategies import roomy

from sim.kv import Prefixes
from sim.request import Request
from sim.scheduler import Scheduler
from sim.workflow import Segment


def request(name, tokens, output=1, shared=0):
    prompt = (Segment("shared", shared),) if shared else ()
    return Request((*prompt, Segment(name, tokens)), Segment(f"answer-{name}", output))


def scheduler(max_num_seqs=4, **settings):
    return Scheduler(roomy(max_num_seqs=max_num_seqs, **settings))


def steps(engine, count=None):
    """Run until idle or so many steps: per step {first segment of the own prompt: tokens}."""
    seen = []
    while (engine.waiting or engine.running) and (count is None or len(seen) < count):
        batch = engine.schedule()
        seen.append({r.prompt[-1].segment_id: num_new for r, num_new, _ in engine.all_rows(batch)})
        engine.update(batch)
    return seen


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget_and_decodes_come_first():
    engine = scheduler(max_num_batched_tokens=10)
    engine.add(request("a", 4, output=3))
    engine.add(request("b", 20))
    assert steps(engine) == [{"a": 4, "b": 6}, {"a": 1, "b": 9}, {"a": 1, "b": 5}]


def test_no_more_requests_run_than_there_are_slots():
    engine = scheduler(max_num_seqs=2)
    for name in "abc":
        engine.add(request(name, 5, output=2))
    assert steps(engine) == [{"a": 5, "b": 5}, {"a": 1, "b": 1}, {"c": 5}, {"c": 1}]


def test_a_head_of_queue_that_does_not_fit_stops_those_behind_it():
    engine = scheduler(num_gpu_blocks=5, block_size=4)
    for name, tokens in (("a", 8), ("b", 12), ("c", 4)):
        engine.add(request(name, tokens, output=2))
    assert steps(engine, 1) == [{"a": 8}]


def test_full_sequence_reservation_wants_blocks_for_the_whole_prompt():
    for reserve, first in ((True, {"a": 4}), (False, {"a": 4, "b": 4})):
        engine = scheduler(num_gpu_blocks=4, block_size=4, max_num_batched_tokens=8, scheduler_reserve_full_isl=reserve)
        engine.add(request("a", 4, output=2))
        engine.add(request("b", 12))
        assert steps(engine, 1) == [first]


def test_the_youngest_is_preempted_recomputed_and_nobody_is_admitted_in_that_step():
    engine = scheduler(num_gpu_blocks=5, block_size=4, enable_prefix_caching=False)
    old, young, late = request("a", 7, output=6), request("b", 8, output=6), request("c", 1)
    for one in (old, young, late):
        engine.add(one)
    # a needs a third block when its 9th token is computed, in the third step; b's blocks are the only ones.
    seen = steps(engine, 4)
    assert seen[:2] == [{"a": 7, "b": 8}, {"a": 1}]
    assert young.num_preemptions == 1
    assert old.num_preemptions == 0
    assert engine.waiting.head() is young
    assert steps(engine)[-1]
    assert (old.num_output_tokens, young.num_output_tokens, late.num_output_tokens) == (6, 6, 1)


def test_a_later_request_of_the_same_step_hits_blocks_that_are_not_computed_yet():
    engine = scheduler(block_size=4)
    engine.add(request("a", 3, shared=8))
    engine.add(request("b", 3, shared=8))
    assert steps(engine) == [{"a": 11, "b": 3}]


def test_the_last_token_of_a_full_hit_is_computed_again_with_its_block():
    engine = scheduler(block_size=4)
    engine.add(request("a", 8))
    steps(engine)
    engine.add(request("a", 8))
    assert steps(engine) == [{"a": 4}]


def test_an_answer_is_cached_except_for_its_last_token():
    engine = scheduler(block_size=4)
    engine.add(request("a", 4, output=4))
    steps(engine)
    again = Request((Segment("a", 4), Segment("answer-a", 4), Segment("more", 4)), Segment("x", 1))
    engine.add(again)
    steps(engine)
    assert again.num_cached_tokens == 4
    engine = scheduler(block_size=4)
    engine.add(request("a", 4, output=5))
    steps(engine)
    again = Request((Segment("a", 4), Segment("answer-a", 5), Segment("more", 4)), Segment("x", 1))
    engine.add(again)
    steps(engine)
    assert again.num_cached_tokens == 8


def test_the_least_recently_freed_block_loses_its_content_first():
    engine = scheduler(num_gpu_blocks=5, block_size=4)
    for name in "ab":
        engine.add(request(name, 8))
        steps(engine)
    engine.add(request("c", 8))
    steps(engine)
    for name, cached in (("b", 4), ("a", 0)):
        again = request(name, 8)
        engine.add(again)
        steps(engine, 1)
        assert again.num_cached_tokens == cached
        steps(engine)


def test_blocks_without_content_are_reused_first_since_0_26():
    for version, hit in (("0.32.0", 4), ("0.19.0", 0)):
        engine = scheduler(num_gpu_blocks=4, block_size=4, vllm_version=version)
        engine.add(request("a", 6))
        steps(engine)
        # Free now: two blocks never used, then a's second (no content), then its first (cached).
        engine.add(request("b", 3))
        steps(engine)
        engine.add(request("c", 7))
        steps(engine)
        again = request("a", 6)
        engine.add(again)
        steps(engine)
        assert again.num_cached_tokens == hit


def test_what_never_fits_is_refused_with_a_reason():
    settings = roomy(num_gpu_blocks=4, block_size=4, max_model_len=20)
    assert settings.refusal(21) == "prompt and answer have 21 tokens, max_model_len is 20"
    assert settings.refusal(14) == "needs 4 KV blocks, the pool has 3"
    assert settings.refusal(13) == ""


@pytest.mark.parametrize("other", [(Segment("a", 5), Segment("b", 8)), (Segment("a", 4), Segment("c", 8))])
def test_prefixes_agree_exactly_as_far_as_their_segments(other):
    prefixes = Prefixes(4)
    one = prefixes.keys((Segment("a", 4), Segment("b", 8)))
    assert one.num_blocks == 3
    assert prefixes.keys((Segment("a", 4), Segment("b", 8))) == one
    shared = [index for index in range(3) if one.path(index) == prefixes.keys(other).path(index)]
    assert len(shared) == (other[0].num_tokens == 4)


def test_content_that_is_cut_by_blocks_is_found_across_the_end_of_a_prompt():
    engine = scheduler(block_size=4)
    blocks = tuple(Segment(f"block-{i}", 4) for i in range(4))
    one = Request((Segment("prompt", 6),), Segment("answer", 11), content=blocks)
    engine.add(one)
    steps(engine)
    # 6 tokens of prompt and 10 of the answer, whose last is never written: four blocks, the second of them of both.
    other = Request((Segment("other", 18),), Segment("more", 1), content=blocks)
    engine.add(other)
    assert steps(engine) == [{"other": 2}]
    assert (one.num_cached_tokens, other.num_cached_tokens) == (0, 16)


def test_what_is_cached_is_forgotten_only_while_nothing_runs():
    engine = scheduler(block_size=4)
    first = request("a", 8, output=3)
    engine.add(first)
    engine.update(engine.schedule())
    assert not engine.reset_prefix_cache()
    steps(engine)
    second, third = request("a", 8), request("a", 8)
    engine.add(second)
    steps(engine)
    assert second.num_cached_tokens == 4
    engine.add(third)
    assert engine.reset_prefix_cache()
    steps(engine)
    assert third.num_cached_tokens == 0
