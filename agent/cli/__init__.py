"""The commands. They reach a running agent through `agent.client` alone.

A command, or a few that are alike, have a module, which is imported when one of them is called. So
`lookup`, which scripts call often, starts fast. A command says what its exit statuses mean; `exits`
has those that all commands share.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.exceptions import NoArgsIsHelpError

from agent import __version__
from agent.cli.exits import NO_OUTPUT, Failed
from agent.cli.output import print_lines, report
from agent.cli.usage import COMPLETION_VARIABLE, PROGRAM, did_you_mean, explain

if TYPE_CHECKING:
    from agent.timing import Timing  # `lookup` needs no dataclasses

#: By command: its module in this folder, and its name there.
_COMMANDS = {
    "check": ("check", "check"),
    "completion": ("completion", "completion"),
    "diff": ("diff", "diff"),
    "explain": ("lookup", "explain"),
    "fire": ("fire", "fire"),
    "help": ("help", "help_"),
    "list": ("answers", "list_"),
    "log": ("log", "log"),
    "lookup": ("lookup", "lookup"),
    "metrics": ("answers", "metrics"),
    "reload": ("answers", "reload"),
    "serve": ("serve", "serve"),
    "slurm": ("slurm", "slurm_"),
    "status": ("status", "status"),
    "top": ("top", "top"),
}


class _Commands(click.Group):
    """Imports the module of a command when the command is asked for."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with. Raises UsageError."""
        name = args[0]
        if name not in _COMMANDS and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = did_you_mean(get_close_matches(name, _COMMANDS))
            ctx.fail(f"unknown command {name}{near or '; expected ' + ', '.join(_COMMANDS)}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None if it does not exist."""
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"agent.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version of this distribution and end, if it is wanted."""
    if wanted and not context.resilient_parsing:
        print_lines([f"{PROGRAM} {__version__}"])
        context.exit()


commands = _Commands(
    PROGRAM,
    help="Serves Qube universal callbacks to a supervisor, and applies edits without a restart.",
    epilog="`callback-agent COMMAND --help` explains a command, `callback-agent help` lists the"
    " topics of the manual.",
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        )
    ],
)


def main(arguments: Sequence[str] | None = None, timing: Timing | None = None) -> int:
    """Run the command that `arguments` (or the process's own) name; its exit status.

    `timing` is for `serve` and `check`; without it, they have the defaults.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            if shell := os.environ.get(COMPLETION_VARIABLE):
                from agent.cli.completion import complete

                return complete(commands, shell)
            status = commands.main(arguments, PROGRAM, standalone_mode=False, obj=timing)
        except NoArgsIsHelpError as error:
            error.show()
            return error.exit_code
        except click.UsageError as error:
            word = next(iter(arguments), "")
            report(explain(error, f"{PROGRAM} {word}" if word in _COMMANDS else PROGRAM))
            return error.exit_code
        except Failed as error:
            report(str(error))
            return error.status
        except (click.Abort, KeyboardInterrupt):
            return 130  # As a shell reports a command that SIGINT ended.
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        # Nobody reads standard error. Python would report that at exit, so:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        return NO_OUTPUT
    except OSError as error:
        # click prints its help itself.
        report(f"the output cannot be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_OUTPUT
