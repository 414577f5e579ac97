"""Rows 10 to 13: what keeps changes from being seen, or files from being read."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.disk.watch import events
from faults.steps import (
    SCANNED,
    SOON,
    Content,
    Stranger,
    code_of,
    edit,
    held,
    linux,
    root,
    scanning,
    started,
    stopped,
    told_of,
    traced,
    unmount,
    waits_held,
    waits_well,
    watched_by,
)
from support import editors
from support.agents import DEADLINE, Agent, running, wait_for
from support.editors import Edit
from support.onlooker import CONF, Onlooker, files, put

# Some of these make many waits, each of which may be long on a slow machine.
pytestmark = pytest.mark.timeout(600)


# 10 -----------------------------------------------------------------------------------------------


@linux
def test_row_10_a_name_that_is_not_utf8(tmp_path: Path, directory: Path) -> None:
    """Row 10: a file whose name is not UTF-8 appears in the directory.

    The agent: goes on; the watcher is created again, or that directory is polled instead.
    """
    content = Content(directory)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        # More often than the agent would replace a watcher that fails.
        for number in range(events.MAX_FAILURES + 2):
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
    assert status["state"] == "ok", "polling does not degrade"
    (note,) = status["notes"]
    assert "polling every 1 s" in note
    wait_for(lambda: "polling" in agent.errors.read_text(), "the note on standard error")
    assert agent.errors.read_text().count("polling") == 1, "once"


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
                with stopped(agent):
                    # In place, by another program: nobody knows how long that pauses in between.
                    now = content.edited(name, version, beneath(write))
                look.sees(now, SCANNED)
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
