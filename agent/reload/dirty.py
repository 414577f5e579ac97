"""What is to be read again, and the calls of `reload` that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import anyio


class DirtyNames:
    """The names of what may have changed since it was read: directories by path, and qb.conf."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._everything = True
        self._wake = anyio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, names: Iterable[str] | None = None) -> None:
        """Add the names of what may have changed; None is everything."""
        if names is None:
            self._everything = True
        else:
            self._names.update(names)
        self._wake.set()

    def start(self) -> None:
        """Let threads add names. Called in the event loop."""
        self._loop = asyncio.get_running_loop()

    def add_from_thread(self, name: str) -> None:
        """Add one name, from any thread. Does nothing before `start`."""
        if self._loop is not None:
            with suppress(RuntimeError):  # The loop may be closed by now.
                self._loop.call_soon_threadsafe(self.add, {name})

    def take(self) -> set[str] | None:
        """What was added since the last call; None is everything."""
        names, self._names = self._names, set()
        everything, self._everything = self._everything, False
        return None if everything else names

    async def wait(self, seconds: float | None) -> None:
        """Wait until something is added, for at most `seconds`."""
        if not self._everything and not self._names:
            with anyio.move_on_after(seconds):
                await self._wake.wait()
        self._wake = anyio.Event()


class Barrier:
    """Calls of `reload`, each of which waits until everything was read that changed before it."""

    def __init__(self) -> None:
        #: The number of calls so far, and of those that are done.
        self.calls = 0
        self._done = 0
        self._finished = anyio.Event()

    async def wait(self) -> None:
        """Begin one more call, and return when it is done."""
        self.calls += 1
        ticket = self.calls
        while self._done < ticket:
            await self._finished.wait()

    def finish(self, done: int) -> None:
        """End the first `done` calls."""
        if done > self._done:
            self._done = done
            self._finished.set()
            self._finished = anyio.Event()
