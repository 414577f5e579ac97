"""A file system that does not answer: FUSE by bindfs, whose process is stopped meanwhile.

Every call on it blocks in the kernel, as on a hard NFS mount whose server is down.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.timing import Timing
from support.agents import DEADLINE, Agent, wait_for, write
from support.run_with import run_with

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
    pytest.mark.skipif(shutil.which("bindfs") is None, reason="there is no bindfs"),
]

#: Seconds after which a file system counts as stalled here.
SLOW = 1.0


class Mount:
    """A directory behind a process that can be stopped."""

    def __init__(self, under: Path, at: Path) -> None:
        at.mkdir(exist_ok=True)
        self.at = at
        self.server = subprocess.Popen(["bindfs", "-f", str(under), str(at)])
        wait_for(lambda: os.path.ismount(at), "the mount")

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        self.server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.server.send_signal(signal.SIGCONT)
        # The agent may be inside it for a moment.
        wait_for(lambda: self.server.poll() is not None or self._unmounted())
        # In the mount namespace of another test's process it may still be mounted.
        self.server.terminate()
        self.server.wait(DEADLINE)

    def _unmounted(self) -> bool:
        return subprocess.run(["umount", self.at], capture_output=True).returncode == 0


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mount]:
    under = write(tmp_path / "under", "far.pl = x-job-1\n", far_pl="1\n")
    mount = Mount(under, tmp_path / "far away")  # the kernel escapes the space in this name
    yield mount
    mount.end()


@pytest.fixture
def near(tmp_path: Path) -> Path:
    return write(tmp_path / "near", "near.pl = x-job-1\n", near_pl="1\n")


@pytest.fixture
def agent(tmp_path: Path, mounted: Mount, near: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path, mounted.at, near).use(Timing(stalled=SLOW))
    yield agent
    assert agent.stop() in (0, -signal.SIGTERM)


def held(agent: Agent) -> dict[str, str]:
    return {d["path"]: d["held"] for d in agent.status()["directories"] if d["held"]}


def edit(directory: Path, number: int) -> None:
    """By rename: one more callback, on an event of this number."""
    name = next(path.name for path in directory.iterdir() if path.suffix == ".pl")
    new = directory / ".new"
    new.write_text(f"{name} = x-job-1\n{name} = x-job-{number}\n")
    new.rename(directory / "callbacks.conf")


def test_nobody_waits_for_it_but_its_own_edits(
    agent: Agent, mounted: Mount, near: Path, tmp_path: Path
) -> None:
    agent.start()
    assert agent.fires("x-job-1") == ["far.pl", "near.pl"]
    stop, wrong = threading.Event(), []

    def look_up() -> None:
        while not stop.wait(0.01):
            if "far.pl" not in agent.fires("x-job-1"):
                wrong.append(agent.history())

    client = threading.Thread(target=look_up)
    client.start()
    try:
        for number in (2, 4):
            with mounted.stalled():
                edit(tmp_path / "under", number)
                # The poll of each second finds it; a call of reload does not wait for it.
                wait_for(lambda: held(agent) == {str(mounted.at): "fault"})
                # A link into another directory, so that the watches are set again: setting one on
                # the stalled file system would block the whole agent, lookups included.
                other = tmp_path / f"other{number}"
                other.mkdir()
                (other / "near.pl").write_text("1\n")
                (near / "near.pl").unlink()
                (near / "near.pl").symlink_to(other / "near.pl")
                edit(near, number + 1)
                wait_for(lambda n=number + 1: agent.fires(f"x-job-{n}") == ["near.pl"])  # type: ignore[misc]
                record = agent.reload()
                assert {d["code"] for d in record["diagnostics"]} == {"no-answer"}
                assert agent.status()["state"] == "degraded"
                assert agent.fires(f"x-job-{number}") == []
            wait_for(lambda n=number: agent.fires(f"x-job-{n}") == ["far.pl"])  # type: ignore[misc]
            wait_for(lambda: agent.status()["state"] == "ok")
    finally:
        stop.set()
        client.join()
    assert not wrong

    def told(event: str) -> int:
        return [r["event"] for r in agent.records()].count(event)

    wait_for(lambda: told("restored") == 2, "a record each time it answers again")
    assert told("held") == 2


def test_a_reload_that_meets_it_goes_on_without_it(agent: Agent, mounted: Mount) -> None:
    agent.start()
    with mounted.stalled():
        record = agent.reload()
        assert record["held"] == [{"directory": str(mounted.at), "reason": "fault"}]
        assert agent.fires("x-job-1") == ["far.pl", "near.pl"]
    assert agent.reload()["held"] == [] or wait_for(lambda: held(agent) == {})


def test_it_may_be_stalled_from_the_start(agent: Agent, mounted: Mount) -> None:
    """What was accepted last is served, once the file system counts as stalled."""
    agent.start()
    agent.stop()
    with mounted.stalled():
        agent.start()
        assert agent.fires("x-job-1") == ["far.pl", "near.pl"]
        assert held(agent) == {str(mounted.at): "fault"}
    wait_for(lambda: held(agent) == {})
    assert agent.fires("x-job-1") == ["far.pl", "near.pl"]


def test_qb_conf_may_be_on_it(agent: Agent, mounted: Mount, near: Path, tmp_path: Path) -> None:
    (tmp_path / "under" / "qb.conf").write_text('supervisor_language_flags = "perl"\n')
    agent.qb_conf = mounted.at / "qb.conf"
    agent.start()
    with mounted.stalled():
        wait_for(lambda: held(agent) == {str(mounted.at): "fault"})
        edit(near, 2)
        wait_for(lambda: agent.fires("x-job-2") == ["near.pl"])
        agent.reload()
        assert held(agent) == {str(mounted.at): "fault"}
    wait_for(lambda: held(agent) == {})
    under = tmp_path / "under" / "new"
    under.write_text('supervisor_language_flags = "python"\n')
    under.rename(tmp_path / "under" / "qb.conf")
    wait_for(lambda: "language-off" in {f["code"] for f in agent.reload()["diagnostics"]})


def test_links_into_it_are_told_of_at_once(agent: Agent, mounted: Mount, tmp_path: Path) -> None:
    """The name of a link does not show its target; the last target is remembered."""
    more = [write(tmp_path / "under" / f"d{n}", f"m{n}.pl = x-job-1\n") for n in range(20)]
    links = []
    for number, directory in enumerate(more):
        (directory / f"m{number}.pl").write_text("1\n")
        links.append(tmp_path / f"link{number}")
        links[-1].symlink_to(mounted.at / directory.name)
    agent.directories = (*agent.directories, *links)
    agent.start()
    with mounted.stalled():
        wait_for(lambda: len(held(agent)) == 21)
        assert agent.process is not None
        assert len(os.listdir(f"/proc/{agent.process.pid}/task")) < 20
    wait_for(lambda: held(agent) == {})


def test_another_in_its_place_is_read(
    agent: Agent, mounted: Mount, near: Path, tmp_path: Path
) -> None:
    """The usual repair: `umount -l`, then mount it again. The first mount never answers."""
    agent.start()
    other = write(tmp_path / "other", "new.pl = x-job-1\n", new_pl="1\n")
    with mounted.stalled():
        wait_for(lambda: held(agent) == {str(mounted.at): "fault"})
        subprocess.run(["umount", "-l", mounted.at], check=True)
        again = Mount(other, mounted.at)
        try:
            wait_for(lambda: agent.fires("x-job-1") == ["new.pl", "near.pl"])
            wait_for(lambda: held(agent) == {})
            edit(near, 2)
            wait_for(lambda: agent.fires("x-job-2") == ["near.pl"])
        finally:
            again.end()


def test_what_is_mounted_below_it_is_not_watched_through_it(
    agent: Agent, mounted: Mount, near: Path, tmp_path: Path
) -> None:
    """Setting a watch there goes through the stalled one, and would block the whole agent."""
    (tmp_path / "under" / "below").mkdir()
    below = mounted.at / "below"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", below], check=True)
    try:
        write(below, "below.pl = x-job-1\n", below_pl="1\n")
        agent.directories = (*agent.directories, below)
        agent.start()
        assert agent.fires("x-job-1") == ["far.pl", "near.pl", "below.pl"]
        with mounted.stalled():
            wait_for(lambda: str(mounted.at) in held(agent))
            for number in (2, 3):
                other = tmp_path / f"other{number}"
                other.mkdir()
                (other / "near.pl").write_text("1\n")
                (near / "near.pl").unlink()
                (near / "near.pl").symlink_to(other / "near.pl")
                edit(near, number)
                wait_for(lambda n=number: agent.fires(f"x-job-{n}") == ["near.pl"])  # type: ignore[misc]
        wait_for(lambda: held(agent) == {})
        edit(below, 4)
        wait_for(lambda: agent.fires("x-job-4") == ["below.pl"])
        assert agent.stop() == 0
    finally:
        subprocess.run(["umount", below], check=True)


def test_all_on_the_same_file_system_are_told_of(
    agent: Agent, mounted: Mount, tmp_path: Path
) -> None:
    more = [write(tmp_path / "under" / f"d{n}", f"m{n}.pl = x-job-1\n") for n in range(20)]
    for number, directory in enumerate(more):
        (directory / f"m{number}.pl").write_text("1\n")
    far = [mounted.at / directory.name for directory in more]
    agent.directories = (*agent.directories, *far)
    agent.start()
    fires = agent.fires("x-job-1")
    assert len(fires) == 22
    with mounted.stalled():
        wait_for(lambda: len(held(agent)) == 21)
        assert agent.fires("x-job-1") == fires
        # The agent does not wait for each of them: that would lose one thread each.
        assert agent.process is not None
        assert len(os.listdir(f"/proc/{agent.process.pid}/task")) < 20
    wait_for(lambda: held(agent) == {})


def test_the_agent_stops_during_a_stall(agent: Agent, mounted: Mount) -> None:
    agent.start()
    process = agent.process
    assert process is not None
    with mounted.stalled():
        wait_for(lambda: held(agent) == {str(mounted.at): "fault"})
        process.terminate()
        # The kernel may not release a thread whose request bindfs read before it was stopped. Then
        # the process remains as a zombie with that thread.
        wait_for(lambda: _has_ended(process.pid))
    assert process.wait(DEADLINE) == 0


def _has_ended(pid: int) -> bool:
    """Whether a process is a zombie or not there: its parent may have waited for it already."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_slow_one_is_not_stalled(agent: Agent, tmp_path: Path, mounted: Mount) -> None:
    """All files together take longer than one call may: 4 s against 3 ticks. Each takes a tenth of
    a second, so a busy machine may delay one by two seconds."""
    names = [f"n{number}.pl" for number in range(40)]
    conf = "".join(f"{name} = x-job-{number}\n" for number, name in enumerate(names, 100))
    write(tmp_path / "under", conf, **{name.replace(".", "_"): "1\n" for name in names})
    patched = (
        "import agent.disk.files as f, agent.cli as c, agent.timing as t, time;"
        "old = f.FileReader._read_open;"
        "f.FileReader._read_open = lambda *a: (time.sleep(0.1), old(*a))[1];"
        "c.main(timing=t.Timing(stalled=2))"
    )
    agent.program = ["-c", patched]
    agent.start()
    assert agent.fires("x-job-139") == ["n39.pl"]
    assert held(agent) == {}


def test_a_reload_waits_for_it_and_edits_elsewhere_do_not(
    agent: Agent, mounted: Mount, near: Path
) -> None:
    """From the first moment of the stall on."""
    agent.use(Timing(stalled=8)).start()

    def elsewhere_first(number: int) -> bool:
        agent.reload()
        with mounted.stalled():
            reload = [sys.executable, "-m", "agent", "reload", "--pipe", str(agent.pipe)]
            waiting = subprocess.Popen(reload, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            edit(near, number)
            wait_for(lambda: agent.fires(f"x-job-{number}") == ["near.pl"])
            first = held(agent) == {} and waiting.poll() is None
        waiting.wait(DEADLINE)
        return first

    # It may stall in the middle of a reading, for which others wait.
    assert any(elsewhere_first(number) for number in range(2, 8))


def test_several_are_waited_for_together_at_the_start(
    agent: Agent, near: Path, tmp_path: Path
) -> None:
    """One after the other, they would take minutes."""
    agent.use(Timing(stalled=600))
    with contextlib.ExitStack() as ends:
        mounts = []
        for number in range(5):
            under = write(tmp_path / f"u{number}", "a.pl = x-job-1\n", a_pl="1\n")
            mounts.append(Mount(under, tmp_path / f"m{number}"))
            ends.callback(mounts[-1].end)
        agent.directories = (near, *(mount.at for mount in mounts))
        with contextlib.ExitStack() as stalls:
            for mount in mounts:
                stalls.enter_context(mount.stalled())
            agent.start()
            assert agent.fires("x-job-1") == ["near.pl"]
            assert held(agent) == {str(mount.at): "fault" for mount in mounts}
        wait_for(lambda: held(agent) == {})
        assert agent.fires("x-job-1") == ["near.pl", *["a.pl"] * 5]
        assert agent.stop() == 0


def test_check_reports_it(mounted: Mount, near: Path) -> None:
    program = run_with(Timing(stalled=1))
    with mounted.stalled():
        done = subprocess.run(
            [sys.executable, *program, "check", str(mounted.at), str(near)],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
    assert done.returncode == 1
    assert "[no-answer]" in done.stdout
    assert "2 directories: 1 error" in done.stderr + done.stdout
