"""Errors of usage as one line: what was found, what was expected, where to read more."""

from __future__ import annotations

from collections.abc import Sequence

import click
from click.core import ParameterSource

from agent.core.quoting import shown

#: The name of the program, as help and errors show it.
PROGRAM = "callback-agent"
#: Names the shell that asks for completions, where one asks.
COMPLETION_VARIABLE = "_CALLBACK_AGENT_COMPLETE"


def explain(error: click.UsageError, command: str) -> str:
    """The error as one line. `command` is the command word, for errors that do not know it."""
    context = error.ctx
    if context:
        command = context.command_path
    if isinstance(error, click.NoSuchOption):
        found = f"unknown option {error.option_name}{did_you_mean(error.possibilities)}"
        if context and isinstance(context.command, click.Group):
            found += f"; options follow the command: {command} COMMAND [OPTIONS]"
    elif isinstance(error, click.MissingParameter):
        name = error.param.make_metavar(error.ctx) if error.param and error.ctx else "an argument"
        found = f"{name} is missing"
    elif isinstance(error, click.BadParameter) and error.param:
        found = f"{_given_by(error.param, context)}: {error.message.rstrip('.')}"
    else:
        found = error.format_message().rstrip(".")
        if found[1:2].islower():
            found = found[:1].lower() + found[1:]
    return f"{found}; see {command} --help"


def _given_by(parameter: click.Parameter, context: click.Context | None) -> str:
    """The option, the environment variable or the argument that a value came from."""
    if isinstance(parameter, click.Argument):
        return parameter.metavar or str(parameter.name)
    source = context.get_parameter_source(str(parameter.name)) if context else None
    if source is ParameterSource.ENVIRONMENT:
        return str(parameter.envvar)
    return max(parameter.opts, key=len)


def did_you_mean(near: Sequence[str] | None) -> str:
    """A question that names the known words that are near to an unknown one; empty for none."""
    return f"; did you mean {' or '.join(near)}?" if near else ""


def whole_number(text: str) -> int:
    """A number without sign or fraction: an id or a count. Raises BadParameter."""
    if not (text.isascii() and text.isdecimal()):
        raise click.BadParameter(f"'{shown(text)}' is not a whole number from 0 up")
    return int(text)
