"""The command line as a user meets it, in its own process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commandline import HEADER, WORKFLOW, assert_one_line, jsonl, workspan


@pytest.fixture
def traces(tmp_path):
    return jsonl(tmp_path / "traces.jsonl", WORKFLOW, {**WORKFLOW, "id": "v", "framework": "Other"})


def test_json_has_the_promised_form(traces):
    done = workspan("run", traces, "--policy", "sequential", "--policy", "parallel", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["baseline"] == "sequential"
    other = result["policies"]["parallel"]
    assert other["policy"] == "async"
    assert 1 < other["speedup"] <= other["bound"] < 1.5
    assert {"mean", "p50", "p95", "p99"} <= set(other["session_latency_s"])
    assert other["calls"] == {"finished": 6}
    assert other["sessions"] == {"finished": 2}
    assert result["policies"]["sequential"]["speedup"] == 1
    assert {"profile_digest", "workflows_digest", "load", "seed", "engine"} <= set(result["provenance"])


def test_7_the_same_inputs_give_the_same_bytes_in_every_process(traces, tmp_path):
    outputs = []
    for number in "12":
        folder = tmp_path / number
        done = workspan("run", traces, "--compare", "--session-rate", 3, "-o", folder, "--json", PYTHONHASHSEED=number)
        assert done.returncode == 0, done.stderr
        outputs.append([done.stdout, *(path.read_bytes() for path in sorted(folder.iterdir()))])
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 5


def test_every_file_of_a_result_begins_with_what_it_was_made_from(traces, tmp_path):
    done = workspan("run", traces, "--policy", "parallel", "--baseline", "sequential", "-o", tmp_path / "r", "--json")
    assert done.returncode == 0, done.stderr
    provenance = json.loads(done.stdout)["provenance"]
    assert provenance["policies"] == ["sequential", "parallel"]
    assert provenance["baseline"] == "sequential"
    for text in (done.stdout, (tmp_path / "r" / "result.json").read_text()):
        assert next(iter(json.loads(text))) == "provenance"
    for name in ("calls", "sessions"):
        header = json.loads((tmp_path / "r" / f"{name}.jsonl").read_text().partition("\n")[0])
        assert header == {"records": name, **provenance}
    figure = ElementTree.parse(tmp_path / "r" / "speedup.svg")
    description = figure.find(".//{http://purl.org/dc/elements/1.1/}description")
    assert json.loads(description.text) == provenance


def test_no_folder_is_made_for_a_run_that_cannot_start(traces, tmp_path):
    for wrong in (("--profile", "none.yaml"), ("--policy", "asinc"), (tmp_path / "typo.json",)):
        assert workspan("run", traces, "--compare", *wrong, "-o", tmp_path / "left" / "over").returncode == 2
    assert not (tmp_path / "left").exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(traces, tmp_path, monkeypatch, capsys):
    from sim import cli

    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)  # root may write everywhere
    monkeypatch.setattr(sys, "argv", ["workspan", "run", str(traces), "--compare", "-o", str(tmp_path / "new")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    problem = f"RunError: {tmp_path / 'new'}: cannot be written in {tmp_path}; name another folder"
    assert capsys.readouterr().err.splitlines() == [problem]


@pytest.mark.parametrize("sessions", [3, 10**24])
def test_no_more_sessions_than_workflows_can_be_under_way(sessions, traces):
    done = workspan("run", traces, "--compare", "--concurrent-sessions", sessions)
    assert done.returncode == 0, done.stderr
    line = f"--concurrent-sessions {sessions}: only 2 can be under way, one per workflow"
    assert line in done.stderr.splitlines()
    assert "2 concurrent sessions" in done.stdout


def test_a_result_is_never_written_over_another(traces, tmp_path):
    folder = tmp_path / "out"
    assert workspan("run", traces, "--compare", "-o", folder).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.name for path in before} == {"calls.jsonl", "sessions.jsonl", "result.json", "speedup.svg"}
    done = workspan("run", traces, "--compare", "-o", folder)
    assert done.returncode == 2
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def rows(done):
    """First cell of each row of the tables -> its other cells."""
    assert done.returncode == 0, done.stderr
    cells = (re.split(r"\s{2,}", line.rstrip()) for line in done.stdout.splitlines())
    return {first: others for first, *others in cells if others}


def test_under_load_work_over_span_is_called_a_bound_of_runs_alone_only(traces):
    alone = workspan("run", traces, "--compare")
    loaded = workspan("run", traces, "--compare", "--concurrent-sessions", 2)
    assert "bound: work / span" in rows(alone)
    assert "bound when alone: work / span" in rows(loaded)
    assert rows(loaded)["speed-up over sequential"][:2] == ["workflows", "bound when alone"]
    warning = "Under load a speed-up can exceed the bound, which holds for a workflow alone on the server."
    assert warning in loaded.stdout
    assert warning not in alone.stdout


def test_sessions_that_failed_are_shown_and_speedups_say_over_how_many_they_are(tmp_path):
    big = {**WORKFLOW["nodes"][0], "prompt": [["long", 10_000_000]]}
    path = jsonl(tmp_path / "t.jsonl", WORKFLOW, {**WORKFLOW, "id": "big", "nodes": [big], "edges": []})
    done = workspan("run", path, "--policy", "sequential", "--policy", "async")
    assert rows(done)["sessions finished / all"] == ["1 / 2", "1 / 2"]
    assert "async against sequential: compared over 1 of 2 workflows, which finished under both." in done.stdout


def test_headings_are_whole_in_a_narrow_terminal(traces, monkeypatch, capsys):
    from rich.console import Console

    import sim.report
    from sim.cli import workspan as command

    monkeypatch.setattr(sim.report, "console", lambda: Console(width=60, markup=False))
    command.main(["run", str(traces), "--compare", "--policy", "async:max_parallel=2"], standalone_mode=False)
    text = capsys.readouterr().out
    assert "…" not in text
    assert "parallel=2" in text


def test_calls_that_can_never_run_are_failed_with_their_reason(tmp_path):
    big = {**WORKFLOW["nodes"][0], "prompt": [["long", 10_000_000]]}
    path = jsonl(tmp_path / "t.jsonl", WORKFLOW, {**WORKFLOW, "id": "big", "nodes": [big], "edges": []})
    done = workspan("run", path, "--policy", "async", "--concurrent-sessions", 2, "--json")
    assert done.returncode == 0, done.stderr
    policy = json.loads(done.stdout)["policies"]["async"]
    assert policy["calls"] == {"failed": 1, "finished": 3}
    assert policy["sessions"] == {"failed": 1, "finished": 1}
    assert "max_model_len" in next(iter(policy["failures"]))


def test_a_bad_line_is_reported_and_the_rest_is_read(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", WORKFLOW, {"id": "broken"}, {**WORKFLOW, "id": "v"})
    done = workspan("run", path, "--policy", "async")
    assert done.returncode == 0
    assert "line 3" in done.stderr
    assert "2 workflows" in done.stderr


def collection(path, *rows):
    path.write_text("".join(json.dumps({"sha256": "", **row}) + "\n" for row in rows))
    return path


PAIR = ("mathproxyagent", "a problem"), ("assistant", "an answer")
GROUP = ("Agent_Verifier", "a problem"), ("chat_manager", "hello all"), ("Agent_Problem_Solver", "a plan")


def ag2(*turns):
    return json.dumps(
        {"instance_id": "i", "trajectory": [{"name": name, "role": "user", "content": text} for name, text in turns]}
    )


def test_a_row_without_a_files_name_is_counted_as_skipped(tmp_path):
    rows = [{"path": path, "text": ag2(*PAIR)} for path in ("", 3, None, "/", "run.json")]
    done = workspan("traces", "ls", collection(tmp_path / "c.jsonl", *rows))
    assert done.returncode == 0, done.stderr
    assert "5 documents: 1 workflows (1 AG2), 4 skipped" in done.stderr
    assert 'line 1: no original file; give it a "path"' in done.stderr


def test_logs_that_begin_with_a_bracket_are_not_called_broken_json(tmp_path):
    rows = [{"path": name, "text": f"[2025-27-07 INFO] {name}"} for name in ("chat.log", "chat.json")]
    done = workspan("traces", "ls", collection(tmp_path / "c.jsonl", *rows, {"path": "a.json", "text": ag2(*PAIR)}))
    assert "chat.log: no format that workspan reads" in done.stderr
    assert "chat.json: broken JSON" in done.stderr


def test_lines_of_another_format_are_not_called_broken_json(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert "no format that workspan reads" in workspan("traces", "ls", tmp_path).stderr


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    (tmp_path / "run.json").write_text(ag2(*PAIR), encoding="utf-8-sig")
    assert "1 AG2" in workspan("traces", "ls", tmp_path).stderr


@pytest.mark.parametrize("command", [("run", "--compare"), ("traces", "ls"), ("traces", "import", "-o", "new.jsonl")])
def test_a_path_that_does_not_exist_is_an_error_among_good_ones(command, traces, tmp_path):
    done = workspan(*command, traces, tmp_path / "typo.jsonl")
    assert_one_line(done, f"{tmp_path / 'typo.jsonl'}: no such file")
    assert_one_line(workspan(*command, traces, ""), "an empty name: no such file")


def test_estimated_token_counts_are_said_to_be_estimated(tmp_path, traces):
    (tmp_path / "run.json").write_text(ag2(*PAIR))
    done = workspan("run", tmp_path, "--policy", "async")
    assert "note (1 workflows): token counts are estimated as characters / 4" in done.stderr
    assert "Token counts of 1 of 3 workflows are estimated as characters / 4." in done.stdout
    assert "characters / 4" not in str(workspan("run", traces, "--policy", "async"))


def test_an_option_without_effect_is_said_to_have_none(tmp_path, traces):
    no_effect = "--hidden-calls had no effect"
    assert no_effect in workspan("traces", "ls", traces, "--hidden-calls").stderr
    assert no_effect not in workspan("traces", "ls", traces).stderr
    (tmp_path / "run.json").write_text(ag2(*GROUP))
    done = workspan("traces", "ls", tmp_path, "--hidden-calls")
    assert done.returncode == 0, done.stderr
    assert no_effect not in done.stderr


def test_import_writes_our_own_form_and_reads_it_back(traces, tmp_path):
    new = tmp_path / "new.jsonl"
    assert workspan("traces", "import", traces, "-o", new).returncode == 0
    assert new.read_text().splitlines()[1:] != []
    again = tmp_path / "again.jsonl"
    assert workspan("traces", "import", new, "-o", again).returncode == 0
    assert again.read_text().splitlines()[1:] == new.read_text().splitlines()[1:]
    done = workspan("traces", "import", traces, "-o", new)
    assert done.returncode == 2
    assert "exists" in done.stderr


def test_show_draws_the_graph_and_marks_the_critical_path(traces):
    done = workspan("traces", "show", "w", traces)
    assert done.returncode == 0
    assert "work 3 calls, span 2" in done.stdout
    assert "a (visible)" in done.stdout


def write(name, content):
    def make(folder):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def cyclic(folder):
    return jsonl(folder / "cycle.jsonl", {**WORKFLOW, "edges": [["b", "c", "visible"], ["c", "b", "visible"]]})


def endless(folder):
    tool = {"tool": "t", "name": "python", "duration_s": 1e308}
    return jsonl(folder / "endless.jsonl", {**WORKFLOW, "nodes": [*WORKFLOW["nodes"], tool]})


BAD_FILES = {
    "a tool that never ends": (endless, "must take 0 to 1e+07 s"),
    "an id that cannot be shown": (lambda folder: jsonl(folder / "s.jsonl", {**WORKFLOW, "id": "\ud800"}), "no name"),
    "broken JSON": (write("broken.json", '{"trajectory": ['), "broken JSON"),
    "a broken line": (write("b.jsonl", json.dumps(HEADER) + '\n{"id": '), "line 2: broken JSON"),
    "cycle": (cyclic, "(cycle); remove an edge"),
    "empty file": (write("empty.jsonl", ""), "empty; copy it again"),
    "empty trajectory": (write("run.json", ag2()), "the trajectory is empty"),
    "binary file": (write("binary.bin", bytes(range(256))), "UTF-8"),
    "damaged gzip": (write("x.gz", b"\x1f\x8b\x08broken"), "gzip"),
    "no such file": (lambda folder: folder / "missing.json", "no such file"),
    "empty folder": (lambda folder: folder, "no trace file"),
    "foreign format": (write("x.json", '{"a": 1}'), "no format"),
    "newer version": (lambda folder: jsonl(folder / "n.jsonl", WORKFLOW, header={**HEADER, "version": 9}), "version 9"),
    "only a header": (lambda folder: jsonl(folder / "h.jsonl"), "no workflow"),
}


@pytest.mark.parametrize(("make", "problem"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line_and_exit_2(make, problem, tmp_path):
    path = make(tmp_path)
    done = workspan("run", path, "--compare")
    assert_one_line(done, problem)
    assert str(path) in done.stderr


BAD_ARGUMENTS = {
    "a name too long for a folder": (("--compare", "-o", "x" * 300), "name another folder"),
    "a folder in a file": (("--compare", "-o", f"{__file__}/new"), "name another folder"),
    "no policy": ((), "--policy"),
    "unknown policy": (("--policy", "asinc"), "did you mean 'async'"),
    "unknown parameter": (("--policy", "async:n=3"), "no parameter 'n'"),
    "a parameter of a policy that has none": (("--policy", "sequential:n=3"), "'n'; there is none"),
    "a parameter twice": (("--policy", "async:max_parallel=2,max_parallel=3"), "occurs twice"),
    "the same name twice": (("--policy", "async", "--policy", "async"), "name each once"),
    "the same policy twice": (("--policy", "async", "--policy", "parallel"), "twice"),
    "unknown profile": (("--compare", "--profile", "rtx4090"), "did you mean"),
    "missing profile file": (("--compare", "--profile", "none.yaml"), "none.yaml"),
    "negative rate": (("--compare", "--session-rate", "-1"), "give 0.0001 to 1e+06"),
    "rate that is no number": (("--compare", "--session-rate", "nan"), "give 0.0001 to 1e+06"),
    "rate without end": (("--compare", "--session-rate", "1e-300"), "give 0.0001 to 1e+06"),
    "rate without gaps": (("--compare", "--session-rate", "1e10"), "give 0.0001 to 1e+06"),
    "no sessions": (("--compare", "--concurrent-sessions", "0"), "1 or more"),
    "two loads": (("--compare", "--session-rate", "1", "--concurrent-sessions", "2"), "one of them"),
    "unknown option": (("--polcy", "async"), "--polic"),
    "negative seed": (("--compare", "--seed", "-1"), "seed"),
}


@pytest.mark.parametrize(("arguments", "problem"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_a_bad_argument_is_one_line_and_exit_2(arguments, problem, traces):
    assert_one_line(workspan("run", traces, *arguments), problem)


def test_a_speedup_above_work_over_span_is_reported_as_a_bug(traces, monkeypatch, capsys):
    import sim.compare
    from sim import cli

    monkeypatch.setattr(sim.compare.Workflow, "span", lambda workflow, seconds: 1e9)
    monkeypatch.setattr(sys, "argv", ["workspan", "run", str(traces), "--compare"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("bug: ")


def test_a_terminal_that_cannot_show_a_name_gets_its_number(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", {**WORKFLOW, "framework": "Größe"}, {**WORKFLOW, "id": "v"})
    done = workspan("run", path, "--compare", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "Gr\\xf6\\xdfe" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [("run", "--compare", "--json"), ("traces", "ls")], ids=" ".join)
def test_a_full_disk_is_one_line(arguments, traces):
    command = [sys.executable, "-m", "sim", *arguments, traces]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "output: cannot be read or written (No space left on device)"


def test_help_loads_neither_scipy_nor_matplotlib():
    code = "import sys; from click.testing import CliRunner; from sim.cli import workspan;"
    code += "assert CliRunner().invoke(workspan, ['--help']).exit_code == 0;"
    code += "print([name for name in ('scipy', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
