"""Row 27: flock fails, and not because another agent holds the pipe."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.server.listener import Pipe, PipeInUse
from agent.settings import SettingsError
from faults.steps import linux
from support.agents import Agent, write

#: What flock(2) lists, and what network and stacked file systems give besides.
OTHERS = [
    *("ENOSYS", "ENOLCK", "EOPNOTSUPP", "EIO", "ENOMEM", "EINTR", "EBADF", "EINVAL"),
    *("EACCES", "EPERM", "ESTALE", "EREMOTEIO"),
]


def fail(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number = getattr(errno, name)

    def flock(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("name", [name for name in OTHERS if hasattr(errno, name)])
def test_row_27_each_error_is_reported_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fail(monkeypatch, name)
    with pytest.raises(SettingsError) as found:
        Pipe(str(tmp_path / "pipe")).lock()
    assert os.strerror(getattr(errno, name)) in str(found.value)
    assert str(tmp_path / "pipe.lock") in str(found.value)


@pytest.mark.parametrize("name", ["EWOULDBLOCK", "EAGAIN"])
def test_row_27_only_a_lock_that_is_held_is_another_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "pipe.lock").write_text("4711\n")
    fail(monkeypatch, name)
    with pytest.raises(PipeInUse, match="another agent \\(process 4711\\)"):
        Pipe(str(tmp_path / "pipe")).lock()


def test_row_27_a_holder_that_cannot_be_read_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "EWOULDBLOCK")

    def pread(*_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(PipeInUse, match="process unknown"):
        Pipe(str(tmp_path / "pipe")).lock()


@linux
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes the kernel refuse")
def test_row_27_the_exit_status_is_that_of_a_setting(tmp_path: Path) -> None:
    agent = Agent(tmp_path, write(tmp_path / "cb", "a.qcb = done-job-self\n", a_qcb="kill\n"))
    trace = tmp_path / "trace"
    agent.prefix = ["strace", "-o", str(trace), "-e", "inject=flock:error=ENOLCK", "-e", "flock"]
    status = agent.fail_to_start()
    if "INJECTED" not in trace.read_text():
        pytest.skip("strace cannot inject errors here")
    assert status == 2
    assert "No locks available" in agent.errors.read_text()
    assert "another agent" not in agent.errors.read_text()


def test_row_27_two_agents_are_still_told_apart(tmp_path: Path) -> None:
    agent = Agent(tmp_path, write(tmp_path / "cb", "a.qcb = done-job-self\n", a_qcb="kill\n"))
    process = agent.start().process
    assert process is not None
    try:
        second = subprocess.run(
            agent.command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert second.returncode == 4
        assert f"another agent (process {process.pid}) holds the pipe" in second.stderr
    finally:
        agent.stop()
