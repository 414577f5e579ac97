"""The command `log`."""

from __future__ import annotations

import os

import click

from agent.cli.asking import ask
from agent.cli.exits import USAGE, Failed
from agent.cli.log_following import Tail
from agent.cli.options import EnvOption, pipe_option
from agent.cli.output import report, say, write
from agent.core.quoting import printable
from agent.settings import STANDARD_OUTPUT, TABLE, SettingsError, resolve
from agent.settings.host import Host

#: Records that are shown by default: what fits on a terminal.
DEFAULT_RECORDS = 10


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is added, until SIGINT.")
@click.option(
    "-n",
    "--records",
    type=click.IntRange(min=0),
    default=DEFAULT_RECORDS,
    show_default=True,
    metavar="N",
    help="Show the last N records.",
)
@click.option(
    TABLE["log"].flag,
    cls=EnvOption,
    envvar=TABLE["log"].variable,
    show_envvar=True,
    metavar="FILE",
    help="The log; by default the agent's.",
)
@pipe_option
def log(follow: bool, records: int, log: str | None, pipe: str | None) -> int:
    """Show the reload log."""
    path = log or _log_of_agent(pipe)
    if path == STANDARD_OUTPUT:
        raise Failed(
            USAGE,
            "the reload log goes to the agent's standard output and is not a file: look where that"
            " goes (under systemd: journalctl -u callback-agent)",
        )
    try:
        Tail(path, write, lambda text: say(printable(text))).show(records, follow)
    except KeyboardInterrupt:
        if not follow:
            raise
    except FileNotFoundError:
        raise Failed(1, f"there is no log at {printable(path)} yet") from None
    except OSError as error:
        raise Failed(1, f"{printable(path)}: {error.strerror}") from None
    return 0


def _log_of_agent(pipe: str | None) -> str:
    """The running agent's log, else the default."""
    try:
        return str(ask(lambda agent: agent.status(), pipe)["settings"]["log"]["value"])
    except (Failed, LookupError, TypeError) as error:
        try:
            path = resolve({}, os.environ, None, Host.here()).log
        except SettingsError as wrong:
            raise Failed(USAGE, str(wrong)) from None
        if pipe:
            report(f"{error}; this is {path}")
        return path
