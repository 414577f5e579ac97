"""The command `serve`."""

from __future__ import annotations

from typing import Any

import click

from agent.cli.setting_options import given_settings, setting_options
from agent.cli.starting import start_errors, timing
from agent.settings import SERVE


@click.command()
@setting_options(SERVE)
@click.pass_context
def serve(context: click.Context, /, **_: Any) -> int:
    """Run the agent until SIGTERM or SIGINT; SIGHUP reloads.

    Exit status: 0 stopped, 2 bad usage or settings, 4 another agent holds the pipe.
    """
    from agent.daemon import signals

    with start_errors():
        received = signals.start()
        from agent.daemon.run import run

        return run(given_settings(context), received, timing(context))
