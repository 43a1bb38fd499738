"""Recorded runs: what each format says, and what happens to a file that says something else."""

import json
import shutil
from itertools import combinations, takewhile
from pathlib import Path

import pytest
from commandline import jsonl, workspan
from hypothesis import given
from hypothesis import strategies as st
from strategies import profile, roomy

from calibration.recorded import ANSWERS_UNKNOWN, LENGTHS_ONLY, RecordedRun, formats, read_run
from calibration.recorded._prompts import of_ids
from live.fake import FakeServer
from sim.errors import TraceError
from sim.latency import StepTime, load_profile
from sim.policies import parse_policy
from sim.settings import EngineSettings, from_vllm
from sim.simulate import serve
from sim.workflow import Call, Tape, Workflow

EXAMPLES = Path(__file__).parent / "examples"
#: Format -> its example, the workload that belongs to it, requests that count, requests that do not.
OF = {
    "aiperf": ("aiperf", None, 3, {"warm-up": 1, "failed": 1}),
    "guidellm": ("guidellm.json", None, 3, {"incomplete": 1}),
    "llmservingsim": ("llmservingsim", "llmservingsim.workload.jsonl", 4, {}),
    "replay": ("replay", "replay.workload.jsonl", 12, {"failed": 1, "unfinished": 1}),
    "tracev2": ("tracev2", None, 3, {"timeout": 1}),
    "vllm_bench": ("vllm_bench.json", None, 3, {"failed": 1}),
}


def load(name, workload=True):
    path, prompts, *_ = OF[name]
    return read_run(EXAMPLES / path, EXAMPLES / prompts if workload and prompts else None)


def test_every_format_has_an_example():
    assert list(formats()) == list(OF)


@pytest.mark.parametrize("name", OF)
def test_an_example_looks_like_its_own_format_only(name):
    path = EXAMPLES / OF[name][0]
    assert [one for one, module in formats().items() if module.looks_like(path)] == [name]


@pytest.mark.parametrize("name", OF)
def test_an_example_is_a_run_on_one_clock_and_counts_what_it_leaves_out(name):
    run, (_, _, count, skipped) = load(name), OF[name]
    assert (run.format, len(run.requests), run.skipped) == (name, count, skipped)
    sent = [request.sent_s for request in run.requests]
    assert sent == sorted(sent)
    assert sent[0] == 0
    for request in run.requests:
        assert request.sent_s < request.first_token_s < request.last_token_s < request.sent_s + 1
    assert len({request.id for request in run.requests}) == count
    assert run.facts["instants"] == ("engine" if name == "llmservingsim" else "client")


@pytest.mark.parametrize("name", ["llmservingsim", "replay"])
def test_without_its_workload_a_run_has_lengths_only_and_says_so(name):
    known, lengths = load(name), load(name, workload=False)
    assert LENGTHS_ONLY in lengths.assumptions
    assert LENGTHS_ONLY not in known.assumptions
    assert [sum(s.num_tokens for s in one.prompt) for one in known.requests] == [
        one.prompt[0].num_tokens for one in lengths.requests
    ]
    assert len({one.prompt for one in lengths.requests}) == len(lengths.requests)


@pytest.mark.parametrize("name", ["aiperf", "guidellm", "tracev2"])
def test_a_workload_is_refused_by_a_format_that_takes_none(name):
    with pytest.raises(TraceError, match=r"leave .*workload.jsonl out"):
        read_run(EXAMPLES / OF[name][0], EXAMPLES / "llmservingsim.workload.jsonl")


# vllm bench serve


def bench(tmp_path, **changes):
    data = json.loads((EXAMPLES / "vllm_bench.json").read_text()) | changes
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return path


def test_the_last_token_of_a_benchmark_comes_after_the_first_and_all_gaps():
    data = json.loads((EXAMPLES / "vllm_bench.json").read_text())
    for number, request in enumerate(load("vllm_bench").requests):
        assert request.first_token_s - request.sent_s == pytest.approx(data["ttfts"][number])
        assert request.last_token_s - request.first_token_s == pytest.approx(sum(data["itls"][number]))
        assert request.num_output_tokens == data["output_lens"][number]


def test_a_benchmark_can_be_given_its_token_ids(tmp_path):
    lengths = json.loads((EXAMPLES / "vllm_bench.json").read_text())["input_lens"]
    ids = [[*range(100), *range(1000 * number, 1000 * number + size - 100)] for number, size in enumerate(lengths, 1)]
    workload = tmp_path / "w.jsonl"
    workload.write_text("".join(json.dumps({"input_tok_ids": one}) + "\n" for one in ids))
    run = read_run(bench(tmp_path), workload)
    assert run.assumptions == (ANSWERS_UNKNOWN,)
    assert [request.prompt[0] for request in run.requests] == [run.requests[0].prompt[0]] * 3
    assert [request.prompt[0].num_tokens for request in run.requests] == [100] * 3
    with pytest.raises(TraceError, match=r"request 0: 9 prompt tokens, \d+ in .*w.jsonl; give its own workload"):
        read_run(bench(tmp_path, input_lens=[9, *lengths[1:]]), workload)


BENCHES = {
    "not detailed": (
        dict.fromkeys(("input_lens", "output_lens", "start_times", "ttfts", "itls", "errors")),
        "detailed",
    ),
    "without start times": ({"start_times": None}, "no start_times; take a vLLM whose bench writes them"),
    "of two lengths": ({"ttfts": [0.1]}, "different lengths .*ttfts 1"),
    "ttfts in milliseconds": ({"ttfts": [24.7, 27.1, 25.0, 0.0]}, r"request \d: ends .*probably milliseconds"),
    "start times in milliseconds": ({"start_times": [1e3, 1.4e3, 1.9e3, 0.0]}, r"request 2: ends .*milliseconds"),
    "one gap of 1000 s": ({"itls": [[1000.0, 0.1, 0.1, 0.1], [0.1], [0.1], []]}, "request 0: ends .*milliseconds"),
    "a negative ttft": ({"ttfts": [0.02, -0.1, 0.02, 0.0]}, "request 1: the first token -0.1 s after sending"),
    "a negative gap": ({"itls": [[-0.1], [0.1], [0.1], []]}, "request 0: itls has what is no time"),
    "all failed": ({"errors": ["no"] * 4}, "no request that was answered .4 failed.; record the run again"),
}


@pytest.mark.parametrize(("changes", "problem"), BENCHES.values(), ids=BENCHES)
def test_a_benchmark_that_cannot_be_used_is_one_line(changes, problem, tmp_path):
    refused(bench(tmp_path, **changes), problem)


# LLMServingSim


def test_the_engine_of_llmservingsim_is_read_from_all_parts_of_its_meta():
    run = load("llmservingsim")
    assert run.engine == {
        "vllm_version": "0.19.0",
        "max_num_seqs": 128,
        "max_num_batched_tokens": 2048,
        "max_model_len": 32768,
        "num_gpu_blocks": 2588,
        "block_size": 16,
        "enable_prefix_caching": True,
        "scheduling_policy": "fcfs",
        "async_scheduling": True,
        "cudagraph_capture_sizes": [1, 2, 4],
    }
    assert run.facts["hardware"] == "none"


def test_prompts_are_paired_in_the_order_of_the_file_and_then_sorted_by_time():
    run = load("llmservingsim")
    assert [request.id for request in run.requests] == ["bench-0", "bench-2", "bench-1", "bench-3"]
    assert [[segment.num_tokens for segment in request.prompt] for request in run.requests] == [
        [32, 8],
        [32, 24],
        [32, 16],
        [32, 32],
    ]


@pytest.mark.parametrize("name", ["rtx4090-llama-3.1-8b", "rtxpro6000-llama-3.1-8b"])
def test_the_runs_on_real_gpus_are_read_whole(name, groundtruth):
    run = read_run(groundtruth / name.replace("-", "_", 1), groundtruth / "sharegpt-llama-3.1-8b-300-sps10.jsonl.gz")
    assert len(run.requests) == 300
    assert sum(segment.num_tokens for request in run.requests for segment in request.prompt) == 257_239
    assert sum(request.num_output_tokens for request in run.requests) == 195_753
    engine = load_profile(name).engine
    assert {key: value for key, value in run.engine.items() if key != "cudagraph_capture_sizes"}.items() <= dict(
        engine
    ).items()


def served(tmp_path, line, **changes):
    folder = tmp_path / "run"
    shutil.copytree(EXAMPLES / "llmservingsim", folder)
    lines = (folder / "requests.jsonl").read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | changes)
    (folder / "requests.jsonl").write_text("\n".join(lines))
    return folder


SERVED = {
    "first after last": ({"first_token_ts": 1005.0}, r"line 2: the first token .* give all instants in seconds"),
    "first before sent": ({"first_token_ts": 999.0}, "line 2: the first token"),
    "not a number": ({"last_token_ts": float("nan")}, "line 2: the first token"),
    "never": ({"last_token_ts": float("inf")}, "line 2: the first token"),
    "in milliseconds": ({"last_token_ts": 1000230.0}, r"line 2: .* s from token to token; .*probably milliseconds"),
    "no answer": ({"output_toks": 0}, "line 2: a prompt or an answer with no tokens"),
    "text for a number": ({"queued_ts": "soon"}, "line 2: queued_ts is 'soon', not of type int or float"),
    "another length": ({"input_toks": 7}, "line 2: 7 prompt tokens, 48 in .*; give this run's workload"),
}


@pytest.mark.parametrize(("changes", "problem"), SERVED.values(), ids=SERVED)
def test_a_request_that_cannot_be_is_named(changes, problem, tmp_path):
    refused(served(tmp_path, 1, **changes), problem, EXAMPLES / "llmservingsim.workload.jsonl")


def test_settings_that_no_engine_has_are_named(tmp_path):
    folder = served(tmp_path, 0)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"kv_cache": {"num_gpu_blocks": "many"}}))
    refused(folder, "num_gpu_blocks of the engine: .*valid integer")


def test_a_workload_of_another_run_is_refused(tmp_path):
    workload = tmp_path / "w.jsonl"
    workload.write_text('{"input_tok_ids": [1, 2]}\n')
    refused(served(tmp_path, 0), "4 requests, but .*w.jsonl has 1; give this run's workload", workload)
    workload.write_text('{"input_tok_ids": []}\n')
    refused(tmp_path / "run", "w.jsonl, line 1: input_tok_ids must be one or more", workload)


@pytest.mark.parametrize(("told", "version"), [("0.11.1rc2", "0.11.1"), ("0.32.0+cpu", "0.32.0"), ("unknown", None)])
def test_the_version_of_an_engine_is_its_first_three_numbers(told, version):
    assert from_vllm({"vllm_version": told}).get("vllm_version") == version


# guidellm and aiperf


def test_a_guidellm_report_without_all_its_requests_is_refused(tmp_path):
    data = json.loads((EXAMPLES / "guidellm.json").read_text())
    data["benchmarks"][0]["scheduler_state"]["successful_requests"] = 30
    path = tmp_path / "g.json"
    path.write_text(json.dumps(data))
    refused(path, "benchmark 0: 3 of 30 requests are in the file; record it without sample_size")


def test_what_guidellm_computed_from_its_instants_is_what_is_read():
    rows = json.loads((EXAMPLES / "guidellm.json").read_text())["benchmarks"][0]["requests"]["successful"]
    for row, request in zip(rows, load("guidellm").requests, strict=True):
        ttft_s = request.first_token_s - request.sent_s
        assert ttft_s == pytest.approx(row["time_to_first_token_ms"] / 1000, abs=1e-5)
        assert (request.prompt[0].num_tokens, request.num_output_tokens) == (row["prompt_tokens"], row["output_tokens"])


def aiperf(tmp_path, **metrics):
    """The example with other metrics in its third record; None takes one away."""
    rows = [json.loads(line) for line in (EXAMPLES / "aiperf/profile_export.jsonl").read_text().splitlines()]
    changed = rows[2]["metrics"] | metrics
    rows[2]["metrics"] = {name: value for name, value in changed.items() if value is not None}
    (tmp_path / "profile_export.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "profile_export.jsonl"


def test_aiperf_counts_tokens_as_the_server_does_where_it_told(tmp_path):
    run = load("aiperf")
    assert [request.num_output_tokens for request in run.requests] == [12, 12, 12]
    assert not any("tokenizer" in sentence for sentence in run.assumptions)
    run = read_run(aiperf(tmp_path, usage_completion_tokens=None, output_sequence_length={"value": 31}))
    assert [request.num_output_tokens for request in run.requests] == [12, 31, 12]
    assert any("aiperf's tokenizer" in sentence for sentence in run.assumptions)


def test_every_time_of_aiperf_is_in_the_unit_that_stands_with_it(tmp_path):
    latency = {"value": 700_000, "unit": "us"}
    second = read_run(aiperf(tmp_path, request_latency=latency)).requests[1]
    assert second.last_token_s - second.sent_s == pytest.approx(0.7, abs=1e-6)
    refused(aiperf(tmp_path, request_latency={"value": 1, "unit": "min"}), "line 3: request_latency is in 'min'")
    refused(aiperf(tmp_path, time_to_first_token=None), "line 3: no time_to_first_token; record it with --streaming")


def test_tokens_that_the_server_found_cached_contradict_the_assumption_aloud(tmp_path):
    assert load("aiperf").assumptions == (LENGTHS_ONLY,)
    run = read_run(aiperf(tmp_path, usage_prompt_cache_read_tokens={"value": 32, "unit": "tokens"}))
    assert run.assumptions == (LENGTHS_ONLY, "But the server found 32 prompt tokens cached.")


# TraceV2


def tracev2(tmp_path, *changes):
    """The example with texts replaced in both files."""
    for file in sorted((EXAMPLES / "tracev2").iterdir()):
        text = file.read_text()
        for old, new in changes:
            text = text.replace(old, new)
        (tmp_path / file.name).write_text(text)
    return tmp_path / "trace.yaml"


def test_requests_of_one_prefix_group_share_its_prefix_and_nothing_else(tmp_path):
    one, alone, other = read_run(tracev2(tmp_path)).requests
    assert one.prompt[0] == other.prompt[0]
    assert [[segment.num_tokens for segment in request.prompt] for request in (one, alone, other)] == [
        [64, 36],
        [80],
        [64, 56],
    ]
    assert len({segment for request in (one, alone, other) for segment in request.prompt}) == 4
    assert one.first_token_s == pytest.approx(0.02995, abs=1e-6)


TRACES = {
    "an unknown column": ((",finish_reason", ",finish_reasons"), "unknown column 'finish_reasons'; did you mean"),
    "a missing column": (("send_time_us", "arrival_us"), "no column send_time_us; TraceV2 has"),
    "another unit": (("microseconds", "milliseconds"), "time_unit is 'milliseconds', not microseconds"),
    "another version": (("trace_version: 2", "trace_version: 3"), "trace_version is 3, not 2"),
    "nothing measured": (("mode: real", "mode: generated"), "mode is 'generated', not real"),
    "a row too short": ((",ok,,length", ",ok"), "line 2: 25 values, the header has 27"),
    "no number": (("1700000000000050", "soon"), "line 2: send_time_us is 'soon', not a whole number"),
    "seconds": (("17000000002", "1700000"), r"request 2: ends .* s after the first"),
    "an unknown prefix": (("tiny,0,100", "tiny,0,0"), "line 2: a prefix_group without server_input_tokens"),
    "a long prefix": (("a,64,true,120", "a,640,true,120"), "line 3: a prefix of 640 in a prompt of 120 tokens"),
    "two prefixes": (("a,64,true,120", "a,48,true,120"), "line 3: a prefix of 48 .* its group has 64"),
    "a setting that cannot be": (("max_num_seqs: 128", "max_num_seqs: none"), "max_num_seqs of the engine"),
}


@pytest.mark.parametrize(("change", "problem"), TRACES.values(), ids=TRACES)
def test_a_tracev2_that_differs_from_its_description_is_refused(change, problem, tmp_path):
    refused(tracev2(tmp_path, change), problem)


def test_the_csv_of_a_tracev2_must_be_beside_its_header(tmp_path):
    header = tracev2(tmp_path)
    (tmp_path / "trace.csv").rename(tmp_path / "other.csv")
    assert len(read_run(header).requests) == 3
    (tmp_path / "another.csv").touch()
    refused(header, "2 CSV files beside it, none of its name; put trace.csv there")


# Our own replays


def chain(name):
    """Two calls, the second with the first's answer in its prompt, and one beside them; all begin alike."""
    return {
        "id": name,
        "framework": "Test",
        "task": "t",
        "nodes": [
            {"call": "a", "agent": "x", "prompt": [["sys", 40], [f"{name} 1", 30]], "answer": "A", "output_tokens": 21},
            {
                "call": "b",
                "agent": "x",
                "prompt": [["sys", 40], [f"{name} 1", 30], ["A", 21], [f"{name} 2", 9]],
                "answer": "B",
                "output_tokens": 5,
            },
            {"call": "c", "agent": "y", "prompt": [["sys", 40], [f"{name} 3", 50]], "answer": "C", "output_tokens": 7},
        ],
        "edges": [["a", "b", "visible"], ["b", "c", "control"]],
    }


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """Replays on the fake server: under which load -> folder; and the traces."""
    folder = tmp_path_factory.mktemp("replayed")
    traces = jsonl(folder / "traces.jsonl", chain("v"), chain("w"))
    loads = {"alone": (), "together": ("--concurrent-sessions", 1)}
    engine = profile(roomy(max_model_len=8192), StepTime(const_s=0.002, **dict.fromkeys(COEFFICIENTS, 0.0)))
    with FakeServer(engine) as server:
        for load, options in loads.items():
            arguments = (
                "--policy",
                "sequential",
                "--policy",
                "async",
                "--repeat",
                2,
                "--timeout",
                20,
                "-o",
                folder / load,
            )
            done = workspan("replay", traces, "--server", server.url, *options, *arguments)
            assert done.returncode == 0, done.stderr
    return folder, traces, engine


COEFFICIENTS = ("prefill_token_s", "decode_seq_s", "kv_token_s", "attention_pair_s")


@pytest.mark.parametrize(("load", "stretches"), [("alone", 8), ("together", 4)])
def test_the_simulated_engine_finds_cached_what_the_server_found(load, stretches, replayed):
    folder, traces, engine = replayed
    run = read_run(folder / load, traces)
    assert (len(run.requests), run.facts["engine"]) == (24, "fake")
    # A busy machine sends late, which is told; it changes no order here, as no two calls run at once.
    assert LENGTHS_ONLY not in run.assumptions
    assert EngineSettings(**run.engine) == engine.engine
    rows = [json.loads(line) for line in (folder / load / "calls.jsonl").read_text().splitlines()[1:]]
    told = {f"{row['policy']}/{row['repetition']}/{row['session']}/{row['call_id']}": row for row in rows}
    found = simulated(run, engine)
    assert {name: told[name]["num_cached_tokens"] for name in found} == found
    assert {found[name] for name in found if name.endswith("/b")} == {80}
    gaps = [late.sent_s - soon.sent_s for soon, late in zip(run.requests, run.requests[1:], strict=False)]
    assert sum(gap > 60 for gap in gaps) == stretches - 1


def simulated(run: RecordedRun, engine):
    """Request id -> prompt tokens that the simulated engine finds cached, every request sent when it was."""
    workflows = {
        number: Workflow(
            request.id,
            "test",
            "",
            (Call("call", "user", request.prompt, request.answer.segment_id),),
            (),
            Tape({"call": request.num_output_tokens}, {}),
        )
        for number, request in enumerate(run.requests)
    }
    result = serve(workflows, parse_policy("async"), engine, [request.sent_s for request in run.requests])
    return {record.workflow_id: record.num_cached_tokens for record in result.records}


def test_repetitions_and_policies_share_no_segment():
    segments = {}
    for request in load("replay").requests:
        policy, repetition, *_ = request.id.split("/")
        segments.setdefault((policy, repetition), set()).update(request.prompt)
    assert len(segments) == 4
    assert not any(one & other for one, other in combinations(segments.values(), 2))


def test_without_traces_a_replay_says_what_was_cached_all_the_same():
    assert any("512 prompt tokens cached" in sentence for sentence in load("replay", workload=False).assumptions)


def replay(tmp_path, **changes):
    folder = tmp_path / "replay"
    shutil.copytree(EXAMPLES / "replay", folder)
    header, *rows = (folder / "calls.jsonl").read_text().splitlines()
    (folder / "calls.jsonl").write_text("\n".join([json.dumps(json.loads(header) | changes), *rows]))
    return folder


def test_a_prediction_is_no_recorded_run(tmp_path):
    refused(replay(tmp_path, engine="simulated"), "a prediction, no measurement")


def test_what_disturbed_a_replay_is_told(tmp_path):
    run = read_run(replay(tmp_path, requests_of_others=7, degraded=True), EXAMPLES / "replay.workload.jsonl")
    assert [sentence.split()[0] for sentence in run.assumptions] == ["7", "The"]


def test_other_traces_than_those_replayed_are_refused(tmp_path):
    refused(EXAMPLES / "replay", "line 2: no call 'a' of 'w' in the traces", jsonl(tmp_path / "t.jsonl", chain("v")))
    other = jsonl(tmp_path / "t.jsonl", chain("w"))
    refused(EXAMPLES / "replay", "line 2: 50 prompt tokens, 70 in the traces; give the traces as they were", other)


def test_chats_have_lengths_only_as_their_texts_are_in_no_trace(tmp_path):
    traces = jsonl(tmp_path / "t.jsonl", chain("w"))
    run = read_run(replay(tmp_path, texts_digest="1234"), traces)
    assert run.assumptions == ("12 calls were chats, of which only lengths are recorded.",)
    assert {len(request.prompt) for request in run.requests} == {1}


# What prompts share


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=8))
def test_prompts_share_exactly_the_tokens_that_they_share(prompts):
    found = of_ids(prompts)
    for prompt, segments in zip(prompts, found, strict=True):
        assert sum(segment.num_tokens for segment in segments) == len(prompt)
        assert min(segment.num_tokens for segment in segments) > 0
    for one, other in combinations(range(len(prompts)), 2):
        shared = [segment.num_tokens for segment, _ in common(found[one], found[other])]
        assert sum(shared) == len(common(prompts[one], prompts[other]))


def common(one, other):
    return list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def refused(path, problem, workload=None):
    """A message that names a file of the run, or of its workload."""
    with pytest.raises(TraceError, match=problem) as raised:
        read_run(path, workload)
    folders = {str(place if place.is_dir() else place.parent) for place in (path, workload) if place}
    assert str(raised.value).startswith(tuple(folders))
