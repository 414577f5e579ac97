"""Steps, waits and other users that the tests of the rows share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.timing import DEFAULTS, Timing
from support.agents import Agent, wait_for
from support.editors import Edit
from support.onlooker import Answer, answer, files, put

#: Seconds within which an edit is served on a machine that is busy with other tests. Below the
#: interval of scans: what comes later than this was not noticed by an event.
SOON = 25.0
#: Seconds between two times of files that show that the changes were less than a quiet period
#: apart: the clock of files may go in steps of 4 ms.
TOGETHER = DEFAULTS.quiet_period / 5
#: Seconds within which what gives no event is served: a scan each second, and a busy machine.
SCANNED = 2.0 + SOON

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount or become another user")
linux = pytest.mark.skipif(sys.platform != "linux", reason="this is how Linux does it")


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
    def well() -> bool:
        status = agent.status()
        return status["state"] == "ok" and not any(d["held"] for d in status["directories"])

    wait_for(well, "nothing held")


def told_of(agent: Agent) -> set[str]:
    """The codes of the findings of the last record."""
    return {finding["code"] for finding in agent.history()[-1]["diagnostics"]}


def edit(file: Path, text: str) -> None:
    """A plain edit, by rename."""
    new = file.parent / f".{file.name}.new"
    new.write_text(text)
    new.rename(file)


class Content:
    """What is in a directory, edited one file at a time; every answer that was ever right."""

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
        kept from going on for a quiet period, what stood on disk in between was right as well.
        `file` is where to write, if not in the directory.
        """
        between = answer((self.directory, {**self.now, name: ""}))
        self.now = {**self.now, name: files(version)[name]}
        self.right.append(self.answer)
        began = time.monotonic()
        with (file or self.directory / name).open("wb", 0) as opened:
            opened.write(self.now[name].encode())
        # Half of it: a timer of the agent's loop may be a little early.
        if time.monotonic() - began >= DEFAULTS.quiet_period / 2:
            self.right.append(between)
        return self.answer


def scanning(agent: Agent, seconds: float) -> Agent:
    """An agent that polls all targets this often, and tries a failed source of events as often."""
    assert seconds <= DEFAULTS.rescan <= 30
    return agent.use(Timing(rescan=seconds))


def unmount(point: Path) -> None:
    """As a person does it who is told `target is busy`: a reading may be under way."""

    def done() -> bool:
        one = subprocess.run(["umount", point], capture_output=True, text=True)
        assert one.returncode == 0 or "busy" in one.stderr, one.stderr
        return one.returncode == 0

    wait_for(done, f"umount {point}")


class Stranger:
    """Another user, who owns nothing else on this machine, and a folder of theirs."""

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


@contextlib.contextmanager
def started(agent: Agent) -> Iterator[Agent]:
    """This agent, made ready by the test, running until the end of it."""
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()


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


def watched_by(agent: Agent) -> list[str]:
    return [d["watch"] for d in agent.status()["directories"]]


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
