"""File events from the kernel, through watchfiles.

watchfiles sleeps in steps, so a change is reported one to two steps after it happened: 1.7 ms (p50)
with steps of 1 ms, 4.8 ms with 3. Each step costs processor time, most where the machine is idle.
The share of one of two idle cores, as the scheduler counts it: step 1 ms: 1.8 %; 3: 1.0 %; 10: 0.4
to 0.7 %; 20: 0.3 %; 50 ms, the default: 0.1 %. Edits come in groups: a person saves again and
again, a script writes one file after the other. So the steps are short for some time after a
change.

Events are lost in four cases:

- A new watcher replaces an old one, whose last changes may not be reported yet; or a watcher fails,
  as at a name that is not UTF-8. All targets are then reported as changed.
- A watched directory is renamed, removed or created again, and watchfiles drops its watch. That is
  an event itself; the next `follow` then sets all watches again.
- The kernel's queue overflows, and watchfiles does not say so. Polling finds the change.
- Watches, instances or threads run out. Then `trouble` says why, and all targets are polled.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping

import anyio
from anyio import CapacityLimiter, to_thread

# Private, since the public functions set their watches only when their generator is first advanced:
# a directory could then change after it is read and before it is watched. pyproject.toml has an
# upper bound of the version for this reason.
from watchfiles._rust_notify import RustNotify

from agent.disk.watch.interface import POLL_INTERVAL, ReportChanges
from agent.disk.watch.paths import WatchSet

#: Milliseconds that watchfiles sleeps between two looks: soon after a change, and otherwise. See
#: the text above.
SHORT_STEP, LONG_STEP = 1, 10
#: Seconds for which the steps are short after a change: a person saves a file again within them.
SHORT_STEPS_FOR = 10.0
#: Milliseconds for which watchfiles may gather changes that keep coming.
DEBOUNCE = 6
#: After this number of failures within one interval of rescans, no new watcher is started until the
#: interval is over.
MAX_FAILURES = 5

#: By directory, by name in it (None for every name), the keys of the targets that it concerns.
_Places = dict[str, dict[str | None, set[str]]]

_logger = logging.getLogger(__name__)


class EventWatcher:
    """Reports events of the directories in watch sets; see `interface.Watcher`."""

    def __init__(
        self, report: ReportChanges, rescan: float, short_steps_for: float = SHORT_STEPS_FOR
    ) -> None:
        """`rescan` is the interval of rescans in seconds, `short_steps_for` is in seconds too."""
        self._report = report
        self._rescan = rescan
        self._sets: Mapping[str, WatchSet] = {}
        self._places: _Places = {}
        #: What is watched. Empty if the watcher must be replaced even for the same directories.
        self._watched: frozenset[tuple[str, int, int]] = frozenset()
        self._watcher: tuple[RustNotify, threading.Event] | None = None
        #: The watcher that was read last.
        self._read: RustNotify | None = None
        self._short_steps_for = short_steps_for
        #: Until which monotonic second the steps are short.
        self._short_until = 0.0
        #: Monotonic seconds of the last failures.
        self._failures: list[float] = []
        self._threads = CapacityLimiter(4)
        self.trouble: str | None = None

    def follow(self, sets: Mapping[str, WatchSet]) -> bool:
        """As `Watcher.follow`."""
        before, self._sets = self._sets, sets
        # Most often only the bytes of a file changed, and all sets are the same.
        if sets.keys() != before.keys() or any(sets[key] is not before[key] for key in sets):
            self._places = _places(sets)
        watched = frozenset(place for one in sets.values() for place in one.watched)
        if watched == self._watched and self._watcher is not None:
            return True
        return self._renew(watched)

    def needs_polling(self, key: str) -> bool:
        """As `Watcher.needs_polling`."""
        return self._watcher is None or (key in self._sets and self._sets[key].needs_polling)

    async def run(self) -> None:
        """As `Watcher.run`."""
        while True:
            if self._watcher is None:
                # Without trouble, `follow` sets a watcher soon, and an edit may wait for it.
                await anyio.sleep(POLL_INTERVAL if self.trouble else SHORT_STEP / 1000)
                continue
            watcher, stop = self._watcher
            last, self._read = self._read, watcher
            if last is not None and last is not watcher:
                # Changes that the last watcher did not report yet are lost.
                self._report(None)
            # If no thread can be started, this raises and is tried again: the changes stay in the
            # watcher meanwhile.
            short_for = max(self._short_until - time.monotonic(), 0.0)
            changes = await to_thread.run_sync(
                _next_changes,
                watcher,
                short_for,
                stop,
                abandon_on_cancel=True,
                limiter=self._threads,
            )
            if isinstance(changes, BaseException):
                if self._is_current(watcher):
                    self._restart(changes)
            elif isinstance(changes, set):
                self._report_paths({path for _, path in changes})

    def _is_current(self, watcher: RustNotify) -> bool:
        return self._watcher is not None and self._watcher[0] is watcher

    def close(self) -> None:
        """As `Watcher.close`."""
        old, self._watcher, self._watched = self._watcher, None, frozenset()
        _stop(old)

    def _renew(self, watched: frozenset[tuple[str, int, int]]) -> bool:
        """Replace the watcher. False if a directory disappeared meanwhile."""
        if len(self._failures) >= MAX_FAILURES:
            if time.monotonic() - self._failures[-MAX_FAILURES] < self._rescan:
                return True
            self._failures.clear()
        try:
            # The last argument: do not ignore missing permissions. Otherwise watchfiles 1.3 also
            # ignores that no watches are left, and reports nothing.
            watcher = RustNotify([path for path, _, _ in watched], False, False, 0, False, False)
        except FileNotFoundError:
            return False
        except BaseException as error:
            # Watches, instances or threads ran out, most often. If no thread can be started,
            # watchfiles panics, and a panic is not an Exception.
            self._fail(str(error) or type(error).__name__)
            return True
        old, self._watcher = self._watcher, (watcher, threading.Event())
        self._watched = watched
        self.trouble = None
        _stop(old)
        return True

    def _restart(self, error: BaseException) -> None:
        """Have a watcher that failed replaced by the next `follow`."""
        self.close()
        self._count_failure()
        if len(self._failures) == MAX_FAILURES:
            self._fail(f"the watcher fails again and again: {error}")
        self._report(None)

    def _fail(self, why: str) -> None:
        """Go on without events."""
        if self.trouble is None:
            _logger.warning("no file events (%s); polling every %.0f s", why, POLL_INTERVAL)
        self.trouble = why
        self._count_failure()
        self.close()

    def _count_failure(self) -> None:
        self._failures.append(time.monotonic())
        del self._failures[:-MAX_FAILURES]

    def _report_paths(self, paths: set[str]) -> None:
        if any(path in self._places for path in paths):
            # A watched directory was created, removed or renamed. Then watchfiles drops its watch,
            # even if the same directory comes back.
            self._watched = frozenset()
        changed: dict[str, set[str]] = {}
        for path in paths:
            for key in self._keys(path):
                changed.setdefault(key, set()).add(path)
        if changed:
            # Not for other files of a watched directory, such as a log beside qb.conf.
            self._short_until = time.monotonic() + self._short_steps_for
            self._report(changed)

    def _keys(self, path: str) -> Iterator[str]:
        """The keys of the targets that a change of this path may concern."""
        if (names := self._places.get(path)) is not None:
            # The directory itself: it was removed or renamed, or its mode changed.
            for keys in names.values():
                yield from keys
        directory, _, name = path.rpartition("/")
        names = self._places.get(directory or "/")
        if names is not None:
            yield from names.get(name, ())
            yield from names.get(None, ())


def _stop(watcher: tuple[RustNotify, threading.Event] | None) -> None:
    """End a watcher. The thread that reads it returns within a step."""
    if watcher is not None:
        watcher[1].set()


def _places(sets: Mapping[str, WatchSet]) -> _Places:
    places: _Places = {}
    for key, one in sets.items():
        for directory, name in one.names:
            places.setdefault(directory, {}).setdefault(name, set()).add(key)
    return places


def _next_changes(
    watcher: RustNotify, short_for: float, stop: threading.Event
) -> set[tuple[int, str]] | str | BaseException:
    """The next changes of a watcher, or what it raised. Blocks.

    The steps are short for `short_for` seconds. If nothing changes meanwhile, that is the end, with
    a text. The exception is returned, since a panic of watchfiles is not an Exception.
    """
    try:
        if short_for > 0:
            return watcher.watch(DEBOUNCE, SHORT_STEP, math.ceil(short_for * 1000), stop)
        return watcher.watch(DEBOUNCE, LONG_STEP, 0, stop)
    except BaseException as error:
        return error
