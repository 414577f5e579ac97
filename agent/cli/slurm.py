"""The commands of the adapter for Slurm: `slurm run`, `slurm status` and `slurm setup`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from agent import client, slurm
from agent.cli.completing import directories, files
from agent.cli.exits import IN_USE, USAGE, Failed
from agent.cli.options import pipe_option
from agent.cli.output import print_json, print_lines
from agent.cli.runner_options import Seconds, interpreter, interpreter_option, time_limit_option
from agent.cli.slurm_setup import setup, spool_option
from agent.settings import metrics_file
from agent.settings.host import BadPath

_state = click.option(
    "--state",
    default=slurm.STATE,
    show_default=True,
    metavar="DIR",
    shell_complete=directories,
    help="The daemon's own directory.",
)


@click.group("slurm")
def slurm_() -> None:
    """Universal callbacks on a farm that Slurm runs.

    `slurm setup` shows how to set up Slurm so that it reports its events. `slurm run` handles the
    events: it asks the agent, and runs the callbacks that fire.
    """


slurm_.add_command(setup)


@slurm_.command()
@spool_option
@_state
@pipe_option
@click.option(
    "--log",
    default=slurm.LOG,
    show_default=True,
    metavar="FILE",
    shell_complete=files,
    help="The log; - is standard output.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="The format of the log.",
)
@click.option(
    "--run-as",
    metavar="USER",
    help=f"The user that callbacks run as: {slurm.RUN_AS} if root runs this, else the caller.",
)
@interpreter_option
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    default=slurm.AT_ONCE,
    show_default=True,
    metavar="N",
    help="How many callbacks run at a time.",
)
@time_limit_option("How long each callback may run.")
@click.option(
    "--poll",
    type=Seconds(slurm.MAX_POLL_INTERVAL),
    default=slurm.POLL_INTERVAL,
    show_default=True,
    metavar="SECONDS",
    help="How often squeue is asked for jobs that were submitted, wait, or are held.",
)
@click.option(
    "--metrics-file",
    metavar="FILE",
    shell_complete=files,
    help="Write metrics there, for the node exporter's textfile collector.",
)
def run(pipe: str | None, interpreters: Sequence[str], **options: Any) -> int:
    """Run the daemon beside slurmctld until SIGTERM or SIGINT.

    It ends when the callbacks that run have ended; the others run after its next start. SIGHUP does
    nothing: the log needs no signal.

    Exit status: 0 stopped, 2 bad usage or settings, 4 another daemon has the state directory.
    """
    from agent.slurm.commands import Slurm
    from agent.slurm.daemon import Daemon, Options
    from agent.slurm.farm import SlurmFarm
    from agent.slurm.running import NoUser
    from agent.slurm.spool import SpoolError
    from agent.slurm.status import InUse
    from agent.slurm.store import StoreError

    try:
        metrics_file(options["metrics_file"] or "")
    except BadPath as error:
        raise Failed(USAGE, f"--metrics-file: {error}") from None
    commands = dict(interpreter(given) for given in interpreters)
    # The first that is the caller's own, else root's.
    pipe = pipe or client.default_paths()[0]
    queue = Slurm()
    try:
        daemon = Daemon(
            Options(pipe, interpreters=commands, **options),
            queue,
            lambda about: SlurmFarm(queue, about),
        )
    except InUse as error:
        raise Failed(IN_USE, str(error)) from None
    except (SpoolError, StoreError, NoUser) as error:
        raise Failed(USAGE, str(error)) from None
    except OSError as error:
        raise Failed(USAGE, f"{error.filename}: {error.strerror}") from None
    daemon.run()
    return 0


@slurm_.command()
@spool_option
@_state
@click.option("--json", "as_json", is_flag=True, help="Print all of it, one JSON value.")
def status(spool: str, state: str, as_json: bool) -> int:
    """Show the state of the daemon: events that wait, events and callbacks that it has handled.

    Exit status: 0 all is well, 1 it is not.
    """
    from agent.slurm import status

    found = status.read(state, spool)
    if as_json:
        print_json(found)
    else:
        print_lines(status.lines(found))
    return 1 if found["faults"] else 0
