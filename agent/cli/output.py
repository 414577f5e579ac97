"""Standard output and standard error of the commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import click

from agent.cli.exits import NO_OUTPUT, USAGE, Failed
from agent.core.quoting import printable


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def is_dumb() -> bool:
    """Whether the terminal can only print lines, as in an editor's shell."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def colours() -> bool:
    """Whether standard output is a terminal that wants colours (https://no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR") and not is_dumb()


def paint(text: str, colour: str) -> str:
    """The text in bold and in colour (none if empty), on a terminal that wants colours."""
    return click.style(text, fg=colour or None, bold=True) if colours() else text


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, from which control characters have been removed."""
    write(encoded_lines(lines))


def encoded_lines(lines: Iterable[str]) -> bytes:
    """Lines in the encoding of standard output."""
    text = "".join(line + "\n" for line in lines)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace")


def print_page(text: str) -> None:
    """Print a long text: through the pager on a terminal."""
    if is_terminal():
        # As git has it: less shows colours, and ends at once where the text fits the screen.
        os.environ.setdefault("LESS", "-FRX")
        click.echo_via_pager(text)
    else:
        print_lines(text.splitlines())


def print_json(value: Any) -> None:
    """Print one JSON value, in UTF-8 whatever the terminal's encoding."""
    write(json_line(value))


def json_line(value: Any) -> bytes:
    """One JSON value as a line of UTF-8."""
    try:
        data = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # A lone surrogate.
        data = json.dumps(value).encode()
    return data + b"\n"


def write(data: bytes) -> bool:
    """Write to standard output. False if nobody reads it any more, which is not an error.

    Raises Failed.
    """
    if sys.stdout is None:
        raise Failed(NO_OUTPUT, "standard output is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # At exit Python tries again to write what is left, and must not fail then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return False
        raise Failed(NO_OUTPUT, f"standard output: {error.strerror}") from None
    return True


def say(text: str) -> None:
    """Print a line for a person to standard error."""
    click.echo(text, err=True)


def report(text: str) -> None:
    """Print an error to standard error."""
    say(f"callback-agent: {printable(text)}")


def utf8(text: str, what: str) -> str:
    """A text of the command line, which may be any bytes and must be UTF-8 to go into JSON.

    Raises Failed, which names it as `what`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Failed(
            USAGE,
            f"{what}: {printable(text)} is not UTF-8; expected UTF-8: if it is a path, rename it",
        ) from None
    return text
