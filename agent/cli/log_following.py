"""Shows the reload log: its last records, and what is added, across rotation.

In both formats a record is a line that does not begin with white space, and the indented lines that
follow it. Only whole lines are shown.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import BinaryIO

#: Seconds between two checks of a log that is followed.
_POLL_INTERVAL = 0.2

#: Bytes of a log that are read at a time: some hundred records.
_BLOCK = 1 << 16

#: The beginning of a record, with its first byte.
_RECORD = re.compile(rb"\n[^\s]")


class Tail:
    """The end of the log at `path`.

    `write` writes bytes and returns False if nobody reads them any more; `say` reports to a person
    what is waited for.
    """

    def __init__(
        self, path: str, write: Callable[[bytes], bool], say: Callable[[str], None]
    ) -> None:
        self._path = path
        self._write = write
        self._say = say

    def show(self, records: int, follow: bool) -> None:
        """Write the last `records`; with `follow`, go on with what is added.

        Following ends when nobody reads it any more, or with KeyboardInterrupt. Raises OSError if
        the log cannot be read.
        """
        file = self._open(follow)
        try:
            if not self._show_last(file, records, follow):
                return
            while follow:
                if not self._show_more(file):
                    return
                time.sleep(_POLL_INTERVAL)
                successor = self._successor(file)
                if successor is not None:
                    old, file = file, successor
                    with old:
                        # The agent may have written to the old file after it was renamed.
                        time.sleep(_POLL_INTERVAL)
                        if not self._show_more(old):
                            return
                elif os.fstat(file.fileno()).st_size < file.tell():
                    file.seek(0)  # Copied and truncated.
        finally:
            file.close()

    def _open(self, wait: bool) -> BinaryIO:
        """The log, opened; with `wait`, as soon as it exists."""
        reported = False
        while True:
            try:
                return open(self._path, "rb")
            except FileNotFoundError:
                if not wait:
                    raise
                if not reported:
                    self._say(f"waiting for {self._path}")
                reported = True
            time.sleep(_POLL_INTERVAL)

    def _show_last(self, file: BinaryIO, records: int, follow: bool) -> bool:
        """Write the last records. Reads only the end of the file, as far as they need."""
        size = file.seek(0, os.SEEK_END)
        block = _BLOCK
        while True:
            start = file.seek(max(0, size - block))
            data = file.read(size - start)
            if start:
                data = data.partition(b"\n")[2]  # Its first line may be incomplete.
            data = b"\n" + data
            begins = [match.end() - 1 for match in _RECORD.finditer(data)]
            if len(begins) >= records or start == 0:
                break
            block *= 4
        shown = begins[-records:] if records else []
        data = data[shown[0] :] if shown else b""
        if follow:
            # An incomplete last line is shown when it is complete.
            end = data.rfind(b"\n") + 1
            file.seek(size - (len(data) - end))
            data = data[:end]
        elif data and not data.endswith(b"\n"):
            data += b"\n"
        return self._write(data)

    def _show_more(self, file: BinaryIO) -> bool:
        """Write the whole lines that were added. False if nobody reads them any more."""
        while True:
            start = file.tell()
            data = file.read(_BLOCK)
            end = data.rfind(b"\n") + 1
            if not end:
                if len(data) < _BLOCK:
                    file.seek(start)
                    return True
                end = len(data)  # A line longer than a block is shown in parts.
            file.seek(start + end)
            if not self._write(data[:end]):
                return False

    def _successor(self, file: BinaryIO) -> BinaryIO | None:
        """The file that has replaced this one under the log's name, or None."""
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(file.fileno())):
                return None
            return open(self._path, "rb")
        except OSError:
            return None
