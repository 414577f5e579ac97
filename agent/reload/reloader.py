"""The loop: what may have changed is read until it is settled, evaluated, swapped in and recorded.

One reload runs at a time, and at most one waits, however often files change: what changes meanwhile
is gathered, and read by the next. A reload takes the directories that are settled, and leaves the
others for the next: a slow writer in one directory does not delay the others.

`Reloader.index` is always a whole index. It is replaced by one assignment, and never written to.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from agent.core.diagnostic import Severity
from agent.core.index import Index, ServedDirectory
from agent.core.quoting import shown
from agent.core.unit import BEING_WRITTEN
from agent.disk.containment import PAUSE, describe, keep_running
from agent.disk.mounts import Mounts
from agent.disk.permissions import Trust
from agent.disk.stalls import StallMonitor
from agent.disk.watch.combined import Watch
from agent.reload.directory_state import DirectoryState
from agent.reload.dirty import Barrier, DirtyNames
from agent.reload.last_good import LastGood
from agent.reload.listing import Listing
from agent.reload.log import Log
from agent.reload.looker import Looker
from agent.reload.plans import Plans
from agent.reload.publisher import Publisher
from agent.reload.qb_conf import QB_CONF, QbConf, restart_needed
from agent.reload.settle import Settled, Settler
from agent.reload.stored import StoredSettings
from agent.reload.syntax_check import Checker
from agent.reload.write_behind import WriteBehind
from agent.settings import Settings
from agent.timing import DEFAULTS, Timing

#: Seconds between two looks at a file that a directory is held for, because it is being written:
#: this share of the time for which it has been held, within these bounds. So a file that stays open
#: for hours costs almost nothing.
WRITING_POLL_SHARE = 0.01
WRITING_POLL = 0.02
WRITING_POLL_MAX = 0.25

_logger = logging.getLogger(__name__)


@contextmanager
def no_collection(freeze: bool = False) -> Iterator[None]:
    """Keep the garbage collector from running, and let it run again afterwards if it did before.

    A reload of many callbacks makes many objects and no cycles of them. Each few hundred of them
    would start a collection, which holds the GIL and cannot be interrupted. After a large reload,
    `freeze` also exempts all objects that exist then from later collections: for 100,000 callbacks
    one takes 70 ms. Such an object is still freed when nothing refers to it, unless it is in a
    cycle.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        # Not after an error: its traceback may be in a cycle.
        if enabled and freeze and gc.get_count()[0] > gc.get_threshold()[0]:
            gc.freeze()
    finally:
        if enabled:
            gc.enable()


class Reloader:
    """Keeps the index as the directories are. `run` does the work. The rest may be called at any
    time in the event loop."""

    def __init__(
        self,
        read_settings: Callable[[], Settings],
        first: Settings,
        last_good: LastGood,
        log: Log,
        trust: Trust,
        timing: Timing = DEFAULTS,
    ) -> None:
        self._quiet_period = timing.quiet_period
        self._dirty = DirtyNames()
        self._barrier = Barrier()
        mounts = Mounts()
        self._monitor = StallMonitor(self.notice, mounts.mount, timing.stalled)
        self.watch = Watch(self.notice, self._monitor, mounts, timing.rescan)
        self.qb_conf = QbConf(
            first,
            read_settings,
            lambda: last_good.settings,
            self.watch,
            self._monitor,
            self.notice,
            timing,
        )
        checker = Checker(self.notice, timing.checks)
        plans = Plans(self._dirty.add_from_thread)
        looker = Looker(self.watch.kind, self._monitor, checker, trust, self._follow, plans)
        self._settler = Settler(looker, self.watch, self._monitor, checker, self.notice, timing)
        self._last_good = last_good
        self._write_behind = WriteBehind(last_good, partial(self.notice, ()), timing.rescan)
        self.listing = Listing(last_good)
        self.records = Publisher(log)
        self.index = Index.of(0, ())
        #: The monotonic time in seconds since which the index of this generation is served.
        self.changed = time.monotonic()
        #: Called without arguments after each swap, before anything else, even if only `held` of
        #: the index differs.
        self.swapped: list[Callable[[], None]] = []
        self.ready = anyio.Event()
        #: The `freeze` of `no_collection`. Set only in a process that leaves no cycles.
        self.freezes = False
        #: Why the last reload failed as a whole, None while reloads work.
        self._failure: str | None = None

    # Called by others ---------------------------------------------------------------------------

    def notice(self, names: Iterable[str] | None = None) -> None:
        """Some directories (or qb.conf) may have changed; None is everything."""
        self._dirty.add(names)

    async def reload(self) -> bytes:
        """Read everything again. When it returns, every change made on disk before the call is
        served, or held with a diagnostic. Returns the newest record that came of it, or one without
        changes."""
        records = self.records
        before = records.recorder.sequence
        self.notice()
        await self._barrier.wait()
        if records.recorder.sequence > before:
            return records.history.last
        return records.unchanged(self.index)

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self.qb_conf.settings

    @property
    def notes(self) -> list[str]:
        """What looks wrong in the settings in use, and may be intended."""
        return [
            f"{f.path}: {f.message}" for f in self.qb_conf.findings if f.severity is Severity.NOTE
        ]

    @property
    def state(self) -> str:
        """`ok` or `degraded`."""
        bad = self.records.recorder.degraded or self._failure is not None
        return "degraded" if bad else "ok"

    def directories(self) -> list[dict[str, Any]]:
        """Each listed directory, as `status` has it."""
        # Held as `state` knows it: what is not recorded yet is not shown here either.
        return self.listing.rows(self.records.recorder.held, self.watch)

    # The loop -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch, reload, check and log, until cancelled."""
        self._dirty.start()
        async with anyio.create_task_group() as tasks:
            for name, work in (
                ("the watch", self.watch.run),
                ("the checker of Python", self._settler.checker.run),
                ("writing to the state directory", self._write_behind.run),
                ("the stall monitor", self._monitor.run),
            ):
                tasks.start_soon(keep_running, name, work)
            while True:
                try:
                    await self._reload()
                except Exception as error:  # of any kind: the agent goes on, and loses no edit
                    await self._retry(error)
                    continue
                self._failure = None
                await self._wait_for_work()

    async def _retry(self, error: Exception) -> None:
        """Have everything read again after a short pause, since it is not known what was missed."""
        why = describe(error)
        if why != self._failure:
            self._failure = why
            _logger.error("a reload failed and is tried again: %s", shown(why))
        self.notice()
        await anyio.sleep(PAUSE)

    async def _wait_for_work(self) -> None:
        """Wait until something may have changed, or what is unsettled is to be looked at again."""
        unsettled = [d for d in self.listing if d.attempt.unsettled_since is not None]
        since = [d.attempt.unsettled_since or 0.0 for d in unsettled]
        if self.qb_conf.unsettled_since is not None:
            since.append(self.qb_conf.unsettled_since)
        seconds = None
        if self.qb_conf.awaited or any(
            d.held != BEING_WRITTEN and not d.attempt.only_absent for d in unsettled
        ):
            seconds = self._quiet_period
        elif since:
            waited = time.monotonic() - max(since)
            seconds = min(max(waited * WRITING_POLL_SHARE, WRITING_POLL), WRITING_POLL_MAX)
        await self._dirty.wait(seconds)

    async def _reload(self) -> None:
        began = time.monotonic()
        ticket = self._barrier.calls
        dirty = self._dirty.take()
        if dirty is None or QB_CONF in dirty or self.qb_conf.unsettled_since is not None:
            await self._take_settings()
        directories = [
            d
            for d in self.listing
            if dirty is None
            or d.path in dirty
            or d.attempt.unsettled_since is not None
            or d.snapshot is None
        ]
        first = not self.ready.is_set()
        # The collector may run while the state is written: that may wait for a disk for ever.
        with no_collection(self.freezes):
            if not await self._accept(directories, dirty, ticket, first):
                return
        self.ready.set()
        self._settler.start()
        await self._emit_record(began)
        if self._last_good.lost:
            await to_thread.run_sync(self.listing.save_again)
        elif first or self._failure is not None:
            await to_thread.run_sync(self.listing.save)
        self._write_behind.written()
        if not self.qb_conf.awaited:
            self._barrier.finish(self.listing.settled_since(ticket))

    async def _accept(
        self,
        directories: list[DirectoryState],
        dirty: Collection[str] | None,
        ticket: int,
        first: bool,
    ) -> bool:
        """Read directories until they are quiet, and serve what is accepted. False where the first
        index is not whole yet, so that there is none."""
        settled = await self._settler.read_until_quiet(directories, dirty)
        # In a thread, also to find that nothing changed: it takes long for a thousand directories.
        unwatched, index = await to_thread.run_sync(self._decide, settled, ticket, first)
        # Links in them were found only now: their targets are watched from the next reading on.
        if unwatched:
            self.notice(unwatched)
        if index is None:
            return False
        self._swap(*index)
        return True

    def _decide(
        self, settled: list[Settled], ticket: int, first: bool
    ) -> tuple[set[str], tuple[Index, dict[str, ServedDirectory]] | None]:
        """Decide what is accepted of settled readings. Returns the directories whose watches must
        change, and what `Listing.next_index` makes of what is accepted now. Blocks."""
        found, unwatched = self.listing.evaluate(settled, self._settler.checker)
        self.records.recorder.add_causes(found)
        for d, _ in settled:
            d.ticket = ticket
        if first and (self.qb_conf.awaited or self.listing.settled_since(0) < 0):
            return unwatched, None
        return unwatched, self.listing.next_index(self.index, self.settings.languages, first)

    def _swap(self, index: Index, made: dict[str, ServedDirectory]) -> None:
        """Serve what is accepted now, and say what is held."""
        self.listing.serve(made, self.settings.languages)
        index = index.with_held(d.path for d in self.listing if d.held is not None)
        if index is not self.index:
            if index.generation != self.index.generation:
                self.changed = time.monotonic()
            self.index = index
            for swapped in self.swapped:
                swapped()

    async def _take_settings(self) -> None:
        """Use the settings as they are now. If they or the findings about them differ, that is a
        cause of the next record."""
        old, findings = self.settings, self.qb_conf.findings
        new = await self.qb_conf.read_until_quiet()
        if new is None:
            return
        changed = new is not old or self.qb_conf.findings != findings
        if changed and self.listing.paths:
            self.records.recorder.add_causes(self.qb_conf.causes())
            self.records.recorder.report_once(restart_needed(old, new))
        relisted = self.listing.paths != new.directories
        if relisted:
            before = self.listing.paths
            await to_thread.run_sync(self.listing.relist, new.directories)
            self._settler.forget({*before} - {*self.listing.paths})
        self.qb_conf.settings = new
        store = StoredSettings(
            new.qb_conf, new.qb_conf_exists, list(self.listing.paths), sorted(new.languages)
        )
        if relisted or self._last_good.settings != store:
            # Also if a qb.conf was added that changes nothing: from now on it can be lost.
            await to_thread.run_sync(self._last_good.save_settings, store)

    def _follow(self, names: Collection[str], everything: bool) -> None:
        """Watch everything that is listed now. Blocks."""
        targets = {QB_CONF: self.qb_conf.target(), **self.listing.targets()}
        self.watch.follow(targets, {QB_CONF, *names}, everything)

    async def _emit_record(self, began: float) -> None:
        """Make a record if there is something to record."""
        # Not in a thread: from the swap on, `state` must describe the index that is served.
        findings, held, known = self.listing.summary()
        await self.records.emit_record(
            self.index,
            (*self.qb_conf.findings, *map(self.settings.with_source, findings)),
            held,
            known,
            self.settings.qb_conf,
            began,
        )

    async def stopped(self) -> None:
        """Make the last record, and store what is not on the disk yet."""
        await to_thread.run_sync(self.listing.save)
        await to_thread.run_sync(self._last_good.flush)
        await self.records.emit_stopped(self.index)
        # Last: a slow disk may take longer for it than a stop may.
        await to_thread.run_sync(self._last_good.sync)
