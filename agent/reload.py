"""Dirty directories to units, to an index, to one assignment that swaps it, to a record.

There is one reload under way and at most one waiting, however often the files change: what changes
meanwhile is gathered, and read by the next. A reload takes each directory that has settled and
leaves the others for the next: a writer who is slow in one does not delay the others. A directory
that somebody still writes after WRITING seconds is held until he is done.

`reloader.index` is always a whole index. Whoever holds an old one keeps a whole old one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import anyio
import msgspec
from anyio import to_thread

from agent import directory, language, settings
from agent.callback import BEING_WRITTEN, CONF, Implementation, Judgement, Reading, Unit, judge
from agent.compiler import Checker
from agent.directory import QUIET, Mark, Snapshot
from agent.finding import Finding, Severity, encodable, printable
from agent.index import Change, Index, Served, changes
from agent.kept import Kept, KeptSettings
from agent.log import History, Log, Record
from agent.mounts import Mounts
from agent.patience import PROMPT, PROMPT_AT_START, Patience
from agent.settings import Settings
from agent.trust import Trust
from agent.watch import Target, Watch

#: Seconds for which a writer may keep a file open before the directory is held for it.
WRITING = 2.0
#: Seconds between two looks at a directory that is held for a writer.
WRITING_POLL = 0.02
#: Seconds between two attempts at what could not be written.
RETRY = 2.0

#: The target that stands for qb.conf.
_QB_CONF = "qb.conf"

F = TypeVar("F")

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Directory:
    """What is known of one listed directory."""

    path: str
    unit: Unit | None = None
    device: int | None = None
    snapshot: Snapshot | None = None
    judgement: Judgement | None = None
    #: The reading that was judged, with the verdicts on its Python.
    judged: Reading | None = None
    served: Served = field(default_factory=lambda: Served(""))
    #: Monotonic seconds when it was first found unsettled; None while it is settled.
    unsettled: float | None = None
    #: The last call of `reload` since which it was settled or held.
    settled: int = -1
    #: Whether it waits for a check of its Python.
    checking: bool = False
    #: Findings of what was kept of it.
    findings: tuple[Finding, ...] = ()
    #: What of it to keep, not yet on the disk.
    unsaved: bool = False

    def all_findings(self) -> list[Finding]:
        found = [*self.findings]
        if self.judgement is not None:
            found += self.judgement.findings
        return [*found, *self.served.findings]

    @property
    def held(self) -> str | None:
        return self.judgement.held if self.judgement else None


class Reloader:
    """Keeps the index as the directories are. `run` does the work; the rest may be called at any
    time from the event loop."""

    def __init__(
        self,
        read_settings: Callable[[], Settings],
        first: Settings,
        kept: Kept,
        log: Log,
        complain: Callable[[str], None],
        trust: Trust,
    ) -> None:
        self._read_settings = read_settings
        self._trust = trust
        self._kept = kept
        self._log = log
        self.settings = first
        #: What is wrong with qb.conf now, the settings being those of before.
        self.settings_findings: tuple[Finding, ...] = first.findings
        mounts = Mounts()
        self.patience = Patience(self.notice, mounts.mount)
        self.watch = Watch(self.notice, complain, self.patience, mounts)
        self.index: Index = Index.of(0, ())
        self.history = History()
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
        self._findings: tuple[Finding, ...] = ()
        self._held: dict[str, str] = {}

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
        return _encode(self._record("reloaded", time.monotonic(), [], []))

    def last_record(self) -> bytes:
        """The newest record. The first, with all that is served in it, may still be in the making
        when the first answers are given; then it is given without."""
        if self.history.count:
            return self.history.last
        return _encode(self._record("started", time.monotonic(), [], []))

    @property
    def state(self) -> str:
        bad = bool(self._held) or any(f.severity is Severity.ERROR for f in self._findings)
        return "degraded" if bad else "ok"

    def directories(self) -> list[dict[str, Any]]:
        """Each listed directory, as `status` has it."""
        return [
            {
                "path": d.path,
                "callbacks": len(d.served.callbacks),
                # As `state` knows it: a judgement that is not told yet is not said here either.
                "held": self._held.get(d.path),
                "watch": "scan" if self.watch.trouble or _blind(d.snapshot) else "events",
                "digest": d.served.digest,
            }
            for d in self._directories.values()
        ]

    # The work -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch, reload, check and log, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.watch.run)
            tasks.start_soon(self._checker.run)
            tasks.start_soon(self._write_behind)
            tasks.start_soon(self.patience.run)
            while True:
                await self._reload()
                await self._rest()

    async def _rest(self) -> None:
        """Wait until there is something to do."""
        written = [d for d in self._directories.values() if d.unsettled is not None]
        if not self._all_dirty and not self._dirty:
            if written or self._qb_conf_unsettled is not None:
                slow = all(d.held == BEING_WRITTEN for d in written)
                slow = slow and not self._qb_conf_awaited()
                with anyio.move_on_after(WRITING_POLL if slow else QUIET):
                    await self._wake.wait()
            else:
                await self._wake.wait()
        self._wake = anyio.Event()

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
        causes: list[dict[str, str]] = []
        remade = False
        if everything or _QB_CONF in dirty or self._qb_conf_unsettled is not None:
            remade = await self._take_settings(causes, began)
        names = [
            name
            for name, d in self._directories.items()
            if everything or name in dirty or d.unsettled is not None or d.snapshot is None
        ]
        settled, stopped = await self._settled(names, began)
        for d, _ in settled:
            d.settled = ticket
        judged = [*stopped, *self._judged(settled, causes)]
        first = not self.ready.is_set()
        if first and (self._qb_conf_awaited() or self._done_since() < 0):
            # The first index is whole, or there is none.
            return
        before = self.index
        if first or remade:
            index = await to_thread.run_sync(self._whole_index)
        elif judged:
            index = await to_thread.run_sync(self._changed_index, judged)
        else:
            index = before
        changed = first or index.digest != before.digest
        if changed or remade:
            if not changed:
                index.generation = before.generation
            self.index = index
            for tell in self.swapped:
                tell()
        self.ready.set()
        self._checker.begin()
        await self._tell(began, before, causes, first, changed)
        if first:
            await to_thread.run_sync(self._save)
        self._saved.set()
        done = self._done if self._qb_conf_awaited() else self._done_since(ticket)
        if done > self._done:
            self._done = done
            self._finished.set()
            self._finished = anyio.Event()

    async def _take_settings(self, causes: list[dict[str, str]], began: float) -> bool:
        """Take the settings as they are now. Whether what is served must be made anew.

        Half a qb.conf is never taken: it would serve the default directories for an instant, and
        forget what was kept of the others.
        """
        old = self.settings
        if self.watch.is_silent(old.qb_conf):
            # It is read again when its file system answers.
            self._qb_conf_unsettled = None
            return False
        mark = await self.patience.wait(self._qb_conf_mark)
        read = await self.patience.wait(self._settings_now)
        if read is None:
            self.notice({_QB_CONF})
            return False
        new, findings = read
        await anyio.sleep(QUIET)
        if mark is None or mark != await self.patience.wait(self._qb_conf_mark):
            self._qb_conf_unsettled = self._qb_conf_unsettled or began
            if time.monotonic() - self._qb_conf_unsettled < WRITING:
                return False
            new, findings = old, (_written(old.qb_conf),)
        else:
            self._qb_conf_unsettled = None
        self.settings_findings = findings
        if new is not old and self._directories:
            causes.append({"path": encodable(old.qb_conf), "change": "modified"})
        self.settings = new
        if tuple(self._directories) == new.directories and new.languages == old.languages:
            if self._kept.settings is not None and self._kept.settings.found != new.found:
                # A qb.conf that came, though it says what held without it, can be lost.
                await to_thread.run_sync(self._save_settings)
            return False
        await to_thread.run_sync(self._list_directories)
        return True

    def _qb_conf_mark(self) -> Mark | None:
        """What tells whether qb.conf changed, None while somebody writes it. Blocks."""
        path = self.settings.qb_conf
        with self.patience.asking(path):
            return directory.still(path, self.watch.mounts.local(path))

    def _settings_now(self) -> tuple[Settings, tuple[Finding, ...]]:
        """The settings to use, those of before where qb.conf is lost or wrong. Blocks."""
        old = self.settings
        try:
            with self.patience.asking(old.qb_conf):
                new = self._read_settings()
        except settings.SettingsError as error:
            finding = Finding(
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
            finding = Finding(
                Severity.ERROR, "qb-conf-lost", new.qb_conf, None, None, message, hint
            )
            return old, (finding,)
        same = new == replace(old, findings=new.findings)
        return (old if same else new), new.findings

    def _list_directories(self) -> None:
        """Make the list of directories anew; those that stay listed are as they were."""
        old = self._directories
        listed: dict[str, _Directory] = {}
        for path in self.settings.directories:
            known = old.get(path)
            if known is None:
                known = _Directory(path, served=Served(path))
                kept, findings = self._kept.load(path) if not old else (None, [])
                if kept is not None:
                    known.unit, known.device = kept.unit, kept.device
                known.findings = tuple(findings)
            listed[path] = known
        self._directories = listed
        self._save_settings()

    def _save_settings(self) -> None:
        self._kept.save_settings(
            KeptSettings(
                self.settings.qb_conf,
                self.settings.found,
                list(self._directories),
                sorted(self.settings.languages),
            )
        )

    def _look(self, names: list[str]) -> list[Snapshot]:
        """Watch these directories as they are now, then read them. Blocks."""
        # That it can be read again gives no event.
        unread = any(f.code == "qb-conf-unreadable" for f in self.settings_findings)
        targets = {_QB_CONF: Target((self.settings.qb_conf,), self._qb_conf_unchanged, unread)}
        for path, d in self._directories.items():
            paths = (path, *(f"{path}/{link}" for link in _links(d.snapshot)))
            targets[path] = Target(paths, partial(_unchanged, d), _blind(d.snapshot))
        self.watch.follow(targets, {_QB_CONF, *names})
        snapshots = []
        for d in map(self._directories.__getitem__, names):
            also = d.unit.files() if d.unit else frozenset()
            with self.patience.asking(d.path):
                local = self.watch.mounts.local(d.path)
                snapshots.append(
                    directory.read(d.path, d.snapshot, also, local, d.device, self._trust)
                )
        return snapshots

    def _qb_conf_unchanged(self) -> bool:
        try:
            new, findings = self._settings_now()
        except OSError:
            return False
        return new is self.settings and findings == self.settings_findings

    async def _settled(
        self, names: list[str], began: float
    ) -> tuple[list[tuple[_Directory, Snapshot]], list[_Directory]]:
        """Read these directories; those that stood still for a quiet time, or were waited for long
        enough."""
        settled: list[tuple[_Directory, Snapshot]] = []
        stopped: list[_Directory] = []
        silent, directories = await self._answering([self._directories[name] for name in names])
        for d in silent:
            d.unsettled, d.checking = None, False
            settled.append((d, directory.silent(d.path, d.snapshot)))
        names = [d.path for d in directories]
        snapshots = await self.patience.wait(self._look, names)
        if snapshots is None:
            self._look_again(directories)
            return settled, stopped
        for d, snapshot in zip(directories, snapshots, strict=True):
            # Begin with the checks at once: they need not wait for the quiet time.
            if not snapshot.busy:
                self._known(d, snapshot.reading)
        await anyio.sleep(QUIET)
        still = await self.patience.wait(self._all_unchanged, snapshots)
        if still is None:
            self._look_again(directories)
            return settled, stopped
        for d, snapshot, (same, gone) in zip(directories, snapshots, still, strict=True):
            d.checking = False
            if snapshot.busy or not same:
                d.unsettled = d.unsettled or began
                if time.monotonic() - d.unsettled >= WRITING:
                    written = being_written(snapshot.reading, same)
                    settled.append((d, replace(snapshot, reading=written)))
                if _stop(d, snapshot, gone):
                    stopped.append(d)
                continue
            d.unsettled = None
            d.checking = not self._known(d, snapshot.reading)
            if d.checking:
                self._checker.begin()
                if _stop(d, snapshot, gone):
                    stopped.append(d)
            else:
                settled.append((d, snapshot))
        return settled, stopped

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

    def _all_unchanged(self, snapshots: list[Snapshot]) -> list[tuple[bool, frozenset[str]]]:
        """Of each, whether it looks as it did, and which names are still not there. Blocks."""
        found = []
        for snapshot in snapshots:
            with self.patience.asking(snapshot.reading.directory):
                found.append((directory.unchanged(snapshot), directory.gone(snapshot)))
        return found

    def _known(self, d: _Directory, reading: Reading) -> bool:
        """Whether all Python that must be checked before it is accepted has been.

        That is every source that was edited, and the one it takes the place of. What else is not
        checked yet is checked later: its warnings come in a later record.
        """
        known = True
        before = d.unit.implementations if d.unit else {}
        for file, found in reading.files.items():
            if not isinstance(found, Implementation) or language.language_of(file) != "python":
                continue
            was = before.get(file)
            urgent = d.unit is not None and (was is None or was.digest != found.digest)
            sources = [found, was] if urgent and was is not None else [found]
            for source in sources:
                if source.verdict is None and self._checker.verdict(source.digest) is None:
                    self._checker.ask(source.digest, source.code, d.path)
                    known = known and not urgent
        return known

    def _judged(
        self, settled: list[tuple[_Directory, Snapshot]], causes: list[dict[str, str]]
    ) -> list[_Directory]:
        """Judge what was read; the directories of which the judgement is new."""
        judged = []
        for d, snapshot in settled:
            causes += _causes(d.snapshot, snapshot)
            if _links(snapshot) != _links(d.snapshot) or _blind(snapshot) != _blind(d.snapshot):
                # What was only found now is watched from the next reading on.
                self.notice({d.path})
            d.snapshot = snapshot
            reading = snapshot.reading
            reading = replace(reading, files=self._with_verdicts(reading.files))
            if reading == d.judged:
                continue
            accepted = d.unit
            if accepted is not None:
                verdicts = self._with_verdicts(accepted.implementations)
                accepted = replace(accepted, implementations=verdicts)
            d.judgement = judge(reading, accepted)
            d.judged = reading
            device = snapshot.device if reading.plan is not None else d.device
            d.unsaved = d.unsaved or d.judgement.unit != d.unit or device != d.device
            d.unit, d.device = d.judgement.unit, device
            judged.append(d)
        return judged

    def _with_verdicts(self, files: Mapping[str, F]) -> dict[str, F]:
        """The files, with the verdicts on Python that came in since they were read."""
        return {file: self._with_verdict(file, found) for file, found in files.items()}

    def _with_verdict(self, file: str, found: F) -> F:
        if not isinstance(found, Implementation) or found.verdict is not None:
            return found
        verdict = self._checker.verdict(found.digest)
        if verdict is None or language.language_of(file) != "python":
            return found
        return replace(found, verdict=verdict)

    def _whole_index(self) -> Index:
        if self.ready.is_set():
            self._save()
        for d in self._directories.values():
            d.served = self._serve(d)
        return Index.of(self.index.generation + 1, [d.served for d in self._directories.values()])

    def _changed_index(self, judged: list[_Directory]) -> Index:
        # What is served must not be lost by a crash. At the first index nobody was served yet.
        self._save()
        places = {path: place for place, path in enumerate(self._directories)}
        changed = {}
        for d in judged:
            served = self._serve(d)
            if served.digest != d.served.digest:
                changed[places[d.path]] = d.served = served
        return self.index.replace(self.index.generation + 1, changed) if changed else self.index

    def _serve(self, d: _Directory) -> Served:
        return Served.of(d.path, d.unit, self.settings.languages)

    async def _tell(
        self,
        began: float,
        before: Index,
        causes: list[dict[str, str]],
        first: bool,
        changed: bool,
    ) -> None:
        """Make a record if there is something to tell."""
        findings = [*self.settings_findings]
        for d in self._directories.values():
            findings += d.all_findings()
        held = {d.path: d.held for d in self._directories.values() if d.held is not None}
        if not (changed or tuple(findings) != self._findings or held != self._held):
            return
        well = [p for p in self._held if p not in held and p in self._directories]
        newly = [p for p in held if p not in self._held]
        self._findings, self._held = tuple(findings), held
        event = "reloaded"
        if first:
            event = "started"
        elif newly:
            event = "held"
        elif well:
            event = "restored"
        record = await to_thread.run_sync(
            self._encoded, event, began, causes, before if changed else None
        )
        await self._publish(record)

    def _encoded(
        self, event: str, began: float, causes: list[dict[str, str]], before: Index | None
    ) -> bytes:
        found: list[Change] = []
        if before is not None:
            old = {s.directory: s for s in before.served}
            new = {s.directory: s for s in self.index.served}
            found = changes(
                [s for path, s in old.items() if new.get(path) is not s],
                [s for path, s in new.items() if old.get(path) is not s],
            )
        return _encode(self._record(event, began, causes, [c.as_json() for c in found]))

    def _record(
        self,
        event: str,
        began: float,
        causes: list[dict[str, str]],
        changed: list[dict[str, Any]],
    ) -> Record:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "time": now,
            "event": event,
            "generation": self.index.generation,
            "digest": self.index.digest,
            "callbacks": self.index.count,
            "duration_ms": round((time.monotonic() - began) * 1000, 3),
            "causes": causes,
            "changes": changed,
            "held": [{"directory": p, "reason": reason} for p, reason in self._held.items()],
            "diagnostics": [f.as_json() for f in self._findings],
        }

    async def _publish(self, record: bytes) -> None:
        self.history.add(record)
        for tell in list(self.listeners):
            tell(record)
        await to_thread.run_sync(self._log.write, record)

    async def stopped(self) -> None:
        """The last record, when the agent stops, and what is not on the disk yet."""
        await to_thread.run_sync(self._save)
        await to_thread.run_sync(self._kept.flush)
        await to_thread.run_sync(self._kept.sync)
        await self._publish(_encode(self._record("stopped", time.monotonic(), [], [])))

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
            if self._log.waiting:
                await to_thread.run_sync(self._log.flush)


def _stop(d: _Directory, snapshot: Snapshot, gone: frozenset[str]) -> bool:
    """Take what was removed out of what is served, and say whether there was any.

    Removal is an emergency stop: it does not wait for somebody who writes another file, nor for
    the check of another source.
    """
    if d.unit is None or d.snapshot is None or not gone:
        return False
    if d.snapshot.marks.get(".") != snapshot.marks.get("."):
        # Another directory stands there now: what is missing in it was not removed.
        return False
    unit = Unit() if CONF in gone else d.unit.without(gone)
    stopped = unit.implementations.keys() != d.unit.implementations.keys()
    if stopped:
        d.unit, d.unsaved = unit, True
    return stopped


def _blind(snapshot: Snapshot | None) -> bool:
    return snapshot is not None and (not snapshot.local or snapshot.retry)


def _links(snapshot: Snapshot | None) -> tuple[str, ...]:
    return snapshot.links if snapshot else ()


def _unchanged(d: _Directory) -> bool:
    snapshot = d.snapshot
    return snapshot is not None and not snapshot.retry and directory.unchanged(snapshot)


def being_written(reading: Reading, same: bool = True) -> Reading:
    """A reading that says only that somebody writes: what was read may be half a file."""
    finding = _written(reading.directory)
    # What was missing is removed only if it still was after the quiet time.
    files = reading.files if same else {}
    return Reading(reading.directory, None, None, files, BEING_WRITTEN, (finding,))


def _written(path: str) -> Finding:
    message = f"somebody is still writing in {printable(path)} after {WRITING:.0f} s"
    hint = "it is taken as soon as he closes the file"
    return Finding(Severity.ERROR, BEING_WRITTEN, path, None, None, message, hint)


def _causes(before: Snapshot | None, now: Snapshot) -> list[dict[str, str]]:
    """What changed on disk between two readings."""
    if before is None:
        return []
    causes = []
    for name in dict.fromkeys((*before.marks, *now.marks)):
        was: Mark | None = before.marks.get(name)
        mark = now.marks.get(name)
        if was == mark or was is None or mark is None:
            continue
        change = "modified"
        if isinstance(was, int):
            change = "added"
        elif isinstance(mark, int):
            change = "removed"
        path = now.reading.directory
        if name != ".":
            path = os.path.join(path, name)
        causes.append({"path": encodable(path), "change": change})
    return causes
