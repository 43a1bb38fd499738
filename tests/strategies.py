"""Drawn workflows and engines for the laws."""

from hypothesis import strategies as st

from sim.latency import Measured, Overheads, Profile, StepTime
from sim.policies import parse_policy
from sim.settings import EngineSettings
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

POLICIES = (
    "sequential",
    "level_barrier",
    "async",
    "async:max_parallel=2",
    "program_fcfs",
    "plas:quantum_s=0.1,beta=3",
    "level_barrier+atlas:quantum_s=0.1",
    "srpt_oracle",
    "async:max_parallel=2+critical_path_noisy:error=0.5",
    "topo_depth_oracle",
    "justitia_oracle",
    "sequential+edf_oracle",
    "fair",
)

used = st.sampled_from([True, True, True, False])


@st.composite
def workflows(draw, name="w", max_nodes=8):
    """A graph of calls and tools whose prompts share segments and contain earlier answers."""
    size = draw(st.integers(1, max_nodes))
    is_tool = [False, *(draw(st.booleans()) and draw(st.booleans()) for _ in range(size - 1))]
    outputs = {f"n{i}": draw(st.integers(1, 40)) for i in range(size) if not is_tool[i]}
    nodes, edges, durations = [], [], {}
    for i in range(size):
        parents = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        edges += [Edge(f"n{parent}", f"n{i}", "visible", used=draw(used)) for parent in sorted(parents)]
        if is_tool[i]:
            nodes.append(Tool(f"n{i}", "tool"))
            durations[f"n{i}"] = draw(st.none() | st.floats(0, 2))
            continue
        lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
        prompt = [Segment(f"shared-{tokens}", tokens) for tokens in lengths]
        prompt += [Segment(f"answer-n{p}", outputs[f"n{p}"]) for p in sorted(parents) if f"n{p}" in outputs]
        nodes.append(Call(f"n{i}", f"agent-{i % 2}", tuple(prompt), f"answer-n{i}"))
    times = {node.id: (0.0, draw(st.floats(0, 9))) for node in nodes if draw(used)} if draw(st.booleans()) else {}
    return Workflow(name, "drawn", "task", tuple(nodes), tuple(edges), Tape(outputs, durations, times))


MEASURED = [Measured(request_tokens=1000, batch_size=rows, kv_tokens=kv) for rows in (None, 2) for kv in (None, 70)]


def request(name, prompt, output, framework="requests"):
    """A workflow of one call, whose prompt nobody shares."""
    call = Call("call", "agent", (Segment(f"prompt-{name}", prompt),), f"answer-{name}")
    return Workflow(name, framework, "", (call,), (), Tape({"call": output}, {}))


seconds = st.floats(0, 1e-2) | st.sampled_from([0.0, 1.0])


@st.composite
def profiles(draw, min_blocks=2):
    """A small engine, so that budget, slots and blocks all bind."""
    settings = EngineSettings(
        vllm_version=draw(st.sampled_from(["0.19.0", "0.32.0"])),
        max_num_seqs=draw(st.integers(1, 4)),
        max_num_batched_tokens=draw(st.integers(4, 200)),
        max_model_len=100_000,
        num_gpu_blocks=draw(st.integers(min_blocks, min_blocks + 60)),
        block_size=draw(st.sampled_from([4, 16])),
        enable_prefix_caching=draw(st.booleans()),
        scheduler_reserve_full_isl=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 16])),
        async_scheduling=draw(st.booleans()),
        scheduling_policy=draw(st.sampled_from(["fcfs", "priority"])),
        watermark=draw(st.sampled_from([0.0, 0.1])),
        cudagraph_capture_sizes=draw(st.sampled_from([[], "default", [3, 10, 50]])),
    )
    const_s, prefill_token_s, decode_seq_s = draw(st.floats(1e-4, 1e-2)), draw(seconds), draw(seconds)
    least_s, free_tokens = min(prefill_token_s, decode_seq_s), draw(st.sampled_from([0, 0, 2, 7, 60]))
    step_time = StepTime(
        const_s=const_s,
        prefill_token_s=prefill_token_s,
        decode_seq_s=decode_seq_s,
        kv_token_s=draw(seconds),
        distinct_kv_token_s=draw(seconds),
        attention_pair_s=draw(seconds),
        free_tokens=free_tokens if least_s * free_tokens <= const_s else 0,
        host_s=draw(seconds),
        host_seq_s=draw(seconds),
    )
    overheads = Overheads(input_s=draw(seconds), input_gap_s=draw(seconds), output_s=draw(seconds))
    measured = draw(st.sampled_from(MEASURED))
    drawn = profile(settings, step_time, draw(st.sampled_from([Overheads(), overheads])))
    return drawn.model_copy(update={"measured": measured})


def profile(settings=None, step_time=None, overheads=None):
    """A profile with nothing measured about it."""
    return Profile(
        name="drawn",
        hardware="none",
        model="none",
        source="drawn",
        method="drawn",
        accuracy={},
        measured=Measured(request_tokens=1000),
        engine=settings or roomy(),
        step_time=step_time
        or StepTime(const_s=0.01, prefill_token_s=1e-4, decode_seq_s=1e-4, kv_token_s=1e-7, attention_pair_s=1e-9),
        overheads=overheads or Overheads(),
    )


def roomy(**changes):
    """Engine settings under which nothing binds."""
    return EngineSettings(
        **{
            "vllm_version": "0.32.0",
            "max_num_seqs": 256,
            "max_num_batched_tokens": 8192,
            "max_model_len": 100_000,
            "num_gpu_blocks": 100_000,
            **changes,
        }
    )


policies = st.sampled_from(POLICIES).map(parse_policy)
