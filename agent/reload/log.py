"""The reload log: one record for everything that changes, or refuses to change, what is served.

The log is opened again for each record, so it survives logrotate in both of its styles and the
deletion of its directory. A record is written whole or not at all: if the disk is full, the partial
record is removed, and the record waits until there is space. A thread writes, so a log that blocks
(`-` into a pipe that nobody reads) does not stop a reload.
"""

from __future__ import annotations

import logging
import os
from collections import deque

from agent.core.counting import count
from agent.core.quoting import printable
from agent.reload.record_text import text
from agent.reload.writer import Writer, write_all
from agent.rpc.messages import Record
from agent.settings import STANDARD_OUTPUT

#: The most records, and bytes of records, that wait for a log that cannot be written. Older ones
#: are dropped and counted.
MAX_WAITING = 1000
MAX_WAITING_BYTES = 32 << 20
#: Seconds that a reload waits until its record is in the log: when `reload` has returned, the
#: record is in the log, unless the log is slower than that.
WRITE_WAIT = 0.2

#: The most records, and bytes of records, that `history` has.
MAX_HISTORY = 1000
MAX_HISTORY_BYTES = 16 << 20

_logger = logging.getLogger(__name__)


class History:
    """The newest records, as JSON. The last one is always kept, however long it is."""

    def __init__(self) -> None:
        self._records: deque[bytes] = deque()
        self._bytes = 0

    def add(self, record: bytes) -> None:
        """Add a record, and drop the oldest ones beyond the limits."""
        self._records.append(record)
        self._bytes += len(record)
        while len(self._records) > 1 and (
            len(self._records) > MAX_HISTORY or self._bytes > MAX_HISTORY_BYTES
        ):
            self._bytes -= len(self._records.popleft())

    @property
    def last(self) -> bytes:
        """The newest record. At least one must have been added."""
        return self._records[-1]

    def newest(self, limit: int | None) -> list[bytes]:
        """The newest `limit` records (None: all that there are), newest last."""
        records = list(self._records)
        return records if limit is None else records[max(0, len(records) - limit) :]

    def newest_exactly(self, number: int) -> list[bytes] | None:
        """The newest `number` records, newest last; None if there are fewer."""
        return self.newest(number) if 0 <= number <= len(self._records) else None


class Log:
    """Appends records to a file, or to standard output. A failure is logged once."""

    def __init__(self, path: str, form: str, who: str, max_waiting: int = MAX_WAITING) -> None:
        self._path = path
        self._form = form
        self._who = who
        self._failed = False
        #: Whether the last record was not written within WRITE_WAIT. Then the next does not wait.
        self._stalled = False
        self._writer = Writer(
            "reload log",
            self._append,
            self._report_failure,
            self._report_recovery,
            max_waiting,
            MAX_WAITING_BYTES,
        )

    def start(self) -> None:
        """Start the thread that writes. Raises RuntimeError where none can be started."""
        self._writer.start()

    def write(self, record: Record, encoded: bytes) -> None:
        """Append a record, given also as JSON, after those that wait. Blocks for WRITE_WAIT at
        most; never raises."""
        if self._form == "text":
            entry = text(record, self._who).encode("utf-8", "backslashreplace")
        else:
            entry = encoded + b"\n"
        stalled = self._stalled and self._writer.waiting
        self._writer.put(entry)
        if not stalled:
            self._stalled = not self._writer.wait(WRITE_WAIT)

    @property
    def waiting(self) -> bool:
        """Whether records wait for the log to become writable."""
        return self._writer.waiting

    def flush(self, seconds: float = WRITE_WAIT) -> None:
        """Try to write what waits, for at most `seconds`. Never raises."""
        self._writer.retry()
        self._writer.wait(seconds)

    def _report_failure(self, error: OSError) -> None:
        if not self._failed:
            shown = printable(self._path)
            _logger.error("the reload log %s cannot be written: %s", shown, error.strerror)
        self._failed = True

    def _report_recovery(self, dropped: int) -> None:
        lost = f"; {count(dropped, 'record')} lost" if dropped else ""
        _logger.info("the reload log %s is written again%s", printable(self._path), lost)
        self._failed = False

    def _append(self, entry: bytes) -> None:
        if self._path == STANDARD_OUTPUT:
            write_all(1, entry)
            return
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            fd = os.open(self._path, flags, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), 0o755, exist_ok=True)
            fd = os.open(self._path, flags, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) not in (b"\n", b""):
                # The last line is incomplete, after a crash.
                entry = b"\n" + entry
            try:
                _write_all(fd, entry)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    """Write all of it, or raise OSError: also if the file takes no more at once, unlike
    `writer.write_all`. Then the record waits."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
