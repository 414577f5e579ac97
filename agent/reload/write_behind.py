"""Syncs what reloads wrote to the state directory, without delaying them."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
from anyio import to_thread

from agent.reload.last_good import LastGood

#: Seconds between two attempts at what could not be written.
RETRY_INTERVAL = 2.0


class WriteBehind:
    """Syncs what was written, and writes what could not be written before.

    Every `rescan` seconds it finds out, in one call for all names, whether the files are still
    there. `lost` is called when some are gone.
    """

    def __init__(self, last_good: LastGood, lost: Callable[[], None], rescan: float) -> None:
        self._last_good = last_good
        self._lost = lost
        self._rescan = rescan
        self._written = anyio.Event()
        self._last_search = time.monotonic()

    def written(self) -> None:
        """Note that something may have been written."""
        self._written.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with anyio.move_on_after(min(RETRY_INTERVAL, self._rescan)):
                await self._written.wait()
            self._written = anyio.Event()
            if self._last_good.waiting:
                await to_thread.run_sync(self._last_good.flush)
                # A stop does not wait for it: it syncs again, after the last record.
                await to_thread.run_sync(self._last_good.sync, abandon_on_cancel=True)
            if time.monotonic() - self._last_search >= self._rescan:
                await to_thread.run_sync(self._last_good.find_losses)
                self._last_search = time.monotonic()
                if self._last_good.lost:
                    self._lost()
