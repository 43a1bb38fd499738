"""The whole engine as a queue that theory knows: its settings make it M/D/1, M/M/1 or processor sharing.

A sampled mean may be as far from theory as three of its standard errors, which batch means tell from the run itself.
"""

from heapq import heappop, heappush
from itertools import accumulate, pairwise
from math import ceil, inf, log, sqrt
from statistics import mean, stdev

import pytest
import simpy
from hypothesis import event, given, settings
from hypothesis import strategies as st
from strategies import profile, profiles, request, roomy

from sim import simulate
from sim.engine import Sent, SimulatedServer
from sim.latency import StepTime
from sim.load import SessionRate, generator
from sim.policies import parse_policy
from sim.request import Request
from sim.workflow import Call, Segment

#: Seconds, and tokens: a call's mean length. A token is so short that a step is next to nothing.
SERVICE_S, MEAN_TOKENS = 1.0, 1000
TOKEN_S = SERVICE_S / MEAN_TOKENS
CALLS, BATCHES = 4_000, 20

PER_STEP = StepTime(const_s=TOKEN_S, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0)
ONE_SECOND = PER_STEP.model_copy(update={"const_s": 1.0})
#: The prompt is one token, so that each row costs the same in each of its steps.
PER_ROW = PER_STEP.model_copy(update={"const_s": 1e-6, "prefill_token_s": TOKEN_S, "decode_seq_s": TOKEN_S})


def engine(step_time, **changes):
    """One whose blocks never bind."""
    return profile(roomy(num_gpu_blocks=10**7, **changes), step_time)


ONE_SLOT, SHARED = engine(PER_STEP, max_num_seqs=1), engine(PER_ROW, max_num_seqs=8192)


def shuffled(lengths):
    return generator(1, "lengths").permutation(lengths).tolist()


def constant(count):
    return [MEAN_TOKENS] * count


def exponential(count):
    """Its quantiles, so that their mean is exact."""
    return shuffled([ceil(-MEAN_TOKENS * log(1 - (i + 0.5) / count)) for i in range(count)])


def two_point(count):
    """Nine of ten calls are short, the tenth so long that the mean is the same; the variance is 2.25 its square."""
    return shuffled([5500 if i % 10 == 0 else 500 for i in range(count)])


def served(load, lengths, server, seed=0):
    """The records of calls of these lengths that arrive at random, in the order of arrival."""
    crowd = {number: request(str(number), 1, length) for number, length in enumerate(lengths)}
    instants = SessionRate(load / SERVICE_S).instants(len(lengths), seed)
    result = simulate.serve(crowd, parse_policy("async"), server, instants)
    return sorted(result.records, key=lambda record: record.session)


def mean_and_error(values):
    """The mean and its standard error, from means of consecutive batches; the first is warm-up."""
    size = len(values) // BATCHES
    means = [mean(values[at : at + size]) for at in range(size, size * BATCHES, size)]
    return mean(means), stdev(means) / sqrt(len(means))


def assert_mean(values, theory, power, off=0.0):
    """It is the theory's but for the noise, which hides no deviation of ``power`` times it, and for whole steps."""
    found, error = mean_and_error(values)
    assert 3 * error < power * theory
    assert abs(found - theory) < 3 * error + off


def waits(records):
    return [record.scheduled_s - record.sent_s for record in records]


def sojourns(records):
    return [record.finished_s - record.sent_s for record in records]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_calls_of_one_length_on_one_slot_wait_as_pollaczek_and_khinchine_say(load):
    """M/D/1; and no call waits longer than until those before it are done (Lindley 1952)."""
    records = served(load, constant(CALLS), ONE_SLOT)
    gaps = [other.sent_s - one.sent_s for one, other in pairwise(records)]
    lindley = accumulate(gaps, lambda wait, gap: max(0.0, wait + SERVICE_S - gap), initial=0.0)
    assert waits(records) == pytest.approx(list(lindley), abs=1e-6)
    assert_mean(waits(records), load * SERVICE_S / (2 * (1 - load)), power=0.3)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_calls_of_exponential_length_on_one_slot_stay_as_long_as_in_m_m_1(load):
    """The mean is 1 / (mu - lambda), and as times are exponential, half of the calls stay log 2 times as long."""
    stay_s = SERVICE_S / (1 - load)
    times = sojourns(served(load, exponential(CALLS), ONE_SLOT))
    assert_mean(times, stay_s, power=0.2, off=TOKEN_S)
    assert_mean([time_s > stay_s * log(2) for time_s in times], 0.5, power=0.2)


def shared_processor(records):
    """How long the calls would stay if each of n had exactly the n-th part of the processor at every instant."""
    now_s = share_s = 0.0
    present, stays = [], []
    for number, one in enumerate([*records, None]):
        at_s = one.sent_s if one else inf
        while present and now_s + (present[0][0] - share_s) * len(present) <= at_s:
            now_s += (present[0][0] - share_s) * len(present)
            share_s, first = heappop(present)
            stays[first] += now_s
        if one:
            share_s += (at_s - now_s) / max(1, len(present))
            now_s = at_s
            heappush(present, (share_s + one.num_output_tokens * TOKEN_S, number))
            stays.append(-at_s)
    return stays


@pytest.mark.parametrize("load", [0.3, 0.6])
@pytest.mark.parametrize("lengths", [constant, exponential, two_point])
def test_steps_as_long_as_they_have_rows_share_the_processor_whatever_the_lengths(load, lengths):
    """Egalitarian processor sharing: the mean depends on the mean length only, and all are slowed down alike."""
    records = served(load, lengths(CALLS), SHARED)
    times, slowdown = sojourns(records), 1 / (1 - load)
    late = [time_s - ideal_s for time_s, ideal_s in zip(times, shared_processor(records), strict=True)]
    # A call waits until a step ends before it gets in, and is told its last token when another ends.
    assert 0 < mean(late) < 2 * TOKEN_S * slowdown
    assert_mean(times, SERVICE_S * slowdown, power=0.3, off=mean(late))
    slowdowns = [
        time_s / tokens / TOKEN_S
        for time_s, tokens in zip(times, (record.num_output_tokens for record in records), strict=True)
        if tokens >= 100
    ]
    assert_mean(slowdowns, slowdown, power=0.25, off=0.02 * slowdown)


arrivals = st.tuples(st.integers(0, 40), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(arrivals, min_size=1, max_size=12), profiles(min_blocks=30))
def test_the_calls_that_are_there_are_those_that_come_times_how_long_they_stay(crowd, drawn):
    """Little's law, exact for a run that begins and ends empty, also where calls are preempted and computed again."""
    env, done, present = simpy.Environment(), [], []
    server = SimulatedServer(env, profile(drawn.engine, ONE_SECOND), done.append)

    def arrive(number, at, prompt, output, priority):
        yield env.timeout(at)
        content = (Segment(f"prompt {number}", prompt),), Segment(f"answer {number}", output)
        asked = Request(*content, priority=priority, arrival_s=at, number=number)
        server.send(Sent(number, Call("call", "agent", content[0], content[1].segment_id), asked, at))

    def look():
        yield env.timeout(0.5)  # all that happens does so at whole seconds
        while len(done) < len(crowd):
            present.append(len(server._sent))
            yield env.timeout(1)

    for number, call in enumerate(crowd):
        env.process(arrive(number, *call))
    env.process(look())
    env.run()
    assert sum(present) == sum(sent.finished_s - sent.sent_s for sent in done if not sent.reason)
    event(f"preempted: {server.stats.num_preemptions > 0}, waited: {any(s.scheduled_s != s.sent_s for s in done)}")
