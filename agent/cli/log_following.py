"""Follows the reload log: what is added to it, across rotation in both styles.

A log and its rotated files are one text. The place in it is the beginning of a file and how much of
that file was read. A file is known again by its beginning, whatever its name, and though it was
copied or compressed. Whenever the log has another file than before, or that file another beginning,
the place is looked for, and what comes next is read: one file at a time, up to the newest one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from typing import BinaryIO

from agent.cli.log_entries import Entry, split
from agent.cli.log_files import Search, before, open_regular

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
) -> Generator[list[Entry], None, None]:
    """The entries that are added to a log after its first `at` bytes, as they come.

    What the file is now counts, whenever the first entries are asked for. Only whole entries: the
    last one counts as whole when nothing more has come for a moment. When the generator ends or is
    closed, it closes the file that it reads. `report` is called with the reason why a rotated file
    cannot be read. Raises OSError if the log cannot be read any more.
    """
    entries = _added(file, path, at, report)
    next(entries)
    return entries


def _added(
    file: BinaryIO, path: str, at: int, report: Callable[[str], None]
) -> Generator[list[Entry], None, None]:
    """As `added`, with no entries at first: then it is known what the file is now."""
    if at == 0:  # It may be truncated again before anything is read, and not be known by anything.
        file, at = before(path, file) or (file, 0)
    try:
        search = Search(path, report)
        head = os.pread(file.fileno(), min(at, _HEAD_BYTES), 0)
        written = os.fstat(file.fileno()).st_mtime_ns if head else 0
        rest = b""
        is_left = False
        yield []
        while True:
            status = os.fstat(file.fileno())
            file.seek(at)
            more = file.read()
            is_same = _begins_with(file, head, at)
            if is_same:
                written = status.st_mtime_ns
                head = (head[:at] + more)[:_HEAD_BYTES]
                at += len(more)
                rest += more
            # The agent may write to a file after it was renamed: it is left at the next look.
            was_left, is_left = is_left, not (is_same and _is_named(file, path))
            found, failed = None, None
            if was_left and is_left:
                try:
                    found = search.next(head, at, written)
                except OSError as error:
                    failed = error  # What was read is shown first.
            is_new = found is not None and found[1] == 0
            entries, rest = _whole(rest, is_new or bool(failed) or not (is_same and more))
            if found is not None:
                file.close()
                file, at = found
                is_left = False
            if is_new:  # Else it is a copy, or the same one under another name.
                head, rest = os.pread(file.fileno(), _HEAD_BYTES, 0), b""
            yield entries
            if failed is not None:
                raise failed
            if found is None:
                time.sleep(_POLL_INTERVAL)
    finally:
        file.close()


def _begins_with(file: BinaryIO, head: bytes, at: int) -> bool:
    """Whether a file begins with `head`, which is not empty, and has at least `at` bytes."""
    number = file.fileno()
    return bool(head) and os.fstat(number).st_size >= at and os.pread(number, len(head), 0) == head


def _is_named(file: BinaryIO, path: str) -> bool:
    """Whether a file has this path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


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
