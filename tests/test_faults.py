"""What goes wrong for programs that reload while people edit: a test for each row of the table.

The table numbers what happens at real sites, from 1 to 20. The tests stand in its order, are named
after their rows, and repeat each row's text, so that a reader can hold the table beside them. The
real thing happens in each: the real editor, the real file system, the real signal. An `Onlooker`
looks up all the while, so that what must never be served is never served.

Most swaps are made twice: the second one finds the watch that was not renewed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, product
from pathlib import Path

import pytest

import editors
from agent import directory as reading
from agent import reload, watch
from agents import DEADLINE, Agent, running, wait_for
from editors import Edit, Git
from onlooker import CONF, EVENT, Answer, Onlooker, answer, files, put

#: Seconds within which an edit is served on a machine that is busy with other tests. Below the
#: interval of scans: what comes later than this was not noticed by an event.
SOON = 25.0
#: Seconds between two times of files that show that less than a quiet time lay between the changes:
#: the clock of files may go in steps of 4 ms.
TOGETHER = reading.QUIET / 5
#: Seconds within which what gives no event is served: a scan each second, and a busy machine.
SCANNED = 2.0 + SOON

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount or become another user")
linux = pytest.mark.skipif(sys.platform != "linux", reason="this is how Linux does it")

_unshare = shutil.which("unshare")

# Some of these make many waits, each of which may be long on a slow machine.
pytestmark = pytest.mark.timeout(600)


def code_of(directory: Path, version: int) -> Answer:
    """The answer when a directory is served whole, in this version."""
    return answer((directory, files(version)))


def held(agent: Agent) -> dict[str, str]:
    """Why which directories are held."""
    return {d["path"]: d["held"] for d in agent.status()["directories"] if d["held"]}


def waits_held(agent: Agent, directory: Path, reason: str) -> None:
    wait_for(
        lambda: held(agent) == {str(directory): reason} and agent.status()["state"] == "degraded",
        f"{directory} held for {reason}",
    )


def waits_well(agent: Agent) -> None:
    wait_for(lambda: agent.status()["state"] == "ok", "nothing held")
    assert not held(agent)


def told_of(agent: Agent) -> set[str]:
    """The codes of the findings of the last record."""
    return {finding["code"] for finding in agent.history()[-1]["diagnostics"]}


def edit(file: Path, text: str) -> None:
    """A plain edit, by rename."""
    new = file.parent / f".{file.name}.new"
    new.write_text(text)
    new.rename(file)


class Content:
    """What stands in a directory, edited one file at a time; every answer that was ever right."""

    def __init__(self, directory: Path, version: int = 1) -> None:
        self.directory = directory
        self.now = files(version)
        put(directory, self.now)
        self.right = [self.answer]

    @property
    def answer(self) -> Answer:
        return answer((self.directory, self.now))

    def edited(self, name: str, version: int, write: Edit = edit) -> Answer:
        """Give one file the text of another version, and say what is then to be served."""
        self.now = {**self.now, name: files(version)[name]}
        self.right.append(self.answer)
        write(self.directory / name, self.now[name])
        return self.answer

    def rewritten(self, name: str, version: int, file: Path | None = None) -> Answer:
        """As `edited`, in place as `cat >` and `cp` do it: truncated, then one write. For where the
        agent has no lease, and cannot tell one who is done from one who pauses: if this process was
        kept from going on for a quiet time, what stood on disk in between was right as well.
        `file` is where to write, if not in the directory.
        """
        between = answer((self.directory, {**self.now, name: ""}))
        self.now = {**self.now, name: files(version)[name]}
        self.right.append(self.answer)
        began = time.monotonic()
        with (file or self.directory / name).open("wb", 0) as opened:
            opened.write(self.now[name].encode())
        if time.monotonic() - began >= reading.QUIET:
            self.right.append(between)
        return self.answer


def scanning(agent: Agent, seconds: float) -> Agent:
    """An agent that scans as often as this: to wait for as long as in the field would be tedious.

    A failed watcher is tried anew as often.
    """
    assert seconds <= watch.SCAN <= 30
    agent.program = ["-c", f"import agent.watch as w, agent.cli as c; w.SCAN = {seconds}; c.main()"]
    return agent


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "callback"


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts with `mount ...`, the mount point last; all is unmounted at the end."""
    points: list[Path] = []

    def mounts(*arguments: str | Path) -> None:
        editors.run("mount", *arguments)
        points.append(Path(arguments[-1]))

    yield mounts
    for point in reversed(points):
        while os.path.ismount(point):
            editors.run("umount", "-l", point)


def unmount(point: Path) -> None:
    """As a person does it who is told `target is busy`: a reading may be under way."""

    def done() -> bool:
        one = subprocess.run(["umount", point], capture_output=True, text=True)
        assert one.returncode == 0 or "busy" in one.stderr, one.stderr
        return one.returncode == 0

    wait_for(done, f"umount {point}")


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder that waits for no disk: for what is done ten thousand times, or timed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="agent-") as folder:
        yield Path(folder)


class Stranger:
    """Another user, whom nothing on this machine belongs to, and a folder of his."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The number of an inode: no other test has the same one at the same time.
        self.uid = 1_000_000 + folder.stat().st_ino % 1_000_000
        os.chown(folder, self.uid, self.uid)
        self.prefix = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]

    def agent(self, *directories: Path) -> Agent:
        agent = Agent(self.folder, *directories)
        agent.prefix = self.prefix
        return agent


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """Needs root. pytest's own folders are closed to others, so this one is elsewhere."""
    editors.need("setpriv")
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        someone = Stranger(Path(folder))
        runs = subprocess.run(
            [*someone.prefix, sys.executable, "-c", "import agent"],
            cwd="/",
            capture_output=True,
            check=False,
        )
        if runs.returncode:
            pytest.skip("another user may not run this Python, or not read the package")
        yield someone


@contextlib.contextmanager
def started(agent: Agent) -> Iterator[Agent]:
    """This agent, made ready by the test, running until the end of it."""
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()


# 1 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", editors.IN_PLACE)
def test_row_01_rewritten_in_place(tmp_path: Path, directory: Path, writer: str) -> None:
    """Row 1: `callbacks.conf` is rewritten in place (`cat >`, `cp`, nano): open with truncation,
    then one or several writes.

    The agent: never serves a part of a file.
    """
    content = Content(directory)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version, name in ((2, CONF), (2, "a.pl"), (3, CONF), (3, "a.pl")):
            inode = (directory / name).stat().st_ino
            look.sees(content.edited(name, version, editors.IN_PLACE[writer]), SOON)
            assert (directory / name).stat().st_ino == inode, "this writer is meant to keep it"
        look.saw_only(*content.right)
        assert agent.status()["state"] == "ok"


@linux
def test_row_01_writer_who_pauses(tmp_path: Path, in_memory: Path) -> None:
    """Row 1, and: in-place writers that keep the file open for 2 seconds between two writes never
    show half a file; the moment they close, the new one is served.

    After 2 s the directory is held, `being-written`, until they are done. Another directory is
    served without delay meanwhile.
    """
    conf, code, other = (tmp_path / name for name in ("conf", "code", "other"))
    for place in (conf, code, other):
        put(place, files(1))
    new = files(2)
    agent = Agent(tmp_path, conf, code, other)
    agent.state = in_memory / "state"

    def served(conf_is: int, code_is: int, other_is: int) -> Answer:
        return answer(
            (conf, {**files(1), CONF: files(conf_is)[CONF]}),
            (code, {**files(1), "a.pl": files(code_is)["a.pl"]}),
            (other, files(other_is)),
        )

    with started(agent), Onlooker(agent) as look:
        digest, generation = agent.status()["digest"], agent.status()["generation"]
        began = time.monotonic()
        with (conf / CONF).open("wb", 0) as first, (code / "a.pl").open("wb", 0) as second:
            first.write(new[CONF][: len(new[CONF]) // 2].encode())
            second.write(new["a.pl"][:6].encode())
            wait_for(lambda: len(held(agent)) == 2, "held for the writers")
            assert time.monotonic() - began >= reload.WRITING
            assert held(agent) == {str(conf): "being-written", str(code): "being-written"}
            status = agent.status()
            assert (status["digest"], status["generation"]) == (digest, generation)
            wait_for(lambda: told_of(agent) == {"being-written"}, "the record")
            with stopped(agent):
                # At once, however slow this machine is: no mixture is right.
                put(other, files(3))
            look.sees(served(1, 1, 3), SOON)
            wait_for(lambda: time.monotonic() - began > 2.5)
            look.saw_only(served(1, 1, 1), served(1, 1, 3))
            first.write(new[CONF][len(new[CONF]) // 2 :].encode())
            second.write(new["a.pl"][6:].encode())
        taken = look.sees(served(2, 2, 3), SOON)

        def again(version: int) -> float:
            """One more who pauses until he is told of; how long it takes when he closes."""
            text = files(version)[CONF].encode()
            with (conf / CONF).open("wb", 0) as third:
                third.write(text[: len(text) // 2])
                wait_for(lambda: held(agent) == {str(conf): "being-written"}, "held for him")
                third.write(text[len(text) // 2 :])
            return look.sees(served(version, 2, 3), SOON)

        # This machine may stand still for a second, though not each time.
        more = range(4, 8)
        moment = taken < 1.0 or any(again(version) < 1.0 for version in more)
        assert moment, "the new one is served the moment they close"
        waits_well(agent)
        look.saw_only(*(served(*versions) for versions in product((1, 2, *more), (1, 2), (1, 3))))


@linux
def test_row_01_the_lease_hinders_no_writer(tmp_path: Path, directory: Path) -> None:
    """Row 1: a lease that is held stalls writers, and fails those that open with O_NONBLOCK; so it
    is dropped at once. SIGIO, sent when a writer comes while it is held, must not kill.
    """
    content = Content(directory)
    file = directory / "a.pl"
    refused = 0
    longest = 0.0
    with running(tmp_path, directory) as agent, Onlooker(agent):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            began = time.monotonic()
            flags = os.O_WRONLY | (os.O_NONBLOCK if random.random() < 0.5 else 0)
            try:
                fd = os.open(file, flags)
            except BlockingIOError:
                refused += 1
                continue
            longest = max(longest, time.monotonic() - began)
            # The same bytes again: the agent looks, and nothing changes.
            os.pwrite(fd, content.now["a.pl"].encode(), 0)
            os.close(fd)
            refused = 0
            assert refused < 100, "a writer was kept out"
        # The kernel makes one wait for 45 s (lease-break-time) where the lease is not given back.
        assert longest < 20.0, "a writer was stalled"
        assert agent.process is not None
        assert agent.process.poll() is None, "SIGIO killed the agent"
        assert agent.fires(EVENT) == ["a.pl", "b.pl"]


@root
@linux
def test_row_01_where_no_lease_can_be_had(stranger: Stranger) -> None:
    """Row 1: the lease needs to own the file or CAP_LEASE. Where it cannot be had, two equal fstats
    one quiet time apart; never wait for ever.
    """
    directory = stranger.folder / "callback"
    content = Content(directory)
    with started(stranger.agent(directory)) as agent, Onlooker(agent) as look:
        for version in (2, 3):
            look.sees(content.rewritten("a.pl", version), SOON)
            look.sees(content.rewritten(CONF, version), SOON)
        # A writer who has written all and does not close cannot be seen, and is not waited for.
        with (directory / "a.pl").open("r+b", 0) as file:
            file.write(files(4)["a.pl"].encode())
            content.now["a.pl"] = files(4)["a.pl"]
            look.sees(content.answer, SOON)
        look.saw_only(*content.right, content.answer)
        assert agent.status()["state"] == "ok"


@root
@linux
def test_row_01_where_the_lease_proves_nothing(
    tmp_path: Path, directory: Path, mount: Callable[..., None]
) -> None:
    """Row 1: on row 12's file systems the lease proves nothing (FUSE grants it while the underlying
    file is being written): there, two equal fstats one quiet time apart; never wait for ever.
    """
    editors.need("bindfs")
    under = tmp_path / "under"
    content = Content(under)
    directory.mkdir()
    mount("-t", "fuse.bindfs", under, directory)
    content.directory = directory
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        first = content.answer
        with (under / "a.pl").open("r+b", 0) as file:
            file.write(files(2)["a.pl"].encode())
            content.now["a.pl"] = files(2)["a.pl"]
            look.sees(content.answer, SCANNED)
        with (directory / "a.pl").open("r+b", 0) as file:
            file.write(files(3)["a.pl"].encode())
            second = content.answer
            content.now["a.pl"] = files(3)["a.pl"]
            look.sees(content.answer, SCANNED)
        look.saw_only(first, second, content.answer)
        assert agent.status()["state"] == "ok"


# 2 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", editors.BY_RENAME)
def test_row_02_written_by_rename(tmp_path: Path, directory: Path, writer: str) -> None:
    """Row 2: written by rename (vim, `sed -i`, git, rsync): the inode changes.

    The agent: sees it, at once.
    """
    content = Content(directory)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version, name in ((2, CONF), (2, "a.pl"), (3, CONF), (3, "a.pl")):
            inode = (directory / name).stat().st_ino
            without = {other: text for other, text in content.now.items() if other != name}
            look.sees(content.edited(name, version, editors.BY_RENAME[writer]), SOON)
            assert (directory / name).stat().st_ino != inode, "this writer is meant to change it"
            if writer == "vim" and editors.vim_was_interrupted(directory / name, TOGETHER):
                # It renames the old one before it writes the new one. That lasted.
                content.right.append(answer((directory, without)))
        look.saw_only(*content.right)


def test_row_02_written_by_git(tmp_path: Path, directory: Path) -> None:
    """Row 2, by git: it unlinks the file before it writes the new one."""
    directory.mkdir()
    git = Git(directory)
    changed = {**files(1), CONF: files(2)[CONF]}
    git.commit("changed", changed)
    git.commit("plain", files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for branch, content in (("changed", changed), ("plain", files(1))) * 2:
            git.checkout(branch)
            look.sees(answer((directory, content)), SOON)


# 3 ------------------------------------------------------------------------------------------------


def _git(directory: Path) -> Callable[[int], None]:
    directory.mkdir()
    git = Git(directory)
    for version in (3, 2, 1):
        git.commit(f"v{version}", files(version))
    return lambda version: git.checkout(f"v{version}")


def _desks(directory: Path) -> list[Path]:
    put(directory, files(1))
    return [put(directory.parent / f"desk{version}", files(version)) for version in range(4)]


def _rsync(directory: Path) -> Callable[[int], None]:
    editors.need("rsync")
    desks = _desks(directory)
    return lambda version: void(editors.run("rsync", "-a", "-I", f"{desks[version]}/", directory))


def _cp(directory: Path) -> Callable[[int], None]:
    desks = _desks(directory)
    copy = 'cp "$1"/* "$2"'
    return lambda version: void(editors.run("sh", "-c", copy, "sh", desks[version], directory))


def void(_: object) -> None:
    """What a tool printed does not matter."""


@pytest.mark.parametrize("tool", [_git, _rsync, _cp])
def test_row_03_several_files_together(
    tmp_path: Path, directory: Path, tool: Callable[[Path], Callable[[int], None]]
) -> None:
    """Row 3: several files change together (`git checkout`, `rsync -a`, `cp *`).

    The agent: one record where the changes come within one quiet time.

    When the files' times show that the tool was interrupted for longer, that was two edits: then
    it is done once more.
    """
    act = tool(directory)
    together = 0
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for attempt in range(200):
            version, last = (attempt + 1) % 3 + 1, attempt % 3 + 1
            before = len(agent.history())
            look.seen.clear()
            act(version)
            look.sees(code_of(directory, version), SOON)
            changed = [(directory / name).stat().st_ctime_ns for name in files(version)]
            if max(changed) - min(changed) > TOGETHER * 1e9:
                continue
            wait_for(lambda n=before: len(agent.history()) > n, "the record")  # type: ignore[misc]
            agent.reload()
            record, *more = agent.history()[before:]
            if more and tool is _git:
                # It unlinks first, and of that no time is left on the files.
                continue
            look.saw_only(code_of(directory, last), code_of(directory, version))
            if more:
                continue
            assert record["event"] == "reloaded"
            assert len(record["changes"]) == 4, "two callbacks, each with another trigger"
            together += 1
            if together == 3:
                return
    pytest.fail("the tools were always interrupted: this machine is too busy")


def test_row_03_conf_before_the_files_that_it_names(tmp_path: Path, directory: Path) -> None:
    """Row 3: `cp *` and `rsync` bring callbacks.conf before the files that it newly names.

    The agent: held until they are there, nothing lost meanwhile.
    """
    old = files(1, "a.pl")
    put(directory, old)
    for version in (2, 3):
        new = files(version, "a.pl", "z.pl")
        put(tmp_path / f"desk{version}", new)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        # Slowly, so that the agent must see what is between.
        desk = tmp_path / "desk2"
        editors.run("cp", desk / CONF, directory)
        waits_held(agent, directory, "error")
        assert look.seen == [answer((directory, old))]
        wait_for(lambda: told_of(agent) == {"missing-file"}, "the record")
        editors.run("cp", desk / "a.pl", directory)
        editors.run("cp", desk / "z.pl", directory)
        look.sees(answer((directory, files(2, "a.pl", "z.pl"))), SOON)
        waits_well(agent)
        look.saw_only(answer((directory, old)), answer((directory, files(2, "a.pl", "z.pl"))))
    # As fast as the tools are: back to the old, then each of them, twice.
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for tool in (["rsync", "-a", "-I"], ["cp"]) * 2:
            if shutil.which(tool[0]) is None:
                continue
            put(directory, old)
            look.sees(answer((directory, old)), SOON)
            sources = sorted((tmp_path / "desk3").iterdir())
            editors.run(*tool, *sources, directory)
            look.sees(answer((directory, files(3, "a.pl", "z.pl"))), SOON)
        assert all(len(seen) in (1, 2) for seen in look.seen), "something was lost meanwhile"


# 4 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", editors.OLDER)
def test_row_04_replaced_by_an_older_file(tmp_path: Path, directory: Path, writer: str) -> None:
    """Row 4: replaced by an **older** file (`rsync -a`, `cp -p`, restore from backup): mtime goes
    back, or stays equal with equal size.

    The agent: content decides.
    """
    content = Content(directory)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        # The first time it goes back, after that it stays equal; the size always does.
        for version, name in ((2, CONF), (2, "a.pl"), (3, CONF), (3, "a.pl"), (4, "a.pl")):
            before = (directory / name).stat()
            look.sees(content.edited(name, version, editors.OLDER[writer]), SOON)
            after = (directory / name).stat()
            assert after.st_size == before.st_size
            assert after.st_mtime_ns <= before.st_mtime_ns
        assert after.st_mtime_ns == before.st_mtime_ns
        look.saw_only(*content.right)


def test_row_04_restored_from_a_backup(tmp_path: Path, directory: Path) -> None:
    """Row 4, the whole directory: `cp -pr` into its place, and back, twice."""
    put(directory, files(1))
    backup = tmp_path / "backup"
    editors.run("cp", "-pr", directory, backup)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version in (2, 3):
            put(directory, files(version))
            look.sees(code_of(directory, version), SOON)
            for name in files(1):
                editors.run("cp", "-p", backup / name, directory)
            look.sees(code_of(directory, 1), SOON)


def test_row_04_writes_that_look_alike(tmp_path: Path, directory: Path) -> None:
    """Row 4: a stat that was younger than 2 s when it was taken proves nothing (before Linux 6.13
    two writes in one tick look alike): read again.
    """
    content = Content(directory)
    file = directory / "a.pl"
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        status = file.stat()
        for version in range(2, 40):
            text = files(version)["a.pl"]
            with file.open("r+b", 0) as open_file:
                open_file.write(text.encode())
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
            content.now["a.pl"] = text
            content.right.append(content.answer)
            look.sees(content.answer, SOON)
        look.saw_only(*content.right)


# 5 ------------------------------------------------------------------------------------------------


def test_row_05_the_directory_does_not_exist_yet(tmp_path: Path, directory: Path) -> None:
    """Row 5: the directory does not exist yet.

    The agent: waits for it by watching the nearest parent that exists, serves the rest.
    """
    put(directory, files(1))
    missing = tmp_path / "show" / "sequence" / "callback"
    with running(tmp_path, directory, missing) as agent, Onlooker(agent) as look:
        for version in (2, 3):
            waits_held(agent, missing, "fault")
            now = answer((directory, files(1)), (missing, files(version)))
            look.sees(code_of(directory, 1), SOON)
            missing.parent.parent.mkdir()
            missing.parent.mkdir()
            put(missing, files(version))
            look.sees(now, SOON)
            waits_well(agent)
            # Deleting is an edit while the directory is there: its files first, then all of it.
            (missing / CONF).unlink()
            look.sees(code_of(directory, 1), SOON)
            shutil.rmtree(tmp_path / "show")
        assert all(
            (path, trigger, code) in seen
            for seen in look.seen
            for path, trigger, code in code_of(directory, 1)
        ), "the rest is served all the time"


# 6 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["the directory", "its parent"])
def test_row_06_renamed_away_and_back(tmp_path: Path, what: str) -> None:
    """Row 6: the directory is renamed away and back.

    The agent: held, then up to date, without a restart.
    """
    directory = tmp_path / "show" / "callback"
    put(directory, files(1))
    moved = directory if what == "the directory" else directory.parent
    away = tmp_path / "away"
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version in (2, 3, 4):
            editors.run("mv", moved, away)
            waits_held(agent, directory, "fault")
            look.sees(code_of(directory, 1 if version == 2 else version - 1), SOON)
            # What is done to it meanwhile is no edit yet.
            put(away if moved == directory else away / "callback", files(version))
            editors.run("mv", away, moved)
            look.sees(code_of(directory, version), SOON)
            waits_well(agent)
            # And it hears of plain edits again.
            put(directory, files(version))
        look.saw_only(*(code_of(directory, version) for version in (1, 2, 3, 4)))


def test_row_06_deleted_and_made_again(tmp_path: Path, directory: Path) -> None:
    """Row 6: the directory is deleted and made again.

    The agent: held, then up to date, without a restart. What it serves in between may be the old
    unit or nothing: `rm -r` deletes callbacks.conf first.
    """
    put(directory, files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version in (2, 3, 4):
            editors.run("rm", "-r", directory)
            waits_held(agent, directory, "fault")
            # Elsewhere first, so that it is there whole at once.
            put(tmp_path / "new", files(version))
            editors.run("mv", tmp_path / "new", directory)
            look.sees(code_of(directory, version), SOON)
            waits_well(agent)
            Content(directory, version).edited("a.pl", version + 10)
            look.sees(
                answer((directory, {**files(version), "a.pl": files(version + 10)["a.pl"]})), SOON
            )


# 7 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["the directory", "its parent"])
def test_row_07_a_link_that_is_switched(tmp_path: Path, where: str) -> None:
    """Row 7: the directory is a symlink, or is reached through one, and the link is switched
    (`ln -sfn releases/42 callback`).

    The agent: noticed within the time of any edit, swapped whole.
    """
    link = tmp_path / "current"
    directory = link if where == "the directory" else link / "callback"
    for version in range(1, 9):
        release = tmp_path / "releases" / str(version)
        put(release if directory == link else release / "callback", files(version))
    editors.ln(link, Path("releases/1"))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version in (2, 3, 1, 4):
            editors.ln(link, Path(f"releases/{version}"))
            look.sees(code_of(directory, version), SOON)
        # As fast as it goes, and the watch is on the last.
        for version in (5, 6, 7, 8):
            editors.ln(link, Path(f"releases/{version}"))
        look.sees(code_of(directory, 8), SOON)
        look.saw_only(*(code_of(directory, version) for version in range(1, 9)))
        put(directory, files(9))
        look.sees(code_of(directory, 9), SOON)


def test_row_07_as_kubernetes_does_it(tmp_path: Path, directory: Path) -> None:
    """Row 7: Kubernetes' `..data`: each file is a link to `..data/NAME`, and `..data` is a link to
    a folder with a time in its name, which is switched by rename; then the old folder is deleted.
    """
    directory.mkdir()

    def publish(version: int) -> None:
        folder = directory / f"..2024_0{version}"
        folder.mkdir()
        for name, text in files(version).items():
            (folder / name).write_text(text)
        (directory / "..data_tmp").symlink_to(folder.name)
        (directory / "..data_tmp").rename(directory / "..data")
        shutil.rmtree(directory / f"..2024_0{version - 1}", ignore_errors=True)

    publish(1)
    for name in files(1):
        (directory / name).symlink_to(f"..data/{name}")
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version in range(2, 8):
            publish(version)
            look.sees(code_of(directory, version), SOON)
            assert agent.status()["state"] == "ok"
        look.saw_only(*(code_of(directory, version) for version in range(1, 8)))


# 8 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONF, "a.pl"])
def test_row_08_a_file_that_is_a_link(tmp_path: Path, directory: Path, name: str) -> None:
    """Row 8: `callbacks.conf` or an implementation is itself a symlink to somewhere else, and the
    target changes.

    The agent: noticed, at the latest at the next scan.
    """
    linked_file(scanning(Agent(tmp_path, directory), 3.0), directory, name, 3.0 + SOON)


@pytest.mark.parametrize("name", [CONF, "a.pl"])
def test_row_08_at_once(tmp_path: Path, directory: Path, name: str) -> None:
    """Row 8, and better: on a file system of this machine there is an event of the change, so it
    need not wait for the scan.
    """
    linked_file(Agent(tmp_path, directory), directory, name, SOON)


def linked_file(agent: Agent, directory: Path, name: str, within: float) -> None:
    tmp_path = directory.parent
    content = Content(directory)
    real = tmp_path / "shared" / "real"
    real.parent.mkdir()
    (directory / name).rename(real)
    (directory / name).symlink_to(real)
    with started(agent), Onlooker(agent) as look:

        def linked(write: Edit) -> Edit:
            return lambda _, text: write(real, text)

        for version, write in ((2, editors.cp), (3, editors.mv), (4, editors.cat), (5, edit)):
            look.sees(content.edited(name, version, linked(write)), within)
        # The target goes: a fault, since a link that leads nowhere is no deletion.
        real.rename(tmp_path / "away")
        waits_held(agent, directory, "fault")
        (tmp_path / "away").rename(real)
        waits_well(agent)
        look.sees(content.edited(name, 6, linked(edit)), within)
        # Another link in its place, and the target of that one changes.
        other = tmp_path / "elsewhere" / "other"
        other.parent.mkdir()
        other.write_text(files(7)[name])
        content.now[name] = files(7)[name]
        content.right.append(content.answer)
        editors.ln(directory / name, other)
        look.sees(content.answer, within)
        look.sees(content.edited(name, 8, lambda _, text: edit(other, text)), within)
        look.saw_only(*content.right)


# 9 ------------------------------------------------------------------------------------------------


class Witness:
    """An event queue of the test's own: it overflows when the agent's does."""

    OVERFLOW = 0x4000
    ALL = 0xFFF

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK)
        assert self._fd >= 0
        assert libc.inotify_add_watch(self._fd, os.fsencode(path), self.ALL) >= 0

    def overflowed(self) -> bool:
        """Whether it did. Closes the queue."""
        found = False
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 20):
                while data:
                    _, mask, _, length = struct.unpack_from("iIII", data)
                    found = found or bool(mask & self.OVERFLOW)
                    data = data[16 + length :]
        os.close(self._fd)
        return found


@linux
def test_row_09_the_event_queue_overflows(tmp_path: Path, directory: Path) -> None:
    """Row 9: the kernel's event queue overflows (`max_queued_events`).

    The agent: a scan by stat, at least every 30 s, finds all that was missed.

    The agent is stopped (SIGSTOP) and more events come than its queue has room for, all of them in
    the parent directory and none that matters. So of the edit that follows there is no event.
    """
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 200_000:
        pytest.skip(f"the queue has room for {most} events: too many to make")
    put(directory, files(1))
    agent = scanning(Agent(tmp_path, directory), 3.0)
    junk = [tmp_path / "x", tmp_path / "y"]
    for file in junk:
        file.touch()
    with started(agent), Onlooker(agent) as look:
        for version in (2, 3):
            with stopped(agent):
                witness = Witness(tmp_path)
                # Two in turn: the kernel makes one of equal events that follow one another.
                for number in range(most + 100):
                    os.utime(junk[number % 2])
                assert witness.overflowed()
                for name, text in files(version).items():
                    (directory / name).write_text(text)
            look.sees(code_of(directory, version), 3.0 + SOON)
        look.saw_only(*(code_of(directory, version) for version in (1, 2, 3)))


@contextlib.contextmanager
def stopped(agent: Agent) -> Iterator[None]:
    """The agent does nothing meanwhile (SIGSTOP, then SIGCONT)."""
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: _process_state(agent) == "T", "the agent stopped")
        yield
    finally:
        agent.process.send_signal(signal.SIGCONT)


def _process_state(agent: Agent) -> str:
    assert agent.process is not None
    text = Path(f"/proc/{agent.process.pid}/stat").read_text()
    return text.rpartition(") ")[2][0]


# 10 -----------------------------------------------------------------------------------------------


@linux
def test_row_10_a_name_that_is_not_utf8(tmp_path: Path, directory: Path) -> None:
    """Row 10: a file whose name is not UTF-8 appears in the directory.

    The agent: goes on; the watcher is made anew, or that directory is scanned instead.
    """
    content = Content(directory)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        # More often than the agent would make a watcher that fails anew.
        for number in range(watch.MAX_FAILURES + 2):
            odd = os.fsencode(directory) + b"/\xff\xfe%d.pl" % number
            with open(odd, "wb") as file:
                file.write(b"# Latin-1\n")
            os.rename(odd, odd + b"\xe9")
            look.sees(content.edited("a.pl", number + 2), SOON)
            look.sees(content.edited(CONF, number + 2), SOON)
            os.unlink(odd + b"\xe9")
        look.saw_only(*content.right)
        assert agent.status()["state"] == "ok"


@linux
def test_row_10_a_name_that_is_not_utf8_is_there_already(tmp_path: Path, directory: Path) -> None:
    """Row 10, and the file was there before the agent, and in a parent too."""
    content = Content(directory)
    for place in (directory, tmp_path):
        with open(os.fsencode(place) + b"/\xff.pl", "wb"):
            pass
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version in (2, 3):
            look.sees(content.edited("a.pl", version), SOON)
        look.saw_only(*content.right)


# 11 -----------------------------------------------------------------------------------------------

#: Takes all event queues that this user may have, says so, and keeps them until its end.
_TAKE_ALL = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
count = 0
while libc.inotify_init1(0) >= 0:
    count += 1
print(count, ctypes.get_errno(), flush=True)
sys.stdin.read()
"""


@root
@linux
def test_row_11_event_queues_run_out(stranger: Stranger) -> None:
    """Row 11: inotify instances run out (EMFILE), here by `max_user_instances`.

    The agent: scans instead, says so in `status` and once on standard error.

    The limit is each user's own, and the agent is another user here: nobody else is touched.
    """
    directory = stranger.folder / "callback"
    content = Content(directory)
    taker = subprocess.Popen(
        [*stranger.prefix, sys.executable, "-c", _TAKE_ALL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert taker.stdin is not None
    assert taker.stdout is not None
    try:
        count, error = map(int, taker.stdout.readline().split())
        if error != errno.EMFILE:
            pytest.skip(f"after {count} instances: {os.strerror(error)}, not the limit")
        with started(scanning(stranger.agent(directory), 3.0)) as agent, Onlooker(agent) as look:
            scans_instead(agent, content, look)
            # When there are some again, events come back with the next reload.
            taker.kill()
            taker.wait(DEADLINE)
            wait_for(lambda: agent.reload() and watched_by(agent) == ["events"], "events again")
            assert watched_by(agent) == ["events"]
            look.sees(content.edited("a.pl", 9), SOON)
            look.saw_only(*content.right)
    finally:
        taker.kill()
        taker.communicate()


@linux
def test_row_11_watches_run_out(tmp_path: Path, directory: Path) -> None:
    """Row 11: inotify watches run out (ENOSPC), here by the limit of a user namespace, so that
    nobody else is touched.
    """
    limit = "/proc/sys/user/max_inotify_watches"
    prefix = ["unshare", "-U", "-r", "sh", "-c", f'echo 0 > {limit} && exec "$@"', "sh"]
    editors.need("unshare")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces with limits of their own here")
    content = Content(directory)
    agent = Agent(tmp_path, directory)
    agent.prefix = prefix
    with started(agent), Onlooker(agent) as look:
        scans_instead(agent, content, look)
        look.saw_only(*content.right)


def scans_instead(agent: Agent, content: Content, look: Onlooker) -> None:
    assert watched_by(agent) == ["scan"]
    for version in (2, 3):
        look.sees(content.edited("a.pl", version), SCANNED)
        look.sees(content.rewritten(CONF, version), SCANNED)
    status = agent.status()
    assert status["state"] == "ok", "scanning does not degrade"
    (note,) = status["notes"]
    assert "scanning every 1 s" in note
    assert agent.errors.read_text().count("scanning") == 1, "once"


def watched_by(agent: Agent) -> list[str]:
    return [d["watch"] for d in agent.status()["directories"]]


# 12 -----------------------------------------------------------------------------------------------


@root
@linux
def test_row_12_changes_that_give_no_event(
    tmp_path: Path, directory: Path, mount: Callable[..., None]
) -> None:
    """Row 12: NFS, CIFS, FUSE, 9p, VirtioFS: changes made on another host give no event.

    The agent: the file system's type is looked up; those are scanned every second, with open and
    fstat (a bare stat is answered from a cache).

    Here FUSE by bindfs, whose underlying directory is changed behind its back.
    """
    editors.need("bindfs")
    under = tmp_path / "under"
    content = Content(under)
    directory.mkdir()
    mount("-t", "fuse.bindfs", under, directory)

    def beneath(write: Edit) -> Edit:
        return lambda file, text: write(under / file.name, text)

    content.directory = directory
    content.right = [content.answer]
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        assert watched_by(agent) == ["scan"]
        for version, write in ((2, edit), (4, editors.cp_p)):
            for name in (CONF, "a.pl"):
                look.sees(content.edited(name, version, beneath(write)), SCANNED)
                look.sees(content.rewritten(name, version + 1, under / name), SCANNED)
        look.saw_only(*content.right)
        assert agent.status()["state"] == "ok"
        # Nothing in it stays open between reads: it can be unmounted.
        unmount(directory)


@root
@linux
def test_row_12_mounted_over_and_unmounted(
    tmp_path: Path, directory: Path, mount: Callable[..., None]
) -> None:
    """Row 12: a mount or unmount over a watched directory gives watchfiles no event either.

    The agent: changes of `/proc/self/mountinfo` are noticed within 2 s.
    """
    put(directory, files(1))
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", hidden)
    put(hidden, files(2))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for _ in range(2):
            mount("--bind", hidden, directory)
            look.sees(code_of(directory, 2), SCANNED)
            # Its plain edits are heard of, too.
            for version in (3, 2):
                with stopped(agent):
                    # At once, however slow this machine is: no mixture is right.
                    put(hidden, files(version))
                look.sees(code_of(directory, version), SOON)
            unmount(directory)
            look.sees(code_of(directory, 1), SCANNED)
        look.saw_only(*(code_of(directory, version) for version in (1, 2, 3)))


@root
@linux
def test_row_12_unmounted(tmp_path: Path, directory: Path, mount: Callable[..., None]) -> None:
    """Row 12, and the rule: if the directory is now on another device than when its callbacks.conf
    was last read, and has no callbacks.conf, it counts as unmounted: what it served stays served.

    Also over a restart. Nothing stays open between reads, so unmounting does not fail.
    """
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    directory.mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", hidden)
    mount("--bind", hidden, directory)
    put(hidden, files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        look.sees(code_of(directory, 1), SOON)
        for version in (1, 2):
            unmount(directory)
            waits_held(agent, directory, "fault")
            wait_for(lambda: told_of(agent) == {"unmounted"}, "the record")
            look.sees(code_of(directory, version), SOON)
            put(hidden, files(version + 1))
            mount("--bind", hidden, directory)
            look.sees(code_of(directory, version + 1), SCANNED)
            waits_well(agent)
        unmount(directory)
        waits_held(agent, directory, "fault")
        look.saw_only(*(code_of(directory, version) for version in (1, 2, 3)))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        assert held(agent) == {str(directory): "fault"}
        look.saw_only(code_of(directory, 3))
        mount("--bind", hidden, directory)
        waits_well(agent)
        # Now callbacks.conf is deleted from a healthy directory: that is an edit.
        (directory / CONF).unlink()
        look.sees((), SOON)
        look.saw_only(code_of(directory, 3), ())


# 13 -----------------------------------------------------------------------------------------------


@root
@linux
@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_row_13_the_directory_answers_an_error(tmp_path: Path, directory: Path, error: str) -> None:
    """Row 13: the directory answers EIO, ESTALE.

    The agent: held; retried.

    strace makes the kernel answer so to all that opens or asks for the directory and its files.
    """
    editors.need("strace")
    put(directory, files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        digest = agent.status()["digest"]
        for version in (2, 3):
            with failing(agent, directory, error):
                put(directory, files(version))
                agent.reload()
                assert held(agent) == {str(directory): "fault"}
                assert agent.status()["digest"] == digest
            look.sees(code_of(directory, version), SCANNED)
            waits_well(agent)
            digest = agent.status()["digest"]
        look.saw_only(*(code_of(directory, version) for version in (1, 2, 3)))


def failing(agent: Agent, directory: Path, error: str) -> contextlib.AbstractContextManager[None]:
    """All that the agent asks of a directory and its files fails with this error meanwhile."""
    calls = "openat,newfstatat,statx,readlink,read,pread64"
    paths = [directory, *(directory / name for name in files(1))]
    these = [part for path in paths for part in ("-P", str(path))]
    return traced(agent, *these, "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}")


@contextlib.contextmanager
def traced(agent: Agent, *how: str) -> Iterator[None]:
    """The agent runs under strace meanwhile, which changes what the kernel answers."""
    assert agent.process is not None
    pid = agent.process.pid
    command = ["strace", "-f", "-p", str(pid), "-o", "/dev/null", *how]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: all(_traced(pid)) or tracer.poll() is not None, "the tracer")
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            pytest.skip(f"strace may not do this here: {tracer.stderr.read().decode()}")
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def _traced(pid: int) -> list[bool]:
    """Whether each thread of the process is traced; one that ends meanwhile is not asked."""
    traced = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            traced.append("TracerPid:\t0\n" not in (task / "status").read_text())
    return traced


@root
@linux
def test_row_13_the_file_system_dies(
    tmp_path: Path, directory: Path, mount: Callable[..., None]
) -> None:
    """Row 13, as it happens to FUSE: its process is killed, and the directory answers ENOTCONN."""
    editors.need("bindfs")
    under = put(tmp_path / "under", files(1))
    directory.mkdir()
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for version in (1, 2):
            put(under, files(version))
            server = subprocess.Popen(["bindfs", "-f", str(under), str(directory)])
            wait_for(lambda: os.path.ismount(directory), "the mount")
            try:
                look.sees(code_of(directory, version), SCANNED)
                waits_well(agent)
                server.kill()
                server.wait()
                waits_held(agent, directory, "fault")
            finally:
                server.kill()
                server.wait()
                editors.run("umount", "-l", directory)
            look.sees(code_of(directory, version), SOON)
        # First there was nothing: no callbacks.conf in an empty directory.
        look.saw_only((), code_of(directory, 1), code_of(directory, 2))


@root
@pytest.mark.parametrize("what", [".", CONF, "a.pl"])
def test_row_13_no_permission(stranger: Stranger, what: str) -> None:
    """Row 13: the directory, or a file in it, answers EACCES.

    The agent: held; retried.
    """
    directory = stranger.folder / "callback"
    content = Content(directory)
    mode = (directory / what).stat().st_mode
    # A conf that cannot be read is a fault of the directory, a named file's its own error.
    reason = "error" if what == "a.pl" else "fault"
    with started(stranger.agent(directory)) as agent, Onlooker(agent) as look:
        for version in (2, 3):
            (directory / what).chmod(0)
            waits_held(agent, directory, reason)
            content.edited("b.pl", version)
            (directory / what).chmod(mode)
            look.sees(content.answer, SCANNED)
            waits_well(agent)
        look.saw_only(*content.right)


# 14 -----------------------------------------------------------------------------------------------


@root
@linux
@pytest.mark.parametrize("form", ["json", "text"])
def test_row_14_the_disk_under_the_log_fills_up(
    tmp_path: Path, directory: Path, mount: Callable[..., None], form: str
) -> None:
    """Row 14: the disk under the log fills up.

    The agent: serving goes on; logging resumes by itself.
    """
    content = Content(directory)
    agent = Agent(tmp_path, directory)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", disk)
    agent.log = disk / "reload.log"
    agent.flags = ["--log-format", form]
    versions = count(2)
    with started(agent), Onlooker(agent) as look:
        for round_of in (1, 2):
            fill(disk / "ballast")
            # The last page of the log has room for some records yet.
            refused = 0
            while refused < round_of:
                look.sees(content.edited("a.pl", next(versions)), SOON)
                refused = agent.errors.read_text().count("cannot be written")
            look.sees(content.edited("a.pl", next(versions)), SOON)
            assert agent.status()["state"] == "ok"
            assert_whole(agent, form)
            assert len(logged(agent, form)) < len(agent.history())
            (disk / "ballast").unlink()
            # By itself: no further edit is needed.
            wait_for(lambda: logged(agent, form) == told(agent, form), "the log to catch up")
            assert_whole(agent, form)
        look.saw_only(*content.right)
        # It is said after the last record is written.
        wait_for(lambda: agent.errors.read_text().count("is written again") == 2, "the last note")
        assert agent.errors.read_text().count("cannot be written") == 2, "each time once"


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with file.open("ab", 0) as ballast, contextlib.suppress(OSError):
        while ballast.write(b"x" * 512):
            pass


def logged(agent: Agent, form: str) -> list[int]:
    """The generations that the log tells of."""
    if form == "json":
        return [record["generation"] for record in agent.records()]
    lines = agent.logged().decode().splitlines()
    heads = [line for line in lines if line.startswith("[")]
    return [int(line.partition("generation ")[2].partition(",")[0]) for line in heads]


def told(agent: Agent, form: str) -> list[int]:
    return [record["generation"] for record in agent.history()]


def assert_whole(agent: Agent, form: str) -> None:
    """The log ends with a whole line; half a record is in no log."""
    # Just now it may be writing, and find that there is no room, and take back what it wrote.
    found = agent.logged()
    if form == "json":
        assert all(json.loads(line)["event"] for line in found.splitlines())


def test_row_14_the_directory_of_the_log_is_deleted(tmp_path: Path, directory: Path) -> None:
    """Row 14: the log's directory is deleted.

    The agent: serving goes on; logging resumes by itself.
    """
    content = Content(directory)
    agent = Agent(tmp_path, directory)
    agent.log = tmp_path / "var" / "log" / "reload.log"
    with started(agent), Onlooker(agent) as look:
        wait_for(lambda: len(agent.records()) == 1, "the first record, and the directory")
        for version in (2, 3):
            shutil.rmtree(tmp_path / "var")
            look.sees(content.edited("a.pl", version), SOON)
            wait_for(lambda: len(agent.records()) == 1, "the record in a log made anew")
            assert agent.records()[0] == agent.history()[-1]
        # It cannot be made anew: a file is in the way.
        shutil.rmtree(tmp_path / "var")
        (tmp_path / "var").write_text("in the way")
        look.sees(content.edited("a.pl", 4), SOON)
        look.sees(content.edited("a.pl", 5), SOON)
        (tmp_path / "var").unlink()
        wait_for(lambda: len(agent.records()) == 2, "the log to catch up")
        assert agent.records() == agent.history()[-2:]
        assert agent.status()["state"] == "ok"


@pytest.mark.parametrize("style", ["create", "copytruncate"])
def test_row_14_the_log_is_rotated(tmp_path: Path, directory: Path, style: str) -> None:
    """Row 14: the log goes on under both styles of logrotate, rename and create, copytruncate."""
    editors.need("logrotate")
    content = Content(directory)
    agent = Agent(tmp_path, directory)
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o755)
    agent.log = logs / "reload.log"
    conf = tmp_path / "logrotate.conf"
    conf.write_text(f"{agent.log} {{\n  rotate 9\n  {style}\n  nocompress\n}}\n")
    conf.chmod(0o644)
    with started(agent), Onlooker(agent) as look:
        for version in range(2, 8):
            look.sees(content.edited("a.pl", version), SOON)
            wait_for(lambda: agent.records()[-1:] == agent.history()[-1:], "the record")
            if version % 2:
                editors.run("logrotate", "-f", "-s", tmp_path / "rotated", conf)
                look.sees(content.edited("b.pl", version), SOON)
                wait_for(lambda: agent.records() == agent.history()[-1:], "a fresh log")
        history = agent.history()
    parts = sorted(
        logs.iterdir(), key=lambda path: -int(path.suffix[1:] if path.suffix != ".log" else 0)
    )
    assert len(parts) == 4
    lines = [line for part in parts for line in part.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    assert records[:-1] == history, "none is lost, none is there twice"
    assert records[-1]["event"] == "stopped"


# 15 -----------------------------------------------------------------------------------------------


@linux
def test_row_15_a_burst_of_edits(tmp_path: Path, in_memory: Path) -> None:
    """Row 15: a burst: 10,000 edits in a few seconds.

    The agent: never more than one reload under way and one waiting; up to date within the time of
    one reload after the last edit. Memory does not grow with the number of edits.
    """
    # On a disk, ten thousand renames take longer than a few seconds.
    content = Content(in_memory / "callback")
    directory = content.directory
    right = {content.answer}
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:

        def burst(first: int, edits: int) -> float:
            for number in range(first, first + edits):
                content.now["a.pl"] = files(number)["a.pl"]
                edit(directory / "a.pl", content.now["a.pl"])
            last = time.monotonic()
            right.update(
                answer((directory, {**content.now, "a.pl": files(number)["a.pl"]}))
                for number in range(first, first + edits)
            )
            look.sees(content.answer, SOON)
            return time.monotonic() - last

        burst(2, 2_000)
        before = resident(agent)
        began = time.monotonic()
        earlier = len(agent.history())
        burst(10_000, 10_000)
        records = agent.history()[earlier:]
        most = (time.monotonic() - began) / reading.QUIET
        assert len(records) <= most, "more reloads than quiet times"
        assert len(records) < 1_000
        look.saw_only(*right)
        assert resident(agent) - before < 16 << 10, "memory grows with the number of edits, KiB"
        waits_well(agent)
        # And one plain edit after it is as quick as ever, whenever the machine is.
        assert any(burst(30_000 + number, 1) < 1.0 for number in range(10))


def resident(agent: Agent) -> int:
    """KiB of memory that the agent has."""
    assert agent.process is not None
    for line in Path(f"/proc/{agent.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


@linux
def test_row_15_a_pile_of_edits(tmp_path: Path) -> None:
    """Row 15, piled up: SIGSTOP, a burst in several directories, SIGCONT. One reload of it all."""
    places = [put(tmp_path / f"callback{number}", files(1)) for number in range(4)]
    with running(tmp_path, *places) as agent, Onlooker(agent) as look:
        for round_of in (1, 2):
            before = len(agent.history())
            with stopped(agent):
                for version in range(2, 202):
                    for place in places:
                        edit(place / "a.pl", files(version + 1000 * round_of)["a.pl"])
            last = {**files(1), "a.pl": files(201 + 1000 * round_of)["a.pl"]}
            look.sees(answer(*((place, last) for place in places)), SOON)
            # What is served is told of a moment later.
            agent.reload()
            # A second one where the kernel's events came to the agent in two parts.
            assert len(agent.history()) - before <= 2


@root
@linux
def test_row_15_the_disk_under_the_state_is_slow(tmp_path: Path, directory: Path) -> None:
    """Row 15: up to date within the time of one reload after the last edit; also where keeping a
    unit takes long. strace makes each fsync take longer than an edit is waited for.
    """
    editors.need("strace")
    content = Content(directory)
    microseconds = int(2 * SOON * 1e6)
    slowly = ("-e", "trace=fsync", "-e", f"inject=fsync:delay_enter={microseconds}")
    with (
        running(tmp_path, directory) as agent,
        Onlooker(agent) as look,
        traced(agent, *slowly),
    ):
        for version in (2, 3, 4):
            look.sees(content.edited("a.pl", version), SOON)


# 16 -----------------------------------------------------------------------------------------------


def test_row_16_edits_during_a_reload(tmp_path: Path, directory: Path) -> None:
    """Row 16: edits during a reload.

    The agent: seen by the next reload, always.

    A second directory with so many lines that its reload takes long; edits come at every moment of
    it, of the same directory and of the other.
    """
    big = tmp_path / "big"
    lines = 5_000

    def conf(version: int) -> str:
        triggers = (f"v{version:05d}-job-{1000 + number}" for number in range(lines))
        return "".join(f"a.pl = {trigger}\n" for trigger in triggers)

    put(big, {"a.pl": "# big\n", CONF: conf(1)})
    put(directory, files(1))
    moments = random.Random(16)
    with running(tmp_path, directory, big) as agent:
        reloads = threading.Event()

        def keep_reloading() -> None:
            while not reloads.is_set():
                agent.reload()

        thread = threading.Thread(target=keep_reloading)
        thread.start()
        try:
            for version in range(2, 14):
                edit(big / CONF, conf(version))
                spin(moments.random() * 0.1)
                edit(big / "a.pl", f"# big {version}\n")
                spin(moments.random() * 0.1)
                put(directory, files(version))
                if version % 3 == 0:
                    wait_for(
                        lambda v=version: served(agent) == (v, code_of(directory, v)),  # type: ignore[misc]
                        "all of the last edits",
                    )
                    assert [c[2] for c in agent.served()][-1] == f"# big {version}\n"
        finally:
            reloads.set()
            thread.join(DEADLINE)
        agent.reload()
        assert served(agent) == (13, code_of(directory, 13))
        assert agent.call("list")["callbacks"][-1]["trigger"] == f"v00013-job-{999 + lines}"


def served(agent: Agent) -> tuple[int, Answer]:
    """The version of the big directory's last line, and what the other one serves."""
    callbacks = agent.call("list", {"code": True})["callbacks"]
    return int(callbacks[-1]["trigger"][1:6]), tuple(
        (c["path"], c["trigger"], c["code"]) for c in callbacks[:2]
    )


def spin(seconds: float) -> None:
    """Let a random time pass, so that what follows comes at another moment of the reload."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.001)


def test_row_16_reload_is_a_barrier(tmp_path: Path, directory: Path) -> None:
    """Row 16: when `reload` returns, every change made before the call is served."""
    put(directory, files(1))
    with running(tmp_path, directory) as agent:
        for version in range(2, 60):
            put(directory, files(version))
            agent.reload()
            assert tuple(agent.served()) == code_of(directory, version)


# 17 -----------------------------------------------------------------------------------------------

#: Moves the wall clock of one process by as many seconds as a file says, and no other clock.
_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long *jump;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("CLOCK_JUMP"), O_RDONLY | O_CLOEXEC);
    jump = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, at);
    if (!failed && jump && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        at->tv_sec += *jump;
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


@linux
def test_row_17_the_clock_jumps(tmp_path: Path, directory: Path) -> None:
    """Row 17: the clock jumps.

    The agent: monotonic time only; wall time only in records.

    The machine's own clock is everybody's, so only the agent's is moved: a small library, loaded
    before all others, answers for the wall clock.
    """
    editors.need("cc")
    source, library, jump = (tmp_path / name for name in ("clock.c", "clock.so", "jump"))
    source.write_text(_CLOCK)
    editors.run("cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl")
    jump.write_bytes(struct.pack("l", 0))
    content = Content(directory)
    agent = Agent(tmp_path, directory, LD_PRELOAD=str(library), CLOCK_JUMP=str(jump))
    with started(agent), Onlooker(agent) as look:
        version = 2
        year = 365 * 86400
        # A wait by the wall clock would be longer than an edit is waited for.
        for seconds in (0, 10 * year, -20 * year, 3600, -3600, 60, -60, 0):
            with jump.open("r+b", 0) as file:
                file.write(struct.pack("l", seconds))
            for write in (edit, editors.cp, editors.cp_p):
                look.sees(content.edited("a.pl", version, write), SOON)
                version += 1
            wall = time.strftime("%Y-%m", time.gmtime(time.time() + seconds))
            assert agent.history()[-1]["time"].startswith(wall), "the clock did not jump"
            assert agent.history()[-1]["duration_ms"] < 10_000
            assert 0 <= agent.status()["uptime"] < 3000
            # A writer is waited for 2 s, by the clock that does not jump.
            with (directory / "b.pl").open("r+b", 0):
                content.edited("a.pl", version)
                version += 1
            look.sees(content.answer, SOON)
        look.saw_only(*content.right)


# 18 -----------------------------------------------------------------------------------------------


def test_row_18_kill_9(tmp_path: Path, directory: Path) -> None:
    """Row 18: kill -9, power cut: stale socket, half-written state file.

    The agent: the next start takes over the pipe by itself; state is written by rename and checked
    when read.
    """
    put(directory, files(1))
    agent = Agent(tmp_path, directory)
    for version in range(2, 7):
        agent.start()
        put(directory, files(version))
        if version % 2:
            wait_for(lambda v=version: tuple(agent.served()) == code_of(directory, v))  # type: ignore[misc]
        assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
        assert agent.pipe.is_socket(), "the socket of the dead one is in the way"
    agent.start()
    try:
        assert tuple(agent.served()) == code_of(directory, 6)
        assert agent.status()["state"] == "ok"
    finally:
        agent.stop()


def kept_units(agent: Agent) -> list[Path]:
    """The files that hold what was accepted."""
    found = (file for file in agent.state.rglob("*") if file.is_file())
    return [file for file in found if file.name != "settings" and not file.suffix]


@pytest.mark.parametrize("damage", ["cut", "empty", "garbled", "half of a new one", "one begun"])
def test_row_18_a_state_file_that_is_damaged(tmp_path: Path, directory: Path, damage: str) -> None:
    """Row 18: state is written by rename and checked by digest when read, thrown away with a
    warning when damaged. It never keeps the agent from starting.
    """
    put(directory, files(1))
    with running(tmp_path, directory) as agent:
        (unit,) = wait_for(lambda: kept_units(agent))
    data = unit.read_bytes()
    # The directory is gone: only what was kept could be served.
    directory.rename(tmp_path / "away")
    if damage == "cut":
        unit.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        unit.write_bytes(b"")
    elif damage == "garbled":
        unit.write_bytes(data.replace(b"a.pl", b"x.pl"))
    else:
        suffix = ".new" if damage == "half of a new one" else ".new.begun"
        unit.with_name(unit.name + suffix).write_bytes(data[:10])
    for _ in range(2):
        with running(tmp_path, directory) as agent:
            assert held(agent) == {str(directory): "fault"}
            codes = {d["code"]: d["severity"] for d in agent.history()[0]["diagnostics"]}
            older_one = damage in ("half of a new one", "one begun")
            assert tuple(agent.served()) == (code_of(directory, 1) if older_one else ())
            told = {} if damage == "one begun" else {"kept-damaged": "warning"}
            assert codes == {"missing": "error"} | told
            assert agent.process is not None
            agent.stop(signal.SIGKILL)
    (tmp_path / "away").rename(directory)
    with running(tmp_path, directory) as agent:
        assert tuple(agent.served()) == code_of(directory, 1)
        waits_well(agent)


def test_row_18_a_held_directory_after_kill_9(tmp_path: Path, directory: Path) -> None:
    """Row 18 and the rule: after a restart, a crash or a power cut a held directory still serves
    what it served.
    """
    put(directory, files(1))
    agent = Agent(tmp_path, directory)
    agent.start()
    for _ in range(2):
        digest = agent.status()["digest"]
        edit(directory / CONF, "a.pl failed-job-self\n")
        waits_held(agent, directory, "error")
        agent.stop(signal.SIGKILL)
        agent.start()
        assert held(agent) == {str(directory): "error"}
        assert agent.status()["digest"] == digest
        assert tuple(agent.served()) == code_of(directory, 1)
        edit(directory / CONF, files(1)[CONF])
        waits_well(agent)
        assert agent.status()["digest"] == digest
    agent.stop()


# 19 -----------------------------------------------------------------------------------------------


def test_row_19_two_agents_for_one_pipe(tmp_path: Path, directory: Path) -> None:
    """Row 19: two agents started for one pipe.

    The agent: the second exits 4 and says who holds it.
    """
    put(directory, files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        assert agent.process is not None
        for _ in range(2):
            second = subprocess.run(
                agent.command,
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                cwd=tmp_path,
                check=False,
            )
            assert second.returncode == 4
            assert f"process {agent.process.pid}" in second.stderr
            assert str(agent.pipe) in second.stderr
            assert second.stderr.count("\n") == 1
        # Those who start at the same moment: one serves, whichever it is.
        assert agent.status()["pid"] == agent.process.pid
        look.saw_only(code_of(directory, 1))
    rivals = [Agent(tmp_path, directory) for _ in range(4)]
    for rival in rivals:
        rival.launch()
    processes = [rival.process for rival in rivals if rival.process]
    try:
        wait_for(lambda: sum(p.poll() is None for p in processes) == 1, "all but one to end")
        assert sorted(p.returncode for p in processes if p.poll() is not None) == [4, 4, 4]
        (winner,) = (p for p in processes if p.poll() is None)
        wait_for(agent.answers, "its answer")
        assert agent.status()["pid"] == winner.pid
    finally:
        for rival in rivals:
            rival.stop()


# 20 -----------------------------------------------------------------------------------------------


def test_row_20_droppings_of_editors(tmp_path: Path, directory: Path) -> None:
    """Row 20: editors' droppings: `.swp`, `4913`, `#x#`, `x~`, `.#x`.

    The agent: no record: only `callbacks.conf` and what it names count.
    """
    put(directory, files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        before = agent.status()
        records = len(agent.history())
        for _ in range(2):
            for name in (".a.pl.swp", "4913", "#a.pl#", "a.pl~", "callbacks.conf~", "c.pl"):
                (directory / name).write_text("dropped")
                agent.reload()
                (directory / name).write_text("dropped again")
            (directory / ".#a.pl").symlink_to("someone@somewhere.123:456")
            record = agent.reload()
            assert record["changes"] == []
            for file in directory.iterdir():
                if file.name not in files(1):
                    file.unlink()
            agent.reload()
        assert len(agent.history()) == records
        assert len(agent.records()) == records
        after = agent.status()
        assert [after[k] for k in ("digest", "generation", "last_reload")] == [
            before[k] for k in ("digest", "generation", "last_reload")
        ]
        look.saw_only(code_of(directory, 1))


def test_row_20_droppings_of_vim(tmp_path: Path, directory: Path) -> None:
    """Row 20, by vim itself: a file is opened, and left in three ways."""
    content = Content(directory)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        records = len(agent.history())
        vim = editors.vim_opens(directory / "a.pl")
        wait_for(lambda: (directory / ".a.pl.swp").exists(), "the swap file")
        vim.types("ihalf a line\x1b:preserve\r").sees("preserved")
        agent.reload()
        vim.types(":q!\r").ends()
        agent.reload()
        # A window that is closed leaves the swap file behind.
        vim = editors.vim_opens(directory / CONF)
        wait_for(lambda: (directory / f".{CONF}.swp").exists(), "the swap file")
        vim.abandon()
        agent.reload()
        assert len(agent.history()) == records
        look.saw_only(code_of(directory, 1))
        # Its 4913 and backup while it saves: one record, that of the edit. Where it was interrupted
        # between two steps, that was two edits, and it is done once more.
        for version in range(2, 22):
            look.sees(content.edited("a.pl", version, editors.vim), SOON)
            agent.reload()
            if not editors.vim_was_interrupted(directory / "a.pl", TOGETHER):
                assert len(agent.history()) == records + 1
                return
            records = len(agent.history())
    pytest.fail("vim was always interrupted: this machine is too busy")
