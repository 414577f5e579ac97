"""Waits for signals in a thread of its own, and ends the process where nothing else does.

A handler in Python runs on the main thread, when that has time. If the main thread is stuck in a
system call, or a thread that must be waited for is, a handler does not help. A thread that waits
for the signal always gets it. It passes the signal on; a stop that then takes longer than
STOP_SECONDS is cut short.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import cache

from agent.daemon import memory, process
from agent.daemon.process import ACTED_ON

#: Seconds that a stop may take in order: the last record, and what is to be on the disk. After
#: them the process is ended. Together with END_SECONDS less than the 5 s that are promised.
STOP_SECONDS = 4.0
#: Seconds for what is done even then.
END_SECONDS = 0.5


@cache
def start() -> Signals:
    """Prepare this process to serve, and start to receive its signals. Once; a second call gives
    the same. Raises OSError or RuntimeError where that cannot be done."""
    process.prepare(serves=True)
    # Before the first thread: a thread that allocates gets an arena of its own.
    memory.limit_malloc_arenas()
    signals = Signals()
    signals.start()
    return signals


class Signals:
    """Receives ACTED_ON from a thread, for the life of the process. They must be blocked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Those that nobody has taken yet.
        self._received: list[int] = []
        self._act: Callable[[int], object] | None = None
        #: What to do when the process is ended by force. Runs in a thread, for END_SECONDS.
        self.at_forced_end: list[Callable[[], None]] = []
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start to wait. Raises RuntimeError where no thread can be started."""
        # Both now: later there may be no thread left for the second.
        for work in (self._run, self._end):
            threading.Thread(target=work, name="signals", daemon=True).start()

    def act(self, act: Callable[[int], object]) -> None:
        """Have each signal passed to `act`, first those that came before. `act` is called from any
        thread and must not block."""
        with self._lock:
            self._act = act
            for number in self._received:
                act(number)
            self._received.clear()

    def _run(self) -> None:
        while True:
            number = signal.sigwait(ACTED_ON)
            with self._lock, contextlib.suppress(RuntimeError):  # The event loop may be closed.
                if self._act is None:
                    self._received.append(number)
                else:
                    self._act(number)
            if number != signal.SIGHUP:
                self._stopping.set()

    def _end(self) -> None:
        """End the process with status 0, unless it ends before that."""
        self._stopping.wait()
        time.sleep(STOP_SECONDS)
        try:
            last = threading.Thread(target=self._finish, name="last steps", daemon=True)
            last.start()
            last.join(END_SECONDS)
        finally:
            os._exit(0)

    def _finish(self) -> None:
        for step in self.at_forced_end:
            with contextlib.suppress(Exception):
                step()
