"""The files of the reload log: the newest one, and those that logrotate has rotated."""

from __future__ import annotations

import bz2
import contextlib
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
from typing import IO, BinaryIO, NamedTuple, cast

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
    for older in _older(path, file):
        left = None if most is None else most - len(found)
        if left == 0:
            break
        try:
            if wanted.since is not None and os.stat(older).st_mtime < wanted.since.timestamp():
                continue
            with _opened(older) as content:
                size = content.seek(0, os.SEEK_END)
                more, left_out = _last(content, size, left, wanted)
                found, others = more + found, left_out + others
        except _UNREADABLE as error:
            report(f"{older}: {_reason(error)}")
    return found, others


class Search:
    """The search of a follower for the file of a log that it reads next.

    `report` is called with the reason why a rotated file cannot be read: once for each, and not for
    those that are there at the beginning.
    """

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        self._path = path
        self._report = report
        files = _files(path)
        self._reported = {_identity(files[name]) for name in files if name != path}
        #: The files among which nothing was found.
        self._seen: dict[str, _Status] | None = None
        #: Why the log itself could not be opened then.
        self._failed: OSError | None = None

    def next(self, head: bytes, at: int, written: int) -> tuple[BinaryIO, int] | None:
        """The next file, opened, and the byte where it begins.

        The follower has read the first `at` bytes of a file that begins with `head` and was last
        written at `written` (nanoseconds). If there is more in that file, as where it was copied
        before it was truncated, that is it. Else it is the next newer one that is not empty.

        Returns None if there is no next file yet, or if the log was rotated during the search. Then
        call it again later. While no file changes, none is opened again. Raises OSError if the log
        itself is next and cannot be opened twice in succession. Once is no error: a program that
        rotates a log may set the permissions a moment after it makes the file.
        """
        files = _files(self._path)
        if files == self._seen:
            if self._failed is not None:
                raise self._failed
            return None
        found: tuple[BinaryIO, int] | None = None
        unread: list[tuple[str, Exception]] = []
        for name, start, error in reversed(self._newer(files, head, at, written)):
            if error is None:
                try:
                    found = _opened(name), start
                    break
                except _UNREADABLE as wrong:
                    unread.append((name, wrong))
            else:
                unread.append((name, error))
        if not _are_there(self._path, files):
            if found is not None:
                found[0].close()
            return None
        self._failed = None
        for name, error in unread:
            if name == self._path and isinstance(error, OSError):
                self._failed = error
            elif _identity(files[name]) not in self._reported:
                self._reported.add(_identity(files[name]))
                self._report(f"{name}: {_reason(error)}")
        self._seen = files if found is None else None
        return found

    def _newer(
        self, files: dict[str, _Status], head: bytes, at: int, written: int
    ) -> list[tuple[str, int, Exception | None]]:
        """The files that may be next, newest first: the path, the byte where it begins, and why it
        cannot be read."""
        newer: list[tuple[str, int, Exception | None]] = []
        for name in files:
            is_known = False
            try:
                with open_regular(name) as raw, _unpacked(raw, name) as content:
                    is_known = bool(head) and content.read(len(head)) == head
                    start = at if is_known else 0
                    content.seek(start)
                    if content.read(1):
                        newer.append((name, start, None))
            except _UNREADABLE as error:
                newer.append((name, 0, error))
            if is_known:
                return newer
        # It was removed, or nothing was read yet: the times have to do.
        return [one for one in newer if one[0] == self._path or files[one[0]].written > written]


def before(path: str, file: BinaryIO) -> tuple[BinaryIO, int] | None:
    """The newest file of a log that is older than `file` and not empty, opened, and its length."""
    while True:
        files, found = _files(path), None
        for name in _older(path, file):
            with contextlib.suppress(*_UNREADABLE):
                content = _opened(name)
                if size := content.seek(0, os.SEEK_END):
                    found = content, size
                    break
                content.close()
        if _are_there(path, files):
            return found
        if found is not None:  # The log was rotated meanwhile.
            found[0].close()


class _Status(NamedTuple):
    """What shows that a file was changed. The times are in nanoseconds."""

    inode: int
    size: int
    written: int
    #: When anything of it was changed, as its permissions.
    changed: int


def _files(path: str) -> dict[str, _Status]:
    """The files of a log, newest first."""
    found: dict[str, _Status] = {}
    for name in (path, *rotated(path)):
        with contextlib.suppress(OSError):  # It was renamed or removed.
            of = os.stat(name)
            found[name] = _Status(of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns)
    return found


def _identity(status: _Status) -> tuple[int, int]:
    """What a rotated file keeps when it is renamed. The inode alone may be used again."""
    return status.inode, status.written


def _are_there(path: str, files: dict[str, _Status]) -> bool:
    """Whether the files of a log are still these, by name and inode."""
    now = _files(path)
    return [(name, now[name].inode) for name in now] == [(n, files[n].inode) for n in files]


def _older(path: str, file: BinaryIO) -> list[str]:
    """The rotated files that are older than a file of the log, newest first."""
    names = rotated(path)
    status = os.fstat(file.fileno())
    for number, name in enumerate(names):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(name), status):  # It was rotated since it was opened.
                return names[number + 1 :]
    return names


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


def _opened(path: str) -> BinaryIO:
    """The content of a file that may be compressed, with its time. Raises as `_UNREADABLE`."""
    with open_regular(path) as file, _unpacked(file, path) as packed:
        if packed is file:
            return open(os.dup(file.fileno()), "rb")
        with tempfile.TemporaryFile() as content:
            shutil.copyfileobj(packed, content)
            content.flush()
            written = os.fstat(file.fileno()).st_mtime_ns
            os.utime(content.fileno(), ns=(written, written))
            return open(os.dup(content.fileno()), "rb")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


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
