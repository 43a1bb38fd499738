"""Every command and every block of code of README and docs does what the page says: it runs, or at least is understood.

Commands run in this process, page by page and in the order of the page, in an empty folder with `my_traces/`.
"""

import os
import re
import subprocess
import sys
from itertools import pairwise

import artifact
import click
import pages
import pytest
import yaml
from click.testing import CliRunner
from commandline import WORKFLOW, jsonl

from sim.cli import workspan
from sim.latency import load_profile

#: What a command says -> what is run, and why.
SUBSTITUTIONS = (
    ("http://127.0.0.1:8000", "{server}", "the test's server has a port of its own"),
    (r"run my-study/study.yaml", r"\g<0> --set seeds=2 --set traces.resample=10 -j 1", "a tenth is enough"),
    ('"resample": [0-9]+', '"resample": 10', "the same, in Python"),
    ("--repeat [0-9]+", "--repeat 2", "a replay takes real time"),
    ("-n (200|20000) ", "-n 10 ", "how many are drawn does not matter"),
    ("--concurrent-sessions 400", r"\g<0> --only 'peer-review/*'", "five workflows instead of 2,072"),
    ("show ID ", "show w0 ", "the id of a workflow in my_traces/"),
    ("predicted/ measured/", "run/predicted run/", "two results that the line before has left"),
)
#: What is only parsed, and why.
PARSED = (
    ("plot KIND ", "a form of commands; tests/sim/test_plot.py has them"),
    ("live mock .*&", "it is the server of the test, which runs already"),
    ("calibrate --from (RUN|result.json) ", "there is no record; tests/calibration has them"),
    ("calibrate .* -o mine.yaml", "ten seconds; README's is run"),
    ("(calibrate|replay) --server http://127.0.0.1:8222 ", "a real vLLM; tests/vllm has them"),
    ("regimes ", "minutes; tests/sim/test_regimes.py has small ones"),
    ("run --policy async --policy plas:quantum_s=0.5", "15 seconds for all workflows"),
    ("run (--only 'ag2|--only 'hyperagent|loops|planners)", "minutes"),
    ("traces generate planner_workers", "of no use without them"),
    ("study run tiny.yaml", "100,000 cells"),
)
#: YAML that a page shows -> the command that takes it.
FILES = {
    "docs/performance.md": "study plan {} --set traces.resample=10",
    "docs/policies.md": "run --only 'peer-review/*' --policy async --fleet {}",
    "docs/study.md": "study plan {} --set traces.resample=10",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`workspan live mock` at a pace that suits a test."""
    profile = load_profile("cpu-tiny-llama").model_dump()
    profile["engine"] |= {"max_num_seqs": 4, "max_num_batched_tokens": 512}
    step = profile["step_time"]
    profile["step_time"] = {name: value / 8 if name.endswith("_s") else value for name, value in step.items()}
    profile["overheads"] = {}
    path = tmp_path_factory.mktemp("server") / "fast.yaml"
    path.write_text(yaml.safe_dump(profile))
    command = [sys.executable, "-m", "sim", "live", "mock", "--profile", str(path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield re.search(r"http://\S+", process.stderr.readline())[0]
        finally:
            process.kill()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what pages take for granted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # modules of a page's own are looked for in its folder
    few = {"prompt": [["s", 50]], "output_tokens": 5}
    nodes = [{**node, **few} for node in WORKFLOW["nodes"]]
    (tmp_path / "my_traces").mkdir()
    jsonl(tmp_path / "my_traces/runs.jsonl", *({**WORKFLOW, "id": f"w{number}", "nodes": nodes} for number in range(3)))
    yield tmp_path
    for name in ("mine", "hurry"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_does_what_it_says(page, place, server):
    if page in ("docs/calibration.md", "docs/compare.md", "docs/trust.md"):  # calibrated before
        (place / "mine.yaml").write_text(yaml.safe_dump(load_profile("cpu-tiny-llama").model_dump()))
    for block in pages.blocks(page):
        if block.language == "python":
            _python(page, block, place)
        for line, command in pages.commands(block) if not block.language else ():
            if any(re.match(f"workspan {start}", command) for start, _ in PARSED) and not _calibrates(page, command):
                continue
            _run(f"{page}, line {line}", _small(command, server))


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_command_is_understood(page, place, monkeypatch):
    monkeypatch.setattr(click.Command, "invoke", lambda self, context: None)
    for block in pages.blocks(page):
        for line, command in pages.commands(block) if not block.language else ():
            arguments = [word for word in pages.words(command) if word != "&"]
            done = CliRunner().invoke(workspan, arguments)
            assert done.exit_code == 0, f"{page}, line {line}: {command}\n{done.output}"


@pytest.mark.parametrize("page", pages.PAGES)
def test_commands_and_options_within_the_text_exist(page):
    for span in pages.spans(page):
        if span.startswith("workspan "):
            _check_names(page, span)


@pytest.mark.parametrize("page", FILES)
def test_a_file_that_a_page_shows_is_taken(page, place):
    (block,) = (block for block in pages.blocks(page) if block.language == "yaml")
    (place / "shown.yaml").write_text(block.text)
    _run(f"{page}, line {block.line}", f"workspan {FILES[page].format('shown.yaml')}")


def test_no_page_shows_a_file_that_is_not_tried():
    assert {page for page in pages.PAGES for block in pages.blocks(page) if block.language == "yaml"} == set(FILES)


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_somewhere(page):
    for path, heading in pages.links(page):
        target = (pages.ROOT / page).parent / path if path else pages.ROOT / page
        assert target.exists(), f"{page}: {path}"
        if heading:
            assert heading in pages.anchors(target.relative_to(pages.ROOT)), f"{page}: {path}#{heading}"


@pytest.mark.parametrize("page", pages.PAGES)
def test_files_and_targets_that_are_named_exist(page):
    targets = re.findall(r"^([\w-]+):", pages.text("Makefile"), re.MULTILINE)
    shown = [line for block in pages.blocks(page) for line in block.text.splitlines()]
    for span in (*pages.spans(page), *shown):
        if re.fullmatch(r"(sim|live|calibration|tests|docs|notebooks)/[\w/.-]+\.\w+", span) and "NAME" not in span:
            assert (pages.ROOT / span).exists(), f"{page}: {span}"
        if made := re.match(r" *make ([\w-]+)", span):
            assert made[1] in targets, f"{page}: {span}"


@pytest.mark.parametrize("rule", [*(old for old, _, _ in SUBSTITUTIONS), *(start for start, _ in PARSED)])
def test_no_exception_is_made_without_need(rule):
    assert any(re.search(rule, pages.text(page).replace("\\\n  ", "")) for page in pages.PAGES)


def test_every_claim_that_a_cpu_can_check_is_checked():
    text = pages.text("docs/artifact.md")
    listed = re.findall(r"^\| (C\d+) \|.*\|$", text, re.MULTILINE)
    assert listed == [f"C{number}" for number in range(1, len(listed) + 1)]
    assert list(artifact.CLAIMS) == listed[: len(artifact.CLAIMS)]
    for name in artifact.CLAIMS:  # beyond, a claim needs a vLLM
        assert not re.search(rf"^\| {name} \|.*as C14", text, re.MULTILINE)


def _calibrates(page, command):
    return page == "README.md" and "calibrate --server" in command


def _small(command, server):
    for old, new, _ in SUBSTITUTIONS:
        command = re.sub(old, new.replace("{server}", server), command)
    return command


def _run(where, command):
    arguments = pages.words(command)
    done = CliRunner().invoke(workspan, arguments)
    # A difference that a condition does not allow is an answer, too.
    allowed = (0, 1) if "--fail-if" in arguments else (0,)
    said = f"{where}: {command}\n{done.output}{done.exception!r}"
    assert done.exit_code in allowed, said
    assert done.exception is None or isinstance(done.exception, SystemExit), said
    for option, value in pairwise(arguments):
        assert option != "-o" or os.path.exists(value), f"{said}\nwrote no {value}"


def _python(page, block, place):
    """A module where the page names its file, else a script, in a process of its own."""
    above = block.before.rstrip().rpartition("\n\n")[2]
    named = re.match(r"# (\w+\.py)\n", block.text) or re.search(r"`(\w+\.py)`", above)
    path = place / (named[1] if named else "script.py")
    path.write_text(_small(block.text, ""))
    if not named:
        environment = {**os.environ, "PYTHONPATH": str(pages.ROOT)}
        done = subprocess.run(
            [sys.executable, path], capture_output=True, text=True, env=environment, check=False, timeout=120
        )
        assert done.returncode == 0, f"{page}, line {block.line}\n{done.stderr}"


def _check_names(page, span):
    """The subcommand exists, and has the options; what they are given may be left out in a text."""
    command, context = workspan, click.Context(workspan)
    options = set()
    for word in pages.words(span):
        if isinstance(command, click.Group) and (inner := command.get_command(context, word)):
            command, context = inner, click.Context(inner, parent=context)
            options |= {name for parameter in inner.params for name in parameter.opts + parameter.secondary_opts}
        elif isinstance(command, click.Group) and not word.startswith("-"):
            pytest.fail(f"{page}: `{span}`: no command {word!r}")
        elif word.startswith("-") and word != "--help":
            assert word in options, f"{page}: `{span}`"
