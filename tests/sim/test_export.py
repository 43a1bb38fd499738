"""A result in other tools' tables and records, read back with the readers there are."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from commandline import WORKFLOW, jsonl
from strategies import profile

from calibration.recorded import read_run, vllm_bench
from sim.agreement.data import side_of
from sim.bench_row import bench_row
from sim.choices import Choices
from sim.commands.export import command
from sim.compare import compare, line_up
from sim.errors import RunError
from sim.export import as_run, formats, result_of
from sim.load import Alone, ConcurrentSessions
from sim.record import Record, SessionRecord
from sim.results import write
from sim.tool_time import parse_tool_times
from sim.traces import read

TOOL = {"tool": "t", "name": "search", "duration_s": None}
OTHER = {
    **WORKFLOW,
    "id": "v",
    "nodes": [*WORKFLOW["nodes"], TOOL],
    "edges": [*WORKFLOW["edges"], ["c", "t", "visible"]],
}


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return jsonl(tmp_path_factory.mktemp("traces") / "traces.jsonl", WORKFLOW, OTHER)


TWO = ConcurrentSessions(2)
EVERYTHING = Choices()


def ran(traces, load=TWO, names=("async",), choices=EVERYTHING):
    workflows = choices.apply(read([traces])[0], 0)
    return compare(workflows, *line_up(names, None), profile(), load, 0, choices)


def result(*arguments, **known):
    return result_of(side_of(ran(*arguments, **known), "here"))


def text(name, of):
    (pieces,) = formats()[name].write(of).files.values()
    return "".join(pieces)


def measured(of):
    """As if a server had run it."""
    return replace(of, provenance={**of.provenance, "engine": "vllm", "model": "m", "scheduler": {"max_num_seqs": 4}})


def unfinished(of):
    """The last call never ended."""
    (part,) = of.parts
    *others, last = part.run.records
    last = last._replace(finished_s=None, status="failed", reason="timeout")
    run = replace(part.run, records=(*others, last))
    return replace(of, parts=[replace(part, run=run, timeline=run)])


def test_every_format_says_what_it_is_and_whether_it_needs_the_workflows():
    assert list(formats()) == [
        *("agentic_mooncake", "aiperf", "csv", "dag_jsonl", "otel", "perfetto", "tracev2", "vllm"),
    ]
    for module in formats().values():
        assert module.__doc__
        assert isinstance(module.USES_WORKFLOWS, bool)


def test_workflows_that_ran_alone_follow_one_another_on_one_clock(traces):
    (part,) = result(traces, load=Alone()).parts
    first, second = (session.latency_s for session in part.run.sessions)
    assert [session.arrived_s for session in part.run.sessions] == [0, 0]
    assert [session.arrived_s for session in part.timeline.sessions] == pytest.approx([0, first])
    assert part.timeline.sessions[1].finished_s == pytest.approx(first + second)
    assert part.run.makespan_s == pytest.approx(first + second)
    sent = [record.sent_s for record in part.timeline.records if record.session == 1]
    assert min(sent) == pytest.approx(first)


def test_a_table_has_every_column_of_every_run(traces):
    both = result(traces, load=Alone(), names=("sequential", "async"))
    files = {name: "".join(pieces) for name, pieces in formats()["csv"].write(both).files.items()}
    for file, kind, rows in (("calls.csv", Record, "records"), ("sessions.csv", SessionRecord, "sessions")):
        table = list(csv.DictReader(io.StringIO(files[file])))
        assert list(table[0]) == ["policy", "repetition", *kind._fields]
        known = [(part.policy, row) for part in both.parts for row in getattr(part.run, rows)]
        assert len(table) == len(known)
        for read_back, (policy, row) in zip(table, known, strict=True):
            assert read_back.pop("policy") == policy
            assert read_back.pop("repetition") == "0"
            assert list(read_back.values()) == ["" if value is None else str(value) for value in row]
    assert json.loads(files["provenance.json"]) == both.provenance


def test_a_benchmark_has_the_keys_of_vllm_and_the_numbers_of_the_run(traces):
    of = result(traces)
    data = json.loads(text("vllm", of))
    example = Path(__file__).parents[1] / "calibration" / "examples" / "vllm_bench.json"
    theirs = json.loads(example.read_text())
    left_out = {"date", "request_rate", "burstiness", "itls", "queue_times", "generated_texts", "rtfx"}
    assert theirs.keys() - data.keys() == {*left_out, "max_concurrent_requests", "max_output_tokens_per_s"}
    row = bench_row(of.only.run)
    for name in ("completed", "duration", "output_throughput", "median_ttft_ms", "p99_e2el_ms", "mean_tpot_ms"):
        assert data[name] == row[name]
    assert data["completed"] == len(data["ttfts"]) == len(data["start_times"]) == 6
    assert sum(data["latencies"]) / 6 * 1000 == pytest.approx(data["mean_e2el_ms"])
    assert data["start_times"] == sorted(data["start_times"])
    assert sum(data["input_lens"]) == data["total_input_tokens"]


def test_a_benchmark_counts_a_request_that_did_not_finish(traces, tmp_path):
    data = json.loads(text("vllm", unfinished(result(traces))))
    assert (data["completed"], data["failed"], data["num_prompts"]) == (5, 1, 6)
    assert sorted(data["errors"]) == ["", "", "", "", "", "timeout"]
    (tmp_path / "bench.json").write_text(json.dumps(data))
    assert vllm_bench.looks_like(tmp_path / "bench.json")


@pytest.mark.parametrize("name", ["aiperf", "tracev2"])
def test_records_are_read_back_with_their_instants_and_lengths(traces, tmp_path, name):
    of = measured(result(traces))
    for file, pieces in formats()[name].write(of).files.items():
        (tmp_path / file).write_text("".join(pieces))
    run = read_run(tmp_path)
    assert (run.format, run.skipped) == (name, {})
    ours = sorted(of.only.finished, key=lambda record: (record.sent_s, record.first_token_s, record.finished_s))
    theirs = sorted(run.requests, key=lambda one: (one.sent_s, one.first_token_s, one.last_token_s))
    begin_s = ours[0].sent_s
    for record, request in zip(ours, theirs, strict=True):
        assert record.num_output_tokens == request.num_output_tokens
        assert record.num_prompt_tokens == sum(segment.num_tokens for segment in request.prompt)
        instants = record.sent_s - begin_s, record.first_token_s - begin_s, record.finished_s - begin_s
        assert (request.sent_s, request.first_token_s, request.last_token_s) == pytest.approx(instants, abs=2e-6)


@pytest.mark.parametrize("name", ["aiperf", "tracev2", "otel"])
def test_what_did_not_finish_is_left_out_and_said(traces, name):
    written = formats()[name].write(measured(unfinished(result(traces))))
    assert "1 calls that did not finish are left out" in written.notes


def test_a_simulation_is_no_record_of_a_real_server(traces):
    with pytest.raises(RunError, match="record of a real server"):
        formats()["tracev2"].write(result(traces))


def test_aiperf_takes_its_records(traces):
    models = pytest.importorskip("aiperf.common.models.record_models", reason="aiperf is not installed")
    for line in text("aiperf", result(traces)).splitlines():
        models.MetricRecordInfo.model_validate_json(line)


CHOSEN = Choices("flow", False, parse_tool_times(["search=constant:2", "lognormal:mean=3,sigma=1"]))


@pytest.mark.parametrize("choices", [EVERYTHING, CHOSEN], ids=str)
def test_workflows_are_taken_as_the_run_took_them_or_not_at_all(traces, choices):
    of = ran(traces, choices=choices)
    found = as_run(of.provenance(), read([traces])[0])
    assert [*found.values()] == list(of.workflows)
    with pytest.raises(RunError, match=r"not those of the result .*give the run's own"):
        as_run(of.provenance(), read([traces])[0][:1])


@pytest.fixture(scope="module")
def folder(traces, tmp_path_factory):
    place = tmp_path_factory.mktemp("results") / "result"
    write(ran(traces, names=("sequential", "async")), place)
    return place


def export(*arguments):
    return CliRunner().invoke(command, [*map(str, arguments)])


def test_a_format_of_one_run_asks_which(folder, tmp_path):
    done = export(folder, "--to", "vllm")
    assert str(done.exception) == f"{folder}: this format holds one policy; give --policy, one of sequential, async"
    assert "did you mean 'async'" in str(export(folder, "--to", "vllm", "--policy", "asinc").exception)
    assert "no repetition 3" in str(export(folder, "--to", "csv", "--repetition", 3).exception)
    file = tmp_path / "bench.json"
    assert export(folder, "--to", "vllm", "--policy", "async", "-o", file).exit_code == 0
    assert json.loads(file.read_text()) == json.loads(export(folder, "--to", "vllm", "--policy", "async").stdout)
    assert "exists already" in str(export(folder, "--to", "vllm", "--policy", "async", "-o", file).exception)


def test_several_files_want_a_folder(folder, tmp_path):
    assert "name a folder with -o" in str(export(folder, "--to", "csv").exception)
    assert export(folder, "--to", "csv", "-o", tmp_path / "tables").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        *("calls.csv", "provenance.json", "sessions.csv"),
    ]
    assert "something in it already" in str(export(folder, "--to", "csv", "-o", tmp_path / "tables").exception)


def test_what_waits_for_what_comes_from_the_traces_that_were_run(folder, traces, tmp_path):
    mooncake = folder, "--to", "agentic_mooncake", "--policy", "async"
    assert "give --traces" in str(export(*mooncake).exception)
    done = export(*mooncake, "--traces", traces)
    assert len(done.stdout.splitlines()) == 7
    others = jsonl(tmp_path / "others.jsonl", WORKFLOW)
    assert "(digest " in str(export(*mooncake, "--traces", others).exception)
    assert "leave it out" in str(export(folder, "--to", "csv", "--traces", traces).exception)
    assert "leave it out" in str(export(folder, "--to", "csv", "--sessions", 2).exception)
