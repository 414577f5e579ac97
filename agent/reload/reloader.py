"""Dirty directories to units, to an index, to one assignment that swaps it, to a record.

There is one reload under way and at most one waiting, however often the files change: what changes
meanwhile is gathered, and read by the next. A reload takes each directory that has settled and
leaves the others for the next: a writer who is slow in one does not delay the others. A directory
that somebody still writes after WRITING seconds is held until he is done.

`reloader.index` is always a whole index. Whoever holds an old one keeps a whole old one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from agent import settings
from agent.core.diagnostic import Diagnostic, Severity, shown
from agent.core.index import Index, Served
from agent.core.unit import BEING_WRITTEN, CONF, FAULT, Evaluation, Reading, Unit, evaluate
from agent.disk import being_written, directory
from agent.disk.containment import PAUSE, describe, keep_running
from agent.disk.directory import QUIET, Mark, Snapshot
from agent.disk.mounts import Mounts
from agent.disk.permissions import Trust
from agent.disk.stalls import PROMPT, PROMPT_AT_START, Patience
from agent.disk.watch import Target, Watch
from agent.reload import causes, checks
from agent.reload.absence import Absences, git_is_writing
from agent.reload.checks import Python
from agent.reload.last_good import Kept, KeptSettings
from agent.reload.log import History, Log
from agent.reload.plans import Plans
from agent.reload.record import RELOADED, STARTED, STOPPED, Recorder
from agent.reload.syntax_check import Checker
from agent.rpc import results as answer
from agent.settings import Settings

#: Seconds for which a writer may keep a file open before the directory is held for it.
WRITING = being_written.WRITING
#: Seconds between two looks at a file that is held for a writer: this part of the time that it was
#: held already, between these bounds.
WRITING_POLL_SHARE = 0.01
WRITING_POLL = 0.02
WRITING_POLL_MAX = 0.25
#: Seconds between two attempts at what could not be written.
RETRY = 2.0

#: The target that stands for qb.conf.
_QB_CONF = "qb.conf"

_encode = answer.encode

_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Directory:
    """What is known of one listed directory."""

    path: str
    unit: Unit | None = None
    device: int | None = None
    snapshot: Snapshot | None = None
    #: What of it is watched.
    target: Target | None = None
    target_links: tuple[str, ...] = ()
    #: The last look at it, while it did not stand still; None once it settled.
    attempt: _Look | None = None
    #: What was reported of the writers when it was held for them, and when, in monotonic seconds.
    written: Reading | None = None
    written_at: float = 0.0
    judgement: Evaluation | None = None
    #: What the judgement was made of: a reading and the unit accepted before, both with the
    #: verdicts on their Python. It is made again as soon as one of the two differs.
    judged: tuple[Reading, Unit | None] | None = None
    served: Served = field(default_factory=lambda: Served(""))
    #: What `served` was made of. It is made again as soon as one of the two differs.
    served_from: tuple[Unit | None, frozenset[str]] = (None, frozenset())
    absences: Absences = field(default_factory=Absences)
    #: Monotonic seconds when it was first found unsettled; None while it is settled.
    unsettled: float | None = None
    #: The last call of `reload` since which it was settled or held.
    settled: int = -1
    #: Whether all that it is still waited for is a file that may come back.
    absent: bool = False
    #: Monotonic seconds since when an edit of it waits for a check; None while none does.
    checking: float | None = None
    #: Findings of what was kept of it.
    findings: tuple[Diagnostic, ...] = ()
    #: What of it to keep, not yet on the disk.
    unsaved: bool = False

    def all_findings(self) -> list[Diagnostic]:
        found = [*self.findings]
        if self.judgement is not None:
            found += self.judgement.findings
        return [*found, *self.served.findings]

    @property
    def held(self) -> str | None:
        return self.judgement.held if self.judgement else None

    @property
    def waits_for_writer(self) -> bool:
        """Whether all that it waits for is that files are closed."""
        look = self.attempt
        return look is not None and look.same and bool(look.snapshot.busy) and not look.awaited


@dataclass(slots=True, eq=False)
class _Look:
    """One directory as it was just read, and what a second look after a quiet period showed."""

    directory: _Directory
    snapshot: Snapshot
    #: Its Python, None where that is not known.
    python: Python | None = None
    same: bool = False
    #: Whether the same files were there and missing both times.
    same_names: bool = False
    #: The names that were missing both times and count as removed, and those that are awaited.
    gone: frozenset[str] = frozenset()
    awaited: frozenset[str] = frozenset()

    @property
    def settled(self) -> bool:
        return self.quiet and not self.awaited

    @property
    def quiet(self) -> bool:
        """Whether it stood still, by stat or by what its files contain."""
        if self.same and not self.snapshot.busy and not self.snapshot.unstable:
            return True
        before = self.directory.attempt
        return (
            self.same_names
            and before is not None
            and directory.same_content(before.snapshot, self.snapshot)
        )


class Reloader:
    """Keeps the index as the directories are. `run` does the work; the rest may be called at any
    time from the event loop."""

    def __init__(
        self,
        read_settings: Callable[[], Settings],
        first: Settings,
        kept: Kept,
        log: Log,
        trust: Trust,
    ) -> None:
        self._read_settings = read_settings
        self._trust = trust
        #: Why the last reload failed as a whole, None while reloads work.
        self._failure: str | None = None
        self._kept = kept
        self._log = log
        self.settings = first
        #: What is wrong with qb.conf now, the settings being those of before.
        self.settings_findings: tuple[Diagnostic, ...] = first.findings
        mounts = Mounts()
        self.patience = Patience(self.notice, mounts.mount)
        self.watch = Watch(self.notice, self.patience, mounts)
        self.index: Index = Index.of(0, ())
        self.history = History()
        #: The newest record as `status` has it.
        self._last_summary: bytes | None = None
        #: Told of each record, encoded, as soon as it is made.
        self.listeners: list[Callable[[bytes], None]] = []
        #: Told of each new index, before anything else is.
        self.swapped: list[Callable[[], None]] = []
        self.ready = anyio.Event()
        self._directories: dict[str, _Directory] = {}
        self._dirty: set[str] = set()
        self._all_dirty = True
        #: Monotonic seconds when qb.conf was first found being written; None while it is not.
        self._qb_conf_unsettled: float | None = None
        self._wake = anyio.Event()
        #: Calls of `reload` so far, and those of them that are done.
        self._asked = 0
        self._done = 0
        self._finished = anyio.Event()
        self._saved = anyio.Event()
        self._checker = Checker(self.notice)
        self._plans = Plans(self._notice_from_thread)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._recorder = Recorder()

    # What others ask ----------------------------------------------------------------------------

    def notice(self, names: Iterable[str] | None = None) -> None:
        """Some directories (or qb.conf) may have changed; None is all."""
        if names is None:
            self._all_dirty = True
        else:
            self._dirty.update(names)
        self._wake.set()

    async def reload(self) -> bytes:
        """Read everything again. When it returns, all that changed on disk before the call is
        served, or held with a finding. The last record that came of it, or one without changes."""
        before = self.history.count
        self._asked += 1
        ticket = self._asked
        self.notice()
        while self._done < ticket:
            await self._finished.wait()
        if self.history.count > before:
            return self.history.last
        return _encode(self._recorder.other(RELOADED, self.index, time.monotonic()))

    def last_record(self) -> bytes:
        """The newest record, as `status` has it. The first may still be in the making when the
        first answers are given; then it is made for this call."""
        if self._last_summary is not None:
            return self._last_summary
        return answer.summary(self._recorder.other(STARTED, self.index, time.monotonic()))

    @property
    def state(self) -> str:
        bad = self._recorder.degraded or self._failure is not None
        return "degraded" if bad else "ok"

    def directories(self) -> list[dict[str, Any]]:
        """Each listed directory, as `status` has it."""
        return [
            {
                "path": d.path,
                "callbacks": len(d.served.callbacks),
                # As `state` knows it: a judgement that is not told yet is not said here either.
                "held": self._recorder.held.get(d.path),
                "watch": "scan" if self.watch.trouble or _blind(d.snapshot) else "events",
                "digest": d.served.digest,
            }
            for d in self._directories.values()
        ]

    # The work -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch, reload, check and log, until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            for name, work in (
                ("the watch", self.watch.run),
                ("the checker of Python", self._checker.run),
                ("writing behind", self._write_behind),
                ("the stall monitor", self.patience.run),
            ):
                tasks.start_soon(keep_running, name, work)
            while True:
                try:
                    await self._reload()
                except Exception as error:  # of any kind: no edit may be lost, nor the agent end
                    await self._retry(error)
                    continue
                self._failure = None
                await self._rest()

    async def _retry(self, error: Exception) -> None:
        """Have everything read again after a short pause, since nobody knows what was missed."""
        why = describe(error)
        if why != self._failure:
            self._failure = why
            _logger.error("a reload failed and is tried again: %s", shown(why))
        self._all_dirty = True
        await anyio.sleep(PAUSE)

    def _notice_from_thread(self, path: str) -> None:
        """A directory may have changed. From any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # The loop may be closed by now.
                self._loop.call_soon_threadsafe(self.notice, {path})

    async def _rest(self) -> None:
        """Wait until there is something to do."""
        written = [d for d in self._directories.values() if d.unsettled is not None]
        if not self._all_dirty and not self._dirty:
            if written or self._qb_conf_unsettled is not None:
                with anyio.move_on_after(self._writing_pause(written)):
                    await self._wake.wait()
            else:
                await self._wake.wait()
        self._wake = anyio.Event()

    def _writing_pause(self, written: list[_Directory]) -> float:
        """Seconds until the next look at what is being written. It grows with the time since it was
        reported, so that a file that stays open for hours costs nothing."""
        if self._qb_conf_awaited():
            return QUIET
        if any(d.held != BEING_WRITTEN and not d.absent for d in written):
            return QUIET
        since = [d.unsettled for d in written if d.unsettled is not None]
        if self._qb_conf_unsettled is not None:
            since.append(self._qb_conf_unsettled)
        waited = time.monotonic() - max(since)
        return min(max(waited * WRITING_POLL_SHARE, WRITING_POLL), WRITING_POLL_MAX)

    def _done_since(self, ticket: int = 0) -> int:
        """The last call of `reload` since which every directory was settled once. Not all at one
        time: where many are edited without a pause, that may never be."""
        return min((d.settled for d in self._directories.values()), default=ticket)

    def _qb_conf_awaited(self) -> bool:
        """Whether qb.conf is being written, and not yet for so long that this was told."""
        return self._qb_conf_unsettled is not None and not any(
            f.code == BEING_WRITTEN for f in self.settings_findings
        )

    async def _reload(self) -> None:
        began = time.monotonic()
        ticket = self._asked
        everything, self._all_dirty = self._all_dirty, False
        dirty, self._dirty = self._dirty, set()
        if everything or _QB_CONF in dirty or self._qb_conf_unsettled is not None:
            await self._take_settings(began)
        names = [
            name
            for name, d in self._directories.items()
            if everything or name in dirty or d.unsettled is not None or d.snapshot is None
        ]
        settled = await self._settled(names, began, None if everything else dirty)
        if settled:
            await to_thread.run_sync(self._evaluate, settled)
        for d, _ in settled:
            d.settled = ticket
        first = not self.ready.is_set()
        if first and (self._qb_conf_awaited() or self._done_since() < 0):
            # The first index is whole, or there is none.
            return
        before = self.index
        stale = [d for d in self._directories.values() if self._is_stale(d)]
        listed = tuple(s.directory for s in before.served) == tuple(self._directories)
        if first or stale or not listed:
            index, served = await to_thread.run_sync(self._next_index, stale, listed)
            self._swap(index, served)
        self.ready.set()
        self._checker.begin()
        await self._tell(began)
        if first or self._failure is not None:
            await to_thread.run_sync(self._save)
        self._saved.set()
        done = self._done if self._qb_conf_awaited() else self._done_since(ticket)
        if done > self._done:
            self._done = done
            self._finished.set()
            self._finished = anyio.Event()

    def _is_stale(self, d: _Directory) -> bool:
        """Whether what is served of a directory is made of what is accepted no more."""
        unit, languages = d.served_from
        return unit is not d.unit or languages != self.settings.languages

    def _next_index(self, stale: list[_Directory], listed: bool) -> tuple[Index, dict[str, Served]]:
        """The index of what is accepted now, and what it has of the stale directories. `listed`
        says whether the index of before has the same directories. Blocks."""
        if self.ready.is_set():
            # What is served must not be lost by a crash. At the first index nobody was served yet.
            self._save()
        made = {d.path: Served.of(d.path, d.unit, self.settings.languages) for d in stale}
        generation = self.index.generation + 1
        if not listed or not self.ready.is_set():
            served = [made.get(path, d.served) for path, d in self._directories.items()]
            return Index.of(generation, served), made
        places = {path: place for place, path in enumerate(self._directories)}
        changed = {
            places[path]: served
            for path, served in made.items()
            if served.digest != self._directories[path].served.digest
        }
        return (self.index.replace(generation, changed) if changed else self.index), made

    def _swap(self, index: Index, served: dict[str, Served]) -> None:
        """Serve an index from now on."""
        before = self.index
        if index is not before and self.ready.is_set() and index.digest == before.digest:
            index.generation = before.generation
        for path, one in served.items():
            d = self._directories[path]
            d.served, d.served_from = one, (d.unit, self.settings.languages)
        if index is not before:
            self.index = index
            for tell in self.swapped:
                tell()

    async def _take_settings(self, began: float) -> None:
        """Take the settings as they are now, and add the cause if they differ.

        Half a qb.conf is never taken: it would serve the default directories for an instant, and
        forget what was kept of the others.
        """
        old = self.settings
        if self.watch.is_silent(old.qb_conf):
            # It is read again when its file system answers.
            self._qb_conf_unsettled = None
            return
        mark = await self.patience.wait(self._qb_conf_mark)
        read = await self.patience.wait(self._settings_now)
        if read is None:
            self.notice({_QB_CONF})
            return
        new, findings = read
        await anyio.sleep(QUIET)
        if mark is None or mark != await self.patience.wait(self._qb_conf_mark):
            self._qb_conf_unsettled = self._qb_conf_unsettled or began
            if time.monotonic() - self._qb_conf_unsettled < WRITING:
                return
            new, findings = old, (being_written.finding(old.qb_conf),)
        else:
            self._qb_conf_unsettled = None
        self.settings_findings = findings
        if new is not old and self._directories:
            self._recorder.found([causes.cause(old.qb_conf, "modified")])
        relisted = tuple(self._directories) != new.directories
        if relisted:
            before = self._directories
            self._directories = await to_thread.run_sync(self._listed, new.directories)
            for path in before.keys() - self._directories.keys():
                self._checker.use(path, {})
            self._plans.keep(self._directories)
        self.settings = new
        if relisted or self._kept.settings != self._settings_to_keep():
            # Also where a qb.conf came that says what held without it: now it can be lost.
            await to_thread.run_sync(self._kept.save_settings, self._settings_to_keep())

    def _qb_conf_mark(self) -> Mark | None:
        """What tells whether qb.conf changed, None while somebody writes it. Blocks."""
        path = self.settings.qb_conf
        with self.patience.asking(path):
            return directory.still(path, self.watch.mounts.kind(path))

    def _settings_now(self) -> tuple[Settings, tuple[Diagnostic, ...]]:
        """The settings to use, those of before where qb.conf is lost or wrong. Blocks."""
        old = self.settings
        try:
            with self.patience.asking(old.qb_conf):
                new = self._read_settings()
        except settings.SettingsError as error:
            finding = Diagnostic(
                Severity.ERROR, "bad-settings", old.qb_conf, None, None, str(error),
                "the last settings stay until then",
            )  # fmt: skip
            return old, (finding,)
        if new.bad:
            return old, new.findings
        last = self._kept.settings
        if not new.found and last is not None and last.found and last.qb_conf == new.qb_conf:
            message = "there is no such file any more, so the last settings stay"
            hint = "put it back; an empty file stands for the defaults"
            finding = Diagnostic(
                Severity.ERROR, "qb-conf-lost", new.qb_conf, None, None, message, hint
            )
            return old, (finding,)
        same = new == replace(old, findings=new.findings)
        return (old if same else new), new.findings

    def _listed(self, paths: tuple[str, ...]) -> dict[str, _Directory]:
        """What is known of these directories; those that were listed before stay as they were."""
        old = self._directories
        listed: dict[str, _Directory] = {}
        for path in paths:
            known = old.get(path)
            if known is None:
                known = _Directory(path, served=Served(path))
                kept, findings = self._kept.load(path) if not old else (None, [])
                if kept is not None:
                    known.unit, known.device = kept.unit, kept.device
                known.findings = tuple(findings)
            listed[path] = known
        return listed

    def _settings_to_keep(self) -> KeptSettings:
        return KeptSettings(
            self.settings.qb_conf,
            self.settings.found,
            list(self._directories),
            sorted(self.settings.languages),
        )

    def _look(self, names: list[str], everything: bool) -> list[_Look]:
        """Watch these directories as they are now, then read them. `everything` says that more may
        have changed than events tell. Blocks."""
        # That it can be read again gives no event.
        unread = any(f.code == "qb-conf-unreadable" for f in self.settings_findings)
        targets = {_QB_CONF: Target((self.settings.qb_conf,), self._qb_conf_unchanged, unread)}
        for path, d in self._directories.items():
            targets[path] = d.target = _target(d)
        self.watch.follow(targets, {_QB_CONF, *names}, everything)
        sizes = {p: d.snapshot.size if d.snapshot else 0 for p, d in self._directories.items()}
        looks = []
        for d in map(self._directories.__getitem__, names):
            looks.append(self._first_look(d, sum(sizes.values()) - sizes[d.path]))
            sizes[d.path] = looks[-1].snapshot.size
        return looks

    def _first_look(self, d: _Directory, elsewhere: int) -> _Look:
        """Read a directory. Whatever that raises is a fault of this directory alone. `elsewhere` is
        how many bytes the others have. Blocks."""
        also = d.unit.files() if d.unit else frozenset()
        try:
            with self.patience.asking(d.path):
                before = d.attempt.snapshot if d.attempt else d.snapshot
                snapshot = directory.read(
                    d.path, before, also, self.watch.kind(d.path), d.device, self._trust,
                    self._plans.plan, elsewhere,
                )  # fmt: skip
        except Exception as error:  # of any kind; `read` makes findings of what the disk answers
            return _Look(d, directory.failed(d.path, d.snapshot, error))
        # Checks begin at once: they need not wait for the quiet period.
        return _Look(d, snapshot, self._python(d, snapshot))

    def _second_look(self, look: _Look) -> None:
        """Whether a directory looks as it did, and what of it is gone. Blocks."""
        d, snapshot = look.directory, look.snapshot
        try:
            with self.patience.asking(d.path):
                look.same = directory.unchanged(snapshot)
                look.same_names = look.same or directory.same_names(snapshot)
                look.gone = directory.gone(snapshot)
                look.awaited = look.gone & self._awaited(d, snapshot)
                look.gone -= look.awaited
        except Exception as error:  # as above
            look.snapshot, look.same = directory.failed(d.path, d.snapshot, error), True
            look.python = None
            return
        if look.python is not None and look.python.urgent:
            look.python = self._python(d, snapshot)

    def _awaited(self, d: _Directory, snapshot: Snapshot) -> frozenset[str]:
        """The files whose absence may be a part of an edit that goes on. Blocks."""
        plan = snapshot.reading.plan
        served = set(d.unit.implementations) if d.unit else set()
        if plan is not None:
            # A file that is not named any more may go at once.
            served &= set(plan.files())
        if served:
            served.add(CONF)
        now = time.monotonic()
        d.absences.look(snapshot.marks, served, now)
        waiting = d.absences.waiting(now)
        if waiting and (d.absences.edited(now) or git_is_writing(d.path)):
            return waiting
        return frozenset()

    def _qb_conf_unchanged(self) -> bool:
        try:
            new, findings = self._settings_now()
        except OSError:
            return False
        return new is self.settings and findings == self.settings_findings

    async def _settled(
        self, names: list[str], began: float, dirty: set[str] | None
    ) -> list[tuple[_Directory, Snapshot]]:
        """Read these directories; those that stood still for a quiet time, or were waited for long
        enough. Those not in `dirty` only wait for a writer; None is all of them."""
        settled: list[tuple[_Directory, Snapshot]] = []
        silent, directories = await self._answering([self._directories[name] for name in names])
        for d in silent:
            d.unsettled = d.attempt = d.written = None
            settled.append((d, directory.silent(d.path, d.snapshot)))
        waiting = []
        if dirty is not None:
            waiting = [d for d in directories if d.path not in dirty and d.waits_for_writer]
        written = await self.patience.wait(self._still_written, waiting) if waiting else []
        if written is None:
            self._look_again(directories)
            return settled
        for d in written:
            d.unsettled = d.unsettled or began
            if d.written is None:
                settled += await self._held_for_writer(d)
        directories = [d for d in directories if d not in written]
        if not directories:
            return settled
        looks = await self.patience.wait(self._look, [d.path for d in directories], dirty is None)
        if looks is None:
            self._look_again(directories)
            return settled
        for look in looks:
            self._ask_for_checks(look)
        await anyio.sleep(QUIET)
        if await self.patience.wait(self._second_looks, looks) is None:
            self._look_again(directories)
            return settled
        for look in looks:
            d, snapshot = look.directory, look.snapshot
            d.absent = bool(look.awaited) and look.quiet
            self._ask_for_checks(look)
            if not look.settled:
                d.attempt = look
                d.unsettled = d.unsettled or began
                settled += await self._held_for_writer(d)
                _stop(d, snapshot, look.gone)
                continue
            d.unsettled = d.attempt = d.written = None
            if snapshot.unparsed or self._awaits_check(look):
                # It is noticed again when its callbacks.conf is parsed, or its Python checked.
                _stop(d, snapshot, look.gone)
            else:
                settled.append((d, snapshot))
        return settled

    async def _held_for_writer(self, d: _Directory) -> list[tuple[_Directory, Snapshot]]:
        """The reading that says who writes, as soon as that takes too long.

        Who writes is looked up when the directory becomes held, and then at most every WRITING
        seconds: where many write by turns, each turn is not worth a record.
        """
        assert d.unsettled is not None
        assert d.attempt is not None
        now = time.monotonic()
        if now - d.unsettled < WRITING:
            return []
        look = d.attempt
        if d.written is None or now - d.written_at >= WRITING:
            d.written = await self.patience.wait(self._written, look.snapshot)
            d.written_at = now
        if d.written is None:
            self._look_again([d])
            return []
        # What is missing is removed only if it still was after the quiet time, and is not awaited.
        files = look.snapshot.reading.files if look.same else {}
        files = {name: found for name, found in files.items() if name not in look.awaited}
        return [(d, replace(look.snapshot, reading=replace(d.written, files=files)))]

    def _written(self, snapshot: Snapshot) -> Reading:
        with self.patience.asking(snapshot.reading.directory):
            return being_written.held(snapshot)

    def _still_written(self, waiting: list[_Directory]) -> list[_Directory]:
        """Those in which a file that was open for writing still is. Blocks."""
        written = []
        for d in waiting:
            if d.attempt is not None:
                with self.patience.asking(d.path):
                    if directory.still_written(d.attempt.snapshot):
                        written.append(d)
        return written

    def _second_looks(self, looks: list[_Look]) -> bool:
        for look in looks:
            self._second_look(look)
        return True

    def _ask_for_checks(self, look: _Look) -> None:
        if look.python is not None:
            self._checker.use(look.directory.path, *look.python)

    def _awaits_check(self, look: _Look) -> bool:
        """Whether an edit waits for its check, and not yet for so long that it is held for it."""
        d = look.directory
        if look.python is None or not look.python.urgent:
            d.checking = None
            return False
        patience = checks.PATIENCE if self.ready.is_set() else checks.PATIENCE_AT_START
        if d.checking is None:
            d.checking = time.monotonic()
            # A timer of the loop may be a little early.
            asyncio.get_running_loop().call_later(patience + QUIET, self.notice, {d.path})
        self._checker.begin()
        early = time.monotonic() - d.checking < patience
        return early and not self._checker.settled(d.path)

    async def _answering(
        self, directories: list[_Directory]
    ) -> tuple[list[_Directory], list[_Directory]]:
        """Those whose file systems do not answer, and those that do. Of the rest nobody knows yet:
        they are noticed again. At the first index they count as silent, so that all others, and
        what was kept of these, are served."""
        silent = [d for d in directories if self.watch.is_silent(d.path)]
        asked = [d for d in directories if d not in silent]
        # By file system, those on it; a directory that was never read may be on any.
        far: dict[str, list[_Directory]] = {}
        for d in asked:
            device = self.watch.remote_device(d.path)
            if device is not None or d.snapshot is None:
                far.setdefault(device or d.path, []).append(d)
        if far:
            started = self.ready.is_set()
            prompt = await self.patience.answering(
                {device: on_it[0].path for device, on_it in far.items()},
                CONF,
                PROMPT if started else PROMPT_AT_START,
            )
            late = [d for device, on_it in far.items() if device not in prompt for d in on_it]
            asked = [d for d in asked if d not in late]
            if not started:
                silent += late
            for d in late:
                d.unsettled = None
        return silent, asked

    def _look_again(self, directories: list[_Directory]) -> None:
        """They were not read, for want of another's answer. Who wrote before may have ended since,
        and who writes then may have just begun."""
        for d in directories:
            d.unsettled = None
        self.notice(d.path for d in directories)

    def _python(self, d: _Directory, snapshot: Snapshot) -> Python | None:
        if snapshot.busy or snapshot.unparsed:
            return None
        return checks.python(self._checker, snapshot.reading, d.unit)

    def _evaluate(self, settled: list[tuple[_Directory, Snapshot]]) -> None:
        """Judge what was read. Whatever that raises for a directory is a fault of it. Blocks."""
        for d, snapshot in settled:
            before = d.snapshot
            try:
                self._judge(d, snapshot)
            except Exception as error:  # of any kind
                faulty = directory.failed(d.path, snapshot, error)
                if before is None or not before.retry:
                    # It is watched from the next reading on as one that is to be read again.
                    self._notice_from_thread(d.path)
                d.snapshot, d.judged = faulty, None
                fault = faulty.reading.fault
                d.judgement = Evaluation(d.unit, FAULT, (fault,) if fault else ())

    def _judge(self, d: _Directory, snapshot: Snapshot) -> None:
        self._recorder.found(causes.of_readings(d.snapshot, snapshot))
        if _links(snapshot) != _links(d.snapshot) or _blind(snapshot) != _blind(d.snapshot):
            # What was only found now is watched from the next reading on.
            self._notice_from_thread(d.path)
        d.snapshot = snapshot
        accepted = d.unit
        if accepted is not None:
            verdicts = checks.with_verdicts(self._checker, accepted.implementations)
            accepted = replace(accepted, implementations=verdicts)
        reading = checks.reported(self._checker, snapshot.reading, accepted)
        if _is_judged(d, (reading, accepted)):
            return
        d.judgement = evaluate(reading, accepted)
        # Judged again, it would be the same. What else changes the unit makes it judged anew.
        d.judged = reading, d.judgement.unit
        device = snapshot.device if reading.plan is not None else d.device
        d.unsaved = d.unsaved or d.judgement.unit != d.unit or device != d.device
        d.unit, d.device = d.judgement.unit, device

    async def _tell(self, began: float) -> None:
        """Make a record if there is something to record."""
        recorder = self._recorder
        findings = [*self.settings_findings]
        for d in self._directories.values():
            findings += d.all_findings()
        held = {d.path: d.held for d in self._directories.values() if d.held is not None}
        if not recorder.is_due(self.index, tuple(findings), held, self._directories):
            return
        units = {d.path: d.unit for d in self._directories.values()}
        record, summary = await to_thread.run_sync(
            recorder.encoded, self.index, units, self.settings.qb_conf, began
        )
        recorder.done(self.index)
        await self._publish(record, summary)

    async def _publish(self, record: bytes, summary: bytes) -> None:
        self.history.add(record)
        self._last_summary = summary
        for tell in list(self.listeners):
            tell(record)
        await to_thread.run_sync(self._log.write, record)

    async def stopped(self) -> None:
        """The last record, when the agent stops, and what is not on the disk yet."""
        await to_thread.run_sync(self._save)
        await to_thread.run_sync(self._kept.flush)
        await to_thread.run_sync(self._kept.sync)
        record = self._recorder.other(STOPPED, self.index, time.monotonic())
        await self._publish(_encode(record), answer.summary(record))

    def _save(self) -> None:
        for d in self._directories.values():
            if d.unsaved and d.unit is not None:
                d.unsaved = not self._kept.save(d.path, d.unit, d.device)

    async def _write_behind(self) -> None:
        """Bring to the disk what is written, and write what could not be written."""
        while True:
            with anyio.move_on_after(RETRY):
                await self._saved.wait()
            self._saved = anyio.Event()
            if self._kept.waiting:
                await to_thread.run_sync(self._kept.flush)
                await to_thread.run_sync(self._kept.sync)


def _is_judged(d: _Directory, inputs: tuple[Reading, Unit | None]) -> bool:
    """Whether the judgement of a directory was made of these."""
    return d.judgement is not None and d.judged == inputs


def _stop(d: _Directory, snapshot: Snapshot, gone: frozenset[str]) -> None:
    """Take what was removed out of what is served.

    Removal is an emergency stop: it does not wait for somebody who writes another file, nor for
    the check of another source. The directory is judged again when it settles, since its unit is
    another one then.
    """
    if d.unit is None or d.snapshot is None or not gone:
        return
    if d.snapshot.marks.get(".") != snapshot.marks.get("."):
        # Another directory stands there now: what is missing in it was not removed.
        return
    unit = Unit() if CONF in gone else d.unit.without(gone)
    if unit.implementations.keys() != d.unit.implementations.keys():
        d.unit, d.unsaved = unit, True


def _blind(snapshot: Snapshot | None) -> bool:
    return snapshot is not None and snapshot.needs_polling


def _links(snapshot: Snapshot | None) -> tuple[str, ...]:
    return snapshot.links if snapshot else ()


def _target(d: _Directory) -> Target:
    """What to watch for a directory: the one of before if its links and its kind are the same."""
    links, blind = _links(d.snapshot), _blind(d.snapshot)
    if d.target is not None and (d.target.blind, d.target_links) == (blind, links):
        return d.target
    d.target_links = links
    paths = (d.path, *(f"{d.path}/{link}" for link in links))
    return Target(paths, partial(_unchanged, d), blind)


def _unchanged(d: _Directory) -> bool:
    snapshot = d.snapshot
    return snapshot is not None and not snapshot.retry and directory.unchanged(snapshot)
