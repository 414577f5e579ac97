"""Follows the reload log: what is added to it, across rotation in both styles."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from agent.cli.log_entries import Entry, split
from agent.cli.log_files import open_regular

#: Seconds between two checks of a log that is followed.
_POLL_INTERVAL = 0.2


def opened(path: str, wait: bool, say: Callable[[str], None]) -> BinaryIO:
    """The log, opened; with `wait`, as soon as it exists, which `say` reports. Raises OSError."""
    reported = False
    while True:
        try:
            return open_regular(path)
        except FileNotFoundError:
            if not wait:
                raise
            if not reported:
                say(f"waiting for {path}")
            reported = True
        time.sleep(_POLL_INTERVAL)


def added(file: BinaryIO, path: str) -> Iterator[list[Entry]]:
    """The entries that are added to a log after the present position of `file`, as they come.

    Only whole entries: the last one counts as whole when nothing more has come for a moment. Closes
    the file. Raises OSError if it cannot be read any more.
    """
    rest = b""
    while True:
        more = file.read()
        rest += more
        entries, rest = _whole(rest, not more)
        yield entries
        time.sleep(_POLL_INTERVAL)
        successor = _successor(file, path)
        if successor is not None:
            with file:
                # The agent may have written to the old file after it was renamed.
                time.sleep(_POLL_INTERVAL)
                rest += file.read()
            yield _whole(rest, True)[0]
            file, rest = successor, b""
        elif os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0)  # Copied and truncated.
            yield _whole(rest, True)[0]
            rest = b""


def _whole(data: bytes, is_quiet: bool) -> tuple[list[Entry], bytes]:
    """The whole entries, and the rest.

    The last entry is whole if it is JSON, if a line follows that is not indented, or if nothing
    more has come.
    """
    end = data.rfind(b"\n") + 1
    entries = list(split(data[:end]))
    if entries and not entries[-1].is_json:
        next_byte = data[end : end + 1]
        if next_byte.isspace() or not (next_byte or is_quiet):
            end -= len(entries.pop().data)
    return entries, data[end:]


def _successor(file: BinaryIO, path: str) -> BinaryIO | None:
    """The file that has replaced this one under the log's name, or None."""
    try:
        if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            return None
        return open_regular(path)
    except OSError:
        return None
