"""The files of the reload log: the newest one, and those that logrotate has put behind it."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable
from typing import IO, BinaryIO, cast

from agent.cli.log_entries import Entry, Wanted, split

#: Bytes of a log that are read at first, from its end: some hundred records.
_BLOCK = 1 << 16

#: How logrotate names a file that it has rotated: by number, or with `dateext` by date.
_ROTATED = r"(?:\.(?P<number>\d{1,6})|[-._](?P<date>\d[\d_:T-]{5,}))"
#: How a compressed file is opened, by its ending.
_PACKED: dict[str, Callable[[BinaryIO], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
#: The endings of other compressed files, which are reported.
_NOT_READ = (".zst", ".lz4", ".lzma", ".lzo", ".lz", ".br", ".zip", ".Z")
#: What reading a compressed file may raise.
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)


def rotated(path: str) -> list[str]:
    """The paths of the rotated files of a log, newest first.

    By number or date; where a log has both, by the time when they were written.
    """
    folder, name = os.path.split(path)
    stem, extension = map(re.escape, os.path.splitext(name))
    # With logrotate's `extension`, the number or date comes before it.
    inner = _ROTATED.replace("P<", "P<inner_")
    pattern = re.compile(
        rf"(?P<unpacked>{stem}(?:{extension}{_ROTATED}|{inner}{extension}))"
        rf"(?:{'|'.join(map(re.escape, (*_PACKED, *_NOT_READ)))})?"
    )
    found: dict[str, tuple[int, str, str]] = {}
    for other in sorted(os.listdir(folder or ".")):
        if match := pattern.fullmatch(other):
            number = match["number"] or match["inner_number"] or 0
            date = re.sub(r"\D", "", match["date"] or match["inner_date"] or "")
            # While a file is compressed, it is there twice: the one without `.gz` comes first.
            found.setdefault(match["unpacked"], (-int(number), date, os.path.join(folder, other)))
    files = sorted(found.values(), reverse=True)
    if len({bool(date) for _, date, _ in files}) > 1:
        files.sort(key=lambda file: _written(file[2]), reverse=True)
    return [file for _, _, file in files]


def _written(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0  # It is reported when it is opened.


def open_regular(path: str) -> BinaryIO:
    """A regular file, opened for reading. Raises OSError, also for any other kind of file."""
    # Without O_NONBLOCK, opening a named pipe would block.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not a regular file: name one that is")
    return open(number, "rb")


def newest(
    file: BinaryIO,
    end: int,
    path: str,
    most: int | None,
    wanted: Wanted,
    report: Callable[[str], None],
) -> tuple[list[Entry], list[Entry]]:
    """The last `most` entries that are wanted (None: all), of a log and its rotated files.

    The second list is empty, unless only records in JSON are wanted: then it has the other entries
    between the first ones. `file` is the open log, and is read up to `end`. Raises OSError if it
    cannot be read; `report` is called with the reason why a rotated file cannot be.
    """
    found, others = _last(file, end, most, wanted)
    for older in rotated(path):
        left = None if most is None else most - len(found)
        if left == 0:
            break
        try:
            with open_regular(older) as raw:
                status = os.fstat(raw.fileno())
                if os.path.samestat(status, os.fstat(file.fileno())):
                    continue  # It was rotated since it was opened.
                if wanted.since is not None and status.st_mtime < wanted.since.timestamp():
                    continue
                more, left_out = _last_of_rotated(raw, older, left, wanted)
                found, others = more + found, left_out + others
        except _UNREADABLE as error:
            report(f"{older}: {getattr(error, 'strerror', None) or error}")
    return found, others


def missed(
    path: str,
    head: bytes,
    at: int,
    seen: os.stat_result,
    now: BinaryIO,
    report: Callable[[str], None],
) -> tuple[bytes, list[bytes]]:
    """What the rotated files of a log have of it that a follower has not read.

    The follower has read the first `at` bytes of a file that begins with `head` and had the status
    `seen`; `now` is the newest file, which it reads next. The result is the rest of that file, if
    it is one of the rotated ones, and the content of each later one, oldest first. `report` is
    called with the reason why a file cannot be read.
    """
    rest = b""
    found: list[bytes] = []
    for older in rotated(path):
        written = None
        try:
            with open_regular(older) as raw:
                status = os.fstat(raw.fileno())
                written = status.st_mtime_ns
                if os.path.samestat(status, os.fstat(now.fileno())):
                    continue  # It was rotated since it was opened.
                with _unpacked(raw, older) as file:
                    is_known = bool(head) and file.read(len(head)) == head
                    if is_known or os.path.samestat(status, seen):
                        file.seek(at)
                        rest = file.read()
                        break
                    if written <= seen.st_mtime_ns:
                        break
                    file.seek(0)
                    found.append(file.read())
        except _UNREADABLE as error:
            if written is None or written > seen.st_mtime_ns:
                report(f"{older}: {getattr(error, 'strerror', None) or error}")
    return rest, found[::-1]


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
) -> tuple[list[Entry], list[Entry]]:
    """As `_last`, of a file that may be compressed."""
    with _unpacked(file, path) as packed:
        if packed is file:
            return _last(file, file.seek(0, os.SEEK_END), most, wanted)
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(packed, unpacked)
            return _last(unpacked, unpacked.tell(), most, wanted)


def _unpacked(file: BinaryIO, path: str) -> IO[bytes]:
    """The content of a file, which may be compressed. Raises OSError if it is in a form that is not
    read."""
    ending = os.path.splitext(path)[1]
    if ending in _NOT_READ:
        raise OSError(errno.EINVAL, f"not read: decompress it, {' and '.join(_PACKED)} are read")
    return cast(IO[bytes], _PACKED[ending](file)) if ending in _PACKED else file


def _last(
    file: IO[bytes], size: int, most: int | None, wanted: Wanted
) -> tuple[list[Entry], list[Entry]]:
    """As `newest`, of the first `size` bytes of one file.

    Reads only as much from the end as it must. The time of one entry says nothing about others:
    the clock may have been wrong.
    """
    block = size if most is None else _BLOCK
    while most != 0:
        start = max(0, size - block)
        file.seek(start)
        data = file.read(size - start)
        if start:
            data = data.partition(b"\n")[2]  # Its first line may be incomplete.
        entries = list(split(data))
        found = [at for at, entry in enumerate(entries) if wanted.includes(entry)]
        is_enough = most is not None and len(found) >= most
        if start == 0 or is_enough:
            if most is not None and is_enough:
                found = found[len(found) - most :]
            others = entries[found[0] if is_enough else 0 :] if wanted.as_json else []
            return [entries[at] for at in found], [e for e in others if not e.record]
        block *= 4
    return [], []
