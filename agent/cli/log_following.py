"""Follows the reload log: what is added to it, across rotation in both styles.

The log may be rotated more than once between two looks: where the output waits for its reader, or
this process was stopped. So what was not read yet is looked for in the rotated files. The file that
was followed is found among them by its beginning, since a copy or a compressed file is another one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from agent.cli.log_entries import Entry, split
from agent.cli.log_files import missed, open_regular

#: Seconds between two checks of a log that is followed.
_POLL_INTERVAL = 0.2
#: Bytes at the beginning of a log by which it is known again: its first records, with their times.
_HEAD_BYTES = 4096


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


def added(
    file: BinaryIO, path: str, at: int, report: Callable[[str], None]
) -> Iterator[list[Entry]]:
    """The entries that are added to a log after its first `at` bytes, as they come.

    What the file is now counts, whenever the first entries are asked for. Only whole entries: the
    last one counts as whole when nothing more has come for a moment. Closes the file. `report` is
    called with the reason why a rotated file cannot be read. Raises OSError if the log cannot be
    read any more.
    """
    number = file.fileno()
    head, seen = os.pread(number, min(at, _HEAD_BYTES), 0), os.fstat(number)
    return _added(file, path, at, head, seen, report)


def _added(
    file: BinaryIO,
    path: str,
    at: int,
    head: bytes,
    seen: os.stat_result,
    report: Callable[[str], None],
) -> Iterator[list[Entry]]:
    """As `added`: the file began with `head` and had the status `seen`."""
    file.seek(at)
    rest = b""
    while True:
        successor = _successor(file, path)
        if successor is not None or not _is_as_before(file, at, head):
            if successor is not None:  # Else it was copied and truncated.
                with file:
                    # The agent may have written to the old file after it was renamed.
                    time.sleep(_POLL_INTERVAL)
                    rest += file.read()
                    at = file.tell()
                file = successor
            left, others = missed(path, head, at, seen, file, report)
            yield _whole(rest + left, True)[0]
            yield from (_whole(data, True)[0] for data in others)
            file.seek(0)
            rest = head = b""
        seen = os.fstat(file.fileno())
        more = file.read()
        at = file.tell()
        head += more[: _HEAD_BYTES - len(head)]
        rest += more
        entries, rest = _whole(rest, not more)
        yield entries
        time.sleep(_POLL_INTERVAL)


def _is_as_before(file: BinaryIO, at: int, head: bytes) -> bool:
    """Whether a file begins with `head` and has at least `at` bytes."""
    if os.fstat(file.fileno()).st_size < at:
        return False
    return os.pread(file.fileno(), len(head), 0) == head


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
