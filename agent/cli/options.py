"""Options that several commands take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from agent.cli.completing import files

Command = TypeVar("Command", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """A number of seconds above 0, `most` at most."""

    def __init__(self, most: float) -> None:
        super().__init__(min=0, max=most, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number. Fails if it is none."""
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return found


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
