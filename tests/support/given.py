"""What flags and variables say, in the form in which the settings are given it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from unittest import mock

import click

from agent.cli.setting_options import given_settings, setting_options
from agent.settings import SERVE, TABLE, Given


def by_flag(values: Mapping[str, str]) -> dict[str, Given]:
    """These values, by setting, as if given by flag."""
    return {name: Given(value, TABLE[name].flag) for name, value in values.items()}


def parsed(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, Given]:
    """What the command line parser makes of flags, by setting, and of an environment.

    Raises click.UsageError.
    """
    found: dict[str, Given] = {}

    @click.command()
    @setting_options(SERVE)
    @click.pass_context
    def command(context: click.Context, /, **_: Any) -> None:
        found.update(given_settings(context))

    arguments = []
    for name, value in flags.items():
        if value is not None:
            arguments += [TABLE[name].flag, value]
    with mock.patch.dict(os.environ):
        for row in TABLE.values():
            os.environ.pop(row.variable, None)
            if row.variable in environ:
                os.environ[row.variable] = environ[row.variable]
        command.main(arguments, standalone_mode=False)
    return found
