"""The step trace, written by the tracer around a scheduler that only pretends, and read again."""

import dataclasses
import importlib
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from live.steps import Arrival, durations, join, read_steps, request_id, served
from sim.errors import TraceError
from sim.record import Record


class Pretender:
    """What the tracer needs of vLLM's scheduler; the test says what is scheduled and who ends."""

    def __init__(self):
        self.vllm_config = SimpleNamespace(
            parallel_config=SimpleNamespace(data_parallel_index=0),
            scheduler_config=SimpleNamespace(
                max_num_seqs=8,
                max_num_batched_tokens=64,
                enable_chunked_prefill=True,
                long_prefill_token_threshold=0,
                async_scheduling=False,
                scheduler_reserve_full_isl=True,
            ),
            cache_config=SimpleNamespace(num_gpu_blocks=11, enable_prefix_caching=True),
        )
        self.policy = SimpleNamespace(value="priority")
        self.kv_cache_manager = SimpleNamespace(block_pool=SimpleNamespace(get_num_free_blocks=lambda: 7))
        self.max_model_len, self.block_size = 100, 16
        self.requests, self.waiting, self.running, self.is_shut = {}, [], [], False

    def add_request(self, request):
        self.requests[request.request_id] = request

    def schedule(self, tokens, preempted=()):
        for name, count in tokens.items():
            self.requests[name].num_computed_tokens += count
        return SimpleNamespace(num_scheduled_tokens=tokens, preempted_req_ids=set(preempted) or None)

    def update_from_output(self, output, ended):
        self._end(ended)
        return f"ended {ended}"

    def finish_requests(self, names, status):
        self._end(names)

    def shutdown(self):
        self.is_shut = True

    def _end(self, names):
        for name in names:
            del self.requests[name]


def request(name, tokens=20, priority=0):
    return SimpleNamespace(
        request_id=name,
        num_prompt_tokens=tokens,
        max_tokens=5,
        priority=priority,
        arrival_time=1.5,
        num_computed_tokens=0,
    )


@pytest.fixture
def tracer(monkeypatch):
    """The module `live.step_trace` on a vLLM that is not there, with what it logs."""
    names = {"vllm": {"__version__": "0.32.0+cpu"}, "vllm.logger": {"init_logger": lambda name: log}}
    for kind, name in (("scheduler", "Scheduler"), ("async_scheduler", "AsyncScheduler")):
        names[f"vllm.v1.core.sched.{kind}"] = {name: type(name, (Pretender,), {})}
    messages = []
    log = SimpleNamespace(
        error=lambda text, *values: messages.append(text % values),
        warning=lambda text, *values: messages.append(text % values),
    )
    for name in ("vllm.v1", "vllm.v1.core", "vllm.v1.core.sched", *names):
        module = ModuleType(name)
        vars(module).update(names.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "live.step_trace", raising=False)
    module = importlib.import_module("live.step_trace")
    yield SimpleNamespace(module=module, messages=messages)
    del sys.modules["live.step_trace"]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSPAN_STEP_TRACE", str(tmp_path / "steps.jsonl"))
    return tmp_path / "steps.jsonl"


@pytest.fixture
def written(tracer, path):
    """Two requests in five steps: the second is preempted and comes back; then an idle step; then one is aborted."""
    scheduler = tracer.module.TracingScheduler()
    first, second = "cmpl-run/0/a-0-0123abcd", "cmpl-run/0/b-0-89abcdef"
    scheduler.add_request(request(first))
    scheduler.add_request(request(second, 30, priority=2))
    for tokens, preempted, ended in (
        ({first: 20, second: 30}, (), ()),
        ({first: 1}, (second,), ()),
        ({first: 1}, (), (first,)),
        ({second: 14}, (), ()),
        ({second: 1}, (), (second,)),
        ({}, (), ()),
    ):
        if second in preempted:
            scheduler.requests[second].num_computed_tokens = 0
        if 14 in tokens.values():
            scheduler.requests[second].num_computed_tokens = 16
        output = scheduler.schedule(tokens, preempted)
        assert scheduler.update_from_output(output, ended) == f"ended {ended}"
    yield scheduler
    scheduler.shutdown()


def test_a_trace_says_what_was_scheduled(written, path):
    trace = read_steps(path)
    assert (trace.vllm_version, trace.scheduler, trace.cut_off) == ("0.32.0+cpu", "TracingScheduler", False)
    assert trace.settings.num_gpu_blocks == 11
    assert trace.settings.scheduling_policy == "priority"
    assert [step.rows for step in trace.steps] == [
        ((0, 20, 0), (1, 30, 0)),
        ((0, 1, 20),),
        ((0, 1, 21),),
        ((1, 14, 16),),
        ((1, 1, 30),),
        (),
    ]
    assert [step.new for step in trace.steps] == [(0, 1), (), (), (), (), ()]
    assert [step.preempted for step in trace.steps] == [(), (1,), (), (), (), ()]
    assert [step.resumed for step in trace.steps] == [(), (), (), (1,), (), ()]
    assert [step.finished for step in trace.steps] == [(), (), (0,), (), (1,), ()]
    assert {step.free_blocks for step in trace.steps} == {7}
    assert trace.steps[0].arrived == tuple(trace.requests.values())
    second = dataclasses.replace(trace.requests[1], seen_s=0.0)
    assert second == Arrival(1, "cmpl-run/0/b-0-89abcdef", 30, 5, 2, 1.5, 0.0)
    times = [t for s in trace.steps for t in (s.schedule_s, s.scheduled_s, s.result_s, s.updated_s)]
    assert times == sorted(times)


def test_an_idle_engine_has_written_everything_and_a_step_without_result_is_written_at_the_end(written, path):
    assert len(read_steps(path).steps) == 6
    written.add_request(request("later"))
    written.add_request(request("gone"))
    written.finish_requests(["gone"], "aborted")
    written.schedule({"later": 20})
    assert len(read_steps(path).steps) == 6
    written.shutdown()
    assert written.is_shut
    last = read_steps(path).steps[-1]
    assert last.rows == ((2, 20, 0),)
    assert last.aborted == (3,)
    assert last.result_s is last.updated_s is None


def test_a_request_ends_before_the_step_that_was_scheduled_ahead_for_it(tracer, path):
    scheduler = tracer.module.TracingAsyncScheduler()
    scheduler.add_request(request("a"))
    one, ahead = scheduler.schedule({"a": 20}), scheduler.schedule({"a": 1})
    scheduler.update_from_output(one, ["a"])
    scheduler.update_from_output(ahead, [])
    steps = read_steps(path).steps
    assert [step.finished for step in steps] == [(0,), ()]
    assert steps[1].scheduled_s <= steps[0].result_s
    assert tracer.messages == []
    scheduler.shutdown()


def test_an_error_ends_the_trace_and_never_the_server(tracer, path):
    scheduler = tracer.module.TracingScheduler()
    scheduler.add_request(request("a"))
    scheduler._writer._file.close()
    for _ in range(2):
        output = scheduler.schedule({"a": 1})
        assert scheduler.update_from_output(output, []) == "ended []"
    scheduler.shutdown()
    assert scheduler.is_shut
    assert tracer.messages == ["The step trace ends here: ValueError: I/O operation on closed file."]


def test_a_file_that_cannot_be_written_or_is_not_named_is_said_once(tracer, tmp_path, monkeypatch):
    for place, problem in (
        (str(tmp_path), "The step trace ends here: IsADirectoryError"),
        (None, "No steps are traced"),
    ):
        monkeypatch.delenv("WORKSPAN_STEP_TRACE", raising=False)
        if place:
            monkeypatch.setenv("WORKSPAN_STEP_TRACE", place)
        scheduler = tracer.module.TracingScheduler()
        scheduler.add_request(request("a"))
        scheduler.update_from_output(scheduler.schedule({"a": 1}), ["a"])
        assert len(tracer.messages) == 1
        assert problem in tracer.messages.pop()


def test_each_engine_of_a_server_has_its_own_file(tracer, path, monkeypatch):
    monkeypatch.setattr(Pretender, "__init__", numbered(Pretender.__init__, 1))
    tracer.module.TracingScheduler().shutdown()
    assert not path.exists()
    assert read_steps(path.with_name("steps.jsonl.1")).steps == ()


def numbered(init, index):
    def changed(self):
        init(self)
        self.vllm_config.parallel_config.data_parallel_index = index

    return changed


def test_records_are_joined_with_what_the_engine_did_for_them(written, path):
    trace = read_steps(path)
    records = [record("a"), record("b"), record("c", status="failed")]
    pairs = join(trace, records, "run")
    assert [(one.call_id, served.arrival.number) for one, served in pairs] == [("a", 0), ("b", 1)]
    _, second = pairs[1]
    assert (second.num_preemptions, second.num_cached_tokens) == (1, 0)
    assert list(second.rows) == [0, 3, 4]
    assert second.scheduled_s == trace.steps[0].schedule_s
    assert served(trace)[0].num_preemptions == 0
    with pytest.raises(TraceError, match=r"call a of session 0: 0 requests .* called other/0/a"):
        join(trace, records, "other")


def record(call, status="finished"):
    return Record(0, "w", call, "x", 20, 0, 5, 0.0, 0.0, 0.1, 0.2, None, status)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cmpl-run/3/a b-0-0-12345678", "run/3/a b-0"),
        ("chatcmpl-run/3/a-0-12345678", "run/3/a-0"),
        ("cmpl-run/3/a-0", "cmpl-run/3/a-0"),
    ],
)
def test_the_clients_own_id_is_found_in_vllms(name, given):
    assert Arrival(0, name, 1, 1, 0, 0.0, 0.0).client_id == given
    assert request_id("run", 3, "a-0") == "run/3/a-0"


def timed(*times):
    """Steps with these four times; all have rows but those whose first time is None."""
    step = {"rows": [[0, 1, 0]], "new": [], "resumed": [], "preempted": [], "free_blocks": 1, "num_waiting": 0}
    step |= {"num_running": 1, "arrived": [], "aborted": [], "finished": []}
    names = ("schedule_s", "scheduled_s", "result_s", "updated_s")
    return [step | {"step": i} | dict(zip(names, four, strict=True)) for i, four in enumerate(times)]


ARRIVAL = {"number": 0, "id": "a", "num_prompt_tokens": 1, "max_tokens": 9, "priority": 0, "arrival_time": 0.0}
SETTINGS = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "max_model_len": 100, "num_gpu_blocks": 11}
HEADER = {"format": "workspan-steps", "version": 1, "vllm_version": "0.32.0", "scheduler": "x", "settings": SETTINGS}


def file_of(path, steps, header=HEADER, end="\n"):
    if steps:
        steps[0]["arrived"] = [ARRIVAL | {"seen_s": 0.0}]
    path.write_text("\n".join(map(json.dumps, [header, *steps])) + end)
    return path


def test_a_step_lasts_from_when_it_could_begin_to_its_result(tmp_path):
    one_by_one = timed((0.0, 1.0, 5.0, 5.5), (6.0, 7.0, 9.0, 9.5), (10.0, 11.0, None, None))
    one_by_one.append(timed((12.0, 12.5, 13.0, 13.5))[0] | {"step": 3, "rows": []})
    found = durations(read_steps(file_of(tmp_path / "sync", one_by_one)).steps)
    assert [(one.step.step, one.device_s, one.host_s) for one in found] == [(0, 4.0, 1.5), (1, 2.0, 1.5)]
    # Each step is scheduled while the one before it runs; the third came too late to begin at once.
    ahead = timed((0.0, 1.0, 5.0, 5.5), (1.5, 2.0, 9.0, 9.5), (9.5, 10.0, 12.0, 12.5))
    found = durations(read_steps(file_of(tmp_path / "async", ahead)).steps)
    assert [(one.device_s, one.host_s) for one in found] == [(4.0, 1.5), (4.0, 1.0), (2.0, 1.0)]


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path):
    path = file_of(tmp_path / "steps", timed((0.0, 1.0, 5.0, 5.5), (6.0, 7.0, 9.0, 9.5)))
    text = path.read_text()
    for length in range(text.index("\n") + 1, len(text)):
        path.write_text(text[:length])
        trace = read_steps(path)
        assert len(trace.steps) == text[:length].count("\n") - 1
        assert trace.cut_off == (text[length - 1] != "\n")


GOOD = timed((0.0, 1.0, 5.0, 5.5), (6.0, 7.0, 9.0, 9.5))


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([GOOD[0], GOOD[1] | {"step": 2}], "line 3: step 2 where 1 should be"),
        ([GOOD[0], GOOD[1] | {"rows": [[1, 1, 0]]}], "line 3: request 1 never arrived"),
        ([GOOD[0], GOOD[1] | {"preempted": [4]}], "line 3: request 4 never arrived"),
        ([GOOD[0], GOOD[1] | {"arrived": [ARRIVAL | {"seen_s": 0.0}]}], "line 3: request 0 arrives where 1 should"),
        ([GOOD[0], GOOD[1] | {"free_blocks": "1"}], "line 3: free_blocks: Input should be a valid integer"),
        ([GOOD[0], GOOD[1] | {"extra": 1}], "line 3: extra: Unexpected"),
        ([GOOD[0], {name: value for name, value in GOOD[1].items() if name != "new"}], "line 3: new: Field required"),
        ([GOOD[0], GOOD[1] | {"rows": [[0, 1]]}], "line 3: rows.0"),
        ([GOOD[0], None], "line 3: the line: Input should be an object"),
    ],
)
def test_a_line_that_the_tracer_would_not_write_is_an_error(tmp_path, steps, problem):
    with pytest.raises(TraceError) as error:
        read_steps(file_of(tmp_path / "steps", [step and dict(step) for step in steps]))
    assert problem in str(error.value)
    assert str(tmp_path / "steps") in str(error.value)


def test_a_file_that_is_no_step_trace_is_an_error(tmp_path):
    for header, problem in (
        ({"format": "workspan-workflows"}, "line 1: format"),
        (HEADER | {"version": 2}, "line 1: version"),
        (HEADER | {"settings": SETTINGS | {"novelty": 1}}, "line 1: settings that workspan does not know"),
        (HEADER | {"vllm_version": "x"}, "line 1: settings that workspan does not know"),
    ):
        with pytest.raises(TraceError, match=problem):
            read_steps(file_of(tmp_path / "steps", [], header))
    with pytest.raises(TraceError, match="no whole line"):
        read_steps(file_of(tmp_path / "steps", [], end=""))
    with pytest.raises(TraceError, match="cannot be read"):
        read_steps(tmp_path / "missing")
