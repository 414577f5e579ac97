"""Long work, in threads beside the loop that serves. It ends when nobody waits for it.

The threads are daemon threads: one that never returns does not keep the process from exiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from agent.timing import PipeLimits

T = TypeVar("T")


class Abandoned(Exception):
    """Nobody waits for the result any more."""


class OverLimit(Exception):
    """A request costs more than is allowed. The text says what was found and what to do."""


class Effort:
    """What is spent on one request. Long work calls `checkpoint` and `spend` between its
    steps."""

    def __init__(self, abandoned: Callable[[], bool], limits: PipeLimits) -> None:
        """`abandoned` says whether the client is gone. It is called in the thread of the worker."""
        self._abandoned = abandoned
        self._limits = limits
        self._until = time.monotonic() + limits.max_work_seconds
        self._bytes = 0

    def begin(self) -> None:
        """Count the time from now on. Waiting for a thread does not count."""
        self._until = time.monotonic() + self._limits.max_work_seconds
        self.checkpoint()

    def checkpoint(self) -> None:
        """Raises Abandoned or OverLimit if the work should end."""
        if self._abandoned():
            raise Abandoned
        if time.monotonic() > self._until:
            raise OverLimit(
                f"it takes more than {self._limits.max_work_seconds:g} s; ask for less at once,"
                " such as fewer events in `occurred`"
            )

    def spend(self, size: int) -> None:
        """Count bytes of the result that were made. Raises as `checkpoint` does."""
        self._bytes += size
        if self._bytes > self._limits.max_result_bytes:
            raise OverLimit(
                f"its result has more than {self._limits.max_result_bytes} bytes; ask for less at"
                " once, such as without `code`"
            )
        self.checkpoint()


class Workers:
    """A few threads that do work in the order in which it came."""

    def __init__(self, count: int, name: str) -> None:
        """Raises RuntimeError or MemoryError if no thread can be started."""
        self._count = count
        self._name = name
        self._queue: SimpleQueue[
            tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]
        ] = SimpleQueue()
        # One at once: later, the system may allow no more.
        self._start()
        self._threads = 1

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do work in a thread. The future gets its result, or what it raised."""
        # A limit of the system: the threads that run are enough.
        with contextlib.suppress(RuntimeError, MemoryError):
            while self._threads < self._count:
                self._start()
                self._threads += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put((work, future, loop))
        return future

    def _start(self) -> None:
        threading.Thread(target=self._run_all, name=self._name, daemon=True).start()

    def _run_all(self) -> None:
        while True:
            work, future, loop = self._queue.get()
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            # RuntimeError: the loop is closed, because the agent ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_finish, future, result, error)
            # Otherwise the result would stay in memory until the next work.
            del work, future, result, error


def _finish(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception):
        future.set_exception(error)
    else:
        future.set_exception(RuntimeError(f"the work was ended by {error!r}"))
