"""The Nth file operation fails, for N = 1, 2, 3 ... until a run is clean: once, and permanently.

The operations are those of the code that reads callback directories and qb.conf, stores what was
accepted, and writes the log. They fail in the process of the test: each of these modules has its
`os` replaced by one that counts and otherwise does the same. The files, the threads and the
reloader are the real ones. EINTR is not among the errors: Python itself repeats a call that was
interrupted.

What is served must be the old version or the new one, whole. When the operations work again, all
must be well again: the newest version served and stored, nothing held, the log written.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import settings as hypothesis_settings

from agent import settings
from agent.core.index import Index
from agent.core.unit import Unit
from agent.disk import directory, files, fingerprint, second_look
from agent.disk.permissions import IGNORE, Trust
from agent.reload import last_good, log, state_files
from agent.reload.last_good import LastGood
from agent.reload.log import Log
from agent.reload.reloader import Reloader
from agent.rpc import results
from agent.timing import Timing
from support.given import by_flag
from support.messages import logged
from support.versions import LINES, Versions

MODULES = (directory, files, fingerprint, second_look, last_good, log, settings, state_files)
ERRORS = (errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOSPC, errno.EMFILE)
#: What is made to fail. `open` and `fdopen` of files stand for reading and writing those, too.
OPERATIONS = (
    *("open", "read", "pread", "stat", "lstat", "fstat", "scandir", "mkdir", "makedirs"),
    *("rename", "unlink", "write", "fsync", "ftruncate"),
)
THOROUGH = hypothesis_settings.get_current_profile_name() == "thorough"
#: From one N to the next. A short run takes every fourth N, from one of the first four on by
#: chance. Four and the number of errors have no common divisor, so it meets all errors.
STRIDE = 1 if THOROUGH else 4
#: Seconds for one test.
LIMIT = 3600 if THOROUGH else 900
#: More operations than any run has.
MAX_OPERATIONS = 1000
#: Seconds until a wait in the reloader is a failure.
PATIENCE = 60.0
#: The permissions of the folder of the tests do not matter.
TRUST = Trust(IGNORE)


class Operations:
    """Counts file operations from `arm` on, and makes the Nth fail."""

    def __init__(self) -> None:
        self.count = 0
        self.seen: set[str] = set()
        self.failed: list[str] = []
        self._nth = MAX_OPERATIONS
        self._error = 0
        self._for_ever = False
        self._lock = threading.Lock()

    def arm(self, nth: int, error: int, for_ever: bool) -> None:
        with self._lock:
            self.count = 0
            self._nth, self._error, self._for_ever = nth, error, for_ever

    def disarm(self) -> None:
        with self._lock:
            self._nth = sys.maxsize

    def step(self, name: str) -> None:
        """One operation. Raises OSError if it is to fail."""
        with self._lock:
            self.count += 1
            self.seen.add(name)
            if self.count != self._nth and not (self._for_ever and self.count > self._nth):
                return
            self.failed.append(name)
        raise OSError(self._error, os.strerror(self._error))

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.step(name)
            return real(*args, **kwargs)

        return call

    def open(self, *args: Any, **kwargs: Any) -> Any:
        # With a descriptor nothing is opened.
        if not isinstance(args[0], int):
            self.step("open")
        return CountedFile(builtins.open(*args, **kwargs), self)

    def fdopen(self, *args: Any, **kwargs: Any) -> Any:
        return CountedFile(os.fdopen(*args, **kwargs), self)


class CountedFile:
    """An open file of which reading and writing are counted."""

    def __init__(self, file: Any, operations: Operations) -> None:
        self._file = file
        self._operations = operations

    def read(self, *args: int) -> Any:
        self._operations.step("read")
        return self._file.read(*args)

    def write(self, data: bytes) -> Any:
        self._operations.step("write")
        return self._file.write(data)

    def __enter__(self) -> CountedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class CountedOs:
    """The module `os`, with its file operations counted."""

    def __init__(self, operations: Operations) -> None:
        self.fdopen = operations.fdopen
        for name in OPERATIONS:
            setattr(self, name, operations.counted(name, getattr(os, name)))
        # No power is cut here, and a disk that others use takes its time.
        self.fsync = operations.counted("fsync", lambda _: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


#: Nobody edits while an edit is read here: a shorter wait is enough, and saves minutes.
HASTY = Timing(quiet_period=0.0005)


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operations]:
    operations = Operations()
    for module in MODULES:
        monkeypatch.setattr(module, "os", CountedOs(operations))
        monkeypatch.setattr(module, "open", operations.open, raising=False)
    # As the agent has it, so that leases are asked for.
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield operations
    signal.signal(signal.SIGIO, before)


class Site:
    """A directory, its versions, and what one agent after the other makes of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.callback = folder / "callback"
        self.callback.mkdir()
        self.versions = Versions("k1", str(self.callback), code=True, stems=("a",))
        self.log = folder / "reload.log"
        self.state = folder / "state"
        self.pipe = folder / "pipe"
        (folder / "qb.conf").write_text('supervisor_language_flags = "perl"\n')
        self.flags = {
            "qb_conf": str(folder / "qb.conf"),
            "directories": str(self.callback),
            "log": str(self.log),
            "log_format": "json",
            "pipe": str(self.pipe),
            "state": str(self.state),
        }
        self.version = 0
        self.records: list[bytes] = []

    def write(self, version: int, broken: bool = False) -> None:
        self.version = version
        for name, text in self.versions.files(version).items():
            new = self.callback / f".{name}.new"
            if broken and name == "callbacks.conf":
                text = text.replace("=", ":")
            new.write_text(text)
            new.rename(self.callback / name)

    def reloader(self) -> Reloader:
        """Put together as `serve` does."""
        keeper = LastGood(str(self.state), str(self.pipe), TRUST)
        keeper.open()
        first = settings.read(by_flag(self.flags))
        written = Log(str(self.log), "json", "")
        read = partial(settings.read, by_flag(self.flags))
        reloader = Reloader(read, first, keeper, written, TRUST, HASTY)
        self.log.write_text("before\n")
        self.records.clear()
        reloader.records.listeners.append(self.records.append)
        return reloader

    def shown(self, index: Index) -> int | None:
        """The version that is served, None for nothing; a failure for half a version."""
        found = json.loads(results.callbacks(index, with_code=True))["callbacks"]
        if not found:
            return None
        version = self.versions.version(self.versions.read(found))
        assert version is not None, found
        return version

    def stored(self) -> int | None:
        """The version that is stored."""
        with logged() as messages:
            opened = LastGood(str(self.state), str(self.pipe), TRUST)
            opened.open()
            known, findings = opened.load(str(self.callback))
        assert not findings
        assert not messages
        return None if known is None else self.version_of(known.unit)

    def version_of(self, unit: Unit) -> int:
        lines = unit.registrations
        versions = {int(r.text.partition("|| v")[2][:8]) for r in lines}
        code = {int(i.code.partition(b" v")[2]) for i in unit.implementations.values()}
        assert len(lines) == LINES
        assert versions == code
        return versions.pop()

    def logged(self) -> int:
        """How many records the log has."""
        text = self.log.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\n")
        return text.count("\n") - 1


async def with_agent(site: Site, use: Callable[[Reloader], Any]) -> None:
    """Run a reloader, and `use` it when it is ready."""
    async with anyio.create_task_group() as tasks:
        reloader = site.reloader()
        tasks.start_soon(reloader.run)
        with anyio.fail_after(PATIENCE):
            await reloader.ready.wait()
            await use(reloader)
        tasks.cancel_scope.cancel()


async def to_the_disk(reloader: Reloader) -> None:
    """What the agent does after its reloads, done now, so that it too may fail."""
    await anyio.to_thread.run_sync(reloader._last_good.sync)


async def well(site: Site, operations: Operations, reloader: Reloader) -> None:
    """When all works again, all is well: what is on disk is served, stored and logged."""
    await to_the_disk(reloader)
    operations.disarm()
    await reloader.reload()
    assert site.shown(reloader.index) == site.version
    assert reloader.state == "ok"
    assert not [d for d in reloader.directories() if d["held"]]
    # What could not be stored is written after the reload: now.
    await anyio.to_thread.run_sync(reloader._last_good.flush)
    assert site.stored() == site.version
    # The next edit brings the log up to date.
    site.write(site.version + 1)
    await reloader.reload()
    assert site.shown(reloader.index) == site.stored() == site.version
    assert site.logged() == len(site.records)


async def edit(site: Site, operations: Operations, arm: Callable[[], None]) -> None:
    """An edit while the agent runs."""

    async def use(reloader: Reloader) -> None:
        assert site.shown(reloader.index) == 1
        arm()
        site.write(2)
        for _ in range(2):
            await reloader.reload()
            assert site.shown(reloader.index) in (1, 2)
        await well(site, operations, reloader)

    site.write(1)
    await with_agent(site, use)


async def start(site: Site, operations: Operations, arm: Callable[[], None]) -> None:
    """A start, after an edit that came while no agent ran."""
    await first_start(site)
    site.write(2)

    async def use(reloader: Reloader) -> None:
        for _ in range(2):
            assert site.shown(reloader.index) in (None, 1, 2)
            if site.shown(reloader.index) is None:
                assert reloader.state == "degraded"
            await reloader.reload()
        await well(site, operations, reloader)

    arm()
    await with_agent(site, use)


async def start_held(site: Site, operations: Operations, arm: Callable[[], None]) -> None:
    """A start on a callbacks.conf of which every line is broken: what was stored is served, unless
    it cannot be read; nothing else is, and that is reported."""
    await first_start(site)
    site.write(2, broken=True)

    async def use(reloader: Reloader) -> None:
        for _ in range(2):
            assert site.shown(reloader.index) in (None, 1)
            assert reloader.state == "degraded"
            await reloader.reload()
        if len(operations.failed) < 2:
            assert site.shown(reloader.index) == 1
        await to_the_disk(reloader)
        operations.disarm()
        site.write(3)
        await well(site, operations, reloader)

    arm()
    await with_agent(site, use)


async def first_start(site: Site) -> None:
    async def use(reloader: Reloader) -> None:
        await reloader.reload()

    site.write(1)
    await with_agent(site, use)
    assert site.stored() == 1


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever after"])
@pytest.mark.parametrize("scene", [edit, start, start_held])
def test_the_nth_file_operation_fails(
    tmp_path: Path, operations: Operations, scene: Callable[..., Any], for_ever: bool
) -> None:
    for nth in range(random.randint(1, STRIDE), MAX_OPERATIONS, STRIDE):
        # One error for each N would do; all of them where there is time.
        for error in ERRORS if THOROUGH else (ERRORS[nth % len(ERRORS)],):
            operations.disarm()
            operations.failed.clear()
            site = Site(tmp_path / f"{nth}-{error}")
            arm = partial(operations.arm, nth, error, for_ever)
            try:
                anyio.run(scene, site, operations, arm)
            except BaseException as wrong:
                wrong.add_note(f"{nth} ({errno.errorcode[error]}): {operations.failed}")
                raise
            if not operations.failed:
                # What must be among what was counted, or this shows nothing.
                seen = operations.seen
                assert nth > 20
                assert seen >= {"open", "read", "stat", "lstat", "fstat", "rename", "fsync"}
                assert seen >= {"write", "pread"}
                return
    pytest.fail("no run was clean")
