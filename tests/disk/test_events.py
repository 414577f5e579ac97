"""The source of file events: what it reports, and what becomes of its watches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from agent.disk.mounts import Mounts
from agent.disk.watch.events import EventWatcher
from agent.disk.watch.paths import watch_set
from support.agents import DEADLINE


class Followed:
    """Directories that are watched, by their names, and what was reported of them."""

    def __init__(self, folder: Path, *names: str, short_steps_for: float = 10.0) -> None:
        self.folder = folder
        self.names = names
        self.everything = 0
        self.seen: dict[str, set[str]] = {}
        self.watcher = EventWatcher(self._report, 30.0, short_steps_for)
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


def test_every_kind_of_change_is_reported_of_the_target_it_concerns(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
    followed = Followed(tmp_path, "one", "two")

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


def test_a_directory_that_comes_back_is_watched_again(tmp_path: Path) -> None:
    """Removed and made again (a file system may give it the same inode), renamed away and back, and
    changed for another one."""
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
    followed = Followed(tmp_path, "one", "two")

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


def test_a_change_is_reported_whether_the_steps_are_short_or_long(tmp_path: Path) -> None:
    """The wait for changes ends where short steps do, and goes on with long ones."""
    (tmp_path / "one").mkdir()
    followed = Followed(tmp_path, "one", short_steps_for=0.01)

    async def main() -> None:
        async with followed.running():
            for number in range(30):
                # Before, at and after the end of the short steps.
                await anyio.sleep(number / 1000)
                file = tmp_path / f"one/{number}.pl"
                file.touch()
                await followed.sees("one", file)
        assert not followed.everything

    anyio.run(main)


def test_directories_are_followed_and_left(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    followed = Followed(tmp_path, "one")

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
