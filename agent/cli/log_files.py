"""The files of the reload log: the newest one, and those that logrotate has put behind it."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable
from typing import IO, BinaryIO

from agent.cli.log_entries import Entry, Wanted, split

#: Bytes of a log that are read at first, from its end: some hundred records.
_BLOCK = 1 << 16

#: How logrotate names a file that it has rotated: by number, or with `dateext` by date.
_ROTATED = re.compile(r"(?:\.(?P<number>\d{1,6})|-(?P<date>\d{8}[\d-]*))(?P<gz>\.gz)?")


def rotated(path: str) -> list[str]:
    """The paths of the rotated files of a log, newest first."""
    folder, name = os.path.split(path)
    found: dict[tuple[int, str], str] = {}
    for other in sorted(os.listdir(folder or ".")):
        match = _ROTATED.fullmatch(other[len(name) :]) if other.startswith(name) else None
        if match is not None:
            # While a file is compressed, it is there twice: the one without `.gz` comes first.
            key = (-int(match["number"] or 0), match["date"] or "")
            found.setdefault(key, os.path.join(folder, other))
    return [found[key] for key in sorted(found, reverse=True)]


def newest(
    file: BinaryIO,
    end: int,
    path: str,
    most: int | None,
    wanted: Wanted,
    report: Callable[[str], None],
) -> list[Entry]:
    """The last `most` entries that are wanted (None: all), of a log and its rotated files.

    `file` is the log, opened, and is read up to `end`. Raises OSError if it cannot be read;
    `report` is called with the reason why a rotated file cannot be.
    """
    found, is_complete = _last(file, end, most, wanted)
    for older in rotated(path):
        left = None if most is None else most - len(found)
        if is_complete or left == 0:
            break
        try:
            with open(older, "rb") as raw:
                if os.path.samestat(os.fstat(raw.fileno()), os.fstat(file.fileno())):
                    continue  # It was rotated since it was opened.
                more, is_complete = _last_of_rotated(raw, older, left, wanted)
        except (OSError, EOFError, zlib.error) as error:
            report(f"{older}: {getattr(error, 'strerror', None) or error}")
            continue
        found = more + found
    return found


def whole_lines(file: BinaryIO) -> int:
    """How many bytes of a file are whole lines."""
    at = file.seek(0, os.SEEK_END)
    while at:
        start = max(0, at - _BLOCK)
        file.seek(start)
        feed = file.read(at - start).rfind(b"\n")
        if feed >= 0:
            return start + feed + 1
        at = start
    return 0


def _last_of_rotated(
    file: BinaryIO, path: str, most: int | None, wanted: Wanted
) -> tuple[list[Entry], bool]:
    """As `_last`, of a file that may be compressed."""
    if not path.endswith(".gz"):
        return _last(file, file.seek(0, os.SEEK_END), most, wanted)
    with tempfile.TemporaryFile() as plain:
        with gzip.open(file) as packed:
            shutil.copyfileobj(packed, plain)
        return _last(plain, plain.tell(), most, wanted)


def _last(file: IO[bytes], size: int, most: int | None, wanted: Wanted) -> tuple[list[Entry], bool]:
    """The last wanted entries of the first `size` bytes, and whether no earlier one can be wanted.

    Reads only as much from the end as it must.
    """
    block = _BLOCK if most is not None or wanted.since is not None else size
    while most != 0:
        start = max(0, size - block)
        file.seek(start)
        data = file.read(size - start)
        if start:
            data = data.partition(b"\n")[2]  # Its first line may be incomplete.
        entries = list(split(data))
        found = [entry for entry in entries if wanted.includes(entry)]
        is_complete = bool(entries) and wanted.is_before(entries[0])
        if is_complete or start == 0 or (most is not None and len(found) >= most):
            return found if most is None else found[max(0, len(found) - most) :], is_complete
        block *= 4
    return [], True
