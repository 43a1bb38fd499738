"""Pools of engines: their file, who goes where, what they cost, and what of a result depends on which of them."""

import json
import sys

import pytest
from commandline import WORKFLOW, assert_one_line, jsonl, workspan
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import POLICIES, profile, profiles, request, roomy, workflows

from sim import cli
from sim.bounds import Bound, span_s
from sim.compare import compare, latencies, line_up
from sim.errors import PolicyError, ProfileError, RunError
from sim.fleet import Fleet, Pool, fleet_of, load_fleet
from sim.latency import Measured, StepTime, load_profile
from sim.load import Alone, ConcurrentSessions
from sim.metrics import summary
from sim.policies import SEQUENTIAL, parse_policy
from sim.retention import CpuTier
from sim.simulate import serve, simulate
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow
from sim.world import World

ONE_SECOND = StepTime(const_s=1.0, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0)
TWO_SECONDS = ONE_SECOND.model_copy(update={"const_s": 2.0})
DEFAULT = "rtxpro6000-llama-3.1-8b"
FILE = """
pools:
  large: {replicas: 2, usd_per_hour: 1.5}
  small: {profile: rtx4090-llama-3.1-8b, usd_per_hour: 0.5, cpu_tier: {num_blocks: 500, load_token_s: 5e-6}}
agents: {"verifier*": small}
tools: {python: 4}
"""


def test_a_file_says_pools_agents_and_tools_and_the_rest_is_as_without_it(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(FILE)
    fleet = load_fleet(path, DEFAULT)
    large = Pool("large", load_profile(DEFAULT), 2, 1.5)
    small = Pool("small", load_profile("rtx4090-llama-3.1-8b"), 1, 0.5, CpuTier(500, 5e-6))
    assert fleet == Fleet((large, small), {"verifier*": "small"}, {"python": 4})
    path.write_text("pools: {all: {}}")
    assert load_fleet(path, DEFAULT) == fleet_of(load_profile(DEFAULT))


BAD_FILES = {
    "no file": (None, "cannot be read (No such file"),
    "nothing": ("", "not a mapping; give it the keys pools, agents, tools"),
    "no pools": ("pools: {}", "line 1: pools: empty; give it one or more"),
    "a misspelled key": ("pools: {a: {}}\nagent: {}", "line 2: agent: unknown key; did you mean 'agents'?"),
    "a misspelled key of a pool": (
        "pools:\n  a:\n    replica: 2",
        "line 3: pools.a.replica: unknown key; did you mean 'replicas'?",
    ),
    "a misspelled key of a tier": (
        "pools: {a: {cpu_tier: {num_block: 3, num_blocks: 3, load_token_s: 0}}}",
        "pools.a.cpu_tier.num_block: unknown key; did you mean 'num_blocks'?",
    ),
    "a tier without a bandwidth": (
        "pools: {a: {cpu_tier: {num_blocks: 3}}}",
        "pools.a.cpu_tier.load_token_s: missing; add it",
    ),
    "a pool of nothing": (
        "pools: {a: }",
        "pools.a: not a mapping; give it keys of profile, replicas, usd_per_hour, cpu_tier",
    ),
    "a pool twice": ("pools: {a: {}, a: {}}", "key 'a' occurs twice; remove one"),
    "a pool that is a number": ("pools: {1: {}}", "pools.1.[key]: input should be a valid string"),
    "no replica": ("pools: {a: {replicas: 0}}", "pools.a.replicas: input should be greater than or equal to 1"),
    "half a replica": ("pools: {a: {replicas: 1.5}}", "pools.a.replicas: input should be a valid integer"),
    "too many replicas": (
        "pools: {a: {replicas: 1025}}",
        "pools.a.replicas: input should be less than or equal",
    ),
    "a text for a price": ("pools: {a: {usd_per_hour: '1'}}", "pools.a.usd_per_hour: input should be a valid number"),
    "a negative price": ("pools: {a: {usd_per_hour: -1}}", "pools.a.usd_per_hour: input should be greater than or"),
    "an endless price": ("pools: {a: {usd_per_hour: .inf}}", "pools.a.usd_per_hour: input should be a finite"),
    "a tool that never runs": ("pools: {a: {}}\ntools: {python: 0}", "line 2: tools.python: input should be greater"),
    "a profile that is none": (
        "pools: {a: {profile: rtx4090}}",
        "pools, a, profile: no profile 'rtx4090'; did you mean 'rtx4090-llama-3.1-8b'?",
    ),
    "an agent without a pool": (
        "pools: {large: {}}\nagents: {x: larg}",
        "agents, x: no pool 'larg'; did you mean 'large'?",
    ),
    "two mistakes": ("pools: {a: {replicas: 0}}\ntools: {x: 0}", "1; line 2: tools.x: input should be"),
}


@pytest.mark.parametrize(("text", "problem"), BAD_FILES.values(), ids=BAD_FILES)
def test_what_is_wrong_with_a_file_is_one_line_with_file_place_and_mend(text, problem, tmp_path):
    path = tmp_path / "fleet.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises((RunError, ProfileError)) as error:
        load_fleet(path, DEFAULT)
    said = str(error.value)
    assert said.startswith(str(path))
    assert problem in said
    assert "\n" not in said


def pools(*changes, agents=None, tools=None):
    """Pools named a, b, .. with an engine of one-second steps."""
    engines = (Pool(name, profile(roomy(), ONE_SECOND), **change) for name, change in zip("abc", changes, strict=False))
    return Fleet(tuple(engines), agents or {}, tools or {})


def test_agents_go_to_the_pool_of_the_first_pattern_and_all_others_to_the_first_pool():
    fleet = pools({"replicas": 2}, {}, {"replicas": 3}, agents={"critic*": "c", "critic-2": "b", "judge": "b"})
    found = {agent: (fleet.pool(agent).name, fleet.numbers(agent)) for agent in ("x", "critic-2", "judge", "Judge")}
    assert found == {"x": ("a", [0, 1]), "critic-2": ("c", [3, 4, 5]), "judge": ("b", [2]), "Judge": ("a", [0, 1])}


def two():
    """Agent x with two output tokens, then agent y with four."""
    nodes = Call("a", "x", (Segment("a", 8),), "answer-a"), Call("b", "y", (Segment("b", 8),), "answer-b")
    return Workflow("w", "f", "w", nodes, (Edge("a", "b", "control"),), Tape({"a": 2, "b": 4}, {}))


def mixed():
    """Agent y has an engine of its own, with steps of two seconds."""
    quick = Pool("quick", profile(roomy(), ONE_SECOND).model_copy(update={"name": "quick"}))
    return Fleet((quick, Pool("slow", profile(roomy(), TWO_SECONDS))), {"y": "slow"})


def test_calls_run_on_the_engines_of_their_agents_and_so_does_the_span():
    fleet = mixed()
    result = simulate([two()], parse_policy("async"), fleet, Alone(), 0)
    assert [(call.call_id, call.finished_s) for call in result.records] == [("a", 2), ("b", 2 + 8)]
    assert fleet.least_times_s(two()) == {"a": 2, "b": 8}


def test_replicas_are_counted_together_and_busy_together():
    crowd = {n: request(f"r{n}", 8, output) for n, output in enumerate([3, 5, 2])}
    result = serve(crowd, parse_policy("async"), pools({"replicas": 2}, {}), [0.0] * 3)
    # In turn: 3 and then 2 tokens on the first, 5 on the second; nobody is sent to the third.
    assert [session.finished_s for session in result.sessions] == [3, 5, 2]
    assert (result.engine.num_steps, result.engine.num_rows, result.engine.busy_s) == (3 + 5, 3 + 5 + 2, 3 + 5)
    assert (result.replicas, summary(result)["gpu_busy_share"]) == (3, 8 / (3 * 5))


def test_pools_do_not_share_turns():
    engines = tuple(Pool(name, profile(roomy(), ONE_SECOND), 2) for name in "ab")
    crowd = {0: two(), 1: two()}
    run = World(parse_policy("async"), Fleet(engines, {"y": "b"}), crowd, 0).run()
    replicas = []
    for session, workflow in crowd.items():
        (x,) = run.arrive(session, workflow)
        (y,) = run.finish(x)
        replicas += [x.replica, y.replica]
    assert replicas == [0, 2, 1, 3]


@pytest.mark.parametrize(("price", "cost"), [(1800.0, (2 * 1 + 0.5) * 10), (None, None)])
def test_a_run_costs_all_replicas_for_as_long_as_it_takes(price, cost):
    fleet = pools({"replicas": 2, "usd_per_hour": 3600.0}, {"usd_per_hour": price})
    found = compare([request("r", 8, 10)], *line_up(["async"], None), fleet, ConcurrentSessions(1), 0)
    policy = found.to_json()["policies"]["async"]
    assert policy["makespan_s"] == 10
    assert policy.get("cost_usd") == cost


LINEUP = st.sampled_from([*POLICIES, "sticky:min_tokens=9", "least_loaded", "prefix_affinity", "belady_oracle"])
tiers = st.sampled_from([None, CpuTier(20, 0.01)])


@settings(max_examples=150, deadline=None)
@given(workflows(), profiles(), profiles(), tiers, LINEUP.map(parse_policy))
def test_5_with_pools_no_workflow_alone_gains_more_over_sequential_than_work_over_span(flow, one, other, tier, policy):
    fleet = Fleet((Pool("a", one, 2), Pool("b", other, cpu_tier=tier)), {"agent-1": "b"})
    base, gained = (latencies(simulate([flow], each, fleet, Alone(), 0)) for each in (SEQUENTIAL, policy))
    assert base.keys() == gained.keys()
    for name, work in base.items():
        assert work / gained[name] <= Bound(work, flow.span(fleet.least_times_s(flow))).speedup * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(workflows(), profiles())
def test_the_span_on_equal_pools_is_that_on_one_engine(flow, engine):
    fleet = Fleet((Pool("a", engine), Pool("b", engine)), {"agent-1": "b"})
    assert flow.span(fleet.least_times_s(flow)) == span_s(flow, engine)


def test_a_router_needs_a_pool_of_several_replicas():
    with pytest.raises(PolicyError, match=r"^policy sticky: a router needs several replicas; give --replicas N$"):
        pools({}, {}).set_for(parse_policy("sticky"))
    assert pools({}, {"replicas": 2}).set_for(parse_policy("sticky"))


@pytest.mark.parametrize("policy", ["program_gate", "prefill_ahead"])
def test_a_policy_that_lives_of_the_prefix_cache_needs_one_in_every_pool(policy):
    without = profile(roomy(enable_prefix_caching=False)).model_copy(update={"name": "mine"})
    fleet = Fleet((*pools({}).pools, Pool("b", without)))
    with pytest.raises(PolicyError, match=f"^policy {policy}: mine has no prefix cache; take another profile$"):
        fleet.set_for(parse_policy(policy))
    assert fleet.set_for(parse_policy("async")) == fleet


def test_every_pool_is_started_for_the_policy():
    fleet = pools({}, {}).set_for(parse_policy("plas"))
    assert [pool.profile.engine.scheduling_policy for pool in fleet.pools] == ["priority"] * 2


def test_the_cpu_tier_of_a_pool_keeps_what_its_engine_evicts():
    engine = profile(roomy(block_size=4, num_gpu_blocks=6), ONE_SECOND)
    nodes = (
        Call("a", "x", (Segment("s", 12),), "answer-a"),
        Tool("t", "tool"),
        Call("b", "x", (Segment("s", 12), Segment("new", 4)), "answer-b"),
    )
    edges = (Edge("a", "t", "control"), Edge("t", "b", "control"))
    crowd = {0: Workflow("w", "f", "w", nodes, edges, Tape({"a": 1, "b": 1}, {"t": 9.0})), 1: request("r", 20, 1)}
    found = []
    for tier in (None, CpuTier(100, 0.25)):
        fleet = Fleet((Pool("all", engine, cpu_tier=tier),))
        result = serve(crowd, parse_policy("async"), fleet, [0.0, 2.0])
        found.append([(call.num_cached_tokens, call.finished_s) for call in result.records if call.call_id == "b"])
    # A step of 1 s at 10 s; before it, 12 tokens take a quarter of a second each to come back.
    assert found == [[(0, 11)], [(12, 11 + 3)]]


def measured(pool, **limits):
    return pool.profile.model_copy(update={"measured": Measured(**limits)})


@pytest.mark.parametrize(("tokens", "outside"), [((10, 12), 0), ((10, 11), 1), ((9, 11), 2), ((9, 12), 1)])
def test_11_a_call_is_extrapolated_where_it_is_longer_than_those_measured_on_its_own_engine(tokens, outside):
    fleet = mixed()
    fleet = fleet.with_profiles(
        [measured(pool, request_tokens=most) for pool, most in zip(fleet.pools, tokens, strict=True)]
    )
    # 10 tokens of agent x, 12 of agent y.
    found = compare([two()], *line_up(["async", "sequential"], None), fleet, Alone(), 0)
    assert found.extrapolated() == outside
    assert found.gain("async")["extrapolated"] is (outside > 0)


@pytest.mark.parametrize("beyond", [0, 1])
def test_11_steps_beyond_the_range_of_one_pool_are_told_where_nobody_knows_the_others_range(beyond):
    fleet = mixed()
    limits = [{"kv_tokens": 1} if number == beyond else {} for number in range(2)]
    fleet = fleet.with_profiles(
        [measured(pool, request_tokens=99, **some) for pool, some in zip(fleet.pools, limits, strict=True)]
    )
    found = compare([two()], *line_up(["async", "sequential"], None), fleet, Alone(), 0)
    assert found.trust.outside_share("async") == (2 / 10, 8 / 10)[beyond]
    assert found.gain("async")["extrapolated"]


def test_11_of_several_profiles_each_says_its_range_and_the_worst_error_counts():
    fleet = mixed()
    quick = measured(fleet.pools[0], request_tokens=9, kv_tokens=7).model_copy(
        update={"accuracy": {"held_out_step_pct": 3.0}}
    )
    slow = measured(fleet.pools[1], request_tokens=11).model_copy(
        update={"name": "slow", "accuracy": {"held_out_step_pct": 8.0}}
    )
    found = compare([two()], *line_up(["async", "sequential"], None), fleet.with_profiles([quick, slow]), Alone(), 0)
    assert found.trust.error_pct("async") == 8
    assert found.trust.sentences()[0] == (
        "Extrapolated (*): 2 of 2 calls (100.0%) have more than the 9 tokens of quick, 11 tokens of slow measured; GPU"
        " time in steps with more than the 7 KV tokens of quick measured: 20.0%; how large the measured steps were is"
        " not known."
    )
    unknown = fleet.with_profiles([quick, slow.model_copy(update={"accuracy": {}})])
    assert compare([two()], *line_up(["async"], None), unknown, Alone(), 0).trust.error_pct("async") is None
    same = compare([two()], *line_up(["async"], None), fleet.with_profiles([quick, quick]), Alone(), 0)
    assert "the 9 tokens measured; " in same.trust.sentences()[0]


@pytest.fixture
def files(tmp_path):
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FILE.replace("verifier*", "y"))
    return jsonl(tmp_path / "t.jsonl", WORKFLOW, {**WORKFLOW, "id": "v"}), fleet


def test_7_the_same_fleet_gives_the_same_bytes_in_every_process(files):
    traces, fleet = files
    arguments = ("run", traces, "--fleet", fleet, "--policy", "async", "--policy", "plas+sticky")
    done = [workspan(*arguments, "--concurrent-sessions", 2, "--json") for _ in range(2)]
    assert done[0].returncode == 0, done[0].stderr
    assert done[0].stdout == done[1].stdout
    result = json.loads(done[0].stdout)
    told = result["provenance"]["fleet"]
    assert [(pool["name"], pool["replicas"], pool["usd_per_hour"]) for pool in told["pools"]] == [
        ("large", 2, 1.5),
        ("small", 1, 0.5),
    ]
    assert told["pools"][1]["cpu_tier"] == {"num_blocks": 500, "load_token_s": 5e-6}
    assert (told["agents"], told["tool_limits"]) == ({"y": "small"}, {"python": 4})
    policy = result["policies"]["async"]
    assert policy["cost_usd"] == pytest.approx(3.5 / 3600 * policy["makespan_s"])


def test_the_table_names_the_pools_and_the_cost(files, monkeypatch, capsys):
    traces, fleet = files
    monkeypatch.setattr(sys, "argv", ["workspan", "run", str(traces), "--fleet", str(fleet), "--policy", "async"])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert f"profile {DEFAULT} x 2 + rtx4090-llama-3.1-8b" in text
    assert "cost, $" in text


def test_replicas_and_a_fleet_are_not_given_together(files):
    traces, fleet = files
    done = workspan("run", traces, "--policy", "async", "--fleet", fleet, "--replicas", 2)
    assert_one_line(done, "--replicas and --fleet: give one of them; a pool of a fleet has its replicas")


def test_an_agent_or_a_tool_that_nobody_has_is_told():
    pools = (Pool("large", profile()), Pool("small", profile()))
    workflow = Workflow("w", "test", "t", (Call("a", "critic", (Segment("s", 4),), "x"),), (), Tape({"a": 2}, {}))
    fleet = Fleet(pools, {"critc*": "small", "crit*": "small"}, {"pyton": 1})
    result = compare([workflow], {"async": parse_policy("async")}, "async", fleet, Alone(), 0)
    assert result.limits()[:2] == [
        "The fleet names agent 'critc*', which none of these workflows has.",
        "The fleet names tool 'pyton', which none of these workflows has.",
    ]
