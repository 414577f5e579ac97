"""The sources of file events: what each reports, and what becomes of its watches."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.disk.mounts import Mounts
from agent.disk.watch.inotify import InotifyWatcher
from agent.disk.watch.interface import Report, Watcher
from agent.disk.watch.paths import watch_set
from agent.disk.watch.watchfiles_events import WatchfilesWatcher
from support.agents import DEADLINE

Source = Callable[[Report], Watcher]

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


def watchfiles(report: Report) -> Watcher:
    return WatchfilesWatcher(report, 30.0)


@pytest.fixture(params=[pytest.param(InotifyWatcher, marks=linux), watchfiles])
def source(request: pytest.FixtureRequest) -> Source:
    made: Source = request.param
    return made


class Followed:
    """Directories that a source of events watches, by their names, and what it reported of them."""

    def __init__(self, source: Source, folder: Path, *names: str) -> None:
        self.folder = folder
        self.names = names
        self.everything = 0
        self.seen: dict[str, set[str]] = {}
        self.watcher = source(self._report)
        self.follow()

    def _report(self, changes: Mapping[str, Collection[str] | None] | None) -> None:
        if changes is None:
            self.everything += 1
            return
        for key, paths in changes.items():
            self.seen.setdefault(key, set()).update(paths or ())

    def follow(self) -> bool:
        mounts = Mounts()
        return self.watcher.follow(
            {name: watch_set((str(self.folder / name),), mounts) for name in self.names}
        )

    async def until(self, condition: Callable[[], Any]) -> None:
        with anyio.fail_after(DEADLINE):
            while not condition():  # noqa: ASYNC110  (nothing signals it)
                await anyio.sleep(0.002)

    async def sees(self, key: str, path: Path) -> None:
        """Wait for a report of a path; what was reported until then is forgotten."""
        try:
            await self.until(lambda: str(path) in self.seen.get(key, ()))
        except TimeoutError:
            raise AssertionError(f"{key}: no report of {path}, but of {self.seen}") from None
        self.seen.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.watcher.run)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                self.watcher.close()


def test_every_kind_of_change_is_reported_of_the_target_it_concerns(
    source: Source, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
    followed = Followed(source, tmp_path, "one", "two")

    async def main() -> None:
        async with followed.running():
            file = one / "a.pl"
            file.write_text("1\n")
            await followed.sees("one", file)
            with file.open("a") as opened:
                opened.write("2\n")
                opened.flush()
                await followed.sees("one", file)
            file.chmod(0o600)
            await followed.sees("one", file)
            file.rename(two / "b.pl")
            await followed.until(lambda: followed.seen.keys() == {"one", "two"})
            assert str(file) in followed.seen["one"]
            await followed.sees("two", two / "b.pl")
            (two / "b.pl").unlink()
            await followed.sees("two", two / "b.pl")
            assert not followed.everything

    anyio.run(main)


def test_a_directory_that_comes_back_is_watched_again(source: Source, tmp_path: Path) -> None:
    """Removed and made again (a file system may give it the same inode), renamed away and back, and
    changed for another one."""
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
    followed = Followed(source, tmp_path, "one", "two")

    def make_again() -> None:
        one.rmdir()
        one.mkdir()

    def there_and_back() -> None:
        one.rename(tmp_path / "away")
        (tmp_path / "away").rename(one)

    def swap() -> None:
        one.rename(tmp_path / "away")
        two.rename(one)
        (tmp_path / "away").rename(two)

    async def main() -> None:
        async with followed.running():
            for number, change in enumerate((make_again, there_and_back, swap) * 2):
                change()
                await followed.sees("one", one)
                assert followed.follow()
                for directory in (one, two):
                    file = directory / f"{number}.pl"
                    file.touch()
                    await followed.sees(directory.name, file)
                    file.unlink()
                    await followed.sees(directory.name, file)

    anyio.run(main)


def test_directories_are_followed_and_left(source: Source, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    followed = Followed(source, tmp_path, "one")

    async def main() -> None:
        async with followed.running():
            followed.names = ("two",)
            assert followed.follow()
            (tmp_path / "one/a.pl").touch()
            (tmp_path / "two/a.pl").touch()
            await followed.sees("two", tmp_path / "two/a.pl")
            followed.names = ("two", "missing")
            assert followed.follow()
            (tmp_path / "missing").mkdir()
            await followed.sees("missing", tmp_path / "missing")

    anyio.run(main)


# Only inotify ------------------------------------------------------------------------------------


@linux
def test_a_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    followed = Followed(InotifyWatcher, tmp_path, "one")
    odd = os.fsencode(tmp_path / "one") + b"/caf\xe9.pl"

    async def main() -> None:
        async with followed.running():
            os.mknod(odd)
            await followed.sees("one", Path(os.fsdecode(odd)))

    anyio.run(main)
    assert followed.watcher.trouble is None


@linux
def test_an_overflow_of_the_queue_reports_everything(tmp_path: Path) -> None:
    """All watches are set again: the kernel may have removed some, and its word of that is lost."""
    one = tmp_path / "one"
    one.mkdir()
    followed = Followed(InotifyWatcher, tmp_path, "one")
    size = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if size > 100_000:
        pytest.skip(f"the kernel's queue holds {size} events here")

    async def main() -> None:
        async with followed.running():
            # Nobody reads meanwhile. Each is two events or more.
            for number in range(size // 2 + 1):
                file = one / f"{number % 2}.pl"
                file.touch()
                file.unlink()
            await followed.until(lambda: followed.everything)
            assert followed.follow()
            followed.seen.clear()
            (one / "a.pl").touch()
            await followed.sees("one", one / "a.pl")

    anyio.run(main)


class Libc:
    """The C library, of which a function fails."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fails: dict[str, int] = {}

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name in self.fails:
            ctypes.set_errno(self.fails[name])
            return lambda *_: -1
        return getattr(self._libc, name)  # type: ignore[no-any-return]


@linux
@pytest.mark.parametrize(
    ("function", "error"),
    [("inotify_init1", errno.EMFILE), ("inotify_add_watch", errno.ENOSPC)],
)
def test_without_watches_targets_are_polled_until_there_are_some(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    function: str,
    error: int,
) -> None:
    (tmp_path / "one").mkdir()
    libc = Libc()
    libc.fails[function] = error
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: libc)
    followed = Followed(InotifyWatcher, tmp_path, "one")
    watcher = followed.watcher

    async def main() -> None:
        async with followed.running():
            for _ in range(2):
                assert watcher.trouble == os.strerror(error)
                assert watcher.needs_polling("one")
                assert followed.follow()
            libc.fails.clear()
            assert followed.follow()
            assert watcher.trouble is None
            assert not watcher.needs_polling("one")
            # What changed before gave no event.
            await followed.until(lambda: followed.everything)
            (tmp_path / "one/a.pl").touch()
            await followed.sees("one", tmp_path / "one/a.pl")

    anyio.run(main)
    assert len(caplog.messages) == 1, "it is reported once"


@linux
def test_a_directory_that_vanishes_is_looked_up_again(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    followed = Followed(InotifyWatcher, tmp_path, "one")
    (tmp_path / "two").mkdir()
    found = {"two": watch_set((str(tmp_path / "two"),), Mounts())}
    (tmp_path / "two").rmdir()
    assert not followed.watcher.follow(found)
    assert followed.watcher.trouble is None
    followed.watcher.close()
