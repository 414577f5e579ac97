"""What commands read: texts of the command line that must not be empty, and files."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import click

from agent.cli.exits import USAGE, Failed
from agent.cli.output import utf8
from agent.core.quoting import printable

if TYPE_CHECKING:
    from agent.settings.host import Host

#: The most bytes of a file: some hundred thousand events or jobs. One without an end, such as
#: /dev/zero, would fill the memory.
MAX_BYTES = 16 << 20


def not_empty(text: str, what: str) -> str:
    """A text of the command line. Raises UsageError, which names it as `what`, if it is empty.

    Then it was probably meant to have a value: it must not count as left out.
    """
    if not text:
        raise click.UsageError(
            f"{what} is empty, as where a variable of the shell is not set; give it a value or"
            " leave it out"
        )
    return text


def directory(path: str, what: str, host: Host) -> str:
    """The callback directory that a path of the command line means: it, or its callbacks.conf.

    Raises SettingsError, and Failed, which names it as `what`.
    """
    from agent.core.unit import CONF
    from agent.settings import absolute_directory

    found = absolute_directory(utf8(path, what), host)
    return posixpath.dirname(found) if posixpath.basename(found) == CONF else found


def content(file: str | int, option: str, name: str) -> bytes:
    """The bytes of a file, which may be a pipe, by path or by descriptor. It blocks until the end.

    Raises Failed, which names the option and the file as `name`.
    """
    where = f"{option}: {printable(name)}"
    try:
        with open(file, "rb", closefd=isinstance(file, str)) as opened:
            found = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise Failed(USAGE, f"{where}: {error.strerror}") from None
    if len(found) > MAX_BYTES:
        raise Failed(USAGE, f"{where} has more than {MAX_BYTES >> 20} MiB; no more is read")
    return found
