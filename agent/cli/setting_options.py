"""The options of settings, made from the table of settings."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.core import ParameterSource

from agent.cli.completing import directories, directory_list, files
from agent.cli.options import Command, EnvOption
from agent.settings import TABLE, Given

#: By the metavar of a setting: what completes its value.
_COMPLETED = {"FILE": files, "DIR": directories, "DIRS": directory_list}


class _SettingOption(EnvOption):
    """The option of one row of the table."""


def setting_options(command_name: str) -> Callable[[Command], Command]:
    """Decorate a command with the options of all settings that concern it."""

    def decorate(command: Command) -> Command:
        for name, row in reversed([*TABLE.items()]):
            if row.flag and command_name in row.commands:
                command = click.option(
                    row.flag,
                    name,
                    cls=_SettingOption,
                    envvar=row.variable,
                    show_envvar=True,
                    type=click.Choice(row.choices) if row.choices else None,
                    metavar=row.metavar or None,
                    shell_complete=_COMPLETED.get(row.metavar),
                    help=row.help,
                )(command)
        return command

    return decorate


def given_settings(context: click.Context) -> dict[str, Given]:
    """What the command line and the environment say, by setting."""
    found = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if isinstance(parameter, _SettingOption) and value is not None:
            row = TABLE[name]
            by_flag = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
            found[name] = Given(value, row.flag if by_flag else row.variable)
    return found
