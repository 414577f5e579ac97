"""Writes to a file, a terminal or a pipe from a thread, so that nothing else waits for it.

A write to a pipe whose reader has stopped, or to a file on a server that is down, may never return.
So entries are put into a bounded queue. What does not fit is dropped, oldest first, and the number
of dropped entries is reported with the next one that is written.

An inherited descriptor is never made non-blocking: it is shared with the launcher.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

#: Seconds between two attempts to write what could not be written.
RETRY_INTERVAL = 2.0
#: Seconds between two attempts on a descriptor that another process made non-blocking.
_POLL_INTERVAL = 0.1


class Writer:
    """A queue of entries, and the thread that writes them in order.

    `write` writes one entry whole, or raises OSError. It runs in the thread and may block. After an
    error the entry stays first in the queue and is tried again. `failed` is called with each error;
    `recovered` is called with the number of dropped entries, after the first success that follows
    an error or a drop. Both run in the thread.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[bytes], None],
        failed: Callable[[OSError], None],
        recovered: Callable[[int], None],
        max_entries: int,
        max_bytes: int,
    ) -> None:
        self._write = write
        self._on_failure = failed
        self._on_recovery = recovered
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._changed = threading.Condition()  # of an RLock: it may be entered again
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        #: Whether the first entry is being written. Then it is not dropped.
        self._writing = False
        #: Whether the last attempt failed, and whether one failed since the queue was empty.
        self._paused = False
        self._failing = False
        self._dropped = 0
        #: Calls of `put` and `retry` so far, and those of them before the last attempt.
        self._asked = 0
        self._tried = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread now. Raises RuntimeError where none can be started."""
        with self._changed:
            if self._thread.ident is None:
                self._thread.start()

    def put(self, entry: bytes) -> None:
        """Add an entry. Never blocks."""
        with self._changed:
            self._queue.append(entry)
            self._bytes += len(entry)
            self._drop()
            self._asked += 1
            self._try_to_start()
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until everything is written or an attempt has failed. False if neither happened in
        time."""
        with self._changed:
            asked = self._asked
            return self._changed.wait_for(
                lambda: not self._queue or (self._paused and self._tried >= asked), seconds
            )

    def retry(self) -> None:
        """Try now to write what waits."""
        with self._changed:
            self._asked += 1
            self._try_to_start()
            self._changed.notify_all()

    @property
    def waiting(self) -> bool:
        """Whether something is not written yet."""
        return bool(self._queue)

    def _drop(self) -> None:
        first = 1 if self._writing else 0
        while len(self._queue) > first + 1 and (
            len(self._queue) > self._max_entries or self._bytes > self._max_bytes
        ):
            self._bytes -= len(self._queue[first])
            del self._queue[first]
            self._dropped += 1

    def _try_to_start(self) -> None:
        """Start the thread, unless it runs. If none can be started, the next entry tries again."""
        with contextlib.suppress(RuntimeError):
            self.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                if self._paused:
                    self._changed.wait_for(lambda: self._asked > self._tried, RETRY_INTERVAL)
                asked = self._asked
                self._writing = True
                entry = self._queue[0]
            error: OSError | None = None
            try:
                self._write(entry)
            except OSError as found:
                error = found
            self._finish(entry, asked, error)

    def _finish(self, entry: bytes, asked: int, error: OSError | None) -> None:
        # Before `wait` returns: the report belongs to what was waited for.
        if error is not None:
            self._failing = True
            self._on_failure(error)
        elif len(self._queue) == 1 and (self._failing or self._dropped):
            self._on_recovery(self._dropped)
            self._dropped, self._failing = 0, False
        with self._changed:
            self._writing = False
            self._paused = error is not None
            self._tried = asked
            if error is None:
                self._queue.popleft()
                self._bytes -= len(entry)
            self._changed.notify_all()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it. Raises OSError. Blocks, even if another process made the descriptor
    non-blocking."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            if not poll.poll(_POLL_INTERVAL * 1000):
                time.sleep(_POLL_INTERVAL)
