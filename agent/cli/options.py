"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from agent.cli.completing import files

Command = TypeVar("Command", bound=Callable[..., Any])


class EnvOption(click.Option):
    """An option that an environment variable can give too. Empty counts as unset in both."""

    def consume_value(
        self, ctx: click.Context, opts: Mapping[str, Any]
    ) -> tuple[Any, click.core.ParameterSource]:
        """The value, and where it came from."""
        return super().consume_value(ctx, {name: v for name, v in opts.items() if v != ""})


def pipe_option(command: Command) -> Command:
    """`--pipe` of the commands that ask the agent."""
    return click.option(
        "--pipe",
        cls=EnvOption,
        envvar="CALLBACK_AGENT_PIPE",
        show_envvar=True,
        metavar="FILE",
        shell_complete=files,
        help="The agent's pipe; by default your own agent's, then root's.",
    )(command)


def json_option(command: Command) -> Command:
    """`--json` of the commands that ask the agent."""
    text = "Print the agent's answer as it is, one JSON value."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def code_option(command: Command) -> Command:
    """`--code` of the commands that show callbacks."""
    return click.option("--code", is_flag=True, help="Show each callback's code too.")(command)
