"""What one callback prints: a file, up to a limit, and the last part of it for the result."""

from __future__ import annotations

import os
import tempfile

#: Bytes of a callback's output that its file keeps: what a person can read.
MAX_KEPT_BYTES = 1 << 20
#: Bytes of a callback's output, the last ones, that its result has.
TAIL_BYTES = 4096


class Output:
    """Collects what one callback prints. Never raises: what could not be kept is in `error`."""

    def __init__(self, folder: str | os.PathLike[str] | None, prefix: str) -> None:
        #: The file, None if there is none.
        self.path: str | None = None
        #: Why the output is not kept; empty if it is.
        self.error = ""
        #: Bytes that were printed.
        self.size = 0
        self._tail = b""
        self._file: int | None = None
        if folder is not None:
            try:
                self._file, self.path = tempfile.mkstemp(".cb", prefix, os.fspath(folder))
            except OSError as error:
                self.error = f"the output is not kept: {folder}: {error.strerror}"

    @property
    def tail(self) -> str:
        """The last part of the output; bytes that are not UTF-8 are shown as \\xNN."""
        data = self._tail
        if len(data) < self.size:
            # Not from the middle of a character.
            data = data.lstrip(bytes(range(0x80, 0xC0)))
        return data.decode("utf-8", "backslashreplace")

    def add(self, data: bytes) -> None:
        """Add what was printed."""
        self._write(data[: max(0, MAX_KEPT_BYTES - self.size)])
        self.size += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def close(self) -> None:
        """Close the file: nothing more is printed."""
        if self.size > MAX_KEPT_BYTES:
            self._write(b"\n(%d more bytes are not kept)\n" % (self.size - MAX_KEPT_BYTES))
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self.error = f"the output is not kept: {self.path}: {error.strerror}"
            os.close(self._file)
            self._file = None
