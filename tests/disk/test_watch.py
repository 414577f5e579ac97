"""What must be watched to notice a change of a target, and the interface of what watches."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import anyio
import pytest

from agent.disk.mounts import Mounts
from agent.disk.permissions import MAX_LINKS
from agent.disk.stalls import StallMonitor
from agent.disk.watch import combined
from agent.disk.watch.combined import Watch
from agent.disk.watch.interface import POLL_INTERVAL, ReportChanges, Target
from agent.disk.watch.paths import PathWalker, WatchSet, watch_set
from agent.timing import DEFAULTS
from support.agents import DEADLINE

ROOT = Path(__file__).parents[2]


def components(path: Path) -> list[tuple[str, str | None]]:
    return list(PathWalker().path_components(str(path)))


def test_only_the_sources_of_events_know_watchfiles() -> None:
    """Its private module is used, so pyproject.toml has an upper bound of the version."""
    users = {
        file.relative_to(ROOT / "agent")
        for file in (ROOT / "agent").rglob("*.py")
        if re.search(r"^\s*(from|import) watchfiles", file.read_text(), re.MULTILINE)
    }
    assert users == {Path("disk/watch/events.py"), Path("slurm/spool.py")}
    assert re.search(r'"watchfiles>=[\d.]+,<\d+"', (ROOT / "pyproject.toml").read_text())


# Paths -------------------------------------------------------------------------------------------


def test_each_name_on_the_path_is_a_component(tmp_path: Path) -> None:
    (tmp_path / "releases/1").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1")
    (tmp_path / "cb").symlink_to("./x/../current")
    (tmp_path / "x").mkdir()
    root = str(tmp_path)
    assert components(tmp_path / "cb")[-7:] == [
        (str(tmp_path.parent), tmp_path.name),
        (root, "cb"),
        (root, "x"),
        (root, "current"),
        (root, "releases"),
        (f"{root}/releases", "1"),
        (f"{root}/releases/1", None),
    ]


def test_a_path_that_leads_nowhere_ends_at_the_missing_name(tmp_path: Path) -> None:
    (tmp_path / "cb").symlink_to("/none/of/this")
    assert components(tmp_path / "cb")[-2:] == [(str(tmp_path), "cb"), ("/", "none")]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    depth = len(tmp_path.parts) - 1
    assert len(components(tmp_path / "a")) == depth + MAX_LINKS + 1


def test_a_set_is_current_until_a_name_on_the_path_leads_elsewhere(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    link = tmp_path / "cb"
    link.symlink_to("1")
    found = watch_set((str(link),), Mounts())
    assert str(tmp_path / "1") in {path for path, _, _ in found.watched}
    assert found.is_current(str(tmp_path / "other"), PathWalker())
    assert found.is_current(str(tmp_path / "1/a.pl"), PathWalker())
    assert found.is_current(str(link), PathWalker())
    assert not found.is_current(str(tmp_path), PathWalker())
    link.unlink()
    link.symlink_to("2")
    assert not found.is_current(str(link), PathWalker())


# Another source of events ------------------------------------------------------------------------


class Source:
    """A source of events that a test drives."""

    def __init__(self, report: ReportChanges, rescan: float) -> None:
        self.trouble: str | None = None
        self.report = report
        self.sets: Mapping[str, WatchSet] = {}
        self.vanished = 0
        self.closed = threading.Event()

    def follow(self, sets: Mapping[str, WatchSet]) -> bool:
        self.sets = sets
        self.vanished -= 1
        return self.vanished < 0

    def needs_polling(self, key: str) -> bool:
        return self.trouble is not None

    async def run(self) -> None:
        await anyio.sleep_forever()

    def close(self) -> None:
        self.closed.set()


class Site:
    """A watch of one directory, and what it noticed."""

    def __init__(self, directory: Path) -> None:
        self.noticed: list[set[str] | None] = []
        self.woken = anyio.Event()
        self.same = True
        mounts = Mounts()
        monitor = StallMonitor(lambda: None, mounts.mount, DEFAULTS.stalled)
        self.watch = Watch(self._notice, monitor, mounts, DEFAULTS.rescan)
        assert isinstance(self.watch._events, Source)
        self.source = self.watch._events
        self.targets = {"cb": Target((str(directory),), lambda: self.same)}
        self.watch.follow(self.targets, {"cb"})

    def _notice(self, names: Iterable[str] | None) -> None:
        self.noticed.append(None if names is None else set(names))
        self.woken.set()

    def followed(self) -> WatchSet:
        """The set after one more `follow` that trusts events."""
        self.watch.follow(self.targets, {"cb"}, everything=False)
        return self.source.sets["cb"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "cb").mkdir()
    monkeypatch.setattr(combined, "EventWatcher", Source)
    return Site(tmp_path / "cb")


def test_the_paths_are_looked_up_again_where_an_event_concerns_them(
    site: Site, tmp_path: Path
) -> None:
    first = site.source.sets["cb"]
    site.source.report({"cb": {str(tmp_path / "cb/a.pl")}})
    assert site.noticed == [{"cb"}]
    assert site.followed() is first
    site.source.report({"cb": {str(tmp_path)}})
    assert site.followed() is not first


def test_all_is_looked_up_again_where_events_were_lost(site: Site) -> None:
    first = site.source.sets["cb"]
    site.source.report(None)
    assert site.noticed == [None]
    assert site.followed() is not first


def test_many_events_are_not_looked_at_one_by_one(site: Site, tmp_path: Path) -> None:
    first = site.source.sets["cb"]
    many = {str(tmp_path / f"cb/{number}") for number in range(combined.MAX_TOUCHED + 1)}
    site.source.report({"cb": many})
    assert site.followed() is not first


def test_a_directory_that_disappears_meanwhile_is_looked_up_again(site: Site) -> None:
    site.source.vanished = 1
    first = site.source.sets["cb"]
    assert site.followed() is not first


def test_without_events_targets_are_polled(site: Site) -> None:
    async def polled() -> None:
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(site.watch.run)
                site.same, site.source.trouble = False, "no watches left"
                # After a long suspension, everything is scanned first.
                while {"cb"} not in site.noticed:  # noqa: ASYNC110  (the list has no event)
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()

    assert DEFAULTS.rescan > POLL_INTERVAL
    anyio.run(polled)
    assert site.source.closed.is_set()
