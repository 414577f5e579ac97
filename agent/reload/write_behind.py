"""Syncs what reloads wrote to the state directory, without delaying them."""

from __future__ import annotations

import anyio
from anyio import to_thread

from agent.reload.last_good import LastGood

#: Seconds between two attempts at what could not be written.
RETRY_INTERVAL = 2.0


class WriteBehind:
    """Syncs what was written, and writes what could not be written before."""

    def __init__(self, last_good: LastGood) -> None:
        self._last_good = last_good
        self._written = anyio.Event()

    def written(self) -> None:
        """Something may have been written."""
        self._written.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with anyio.move_on_after(RETRY_INTERVAL):
                await self._written.wait()
            self._written = anyio.Event()
            if self._last_good.waiting:
                await to_thread.run_sync(self._last_good.flush)
                await to_thread.run_sync(self._last_good.sync)
