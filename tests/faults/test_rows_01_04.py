"""Rows 1 to 4: how files are written."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from agent.timing import DEFAULTS
from faults.steps import (
    SCANNED,
    SOON,
    TOGETHER,
    Content,
    Stranger,
    code_of,
    held,
    linux,
    root,
    started,
    stopped,
    told_of,
    waits_held,
    waits_well,
)
from support import editors
from support.agents import Agent, running, wait_for
from support.editors import Git
from support.onlooker import CONF, EVENT, Answer, Onlooker, answer, files, put

# Some of these make many waits, each of which may be long on a slow machine.
pytestmark = pytest.mark.timeout(600)


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
            assert time.monotonic() - began >= DEFAULTS.writing
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
            """One more writer pauses until it is reported; how long it takes when it closes."""
            text = files(version)[CONF].encode()
            with (conf / CONF).open("wb", 0) as third:
                third.write(text[: len(text) // 2])
                wait_for(lambda: held(agent) == {str(conf): "being-written"}, "held for the writer")
                third.write(text[len(text) // 2 :])
            return look.sees(served(version, 2, 3), SOON)

        # This machine may be suspended for a second, though not each time.
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
    one quiet period apart; never wait for ever.
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
    file is being written): there, two equal fstats one quiet period apart; never wait for ever.
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

    The agent: one record where the changes come within one quiet period.

    When the files' times show that the tool was interrupted for longer, that was two edits: then
    it is done once more.
    """
    act = tool(directory)
    together = 0
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        for attempt in range(1000):
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
