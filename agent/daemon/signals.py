"""Receives signals in a thread, and ends the process if a stop takes too long.

Python runs signal handlers on the main thread. If that is stuck in a system call, they do not run.
A thread that waits for a signal always receives it. It passes the signal on; a stop that then takes
longer than STOP_SECONDS is cut short.
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

#: Seconds that an orderly stop may take: to write the last record and the last-good units. Then the
#: process is ended. With END_SECONDS it is less than the 5 s that the manual promises.
STOP_SECONDS = 4.0
#: Seconds for the steps of a forced end.
END_SECONDS = 0.5


@cache
def start() -> Signals:
    """Prepare this process to serve, and start to receive its signals.

    A second call returns the same object. Raises OSError or RuntimeError if that cannot be done.
    """
    process.prepare(serves=True)
    # Before the first thread: a thread that allocates gets an arena of its own.
    memory.limit_malloc_arenas()
    signals = Signals()
    signals.start()
    return signals


class Signals:
    """Receives the signals in ACTED_ON, which must be blocked, as long as the process runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Signals that were received before `act` was called.
        self._received: list[int] = []
        self._act: Callable[[int], object] | None = None
        #: Steps of a forced end. They run in a thread, for END_SECONDS.
        self.at_forced_end: list[Callable[[], None]] = []
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start to wait. Raises RuntimeError where no thread can be started."""
        # Both now: later there may be no thread left for the second.
        for work in (self._run, self._end):
            threading.Thread(target=work, name="signals", daemon=True).start()

    def act(self, act: Callable[[int], object]) -> None:
        """Call `act` with each signal, beginning with those received before.

        `act` is called from any thread and must not block.
        """
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
        """After a signal to stop and STOP_SECONDS, end the process with status 0."""
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
