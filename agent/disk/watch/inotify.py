"""File events from the Linux kernel.

The event loop waits for the kernel's queue, so nothing runs while nothing changes, and a change is
known at once. It is reported GATHER later, since an edit is several changes: a program writes a new
file and renames it.

Events are lost in two cases:

- The kernel's queue overflows. The kernel says so, and all targets are reported as changed.
- Watches or instances run out. Then `trouble` says why, and all targets are polled. The next
  `follow` tries again.

A watch belongs to a directory, not to its path. If the directory is renamed, the watch stays, and
its events have the old path until the next `follow`: the rename is an event too. If the directory
is removed or unmounted, the kernel removes the watch and says so. Sources: inotify(7), and the
kernel's include/uapi/linux/inotify.h.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress

import anyio

from agent.disk.watch.interface import POLL_INTERVAL, Report
from agent.disk.watch.paths import WatchSet
from agent.disk.watch.places import Places

#: Seconds for which changes are gathered. A small file is written and renamed in less.
GATHER = 0.001
#: Bytes that are read of the queue at once: some hundred events, which take less than 1 ms.
_BUFFER = 1 << 14

#: Bits of a mask: what to report, and which directories.
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_ONLYDIR, _EXCL_UNLINK = 0x1000000, 0x4000000
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_MASK |= _DELETE_SELF | _MOVE_SELF | _ONLYDIR | _EXCL_UNLINK
#: Bits of a mask that the kernel reports on its own account.
_OVERFLOW, _IGNORED = 0x4000, 0x8000
#: An event: its watch, its mask, a cookie, the length of the name that follows.
_EVENT = struct.Struct("iIII")

#: A directory that is watched: its path, device and inode.
_Place = tuple[str, int, int]

_logger = logging.getLogger(__name__)


class InotifyWatcher:
    """Reports events of the directories in watch sets; see `interface.Watcher`."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._sets: Mapping[str, WatchSet] = {}
        self._places = Places({})
        #: The kernel's queue. -1 before the first `follow`, and where there is none.
        self._queue = -1
        #: By directory, its watch; by watch, the paths of its directory (one, or several by mounts)
        #: as events have it: without the / of the root.
        self._watches: dict[_Place, int] = {}
        self._paths: dict[int, list[str]] = {}
        #: Held while watches are set and while events are handled: no event comes of a watch that
        #: is not known yet.
        self._lock = threading.Lock()
        #: Whether changes gave no event, and that is not reported yet.
        self._missed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.trouble: str | None = None

    def follow(self, sets: Mapping[str, WatchSet]) -> bool:
        """As `Watcher.follow`."""
        before, self._sets = self._sets, sets
        # Most often only the bytes of a file changed, and all sets are the same.
        if sets.keys() != before.keys() or any(sets[key] is not before[key] for key in sets):
            self._places = Places(sets)
        wanted = {place for one in sets.values() for place in one.watched}
        if wanted == self._watches.keys():
            return True
        try:
            with self._lock:
                self._set(wanted)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            self._fail(error)
            return True
        if self.trouble is not None:
            self.trouble = None
            # What changed since the last poll gave no event.
            self._missed = True
            if self._loop is not None:
                with suppress(RuntimeError):  # The loop may be closed by now.
                    self._loop.call_soon_threadsafe(self._report_missed)
        return True

    def needs_polling(self, key: str) -> bool:
        """As `Watcher.needs_polling`."""
        if self._queue < 0 or self.trouble is not None:
            return True
        return key in self._sets and self._sets[key].needs_polling

    async def run(self) -> None:
        """As `Watcher.run`."""
        self._loop = asyncio.get_running_loop()
        self._report_missed()
        while True:
            if self._queue < 0:
                # Without trouble, `follow` makes it soon, and an edit may wait for it.
                await anyio.sleep(POLL_INTERVAL if self.trouble else GATHER)
                continue
            await anyio.wait_readable(self._queue)
            await anyio.sleep(GATHER)
            if not self._lock.acquire(blocking=False):
                continue
            try:
                changed = self._changed()
            finally:
                self._lock.release()
            if changed is None:
                self._report(None)
                # Who changes so much may go on. All is read at most as often as it is polled.
                await anyio.sleep(POLL_INTERVAL)
            elif changed:
                self._report(changed)

    def close(self) -> None:
        """As `Watcher.close`."""
        queue, self._queue = self._queue, -1
        if queue >= 0:
            os.close(queue)

    # Watches ------------------------------------------------------------------------------------

    def _set(self, wanted: set[_Place]) -> None:
        """Have watches of these directories, and of no others. Raises OSError."""
        if self._queue < 0:
            self._queue = self._call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        # First, since a directory that was renamed has the watch of its old path.
        for place in self._watches.keys() - wanted:
            self._remove(place)
        for place in wanted - self._watches.keys():
            path = place[0]
            watch = self._call("inotify_add_watch", self._queue, os.fsencode(path), _MASK)
            self._watches[place] = watch
            self._paths.setdefault(watch, []).append(path.rstrip("/"))

    def _remove(self, place: _Place) -> None:
        watch = self._watches.pop(place)
        paths = self._paths[watch]
        paths.remove(place[0].rstrip("/"))
        if not paths:
            del self._paths[watch]
            with suppress(OSError):  # The kernel may have removed it already.
                self._call("inotify_rm_watch", self._queue, watch)

    def _fail(self, error: OSError) -> None:
        """Go on without events, and leave the watches to others."""
        with self._lock:
            for place in list(self._watches):
                self._remove(place)
        if self.trouble is None:
            why = error.strerror
            _logger.warning("no file events (%s); polling every %.0f s", why, POLL_INTERVAL)
        self.trouble = error.strerror

    def _call(self, name: str, *args: int | bytes) -> int:
        """Call a function of the C library. Raises OSError."""
        result = int(getattr(self._libc, name)(*args))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    # Events -------------------------------------------------------------------------------------

    def _report_missed(self) -> None:
        if self._missed:
            self._missed = False
            self._report(None)

    def _changed(self) -> dict[str, set[str]] | None:
        """By key, the paths of the events that wait. None if events were lost."""
        try:
            events = os.read(self._queue, _BUFFER)
        except BlockingIOError:
            return {}
        paths = set()
        complete = True
        for watch, mask, name in _parsed(events):
            complete = complete and not mask & _OVERFLOW
            # Not known: it was removed meanwhile.
            for directory in self._paths.get(watch, ()):
                paths.add(f"{directory}/{name}" if name else directory or "/")
            if mask & _IGNORED:
                self._forget(watch)
        if complete:
            return self._places.changed(paths)
        # The kernel may have removed watches, too. The next `follow` sets all of them again.
        for place in list(self._watches):
            self._remove(place)
        return None

    def _forget(self, watch: int) -> None:
        """The kernel removed a watch."""
        if self._paths.pop(watch, None) is not None:
            self._watches = {p: w for p, w in self._watches.items() if w != watch}


def _parsed(events: bytes) -> Iterator[tuple[int, int, str]]:
    """Of each event, its watch, its mask, and the name in the directory, "" for the directory."""
    at = 0
    while at < len(events):
        watch, mask, _, length = _EVENT.unpack_from(events, at)
        at += _EVENT.size + length
        yield watch, mask, os.fsdecode(events[at - length : at].rstrip(b"\0"))
