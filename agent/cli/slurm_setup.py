"""The command `slurm setup`: what is to be done so that Slurm reports its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from agent.cli.completing import directories, files
from agent.cli.exits import USAGE, Failed
from agent.cli.options import EnvOption
from agent.cli.output import print_lines
from agent.cli.screen import INDENT
from agent.core.quoting import printable
from agent.slurm import SPOOL
from agent.slurm.setup import CONF, HOOK, BadPath, Step, steps

#: `--spool` of the commands of the adapter.
spool_option = click.option(
    "--spool",
    default=SPOOL,
    show_default=True,
    metavar="DIR",
    shell_complete=directories,
    help="Where the hooks of Slurm leave events.",
)


@click.command()
@click.option(
    "--slurm-conf",
    cls=EnvOption,
    envvar="SLURM_CONF",
    show_envvar=True,
    default=CONF,
    show_default=True,
    metavar="FILE",
    shell_complete=files,
    help="Slurm's configuration, which is read and not changed.",
)
@spool_option
@click.option(
    "--hook",
    default=HOOK,
    show_default=True,
    metavar="FILE",
    shell_complete=files,
    help="Where the hook is, or is to be, installed.",
)
def setup(slurm_conf: str, spool: str, hook: str) -> int:
    """Show what to do so that Slurm reports its events, and what of it is done.

    Run it on the machine of slurmctld. It changes nothing: paste what it prints, as root.

    Exit status: 0 all is done, 1 something is to be done.
    """
    try:
        found = steps(Path(slurm_conf), hook, spool)
    except BadPath as error:
        raise Failed(USAGE, printable(str(error))) from None
    print_lines(_lines(found))
    return int(any(step.todo and not step.optional for step in found))


def _lines(found: Iterable[Step]) -> Iterator[str]:
    for step in found:
        word = "done" if not step.todo else "note" if step.optional else "to do"
        yield printable(f"{word}: {step.text}" + (":" if step.todo else ""))
        yield from (f"{INDENT}{line}" for line in step.todo)
