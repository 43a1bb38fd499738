from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import profiles, workflows

from sim.bounds import reusable_tokens
from sim.kv import Prefixes
from sim.reuse import SharedCache
from sim.workflow import Segment

laws = settings(max_examples=150, deadline=None)


def reached(workflow, node, following):
    """The node and all that are reached from it."""
    found, left = set(), [node]
    while left:
        one = left.pop()
        found.add(one)
        left += following[one]
    return found


def leading(workflow, call, others, size):
    """The most leading blocks of the call that one of these (workflow, call) writes, by comparing them one by one."""
    prefixes = Prefixes(size)

    def keys(workflow, call):
        return prefixes.keys((*call.prompt, Segment(call.answer_id, workflow.tape.output_tokens[call.id])))

    mine = keys(workflow, call)
    written = [
        min(mine.num_common(keys(owner, other)), (owner.num_tokens(other) - 1) // size) for owner, other in others
    ]
    return max(written, default=0)


@laws
@given(workflows(), profiles())
def test_reusable_is_what_any_call_that_is_no_descendant_begins_with(workflow, engine):
    size = engine.engine.block_size
    found = reusable_tokens(workflow, engine)
    for call in workflow.calls:
        after = reached(workflow, call.id, workflow.children)
        others = [(workflow, other) for other in workflow.calls if other.id not in after]
        blocks = min((call.num_prompt_tokens - 1) // size, leading(workflow, call, others, size))
        assert found[call.id] == (size * blocks if engine.engine.enable_prefix_caching else 0)


@laws
@given(st.tuples(*(workflows(name=f"w{i}", max_nodes=5) for i in range(3))), profiles())
def test_sessions_that_share_a_server_find_what_any_other_session_writes(crowd, engine):
    size = engine.engine.block_size
    cache = SharedCache(crowd, engine.engine)
    for session, workflow in enumerate(crowd):
        elsewhere = [(other, call) for other in crowd if other is not workflow for call in other.calls]
        for call in workflow.calls:
            after = reached(workflow, call.id, workflow.children)
            before = reached(workflow, call.id, workflow.parents)
            earlier = [(workflow, other) for other in workflow.calls if other.id not in after]
            beside = [(workflow, other) for _, other in earlier if other.id not in before]
            cached = min((call.num_prompt_tokens - 1) // size, leading(workflow, call, elsewhere + earlier, size))
            held = leading(workflow, call, elsewhere + beside, size)
            expected = (size * cached, size * held) if engine.engine.enable_prefix_caching else (0, 0)
            assert cache.tokens(session)[call.id] == expected
