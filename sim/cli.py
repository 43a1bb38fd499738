"""The command `workspan`. Subcommands load when they are used, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from sim import __version__
from sim.doctor.places import check_places
from sim.errors import BoundError, WorkspanError, nearest

_COMMANDS = {
    "calibrate": "calibration.commands.calibrate",
    "compare": "sim.commands.compare",
    "demo": "sim.commands.demo",
    "doctor": "live.commands.doctor",
    "export": "sim.commands.export",
    "failures": "sim.commands.failures",
    "live": "live.commands.live",
    "plot": "sim.commands.plot",
    "policies": "sim.commands.policies",
    "profiles": "sim.commands.profiles",
    "regimes": "sim.commands.regimes",
    "replay": "live.commands.replay",
    "run": "sim.commands.run",
    "study": "sim.commands.study",
    "traces": "sim.commands.traces",
    "validate": "calibration.commands.validate",
}


#: Names are completed by the shell once it has been told how.
_COMPLETION = """
\b
Completion of commands, options and names, for your shell:
  bash, in ~/.bashrc:  eval "$(_WORKSPAN_COMPLETE=bash_source workspan)"
  zsh, in ~/.zshrc:    eval "$(_WORKSPAN_COMPLETE=zsh_source workspan)"
  fish:                _WORKSPAN_COMPLETE=fish_source workspan > ~/.config/fish/completions/workspan.fish
"""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names alone: what each command does would have to be loaded."""
        names = [CompletionItem(name) for name in _COMMANDS if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _check(args[0], _COMMANDS, ctx)
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, click.Group) and rest:
            _check(rest[0], command.commands, ctx)
        return name, command, rest

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(_COMMANDS[name]).command
        return command


def _check(name: str, known: Iterable[str], ctx: click.Context) -> None:
    """Raise UsageError, with the nearest, for what is neither a command nor an option; a shell may be in the middle."""
    if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
        raise click.UsageError(f"no command {name!r}{nearest(name, known)}", ctx)


@click.group(cls=_Lazy, epilog=_COMPLETION)
@click.version_option(__version__, message="workspan %(version)s")
@click.pass_context
def workspan(context: click.Context) -> None:
    """Which scheduling policy makes multi-agent LLM workflows faster, by how much, and at which load.

    \b
    workspan demo
    workspan run my_traces/ --compare --session-rate 2
    workspan doctor
    """
    if context.invoked_subcommand != "doctor":  # which tells the rest, too
        check_places()


def main() -> None:
    """Run the command line."""
    execute(workspan)


def execute(command: click.Command) -> NoReturn:
    """Run a command and exit; a user's mistake is one line on stderr and exit code 2."""
    _show_everything()
    try:
        code = command.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk can still be told
        sys.exit(code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message, err=True)
        sys.exit(2)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()))
    except WorkspanError as error:
        _fail(f"{type(error).__name__}: {error}")
    except BoundError as error:
        click.echo(f"bug: {error}; please report it with the command and the traces", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): nothing more to say, not even at interpreter exit.
        sys.stdout = None
        sys.exit(0)
    except OSError as error:
        sys.stdout = None  # or the interpreter would try once more to write what is left
        _fail(f"{error.filename or 'output'}: cannot be read or written ({error.strerror})")


def _show_everything() -> None:
    """Let a character that the terminal cannot show be written as its number; it must not be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(2)
