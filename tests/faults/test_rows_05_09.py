"""Rows 5 to 9: directories that come and go, links, lost events."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
from pathlib import Path

import pytest

from faults.steps import (
    SOON,
    Content,
    code_of,
    edit,
    linux,
    scanning,
    started,
    stopped,
    waits_held,
    waits_well,
)
from support import editors
from support.agents import Agent, running
from support.editors import Edit
from support.onlooker import CONF, Onlooker, answer, files, put

# Some of these make many waits, each of which may be long on a slow machine.
pytestmark = pytest.mark.timeout(600)


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
            waits_well(agent)
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
