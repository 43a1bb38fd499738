"""What `--help` shows, that its examples can be typed, and what a shell completes."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from sim.cli import workspan

ROOT = Path(__file__).parents[2]


def commands(command=workspan, path=("workspan",)):
    """Every command and subcommand, with what one types to reach it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


COMMANDS = {" ".join(path): command for path, command in commands()}


def example_block(command):
    """The part of a command's help whose lines stay as they are."""
    return "".join(re.findall(r"^\x08\n((?:.+\n?)+)", inspect.cleandoc(command.help), re.MULTILINE))


def examples(command):
    """The examples in a command's help, each as one types it."""
    return [
        example.strip()
        for example in re.split(r"^(?=workspan )", example_block(command), flags=re.MULTILINE)
        if example
    ]


def parse(words):
    """Let click read the words, and run nothing."""
    context = workspan.make_context("workspan", words[1:])
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize("path", COMMANDS)
def test_every_help_is_a_sentence_and_examples_in_lines_of_their_own_that_can_be_typed(path):
    command = COMMANDS[path]
    done = CliRunner().invoke(workspan, [*path.split()[1:], "--help"], terminal_width=80)
    assert done.exit_code == 0
    assert re.match(r"[A-Z][^\n]*[.:](\n|$)", command.help)
    shown = [line.strip() for line in done.output.splitlines()]
    assert {line.strip() for line in example_block(command).splitlines()} <= set(shown)
    assert examples(command), "end its docstring, which must not be raw, with \\b and examples"
    for example in examples(command):
        assert parse(shlex.split(example.partition(" > ")[0])).command_path.startswith(path)


RUN = ["policies ls", "policies show", "profiles ls", "profiles show rtx", "profiles diff", "traces patterns"]


def test_examples_that_need_nothing_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [
        example
        for path in COMMANDS
        for example in examples(COMMANDS[path])
        if re.match(rf"workspan ({'|'.join(RUN)}|study init|traces generate)", example)
    ]
    assert len(set(found)) >= 8
    for example in dict.fromkeys(found):
        if " mine.yaml" not in example:
            done = CliRunner().invoke(workspan, shlex.split(example)[1:])
            assert done.exit_code == 0, f"{example}: {done.output}{done.exception}"


@pytest.mark.parametrize(
    ("typed", "meant"), [(["stduy"], "study"), (["study", "rport"], "report"), (["traces", "gen"], "generate")]
)
def test_an_unknown_command_suggests_the_nearest(typed, meant):
    done = CliRunner().invoke(workspan, typed)
    assert done.exit_code == 2
    assert f"'{meant}'" in done.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["re"], ["regimes", "replay"]),
        (["study", "re"], ["report"]),
        (["run", "--concurrent"], ["--concurrent-sessions"]),
        (["run", "--policy", "plas"], ["plas"]),
        (["validate", "--baseline", "plas+stick"], ["plas+sticky"]),
        (["replay", "--profile", "rtx4"], ["rtx4090-llama-3.1-8b"]),
        (["profiles", "diff", "rtx4090-llama-3.1-8b", "rtxp"], ["rtxpro6000-llama-3.1-8b"]),
        (["traces", "generate", "deb"], ["debate"]),
        (["plot", "c"], ["cdf"]),
    ],
    ids=" ".join,
)
def test_a_shell_completes_commands_options_and_names(words, offered):
    *before, last = words
    found = BashComplete(workspan, {}, "workspan", "_WORKSPAN_COMPLETE").get_completions(before, last)
    assert [item.value for item in found] == offered


def test_bash_asks_the_command_itself():
    code = "import sys; sys.argv = ['workspan']; from calibration.start import main; main()"
    asked = {"_WORKSPAN_COMPLETE": "bash_complete", "COMP_WORDS": "workspan run --policy plas+stick", "COMP_CWORD": "3"}
    environment = {**os.environ, **asked}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("plain,plas+sticky\n", "")


def test_the_first_word_is_completed_without_loading_a_command():
    code = "import click, sys; from sim.cli import workspan; "
    code += "print(len(workspan.shell_complete(click.Context(workspan), '')) > 10, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_the_line_of_the_help_makes_bash_complete(tmp_path):
    (line,) = re.findall(r"bash, .*?(eval .*)", CliRunner().invoke(workspan, ["--help"]).output)
    script = tmp_path / "workspan"
    script.write_text(f"#!{sys.executable}\nfrom calibration.start import main\nmain()\n")
    script.chmod(0o755)
    code = f"{line}; COMP_WORDS=(workspan poli); COMP_CWORD=1; _workspan_completion workspan; echo ${{COMPREPLY[@]}}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "policies", done.stderr
