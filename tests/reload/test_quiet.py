"""When the quiet period between two looks begins: with the first look if events show that nothing
changed since, else after it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agent.disk.mounts import Mounts
from agent.disk.permissions import IGNORE, Trust
from agent.disk.stalls import StallMonitor
from agent.disk.watch.combined import Watch
from agent.reload.attempt import Look
from agent.reload.directory_state import DirectoryState
from agent.reload.looker import Looker
from agent.reload.settle import Settler
from agent.reload.syntax_check import Checker
from agent.timing import DEFAULTS
from support.agents import DEADLINE, write

#: Seconds. The first look takes as long as the quiet period.
QUIET = 0.3


class SlowLooker(Looker):
    """A looker whose first look ends a quiet period after the files were read."""

    #: What happens between the reading and the end of the first look.
    meanwhile: Callable[[], object] | None = None
    began = ended = 0.0

    def first_looks(
        self, directories: list[DirectoryState], everything: bool
    ) -> list[tuple[DirectoryState, Look]]:
        looks = super().first_looks(directories, everything)
        if self.meanwhile is not None:
            self.meanwhile()
            time.sleep(QUIET)
        self.ended = time.monotonic()
        return looks

    def second_looks(self, looks: list[tuple[DirectoryState, Look]]) -> bool:
        self.began = time.monotonic()
        return super().second_looks(looks)


class Site:
    """One directory that is watched and read as the agent does it."""

    def __init__(self, directory: Path) -> None:
        self.state = DirectoryState(str(directory))
        self.checker = Checker(lambda _: None, DEFAULTS.checks)
        mounts = Mounts()
        monitor = StallMonitor(lambda: None, mounts.mount, DEFAULTS.stalled)
        self.watch = Watch(lambda _: None, monitor, mounts, DEFAULTS.rescan)
        self.looker = SlowLooker(
            self.watch.kind, monitor, self.checker, Trust(IGNORE), self._follow
        )
        timing = replace(DEFAULTS, quiet=QUIET)
        self.settler = Settler(
            self.looker, self.watch, monitor, self.checker, lambda _: None, timing
        )
        self.settler.start()

    def _follow(self, names: Collection[str], everything: bool) -> None:
        self.watch.follow({self.state.path: self.state.target()}, names, everything)

    async def read(self) -> float | None:
        """Read the directory; the seconds from the end of the first look to the second one. None if
        it is not settled."""
        settled = await self.settler.read_until_quiet([self.state], {self.state.path})
        for state, snapshot in settled:
            state.evaluate(snapshot, self.checker)
        return self.looker.began - self.looker.ended if settled else None

    async def until_told(self) -> None:
        """Wait for the next event."""
        before = self.watch.mark(self.state.path).events
        with anyio.fail_after(DEADLINE):
            while self.watch.mark(self.state.path).events == before:
                self.watch.flush()
                await anyio.sleep(0.002)


Change = Callable[[Path], object]


def looked_twice(
    tmp_path: Path,
    edit: Change | None = None,
    meanwhile: Change = lambda _: None,
    found: Callable[[Site], object] = lambda _: None,
    again: int = 0,
) -> float | None:
    """An edit that an event tells of, or none, and what happens during the first look at it; the
    result of `Site.read`. `found` is called before it. While it is not settled, up
    to `again` more are made."""
    directory = write(tmp_path / "cb", "a.pl = x-job-1\n", a_pl="1\n")

    async def main() -> float | None:
        site = Site(directory)
        try:
            await site.read()
            if edit is not None:
                edit(directory)
                await site.until_told()
            found(site)
            site.looker.meanwhile = lambda: meanwhile(directory)
            waited = await site.read()
            site.looker.meanwhile = lambda: None
            for _ in range(again):
                if waited is None:
                    waited = await site.read()
            return waited
        finally:
            site.watch._events.close()

    return anyio.run(main)


def edit_a(directory: Path) -> None:
    """An edit that keeps the size."""
    (directory / "a.pl").write_text("2\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only inotify tells at once")
def test_it_begins_with_the_first_look_where_events_show_that_nothing_changed(
    tmp_path: Path,
) -> None:
    # The machine may stand still between the two looks.
    tries = (looked_twice(tmp_path / str(n), edit_a) for n in range(10))
    assert any(waited is not None and waited < QUIET for waited in tries)


@pytest.mark.parametrize(
    ("edit", "meanwhile"),
    [
        pytest.param(None, lambda _: None, id="no event led to it"),
        pytest.param(edit_a, lambda d: (d / "other").touch(), id="something changed meanwhile"),
        pytest.param(
            lambda d: [do(d) for do in (edit_a, add_link, add_line)],
            lambda _: None,
            id="a link leads to what is not watched yet",
        ),
        pytest.param(
            lambda d: (d.rename(d.parent / "old"), write(d, "a.pl = x-job-1\n", a_pl="3\n")),
            lambda _: None,
            id="the directory was not watched when it changed",
        ),
    ],
)
def test_else_it_begins_after_the_first_look(
    tmp_path: Path, edit: Change | None, meanwhile: Change
) -> None:
    waited = looked_twice(tmp_path, edit, meanwhile)
    assert waited is not None
    # The clock of the loop counts milliseconds.
    assert waited > QUIET - 0.002


def without_watches(site: Site) -> None:
    site.watch._events.trouble = "no watches left"


def polled(site: Site) -> None:
    site.watch._report({site.state.path: None})


@pytest.mark.parametrize("found", [without_watches, polled, lambda site: site.watch._report(None)])
def test_also_where_events_are_not_all_that_led_to_it(
    tmp_path: Path, found: Callable[[Site], object]
) -> None:
    # Until it is settled: the first try finds an edit.
    waited = looked_twice(tmp_path, edit_a, edit_a, found, again=1)
    assert waited is not None
    assert waited > QUIET - 0.002


def add_link(directory: Path) -> None:
    (directory / "b.pl").symlink_to(__file__)


def add_line(directory: Path) -> None:
    (directory / "callbacks.conf").write_text("a.pl = x-job-1\nb.pl = x-job-1\n")


def test_an_edit_during_the_first_look_is_not_settled(tmp_path: Path) -> None:
    assert looked_twice(tmp_path, edit_a, lambda d: (d / "a.pl").write_text("3\n")) is None
