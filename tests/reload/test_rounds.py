"""*Valid, broken, the same valid again*: one table of all kinds of break, each round made twice.

The most common fault of programs that reload is a failure that persists. So after each step against
a real agent everything is asserted that could persist: digest, generation, state, what is served,
what is held, and the number of records. A bad reload leaves generation and digest untouched. When
the files on disk are those that are served again, nothing is held and the state is `ok`, at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from agent.timing import CheckLimits, Timing
from support import editors
from support.agents import DEADLINE, Agent, running, summary, wait_for
from support.onlooker import CONF, EVENT, Onlooker
from support.records import findings

VALID_CONF = "a.py = failed-job-self\nb.pl = failed-job-self\n"
VALID = {"a.py": "print('a')\n", "b.pl": "# b\n", CONF: VALID_CONF}

BOTH = ("a.py", "b.pl")


class Site:
    """A callback directory that is broken and restored, byte for byte."""

    def __init__(self, folder: Path, linked: bool = False) -> None:
        self.folder = folder
        self.directory = folder / "callback"
        if linked:
            (folder / "release").mkdir()
            self.directory.symlink_to("release")
        else:
            self.directory.mkdir()
        self.conf = self.directory / CONF
        self.code = self.directory / "a.py"
        self.aside = folder / "aside"
        self._writer: BinaryIO | None = None
        for name, text in VALID.items():
            (self.directory / name).write_text(text)

    def write(self, name: str, text: str) -> None:
        new = self.folder / f"new-{name}"
        new.write_text(text)
        new.rename(self.directory / name)

    def mend(self) -> None:
        for name, text in VALID.items():
            self.write(name, text)

    def syntax(self) -> None:
        self.write(CONF, VALID_CONF + "c.py failed-job-self\n")

    def trigger_syntax(self) -> None:
        self.write(CONF, VALID_CONF + "a.py = failed-job-self && \n")

    def new_name(self) -> None:
        self.write(CONF, VALID_CONF + "nowhere.py = failed-job-self\n")

    def not_compiling(self) -> None:
        self.write("a.py", "print('a'\n")

    def move_away(self) -> None:
        self.directory.rename(self.aside)

    def move_back(self) -> None:
        self.aside.rename(self.directory)

    def no_conf(self) -> None:
        self.conf.rename(self.aside)

    def conf_back(self) -> None:
        self.aside.rename(self.conf)

    def no_code(self) -> None:
        self.code.rename(self.aside)

    def code_back(self) -> None:
        self.aside.rename(self.code)

    def link(self, target: str) -> None:
        """The link that is the directory leads there, from one instant to the next."""
        (self.folder / "new").symlink_to(target)
        (self.folder / "new").rename(self.directory)

    def code_link(self) -> None:
        """The implementation becomes a dangling link."""
        (self.directory / ".new").symlink_to(self.folder / "nowhere")
        (self.directory / ".new").rename(self.code)

    def no_file(self) -> None:
        """The implementation becomes a named pipe without a writer."""
        os.mkfifo(self.folder / "fifo")
        (self.folder / "fifo").rename(self.code)

    def close(self, path: Path) -> None:
        """Nobody may read it."""
        path.chmod(0)

    def open(self, path: Path) -> None:
        path.chmod(0o755 if path.is_dir() else 0o644)

    def begin_to_write(self) -> None:
        """Somebody opens callbacks.conf, writes a part, and pauses."""
        self._writer = self.conf.open("wb", 0)
        self._writer.write(VALID_CONF[:20].encode())

    def write_on(self) -> None:
        assert self._writer is not None
        self._writer.write(VALID_CONF[20:].encode())
        self._writer.close()


@dataclass(frozen=True)
class Break:
    """One kind of break, and what is then right."""

    break_it: Callable[[Site], None]
    mend: Callable[[Site], None]
    #: Why the directory is held; None if it is not.
    held: str | None
    #: The finding of it.
    code: str
    state: str = "degraded"
    #: What is served while it is broken.
    served: tuple[str, ...] = BOTH
    #: The events of the record of the break, and of that of the mending.
    events: tuple[str, str] = ("held", "restored")
    #: How many new generations the break makes, and the mending.
    generations: tuple[int, int] = (0, 0)


#: An edit that does not hold the unit: it is accepted, and undone.
TAKEN = ("reloaded", "reloaded")

BREAKS = {
    "syntax": Break(Site.syntax, Site.mend, "error", "no-equals"),
    "syntax of a trigger": Break(Site.trigger_syntax, Site.mend, "error", "trigger-syntax"),
    "a file that was never there": Break(Site.new_name, Site.mend, "error", "missing-file"),
    "missing directory": Break(Site.move_away, Site.move_back, "fault", "missing"),
    "Python that no longer compiles": Break(
        Site.not_compiling, Site.mend, "error", "does-not-compile"
    ),
    "conf removed": Break(
        Site.no_conf, Site.conf_back, None, "no-conf", "degraded", (), TAKEN, (1, 1)
    ),
    "implementation removed": Break(
        Site.no_code, Site.code_back, None, "removed", "degraded", ("b.pl",), TAKEN, (1, 1)
    ),
    "dangling link to the directory": Break(
        lambda site: site.link("nowhere"),
        lambda site: site.link("release"),
        "fault",
        "dangling-link",
    ),
    "dangling link to a file": Break(Site.code_link, Site.mend, "fault", "dangling-link"),
    "no regular file": Break(Site.no_file, Site.mend, "error", "not-a-regular-file"),
    "being written": Break(Site.begin_to_write, Site.write_on, "being-written", "being-written"),
}

#: These need an agent whom permissions bind.
CLOSED = {
    "unreadable directory": Break(
        lambda site: site.close(site.directory),
        lambda site: site.open(site.directory),
        "fault",
        "unreadable",
    ),
    "unreadable conf": Break(
        lambda site: site.close(site.conf), lambda site: site.open(site.conf), "fault", "unreadable"
    ),
    "unreadable implementation": Break(
        lambda site: site.close(site.code), lambda site: site.open(site.code), "error", "unreadable"
    ),
}


def assert_rounds(agent: Agent, site: Site, kind: Break) -> None:
    """Valid, broken, the same valid again; twice."""
    path = str(site.directory)
    whole = agent.status()
    records = len(agent.history())
    generation = whole["generation"]
    assert whole["state"] == "ok"
    untroubled = findings(whole["last_reload"])
    allowed = {BOTH, kind.served}
    with Onlooker(agent) as look:
        for _ in range(2):
            # Broken.
            kind.break_it(site)
            records += 1
            wait_for(lambda n=records: len(agent.history()) >= n, "a record")  # type: ignore[misc]
            generation += kind.generations[0]
            assert_is(agent, records, generation, kind.state, kind.served)
            record = agent.history()[-1]
            assert record["event"] == kind.events[0]
            wanted = [{"directory": path, "reason": kind.held}] if kind.held else []
            assert record["held"] == wanted
            (finding,) = (f for f in findings(record) if f not in untroubled)
            assert finding["code"] == kind.code
            status = agent.status()
            assert [d["held"] for d in status["directories"]] == [kind.held]
            assert (status["digest"] == whole["digest"]) == (kind.generations[0] == 0)
            # Asked once more, it is the same, and no new record.
            again = agent.reload()
            assert (again["changes"], again["held"]) == ([], wanted)
            assert_is(agent, records, generation, kind.state, kind.served)
            # The same valid again.
            kind.mend(site)
            records += 1
            wait_for(lambda n=records: len(agent.history()) >= n, "a record")  # type: ignore[misc]
            generation += kind.generations[1]
            assert_is(agent, records, generation, "ok", BOTH)
            record = agent.history()[-1]
            assert record["event"] == kind.events[1]
            assert record["held"] == []
            assert findings(record) == untroubled
            status = agent.status()
            assert status["digest"] == whole["digest"]
            assert [d["held"] for d in status["directories"]] == [None]
            again = agent.reload()
            assert (again["changes"], again["held"]) == ([], [])
            assert_is(agent, records, generation, "ok", BOTH)
    seen = {tuple(path.rpartition("/")[2] for path, _, _ in answer) for answer in look.seen}
    assert seen <= allowed, "something else was served for an instant"


def assert_is(
    agent: Agent, records: int, generation: int, state: str, served: tuple[str, ...]
) -> None:
    status = agent.status()
    assert status["generation"] == generation
    assert status["state"] == state
    assert status["callbacks"] == len(served)
    assert tuple(agent.fires(EVENT)) == served
    assert len(agent.history()) == records
    wait_for(lambda: len(agent.records()) == records, "the log")
    assert agent.history()[-1] == agent.records()[-1]
    assert status["last_reload"] == summary(agent.records()[-1])


def needs_lease(name: str) -> None:
    if name == "being written" and sys.platform != "linux":
        pytest.skip("only Linux tells that a writer is not done")


@pytest.mark.parametrize("name", BREAKS)
def test_valid_broken_the_same_valid_again(tmp_path: Path, name: str) -> None:
    needs_lease(name)
    site = Site(tmp_path, linked=name == "dangling link to the directory")
    # A machine that is suspended for a moment must keep no edit from being checked.
    agent = Agent(tmp_path, site.directory).use(Timing(checks=CheckLimits(max_wait=DEADLINE)))
    agent.start()
    try:
        # Python is checked after the first answer: only what compiled before can break.
        wait_for(lambda: _checked(agent), "the check of the Python")
        assert_rounds(agent, site, BREAKS[name])
    finally:
        agent.stop()


def _checked(agent: Agent) -> bool:
    """Whether the agent has stored that its Python compiles."""
    stored = []
    for file in agent.state.rglob("*"):
        # What is new is renamed as soon as it is on the disk.
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            stored.append(file.read_bytes())
    return any(b'"compiles":true' in data for data in stored)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an agent as another user")
@pytest.mark.parametrize("name", CLOSED)
def test_valid_unreadable_the_same_valid_again(name: str) -> None:
    editors.need("setpriv")
    with tempfile.TemporaryDirectory(prefix="agent-") as made:
        folder = Path(made)
        # The number of an inode: no other test has the same one at the same time.
        uid = str(1_000_000 + folder.stat().st_ino % 1_000_000)
        site = Site(folder)
        for path in (folder, site.directory, *site.directory.iterdir()):
            os.chown(path, int(uid), int(uid))
        agent = Agent(folder, site.directory)
        agent.prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        probe = [*agent.prefix, sys.executable, "-c", "import agent"]
        if subprocess.run(probe, capture_output=True, check=False, cwd="/").returncode:
            pytest.skip("another user may not run this Python, or not read the package")
        agent.start()
        try:
            # Where this other user has no Python to start, that is a warning, and stays one.
            wait_for(lambda: _checked(agent) or len(agent.history()) == 2, "the check")
            assert_rounds(agent, site, CLOSED[name])
        finally:
            agent.stop()


@contextlib.contextmanager
def asking(agent: Agent, wrong: list[dict[str, object]]) -> Iterator[None]:
    """Ask for the status all the time, and gather the answers that contradict themselves."""
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            status = agent.status()
            is_held = any(d["held"] for d in status["directories"])
            if is_held != (status["state"] == "degraded"):
                wrong.append(status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_status_never_contradicts_itself(tmp_path: Path) -> None:
    """The state is `degraded` exactly while a directory is held, at every moment."""
    site = Site(tmp_path)
    wrong: list[dict[str, object]] = []
    with running(tmp_path, site.directory) as agent, asking(agent, wrong):
        for _ in range(40):
            site.syntax()
            wait_for(lambda: agent.status()["state"] == "degraded", "held")
            site.mend()
            wait_for(lambda: agent.status()["state"] == "ok", "well again")
    assert not wrong, f"{len(wrong)} answers"


def test_broken_in_one_way_then_in_another(tmp_path: Path) -> None:
    """All breaks one after the other without a mending between, then the valid one: nothing of any
    of them sticks."""
    site = Site(tmp_path)
    with running(tmp_path, site.directory) as agent, Onlooker(agent) as look:
        wait_for(lambda: _checked(agent), "the check of the Python")
        digest = agent.status()["digest"]
        for _ in range(2):
            for break_it in (Site.syntax, Site.not_compiling, Site.trigger_syntax, Site.new_name):
                break_it(site)
                agent.reload()
                assert agent.status()["state"] == "degraded"
            site.move_away()
            agent.reload()
            # Elsewhere first, so that it is there whole at once.
            shutil.copytree(site.aside, tmp_path / "copy")
            (tmp_path / "copy").rename(site.directory)
            shutil.rmtree(site.aside)
            agent.reload()
            site.mend()
            agent.reload()
            status = agent.status()
            assert (status["state"], status["digest"]) == ("ok", digest)
            assert agent.history()[-1]["diagnostics"] == []
    assert len(look.seen) == 1, "what was served stayed served all the time"
