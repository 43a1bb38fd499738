"""Tools carried out: by nobody, by functions of the user's, by AppWorld's server."""

import threading
import time

import pytest
from scripted_server import scripted

from live.appworld import AppWorld
from live.conversation import askers
from live.tool_calls import Pieces, ToolCall, pick
from live.tools import NOT_RUN, Callables, Job, RecordedTime, parse_executor, start
from sim.errors import RunError
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow


def workflow(edges=("ax",), calls="a", tools="x", names=None, task="task-1"):
    """Calls and tools named by letters; a tool's name is its letter unless ``names`` has another."""
    nodes = [Call(name, "agent", (Segment("system", 5),), f"answer-{name}") for name in calls]
    nodes += [Tool(name, (names or {}).get(name, name)) for name in tools]
    tape = Tape(dict.fromkeys(calls, 3), dict.fromkeys(tools, 0.0))
    return Workflow("w", "test", task, tuple(nodes), tuple(Edge(*edge, "visible") for edge in edges), tape)


def job(arguments, session=0, recorded_s=0.0, **changes):
    """Tool x, called by the model with these arguments (None: not called)."""
    flow = workflow(**changes)
    call = None if arguments is None else ToolCall("id", "x", "{}", arguments)
    return Job(session, flow, flow.tools[0], call, recorded_s)


def test_pieces_of_several_calls_are_put_together_by_their_index():
    pieces = Pieces()
    pieces.add([{"index": 1, "id": "two", "function": {"name": "y", "arguments": None}}])
    pieces.add([{"index": 0, "id": "one", "function": {"name": "x"}}, {"index": 1, "function": {"arguments": '{"k"'}}])
    pieces.add([{"index": 1, "function": {"name": None, "arguments": ":2}"}}])
    first, second = pieces.calls(["x", "y"], cut_off=False)
    assert (first.id, first.name, first.arguments, first.problem) == (
        "one",
        "x",
        None,
        "the arguments of 'x' are no JSON",
    )
    assert (second.id, second.name, second.arguments, second.problem) == ("two", "y", {"k": 2}, "")


def test_the_nth_tool_of_a_name_is_the_nth_call_of_it_and_a_broken_one_is_nobodys():
    calls = [ToolCall("1", "x", "", {}), ToolCall("2", "y", "", {}), ToolCall("3", "x", "", None, "broken")]
    assert pick(calls, "x", 0) is calls[0]
    assert pick(calls, "x", 1) is None
    assert pick(calls, "y", 0) is calls[1]
    assert pick(calls, "z", 0) is None


def test_a_tool_is_asked_for_by_the_last_call_that_leads_to_it():
    flow = workflow(["ax", "ay", "xz", "bz", "xv"], calls="ab", tools="xyzvu", names={"y": "x", "v": "x"})
    assert askers(flow) == {"x": ("a", 0), "y": ("a", 1), "v": ("a", 2), "z": ("b", 0)}


def test_the_recorded_time_passes_and_the_result_says_that_nothing_was_run():
    began = time.monotonic()
    result = RecordedTime().run(job({}, recorded_s=0.1))
    assert time.monotonic() - began >= 0.1
    assert (result.text, result.seconds, result.reason) == (NOT_RUN, 0.1, "")


@pytest.mark.parametrize(
    ("result", "text"), [("plain", "plain"), ({"k": [1, None]}, '{"k": [1, null]}'), (None, "null"), ({1j}, '"{1j}"')]
)
def test_a_function_gets_the_models_arguments_and_its_result_becomes_text(result, text):
    got = Callables({"x": lambda **arguments: result if arguments == {"a": 1} else arguments}, 5).run(job({"a": 1}))
    assert (got.text, got.reason, got.fatal) == (text, "", False)


def leaves(**arguments):
    raise SystemExit("bye")


def circle(**arguments):
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        (lambda a: 1 / a, {"a": 0}, "ZeroDivisionError: division by zero"),
        (lambda a: a, {"b": 0}, "TypeError: "),
        (leaves, {}, "SystemExit: bye"),
        (circle, {}, "ValueError: "),
        (lambda: "never", None, "the model did not call it"),
    ],
)
@pytest.mark.parametrize("stops", [False, True])
def test_a_function_that_fails_is_a_failed_tool_with_its_reason(function, arguments, reason, stops):
    result = Callables({"x": function}, 5, stops).run(job(arguments))
    assert result.reason.startswith(reason)
    assert result.text == f"error: {result.reason}"
    assert result.fatal is stops


def test_a_function_that_takes_too_long_is_left_behind():
    released = threading.Event()
    result = Callables({"x": lambda: released.wait(10)}, 0.05).run(job({}))
    released.set()
    assert result.reason == "no result within 0.05 s"
    assert 0.05 <= result.seconds < 5


def test_a_tool_without_a_function_takes_its_recorded_time():
    assert Callables({"y": print}, 5).run(job({}, recorded_s=0.01)).text == NOT_RUN


def test_functions_of_which_no_tool_has_the_name_are_refused():
    functions = Callables({"xs": print}, 5)
    with pytest.raises(RunError, match="no tool of the traces is named 'xs'"):
        functions.check([workflow()])
    functions.check([workflow(names={"x": "xs"})])


def test_whatever_an_executor_raises_somebody_is_told():
    class Broken:
        def run(self, job):
            raise KeyError("gone")

        def over(self, session):
            pass

    told = threading.Event()
    results = []
    start(Broken(), job({}), lambda result: (results.append(result), told.set()))
    assert told.wait(5)
    assert results[0].reason == "KeyError: 'gone'"


MODULE = """
import json
FUNCTIONS = {"x": lambda a: f"dict {a}", "_hidden": print, "number": 3}
class Tools:
    scale = 2
    def x(self, a):
        return f"object {a * self.scale}"
METHODS = Tools()
NOTHING = {}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_own_tools.py").write_text(MODULE)
    (tmp_path / "my_broken_tools.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nonexistent", *__import__("sys").path])


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(("place", "text"), [("FUNCTIONS", "dict 3"), ("METHODS", "object 6")])
def test_functions_are_found_in_a_dict_or_an_object_of_a_module(place, text):
    assert parse_executor(f"my_own_tools:{place}", 5).run(job({"a": 3})).text == text


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("my_own_tools", "give recorded, module:attribute or appworld:URL"),
        ("my_own_tools:", "give recorded, module:attribute or appworld:URL"),
        ("my_own_tools:OTHER", "no attribute 'OTHER'; define it there"),
        ("my_own_tools:NOTHING", "no functions there"),
        ("my_missing_tools:x", "my_missing_tools cannot be imported"),
        ("my_broken_tools:x", "my_broken_tools cannot be imported (ZeroDivisionError"),
    ],
)
def test_functions_that_are_not_there_are_told_with_the_mend(text, problem):
    with pytest.raises(RunError) as error:
        parse_executor(text, 5)
    assert problem in str(error.value)


@pytest.mark.usefixtures("module")
def test_what_begins_with_an_underscore_is_no_tool():
    hidden = job({}, names={"x": "_hidden"})
    assert parse_executor("my_own_tools:FUNCTIONS", 5).run(hidden).text == NOT_RUN


def test_recorded_time_is_asked_for_by_its_name():
    assert isinstance(parse_executor("recorded", 5), RecordedTime)


class World:
    """AppWorld's environment server, as far as its source tells."""

    def __init__(self):
        self.task = None

    def __call__(self, path, body):
        if path == "/":
            return 200, '{"message": "Welcome to AppWorld Server!"}'
        if path == "/initialize":
            if body["task_id"] == "unknown":
                return 500, "no such task"
            self.task = body["task_id"]
            return 200, '{"output": {"task_id": "t"}}'
        if path == "/execute" and body["task_id"] == self.task:
            return 200, '{"output": "printed"}'
        return 500, "Internal Server Error"


def test_code_runs_in_a_world_that_a_session_makes_once_and_gives_back():
    with scripted(World()) as server:
        executor = parse_executor(f"appworld:{server.url}", 5)
        results = [executor.run(job({"code": code})) for code in ("print(1)", "print(2)")]
        busy = executor.run(job({"code": "3"}, session=1))
        executor.over(0)
        free = executor.run(job({"code": "4"}, session=1, task="task-2"))
    assert [result.text for result in results] == ["printed", "printed"]
    assert busy.reason == "all 1 AppWorld servers are in use; give one for each open session"
    assert free.text == "printed"
    assert [body["task_id"] for body in server.bodies("/initialize")] == ["task-1", "task-2"]
    assert server.bodies("/execute")[0] == {"task_id": "task-1", "code": "print(1)"}


def test_a_task_that_appworld_does_not_have_is_a_failed_tool_and_frees_the_server():
    with scripted(World()) as server:
        executor = AppWorld([server.url], 5, stops=True)
        result = executor.run(job({"code": "1"}, task="unknown"))
        assert result.reason == "AppWorld's initialize failed with HTTP 500: no such task"
        assert result.fatal
        assert executor.run(job({"code": "1"}, session=1)).text == "printed"


@pytest.mark.parametrize("arguments", [None, {}, {"code": 3}])
def test_a_call_without_code_is_a_failed_tool(arguments):
    with scripted(World()) as server:
        result = AppWorld([server.url], 5).run(job(arguments))
        assert result.reason == "the model did not call it with a text as 'code'"
        assert not server.bodies("/initialize")


def test_where_no_appworld_answers_the_error_says_what_to_install():
    with scripted(lambda path, body: (200, "another server")) as server, pytest.raises(RunError) as error:
        parse_executor(f"appworld:{server.url}", 5)
    assert "pip install appworld && appworld install && appworld download data" in str(error.value)
    with pytest.raises(RunError, match="no AppWorld environment server answers there"):
        parse_executor(f"appworld:{server.url}", 5)  # it is gone now
