"""What becomes of cached blocks, where it is not what vLLM does; and what an engine tells of its load."""

from dataclasses import asdict, dataclass, field

import pytest
import simpy
from hypothesis import event, given, settings
from hypothesis import strategies as st
from strategies import profile, profiles, roomy

from sim.engine import Sent, SimulatedServer
from sim.kv import Prefixes
from sim.latency import StepTime
from sim.request import Request
from sim.retention import LRU, CpuTier, FarthestFirst, Offloaded, TtlPin, Upcoming
from sim.signals import Signals, pooled
from sim.workflow import Call, Edge, Segment, Tape, Workflow

ONE_SECOND = StepTime(const_s=1.0, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0)


@dataclass
class Session:
    """A chat: it begins with what all share and goes on with (tokens of the user, of the answer, seconds until then).

    The turn of number ``gone`` is aborted so long after it was sent; so is the chat.
    """

    number: int
    arrives_s: float
    shared: int
    turns: list[tuple[int, int, float]]
    gone: tuple[int, float] | None = None
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self):
        prompt = [Segment(f"shared-{self.shared}", self.shared)] if self.shared else []
        for turn, (user, answer, _) in enumerate(self.turns):
            prompt.append(Segment(f"{self.number}-user-{turn}", user))
            self.calls.append(Call(f"{self.number}.{turn}", "agent", tuple(prompt), f"{self.number}-answer-{turn}"))
            prompt.append(Segment(f"{self.number}-answer-{turn}", answer))

    @property
    def workflow(self):
        edges = [Edge(one.id, other.id, "recorded") for one, other in zip(self.calls, self.calls[1:], strict=False)]
        outputs = {call.id: answer for call, (_, answer, _) in zip(self.calls, self.turns, strict=True)}
        return Workflow(f"w{self.number}", "drawn", "", tuple(self.calls), tuple(edges), Tape(outputs, {}))


class Play:
    """Chats on one server; after it what was done, what was told, and the server itself."""

    def __init__(self, engine, sessions, macro_steps=True, looks=(), resets=(), **kept):
        self.env, self.done, self.told, self.number = simpy.Environment(), [], [], 0
        self.server = SimulatedServer(self.env, engine, self._end, macro_steps, **kept)
        self.sessions = {session.number: session for session in sessions}
        for session in sessions:
            self._at(session.arrives_s, lambda session=session: self._arrive(session))
        for at in looks:
            self._at(at, lambda: self.server.observe(lambda signals: self.told.append((self.env.now, signals))))
        for at in resets:
            self._at(at, self.server.reset_prefix_cache)
        self.env.run()

    def _at(self, seconds, act):
        self.env.timeout(seconds).callbacks.append(lambda _: act())

    def _arrive(self, session):
        distances = {call.id: float(turn) for turn, call in enumerate(session.calls)}
        self.server.expect(session.number, session.workflow, distances)
        self._send(session, 0)

    def _send(self, session, turn):
        call, (_, answer, _) = session.calls[turn], session.turns[turn]
        request = Request(
            call.prompt, Segment(call.answer_id, answer), arrival_s=self.env.now, priority=-turn, number=self.number
        )
        self.number += 1
        sent = Sent(session.number, call, request, self.env.now)
        self.server.send(sent)
        if session.gone and session.gone[0] == turn:
            self._at(session.gone[1], lambda: self._abort(sent))

    def _abort(self, sent):
        if sent not in self.done:
            self.server.abort(sent)
            self.server.release(sent.session)

    def _end(self, sent):
        self.done.append(sent)
        session, turn = self.sessions[sent.session], int(sent.call.id.partition(".")[2])
        if sent.reason or turn + 1 == len(session.calls):
            self.server.release(session.number)
            return
        self.server.advance(session.number, turn + 1.0)
        self._at(session.turns[turn][2], lambda: self._send(session, turn + 1))

    @property
    def cached(self):
        return [call.request.num_cached_tokens for call in self.done]

    @property
    def scheduler(self):
        return self.server._scheduler


#: Such that sums of them are exact: one that is rounded comes in time for the end of a step or not (docs/engine.md).
seconds = st.sampled_from([0.0, 1.0, 3.0, 30.0]) | st.integers(0, 40 * 64).map(lambda number: number / 64)
retentions = st.sampled_from([LRU, TtlPin(2.0), TtlPin(30.0), TtlPin(float("inf")), *2 * [FarthestFirst()]])
tiers = st.sampled_from([None, None, CpuTier(3, 0.25), CpuTier(30, 0.0), CpuTier(10**6, 0.125)])


@st.composite
def chats(draw):
    """Sessions that come while others run, think for a while and go on."""
    sessions = []
    for number in range(draw(st.integers(1, 6))):
        turn = st.tuples(st.integers(1, 40), st.integers(1, 60), seconds)
        turns = draw(st.lists(turn, min_size=2, max_size=4))
        gone = draw(st.none() | st.none() | st.tuples(st.integers(0, 3), seconds))
        sessions.append((number, draw(seconds), draw(st.sampled_from([0, 16, 30])), turns, gone))
    return sessions


#: Every step another length, so that nothing comes within rounding of the end of one; or a second.
caching = profiles(min_blocks=12).map(
    lambda drawn: drawn.model_copy(update={"engine": drawn.engine.model_copy(update={"enable_prefix_caching": True})})
)
engines = caching.map(
    lambda drawn: drawn.with_coefficients({"kv_token_s": drawn.step_time.kv_token_s + 2**0.5 * 1e-6})
) | caching.map(lambda drawn: profile(drawn.engine, ONE_SECOND))


@settings(max_examples=400, deadline=None)
@given(chats(), engines, retentions, tiers, st.lists(seconds, max_size=4))
def test_8_macro_steps_change_nothing_with_pins_next_uses_a_tier_aborts_and_observers(chats, engine, kept, tier, looks):
    macro, step = (
        Play(engine, [Session(*chat) for chat in chats], macro_steps, looks, retention=kept, cpu_tier=tier)
        for macro_steps in (True, False)
    )
    assert [facts(call) for call in macro.done] == [facts(call) for call in step.done]
    for one, other in zip(macro.done, step.done, strict=True):
        if not one.reason:
            assert times(one) == pytest.approx(times(other), rel=1e-9)
    assert len(macro.told) == len(step.told) == len(looks)
    for (at, signals), (its_at, its_signals) in zip(macro.told, step.told, strict=True):
        assert (at, signals) == (pytest.approx(its_at, rel=1e-9), its_signals)
    one, other = (
        {name: value for name, value in asdict(play.server.stats).items() if value is not None}
        for play in (macro, step)
    )
    assert one == pytest.approx(other, rel=1e-9)
    for play in (macro, step):
        pool, pins = play.scheduler.pool, play.scheduler.pins
        play.server._make_changes()
        assert not pins
        assert pool.num_free_blocks == pool.num_usable_blocks
        assert not play.scheduler.upcoming
    event(f"preemptions: {macro.server.stats.num_preemptions > 0}, hits: {any(macro.cached)}, {type(kept).__name__}")
    event(f"in the tier at the end: {bool(tier and len(macro.scheduler._offloaded))}")


def facts(call):
    request = call.request
    return call.call.id, call.reason, request.num_output_tokens, request.num_cached_tokens, request.num_preemptions


def times(call):
    return call.scheduled_s, call.first_token_s, call.finished_s


def small(**changes):
    """Blocks of four tokens, and a second a step."""
    return profile(roomy(block_size=4, **changes), ONE_SECOND)


@settings(max_examples=100, deadline=None)
@given(chats(), engines)
def test_pins_of_no_time_and_a_tier_of_no_room_change_nothing(chats, engine):
    lru, other = (
        Play(engine, [Session(*chat) for chat in chats], **kept)
        for kept in ({}, {"retention": TtlPin(0.0), "cpu_tier": CpuTier(0, 1.0)})
    )
    assert [facts(call) for call in lru.done] == [facts(call) for call in other.done]
    assert [times(call) for call in lru.done] == [times(call) for call in other.done]
    assert lru.server.stats == other.server.stats


def test_pins_turn_misses_into_hits_where_sessions_push_each_other_out():
    """Three chats in five blocks of 64 tokens, beside one call that holds a sixth and keeps the engine busy.

    A chat fills two blocks in five steps; ten seconds later it needs a third for one step more.
    """
    chats = [Session(n, 1.0 + 5 * n, 0, [(124, 5, 10.0), (63, 1, 0.0)]) for n in range(3)]
    chats.append(Session(3, 0.0, 0, [(1, 60, 0.0)]))
    engine = profile(roomy(block_size=64, num_gpu_blocks=7, scheduling_policy="priority"), ONE_SECOND)
    lru, pinned = (
        {call.call.id: (call.scheduled_s, call.request.num_cached_tokens) for call in Play(engine, chats, **kept).done}
        for kept in ({}, {"retention": TtlPin(20.0)})
    )
    # The third chat takes the empty block and the first's second, who takes both of the second's, and so on.
    assert [lru[f"{n}.{turn}"] for turn in range(2) for n in range(3)] == [
        *[(1, 0), (6, 0), (11, 0)],
        *[(16, 64), (21, 0), (26, 0)],
    ]
    # The third waits until the first has gone on, and ended.
    assert [pinned[f"{n}.{turn}"] for turn in range(2) for n in range(3)] == [
        *[(1, 0), (6, 0), (17, 0)],
        *[(16, 128), (21, 128), (32, 128)],
    ]


def test_pins_hurt_who_waits_for_blocks_that_nobody_comes_back_for():
    """A chat that thinks for 100 s holds two of five blocks; a decoding one two more, so a third waits."""
    chats = [
        Session(0, 0.0, 0, [(8, 1, 100.0), (4, 1, 0.0)]),
        Session(1, 2.0, 0, [(4, 5, 0.0)]),
        Session(2, 3.0, 0, [(8, 1, 0.0)]),
    ]
    starts = [
        {call.call.id: call.scheduled_s for call in Play(small(num_gpu_blocks=6), chats, retention=kept).done}
        for kept in (LRU, TtlPin(50.0), TtlPin(3.0))
    ]
    # Session 1 computes 4 to 8 tokens in 2..7 s: two blocks from the second step on, so that one of five is left.
    assert [start["2.0"] for start in starts] == [3, 7, 4]


def test_nobody_is_preempted_and_nothing_idles_for_a_pin():
    chats = [Session(0, 0.0, 0, [(16, 1, 500.0), (1, 1, 0.0)]), Session(1, 2.0, 0, [(4, 15, 0.0)])]
    play = Play(small(num_gpu_blocks=6), chats, retention=TtlPin(1000.0))
    assert play.server.stats.num_preemptions == 0
    assert times(play.done[1]) == (2, 3, 17)
    # It alone fills the pool: the pin has to go before it starts.
    full = [chats[0], Session(1, 2.0, 0, [(18, 1, 0.0)])]
    assert times(Play(small(num_gpu_blocks=6), full, retention=TtlPin(1000.0)).done[1]) == (2, 3, 3)


def test_of_two_pins_the_one_that_expires_first_ends():
    chats = [Session(n, 2.0 * n, 0, [(8, 1, 20.0 - 4 * n), (4, 1, 0.0)]) for n in range(2)]
    chats.append(Session(2, 4.0, 0, [(9, 1, 0.0)]))
    play = Play(small(num_gpu_blocks=6), chats, retention=TtlPin(1000.0))
    cached = {call.call.id: call.request.num_cached_tokens for call in play.done}
    assert (cached["1.1"], cached["0.1"]) == (8, 0)


def test_what_is_read_again_first_stays_where_lru_would_lose_it():
    """A chat that goes on and two single calls of two blocks each, in five: the third call takes the oldest, or not."""
    chats = [
        Session(0, 0.0, 0, [(8, 1, 10.0), (4, 1, 0.0)]),
        Session(1, 2.0, 0, [(8, 1, 0.0)]),
        Session(2, 4.0, 0, [(12, 1, 0.0)]),
    ]
    assert Play(small(num_gpu_blocks=6), chats).cached == [0, 0, 0, 0]
    assert Play(small(num_gpu_blocks=6), chats, retention=FarthestFirst()).cached == [0, 0, 0, 8]


def test_the_index_knows_the_next_reader_of_every_prefix():
    prefixes, upcoming = Prefixes(4), Upcoming()
    one, other = Session(0, 0, 8, [(8, 4, 0), (4, 4, 0), (4, 4, 0)]), Session(1, 0, 8, [(4, 1, 0)])
    first, last = (prefixes.keys(one.calls[turn].prompt).paths for turn in (0, 2))
    upcoming.expect(prefixes, 0, one.workflow, {"0.0": 0.0, "0.1": 5.0, "0.2": 9.0})
    upcoming.expect(prefixes, 1, other.workflow, {"1.0": 2.0})
    upcoming.advance(1, -1.0)
    assert [upcoming.next_use(path) for path in last] == [0, 0, 5, 5, 9, 9]
    upcoming.sent(0, "0.0")
    assert [upcoming.next_use(path) for path in first] == [3, 5]
    upcoming.advance(0, 4.0)
    assert [upcoming.next_use(path) for path in last] == [1, 1, 1, 1, 5, 5]
    waiting = prefixes.keys(other.calls[0].prompt)
    upcoming.wait(waiting)
    assert [upcoming.next_use(path) for path in first] == [0, 1]
    upcoming.leave(waiting)
    upcoming.forget(0)
    assert [upcoming.next_use(path) for path in first] == [3, float("inf")]
    upcoming.forget(1)
    assert (upcoming._readers, upcoming._waiting, len(upcoming)) == ({}, {}, 0)


def test_a_step_that_loads_from_the_tier_is_longer_by_exactly_that():
    chats = [Session(0, 0.0, 0, [(12, 1, 9.0), (4, 1, 0.0)]), Session(1, 2.0, 0, [(20, 1, 0.0)])]
    play = Play(small(num_gpu_blocks=6), chats, cpu_tier=CpuTier(100, 0.25))
    # The other call takes all five blocks; the three of the chat come back: 12 tokens, 3 s, before a step of 1 s.
    assert play.cached == [0, 0, 12]
    assert times(play.done[2]) == (10, 14, 14)
    assert play.server.stats.busy_s == 3 + 3
    signals = play.server.signals()
    assert (signals.prefix_queries, signals.prefix_hits) == (12 + 20 + 17, 0)


def test_a_full_tier_drops_tails_and_what_came_first():
    keys = Prefixes(4).keys([Segment("a", 24)])
    tier = Offloaded(4)
    tier.put(keys.paths[0], 3, 6)
    tier.put(keys.paths[0], 0, 3)
    assert [tier.num_found(keys, first, 6) for first in range(5)] == [4, 3, 2, 1, 0]
    tier.remove(keys, 0, 2)
    tier.put(99, 0, 3)
    assert (len(tier), tier.num_found(keys, 2, 6)) == (4, 1)


@settings(max_examples=100, deadline=None)
@given(chats(), engines, st.integers(0, 40))
def test_a_tier_is_never_over_full_and_one_client_computes_no_more_with_it(chats, engine, num_blocks):
    def one_client(**kept):
        # A chat of its own for each: an answer starts the next at once, so that never two calls are under way.
        turns = [turn for _, _, _, turns, _ in chats for turn in turns]
        return Play(engine, [Session(0, 0.0, 16, turns)], **kept)

    lru, tier = one_client(), one_client(cpu_tier=CpuTier(10**6, 0.0))
    for one, other in zip(lru.done, tier.done, strict=True):
        assert (other.request.num_cached_tokens or 0) >= (one.request.num_cached_tokens or 0)
    crowd = Play(engine, [Session(*chat) for chat in chats], cpu_tier=CpuTier(num_blocks, 0.0))
    assert len(crowd.scheduler._offloaded) <= num_blocks


@pytest.mark.parametrize("kept", [{"cpu_tier": CpuTier(100, 0.0)}, {"retention": TtlPin(1e6)}])
def test_resetting_the_cache_forgets_the_tier_and_the_pins_too(kept):
    chats = [Session(0, 0.0, 0, [(12, 1, 1000.0), (4, 1, 0.0)]), Session(1, 2.0, 0, [(8, 1, 0.0)])]
    cached = []
    for resets in ([], [500.0]):
        cached.append(Play(small(num_gpu_blocks=6), chats, resets=resets, **kept).cached[-1])
    assert cached == [12, 0]


def test_signals_tell_the_state_at_the_end_of_the_step_under_way():
    chats = [Session(0, 0.0, 0, [(8, 5, 0.0)]), Session(1, 1.5, 0, [(8, 1, 0.0)])]
    play = Play(small(num_gpu_blocks=11, max_num_seqs=1), chats, looks=[2.5, 2.0, 100.0])
    # Two full blocks and one that is begun; the other call is queued at 2 s, for the only slot.
    half = Signals(kv_use=0.3, kv_tokens=40, prefix_queries=8, prefix_hits=0, num_running=1, num_waiting=1)
    told = [(2.0, half._replace(num_waiting=0)), (3.0, half)]
    idle = (100.0, Signals(0.0, 40, 16, 0, 0, 0))
    assert [(at, signals._replace(kv_use=pytest.approx(signals.kv_use))) for at, signals in [*told, idle]] == play.told


def test_several_engines_are_one_by_their_room():
    one, other = Signals(0.5, 100, 10, 5, 1, 2), Signals(0.1, 300, 30, 0, 3, 4)
    assert pooled([one, other]) == Signals(pytest.approx(0.2), 400, 40, 5, 4, 6)


def test_an_abort_cuts_a_run_of_steps_short():
    chats = [Session(0, 0.0, 0, [(8, 100, 0.0)], (0, 9.5)), Session(1, 1.0, 0, [(8, 100, 0.0)])]
    for macro_steps in (True, False):
        play = Play(small(), chats, macro_steps)
        assert [call.call.id for call in play.done] == ["1.0"]
        # Steps of both from 1 s to 10 s, of the other alone before and after.
        assert play.server.stats.num_rows == 10 + 100
