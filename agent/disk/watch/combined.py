"""Watches targets by events and by polling, and reports which may have changed.

Events come from one source, whatever gives no event is polled; see `events` and `polling`. The
paths to the targets are looked up here, again whenever an event concerns one of them, so that the
watches follow links that are switched and directories that are created again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping

import anyio

from agent.core.quoting import printable
from agent.disk.containment import keep_running
from agent.disk.filesystems import Kind
from agent.disk.mounts import Mounts
from agent.disk.stalls import StallMonitor
from agent.disk.watch.events import EventWatcher
from agent.disk.watch.interface import POLL_INTERVAL, Target, Watcher
from agent.disk.watch.paths import UNKNOWN, PathWalker, WatchSet, watch_set
from agent.disk.watch.polling import Poller

#: Paths of events that are compared one by one; if there are more, the target is looked up again.
MAX_TOUCHED = 100
#: How often `follow` looks up the paths again if a directory disappears meanwhile.
_ATTEMPTS = 3

_logger = logging.getLogger(__name__)


class Watch:
    """Calls `notice` with the keys of the targets that may have changed; None is all of them."""

    def __init__(
        self,
        notice: Callable[[Iterable[str] | None], None],
        monitor: StallMonitor,
        mounts: Mounts,
        rescan: float,
    ) -> None:
        """All targets are polled every `rescan` seconds."""
        self._notice = notice
        self._monitor = monitor
        self.mounts = mounts
        self._events: Watcher = EventWatcher(self._report, rescan)
        self._poller = Poller(self._report, self._events, monitor, self.is_stalled, mounts, rescan)
        self._targets: Mapping[str, Target] = {}
        self._sets: dict[str, WatchSet] = {}
        #: By target, the paths of events since its last `follow`; None where these are not known.
        #: The sets in it are replaced, never changed: `follow` runs in a thread.
        self._touched: dict[str, frozenset[str] | None] = {}
        #: Whether a `follow` was given up. Then `_touched` is not complete.
        self._given_up = False
        self._lock = threading.Lock()
        #: The last call of `follow`.
        self._turn = object()
        #: Paths whose file system is of unknown type, which was logged.
        self._unknown: set[str] = set()

    @property
    def trouble(self) -> str | None:
        """Why there are no events; None while there are."""
        return self._events.trouble

    def kind(self, path: str) -> Kind:
        """The kind of the file system at a path. An unknown one is logged once. Blocks."""
        kind = self.mounts.kind(path)
        if kind is Kind.UNKNOWN and path not in self._unknown:
            self._unknown.add(path)
            _logger.warning(
                "the type of the file system of %s is not known: it is polled every %.0f s, and a"
                " writer who pauses may not be noticed",
                printable(path),
                POLL_INTERVAL,
            )
        return kind

    def follow(
        self, targets: Mapping[str, Target], dirty: Collection[str], everything: bool = True
    ) -> None:
        """Watch these targets from now on, and no others.

        The paths to those in `dirty` are looked up again; without `everything`, only where events
        say that something on the path changed. Blocks, for some system calls and watches; may be
        called from any thread. When it returns, the watches are set: a change from now on is
        noticed.
        """
        self._turn = turn = object()
        before, self._targets = self._targets, targets
        self._poller.follow(targets)
        everything = everything or self._given_up
        self._given_up = True
        for _ in range(_ATTEMPTS):
            sets = {}
            for key, target in targets.items():
                known = self._sets.get(key) if before.get(key) is target else None
                if key not in dirty:
                    sets[key] = self._sets.get(key) or UNKNOWN
                elif everything or not self._is_current(key, target, known):
                    sets[key] = self._look_up(key, target)
                else:
                    sets[key] = known or UNKNOWN
            with self._lock:
                if self._turn is not turn:
                    return  # It took too long, and a later call has taken its place.
                self._sets = sets
                self._given_up = False
                if self._events.follow(sets):
                    return
            dirty, everything = targets.keys(), True

    def _look_up(self, key: str, target: Target) -> WatchSet:
        if self.is_stalled(target.paths[0]):
            return self._sets.get(key) or UNKNOWN
        self._touched.pop(key, None)
        with self._monitor.asking(target.paths[0]):
            return watch_set(target.paths, self.mounts)

    def _is_current(self, key: str, target: Target, known: WatchSet | None) -> bool:
        """Whether nothing on the path to a target changed, as far as events show. Blocks."""
        if known is None or target.needs_polling or self._events.needs_polling(key):
            return False
        touched = self._touched.pop(key, frozenset())
        if touched is None:
            return False
        walker = PathWalker()
        with self._monitor.asking(target.paths[0]):
            return all(known.is_current(path, walker) for path in touched)

    def _report(self, changes: Mapping[str, Collection[str] | None] | None) -> None:
        """As `interface.ReportChanges`."""
        if changes is None:
            self._touched |= dict.fromkeys(self._targets)
            self._notice(None)
            return
        for key, paths in changes.items():
            before = self._touched.get(key, frozenset())
            touched = None if before is None or paths is None else before.union(paths)
            too_many = touched is not None and len(touched) > MAX_TOUCHED
            self._touched[key] = None if too_many else touched
        self._notice(changes.keys())

    async def run(self) -> None:
        """Watch and poll, until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                for name, work in (
                    ("listening for file events", self._events.run),
                    ("looking at the mounts", self._poller.watch_mounts),
                    ("polling", self._poller.run),
                ):
                    tasks.start_soon(keep_running, name, work)
        finally:
            self._events.close()

    def is_stalled(self, path: str) -> bool:
        """Whether the file system of a path does not answer: there, or elsewhere on it."""
        stalled = self._monitor.stalled
        if not stalled or path in stalled:
            return bool(stalled)
        device = self.remote_device(path)
        return device is not None and any(self.remote_device(p) == device for p in stalled)

    def remote_device(self, path: str) -> str | None:
        """The device (`major:minor`) of a path on a file system that is not local; None for others.

        It is the device that was found last, else that of the mount by name. Nothing is asked.
        """
        known = self._sets.get(path)
        if known is not None and known.device is not None:
            if not self.mounts.remote(known.device):
                return None
            return f"{os.major(known.device)}:{os.minor(known.device)}"
        mount = self.mounts.mount(path)
        return mount[1] if mount is not None else None
