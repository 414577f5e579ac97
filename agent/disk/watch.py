"""Says which directories may have changed: by the kernel's events, and by scans.

Events make it fast, scans make it true. watchfiles tells of changes in the directories on the way
to what is watched: a link that is switched, a parent that is renamed or made anew, all change a
name in one of them. What gives no event (a network file system, a mount, an overflow of the
kernel's queue, which watchfiles drops, watches that ran out) is found by a scan: the owner's
`unchanged`, asked every SCAN seconds, or every SCAN_BLIND seconds where there are no events.

watchfiles sleeps in steps, so a change is reported one to two steps after it happens. Measured on
one machine of two cores, a rename to its report (p50, p90) and the share of a core while idle, with
gathering for two steps: step 1 ms: 1.9, 2.0 ms, 1.5 %; 2: 2.9, 3.1 ms, 0.9 %; 3: 3.5, 3.7 ms,
0.6 %; 5: 5.3, 10.2 ms, 0.4 %; 50 ms, its default: 79 ms, 0.1 %.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import anyio
from anyio import CapacityLimiter, to_thread
from watchfiles._rust_notify import RustNotify

from agent.core.quoting import printable
from agent.disk.containment import keep_running
from agent.disk.filesystems import Kind
from agent.disk.mounts import Mounts
from agent.disk.stalls import Patience, answered

#: Milliseconds that watchfiles sleeps between two looks. See the module's text.
STEP = 3
#: Milliseconds for which watchfiles may gather changes that keep coming.
DEBOUNCE = 6
#: Seconds between two scans of what is watched by events: the longest that a lost event may cost.
SCAN = 30.0
#: Seconds between two scans of what gives no events, and between two looks at the mounts.
SCAN_BLIND = 1.0
#: So many failures of a watcher within SCAN seconds, and it is left alone for as long.
MAX_FAILURES = 5
#: Paths of which events came that are looked at one by one; if there are more, at everything.
MAX_TOUCHED = 100
#: The kernel's own limit of links on the way to one file.
MAX_LINKS = 40

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Something to watch. `paths` are the directory or file itself and what its links lead over;
    `unchanged` blocks, and says whether it looks as it did; `blind` that no events can be had."""

    paths: tuple[str, ...]
    unchanged: Callable[[], bool]
    blind: bool = False


#: By directory: by name in it, or None for any name, the targets that it matters to.
Places = dict[str, dict[str | None, set[str]]]


class Watch:
    """Tells `notice` which targets may have changed, by their names; None is all of them."""

    def __init__(
        self,
        notice: Callable[[Iterable[str] | None], None],
        patience: Patience,
        mounts: Mounts,
    ) -> None:
        self._notice = notice
        self._patience = patience
        self._targets: Mapping[str, Target] = {}
        self._ways: dict[str, _Ways] = {}
        self._places: Places = {}
        #: By target, the paths of which events came since it was last followed; None where more may
        #: have changed on the way to it. Only ever replaced whole, since `follow` is in a thread.
        self._touched: dict[str, frozenset[str] | None] = {}
        #: Whether a `follow` was given up, and with it what it knew of `_touched`.
        self._given_up = False
        self._watched: frozenset[tuple[str, int, int]] = frozenset()
        self._watcher: tuple[RustNotify, threading.Event] | None = None
        #: The watcher that was listened to last.
        self._listened: RustNotify | None = None
        self._failures: list[float] = []
        self._threads = CapacityLimiter(4)
        self._lock = threading.Lock()
        #: The last call of `follow`.
        self._turn = object()
        self._scanned = time.monotonic()
        self.mounts = mounts
        #: Paths of which it was reported that their file system is not known.
        self._unknown: set[str] = set()
        #: Why there are no events, None while there are.
        self.trouble: str | None = None

    def kind(self, path: str) -> Kind:
        """The kind of the file system at a path. One that is not known is reported once. Blocks."""
        kind = self.mounts.kind(path)
        if kind is Kind.UNKNOWN and path not in self._unknown:
            self._unknown.add(path)
            _logger.warning(
                "the type of the file system of %s is not known: it is scanned every %.0f s, and a"
                " writer who pauses may not be noticed",
                printable(path),
                SCAN_BLIND,
            )
        return kind

    def follow(
        self, targets: Mapping[str, Target], dirty: Collection[str], everything: bool = True
    ) -> None:
        """Watch these targets from now on, and no others. The ways to those in `dirty` are looked
        up again; without `everything`, only where events say that something on the way changed.
        Blocks, for some stats and watches; may be called from any thread.

        When it returns, the watch stands: a change from now on is noticed.
        """
        self._turn = turn = object()
        before, self._targets = self._targets, targets
        everything = everything or self._given_up
        self._given_up = True
        for _ in range(3):
            ways = {}
            for key, target in targets.items():
                known = self._ways.get(key) if before.get(key) is target else None
                if key not in dirty:
                    ways[key] = self._ways.get(key) or _UNKNOWN
                elif everything or not self._is_as_known(key, target, known):
                    ways[key] = self._way_to(key, target)
                else:
                    ways[key] = known or _UNKNOWN
            watched = frozenset(place for way in ways.values() for place in way.watched)
            # Most often nothing but the bytes of a file changed.
            same = ways.keys() == self._ways.keys()
            same = same and all(way is self._ways[key] for key, way in ways.items())
            places = self._places if same else _places(ways)
            with self._lock:
                if self._turn is not turn:
                    return  # It took too long: others went on without it.
                self._ways, self._places = ways, places
                self._given_up = False
                if watched == self._watched and self._watcher is not None:
                    return
                if self._renew(watched):
                    return
            dirty, everything = targets.keys(), True

    def _way_to(self, key: str, target: Target) -> _Ways:
        if self.is_silent(target.paths[0]):
            # One that was never looked at has not answered yet.
            return self._ways.get(key) or _UNKNOWN
        self._touched.pop(key, None)
        with self._patience.asking(target.paths[0]):
            return _ways(target, self.mounts)

    def _is_as_known(self, key: str, target: Target, known: _Ways | None) -> bool:
        """Whether nothing changed on the way to a target that is as it was, as far as events tell.
        Blocks."""
        if known is None or known.blind or target.blind or self._watcher is None:
            return False
        touched = self._touched.pop(key, frozenset())
        if touched is None:
            return False
        walks = _Walks()
        with self._patience.asking(target.paths[0]):
            return all(known.still(path, walks) for path in touched)

    def _touch(self, key: str, path: str | None) -> None:
        """Note an event on the way to a target; None where nobody knows which."""
        before = self._touched.get(key, frozenset())
        if path is None or before is None or len(before) >= MAX_TOUCHED:
            self._touched[key] = None
        else:
            self._touched[key] = before | {path}

    def _notice_all(self) -> None:
        for key in self._targets:
            self._touch(key, None)
        self._notice(None)

    def _renew(self, watched: frozenset[tuple[str, int, int]]) -> bool:
        """Whether the matter is settled; not if a directory vanished meanwhile."""
        if len(self._failures) >= MAX_FAILURES:
            if time.monotonic() - self._failures[-MAX_FAILURES] < SCAN:
                return True
            self._failures.clear()
        old = self._watcher
        try:
            # The last: failures are not passed over. Asked to pass over missing permissions,
            # watchfiles 1.3 says nothing of watches that ran out either, and is deaf.
            watcher = RustNotify([path for path, _, _ in watched], False, False, 0, False, False)
        except FileNotFoundError:
            return False
        except BaseException as error:
            # Out of watches, instances or threads, most often. Where no thread can be started,
            # watchfiles panics, which is no Exception.
            self._failed(str(error) or type(error).__name__)
            return True
        self._watcher = watcher, threading.Event()
        self._watched = watched
        self.trouble = None
        _close(old)
        return True

    def _failed(self, why: str) -> None:
        if self.trouble is None:
            _logger.warning("no file events (%s); scanning every %.0f s instead", why, SCAN_BLIND)
        self.trouble = why
        self._failures.append(time.monotonic())
        del self._failures[:-MAX_FAILURES]
        old, self._watcher, self._watched = self._watcher, None, frozenset()
        _close(old)

    async def run(self) -> None:
        """Listen and scan, until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                for name, work in (
                    ("listening for file events", self._listen),
                    ("looking at the mounts", self._look_at_mounts),
                    ("scanning", self._scan),
                ):
                    tasks.start_soon(keep_running, name, work)
        finally:
            _close(self._watcher)
            self._watcher = None

    async def _listen(self) -> None:
        while True:
            if self._watcher is None:
                # Without trouble `follow` makes one in a moment, and an edit may wait for it.
                await anyio.sleep(SCAN_BLIND if self.trouble else STEP / 1000)
                continue
            watcher, stop = self._watcher
            last, self._listened = self._listened, watcher
            if last is not None and last is not watcher:
                # What the one before had seen and not told yet is lost, of any directory.
                self._notice_all()
            # Where no thread can be started, this raises and is tried again: the changes stay in
            # the watcher meanwhile.
            changes = await to_thread.run_sync(
                _next_changes, watcher, stop, abandon_on_cancel=True, limiter=self._threads
            )
            if isinstance(changes, BaseException):
                if self._is_current(watcher):
                    # A name that is not UTF-8, or the end of the watcher: begin anew, and look at
                    # all, since nobody knows what was lost.
                    stop.set()
                    self._watcher, self._watched = None, frozenset()
                    self._failures.append(time.monotonic())
                    del self._failures[:-MAX_FAILURES]
                    if len(self._failures) == MAX_FAILURES:
                        self._failed(f"the watcher keeps failing: {changes}")
                    self._notice_all()
                continue
            if isinstance(changes, set):
                if any(path in self._places for _, path in changes):
                    # A watched directory came, went or was renamed. Then watchfiles forgets its
                    # watch, also where the same directory comes back.
                    self._watched = frozenset()
                names = set()
                for _, path in changes:
                    for name in self._meant(path):
                        self._touch(name, path)
                        names.add(name)
                if names:
                    self._notice(names)

    def _is_current(self, watcher: RustNotify) -> bool:
        return self._watcher is not None and self._watcher[0] is watcher

    def _meant(self, path: str) -> Iterator[str]:
        """The targets that a change of this path may concern."""
        if (names := self._places.get(path)) is not None:
            # The directory itself: it was removed, renamed, or its mode changed.
            for targets in names.values():
                yield from targets
        directory, _, name = path.rpartition("/")
        names = self._places.get(directory or "/")
        if names is not None:
            yield from names.get(name, ())
            yield from names.get(None, ())

    async def _look_at_mounts(self) -> None:
        while True:
            await anyio.sleep(SCAN_BLIND)
            if self.mounts.changed():
                self._notice_all()

    async def _scan(self) -> None:
        while True:
            await anyio.sleep(SCAN_BLIND)
            now = time.monotonic()
            every = now - self._scanned >= SCAN
            if every:
                self._scanned = now
            # Without the table of mounts, one that is mounted over another gives no sign.
            blind = self._watcher is None or not self.mounts.known
            targets = [
                (name, target)
                for name, target in self._targets.items()
                if every or blind or target.blind or self._is_blind(name)
                if not self.is_silent(target.paths[0])
            ]
            if targets:
                changed = await self._patience.wait(self._changed, targets)
                if changed:
                    for name in changed:
                        self._touch(name, None)
                    self._notice(changed)

    def is_silent(self, path: str) -> bool:
        """Whether the file system of a path does not answer: it, or something else on it."""
        silent = self._patience.silent
        if not silent or path in silent:
            return bool(silent)
        device = self.remote_device(path)
        return device is not None and any(self.remote_device(p) == device for p in silent)

    def remote_device(self, path: str) -> str | None:
        """The device of a path that lies on no local file system: the one that was found last, or
        as its name says. Nothing is asked."""
        way = self._ways.get(path)
        if way is not None and way.device is not None:
            if not self.mounts.remote(way.device):
                return None
            return f"{os.major(way.device)}:{os.minor(way.device)}"
        mount = self.mounts.mount(path)
        return mount[1] if mount is not None else None

    def _is_blind(self, name: str) -> bool:
        """Whether a directory on the way gives no events."""
        return name in self._ways and self._ways[name].blind

    def _changed(self, targets: list[tuple[str, Target]]) -> list[str]:
        changed = []
        for name, target in targets:
            with self._patience.asking(target.paths[0]):
                if not target.unchanged():
                    changed.append(name)
        return changed


def _next_changes(
    watcher: RustNotify, stop: threading.Event
) -> set[tuple[int, str]] | str | BaseException:
    """The changes that a watcher reports next, or what it raised: it raises what it met, of any
    type, and a panic is no Exception. Blocks."""
    try:
        return watcher.watch(DEBOUNCE, STEP, 0, stop)
    except BaseException as error:
        return error


def _close(watcher: tuple[RustNotify, threading.Event] | None) -> None:
    """End a watcher: the thread that listens to it sees the event within a step."""
    if watcher is not None:
        watcher[1].set()


@dataclass(frozen=True, slots=True, eq=False)
class _Ways:
    """The names that are looked up on the ways to one target, each with the path that it is looked
    up for, None for several; and the directories that they are looked up in, by identity: those
    that can be watched, and whether others are among them. And the device that the target is on."""

    names: Mapping[tuple[str, str | None], str | None]
    directories: frozenset[str]
    watched: frozenset[tuple[str, int, int]]
    blind: bool
    device: int | None = None

    def still(self, changed: str, walks: _Walks) -> bool:
        """Whether the ways are the same after a change of this path. Blocks."""
        if changed in self.directories:
            return False
        directory, _, name = changed.rpartition("/")
        step = directory or "/", name
        if step not in self.names:
            # A file that is not on any way, in a directory of which every name matters.
            return True
        path = self.names[step]
        if path is None:
            return False
        now = list(walks.steps(path))
        own = {step for step, of in self.names.items() if of == path}
        return all(step in self.names for step in now) and own == {
            step for step in now if self.names[step] == path
        }


_UNKNOWN = _Ways({}, frozenset(), frozenset(), blind=True)


def _ways(target: Target, mounts: Mounts) -> _Ways:
    walks = _Walks()
    names: dict[tuple[str, str | None], str | None] = {}
    for path in target.paths:
        for step in walks.steps(path):
            names[step] = path if names.setdefault(step, path) == path else None
    watched = set()
    far: list[str] = []
    # Those above come first.
    directories = frozenset(directory for directory, _ in names)
    for directory in sorted(directories):
        answered()
        if any(directory.startswith(f"{above}/") for above in far):
            # To set a watch on what is mounted there goes through it.
            continue
        try:
            status = os.stat(directory)
        except OSError:
            continue
        if mounts.remote(status.st_dev):
            # Its server may be gone, and to set a watch then would wait for it: in watchfiles,
            # where nothing else in this process runs meanwhile.
            far.append(directory.rstrip("/"))
        elif stat.S_ISDIR(status.st_mode) and os.access(directory, os.R_OK):
            watched.add((directory, status.st_dev, status.st_ino))
    try:
        device = os.stat(target.paths[0]).st_dev
    except OSError:
        device = None
    return _Ways(names, directories, frozenset(watched), bool(far), device)


def _places(ways: Mapping[str, _Ways]) -> Places:
    places: Places = {}
    for key, way in ways.items():
        for directory, name in way.names:
            places.setdefault(directory, {}).setdefault(name, set()).add(key)
    return places


class _Walks:
    """Walks along many paths. What was looked up on one is not looked up again on another, so that
    thousands of links into one directory take one walk and one look each."""

    def __init__(self) -> None:
        #: By path without links, where a link there leads; "" where it is none.
        self._targets: dict[str, str] = {}

    def steps(self, path: str) -> Iterator[tuple[str, str | None]]:
        """Each directory that is passed on the way to a path, with the name looked up in it.

        Links are followed step by step, so that no directory is named through one. At its end, if
        it is a directory, it comes itself with None: every name in it matters. Blocks.
        """
        steps = [part for part in path.split("/") if part][::-1]
        here = "/"
        links = 0
        while steps:
            answered()
            name = steps.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = os.path.dirname(here)
                continue
            yield here, name
            there = f"{here}/{name}" if here != "/" else f"/{name}"
            target = self._target(there, bool(steps))
            if target is None:
                return
            if not target:
                here = there
                continue
            links += 1
            if links > MAX_LINKS:
                return
            if target.startswith("/"):
                here = "/"
            steps += target.split("/")[::-1]
        if os.path.isdir(here):
            yield here, None

    def _target(self, path: str, inside: bool) -> str | None:
        """Where a link leads, "" for what is not one, None where there is nothing. `inside` says
        that the way goes on, so that other ways may lead over it too."""
        target: str | None = self._targets.get(path)
        if target is None:
            try:
                target = os.readlink(path)
            except OSError:
                target = "" if os.path.lexists(path) else None
            if inside and target is not None:
                self._targets[path] = target
        return target
