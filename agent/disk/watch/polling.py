"""Polls targets that have no events, and the table of mounts.

Events are fast, polling is complete. What gives no event (a network file system, an overflow of the
kernel's queue, watches that ran out) is found by asking each target whether it is `unchanged`:
every POLL_INTERVAL where there are no events, else every `rescan` seconds. A mount or unmount
changes targets without an event too, and the kernel says when its table of mounts changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import anyio

from agent.disk.mounts import Mounts
from agent.disk.stalls import StallMonitor
from agent.disk.watch.interface import POLL_INTERVAL, ReportChanges, Target, Watcher


class Poller:
    """Reports targets that are not as they were. Those that are stalled are not asked."""

    def __init__(
        self,
        report: ReportChanges,
        events: Watcher,
        monitor: StallMonitor,
        is_stalled: Callable[[str], bool],
        mounts: Mounts,
        rescan: float,
    ) -> None:
        self._report = report
        self._events = events
        self._monitor = monitor
        self._is_stalled = is_stalled
        self._mounts = mounts
        self._targets: Mapping[str, Target] = {}
        self._rescan = rescan
        self._rescanned = time.monotonic()

    def follow(self, targets: Mapping[str, Target]) -> None:
        """Poll these, by their keys, and no others."""
        self._targets = targets

    async def run(self) -> None:
        """Poll until cancelled. If it raises, it is to be called again."""
        while True:
            await anyio.sleep(POLL_INTERVAL)
            now = time.monotonic()
            rescan = now - self._rescanned >= self._rescan
            if rescan:
                self._rescanned = now
            due = [
                (key, target)
                for key, target in self._targets.items()
                if rescan or self._needs_polling(key, target)
                if not self._is_stalled(target.paths[0])
            ]
            if due:
                changed = await self._monitor.wait(self._changed, due)
                if changed:
                    self._report(dict.fromkeys(changed))

    async def watch_mounts(self) -> None:
        """Report all targets whenever the table of mounts changes, until cancelled."""
        while True:
            await anyio.sleep(POLL_INTERVAL)
            if self._mounts.changed():
                self._report(None)

    def _needs_polling(self, key: str, target: Target) -> bool:
        # Without the table of mounts, a mount over a target is noticed only by polling.
        return target.needs_polling or not self._mounts.known or self._events.needs_polling(key)

    def _changed(self, due: list[tuple[str, Target]]) -> list[str]:
        changed = []
        for key, target in due:
            with self._monitor.asking(target.paths[0]):
                if not target.unchanged():
                    changed.append(key)
        return changed
