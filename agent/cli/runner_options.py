"""Options of the commands that run callbacks."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent import runner
from agent.core.quoting import printable

Command = TypeVar("Command", bound=Callable[..., Any])

if TYPE_CHECKING:
    _ParamType = click.ParamType[float]
else:
    _ParamType = click.ParamType  # older versions of click take no type here


class Seconds(_ParamType):
    """A number of seconds, above 0 and at most `most`."""

    name = "seconds"

    def __init__(self, most: float) -> None:
        self._most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds. Fails if the value is not such a number."""
        try:
            found = float(value)
        except ValueError:
            found = 0.0
        if not 0 < found <= self._most:
            expected = f"expected seconds, above 0 and at most {self._most:.0f}"
            self.fail(f"{value!r}: {expected}", param, ctx)
        return found


def interpreter_option(command: Command) -> Command:
    """`--interpreter`, which may be repeated; see `interpreter`."""
    return click.option(
        "--interpreter",
        "interpreters",
        multiple=True,
        metavar="WHAT=COMMAND",
        help="What runs python, perl or the callback with a path; may be repeated.",
    )(command)


def time_limit_option(text: str) -> Callable[[Command], Command]:
    """`--time-limit`, with this help."""
    return click.option(
        "--time-limit",
        type=Seconds(runner.MAX_TIME_LIMIT),
        default=runner.DEFAULT_TIME_LIMIT,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )


def interpreter(given: str) -> tuple[str, list[str]]:
    """`python=/usr/bin/python2 -B` as what it is for, and the command. Raises UsageError."""
    what, _, command = given.rpartition("=")
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words or not words[0] or not (what in ("python", "perl") or what.startswith("/")):
        raise click.UsageError(
            f"--interpreter is {printable(given)}; expected python=COMMAND, perl=COMMAND or"
            " /PATH/OF/CALLBACK=COMMAND"
        )
    if words[0].find("/") > 0:
        raise click.UsageError(
            f"--interpreter is {printable(given)}; expected the program by absolute path or by"
            " name, for it runs in the directory /"
        )
    return what, words
