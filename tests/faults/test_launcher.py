"""Rows 21 and 34: the launcher leaves descriptors, signals, umask or working directory bad."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from faults.steps import linux
from support.agents import Agent, wait_for, write

#: Blocks or ignores signals, as a launcher may, then becomes the program.
BLOCK = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals());"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
IGNORE = (
    "import os, signal, sys;"
    "[signal.signal(n, signal.SIG_IGN) for n in signal.valid_signals() if n not in (9, 19)];"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
PROBLEM = "def f(:\n"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path, write(tmp_path / "cb", "a.py = done-job-self\n", a_py="x = 1\n"))


def edited(agent: Agent, text: str) -> None:
    """Edit Python, which is checked by a helper process, until it is served."""
    (agent.directories[0] / "a.py").write_text(text)
    wait_for(lambda: [code for *_, code in agent.served()] == [text], "the edit")


@linux
@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_row_21_standard_descriptors_are_closed(agent: Agent, closed: str) -> None:
    agent.prefix = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    process = agent.launch()
    try:
        wait_for(agent.answers, "an answer")
        edited(agent, "x = 2\n")
        links = {fd: os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in (0, 1, 2)}
        for fd, sign in enumerate(("<&-", ">&-", "2>&-")):
            if sign in closed.split():
                assert links[fd] == "/dev/null"
        # What is said on standard error does not go into a file that took its number.
        agent.pipe.unlink()
        wait_for(agent.answers, "the pipe, made again")
        assert Path(f"{agent.pipe}.lock").read_text() == f"{process.pid}\n"
    finally:
        assert agent.stop() == 0


@linux
def test_row_21_a_log_to_a_closed_standard_output_is_reported(agent: Agent) -> None:
    agent.prefix = ["sh", "-c", 'exec "$@" >&-', "sh"]
    agent.flags = ["--log", "-"]
    agent.start()
    try:
        assert any("standard output is closed" in note for note in agent.status()["notes"])
    finally:
        assert agent.stop() == 0


@linux
@pytest.mark.parametrize("how", [BLOCK, IGNORE], ids=["blocked", "ignored"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_row_21_signals_are_blocked_or_ignored(agent: Agent, how: str, number: int) -> None:
    agent.prefix = [sys.executable, "-c", how]
    process = agent.start().process
    assert process is not None
    try:
        edited(agent, "x = 2\n")
        # A helper ends, and its end is noticed.
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
            wait_for(partial(ended, child), "the end of the helper")
        edited(agent, "x = 3\n")
        process.send_signal(signal.SIGHUP)
        edited(agent, "x = 4\n")
    finally:
        assert agent.stop(number) == 0


@linux
@pytest.mark.parametrize("how", [BLOCK, IGNORE], ids=["blocked", "ignored"])
def test_row_21_check_under_a_bad_launcher(tmp_path: Path, how: str) -> None:
    directory = write(tmp_path / "cb", "a.py = done-job-self\n", a_py=PROBLEM)
    found = subprocess.run(
        [sys.executable, "-c", how, sys.executable, "-m", "agent", "check", str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, "does-not-compile" in found.stdout) == (0, True), found


def test_row_21_the_working_directory_is_left(agent: Agent) -> None:
    process = agent.start().process
    assert process is not None
    try:
        assert os.readlink(f"/proc/{process.pid}/cwd") == "/"
    finally:
        agent.stop()


def test_row_21_relative_paths_are_those_of_the_launcher(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.py = done-job-self\n", a_py="x = 1\n")
    agent = Agent(tmp_path, Path("cb"))
    agent.flags += ["--pipe", "./pipe", "--state", "state", "--log", "reload.log"]
    agent.flags += ["--qb-conf", "qb.conf"]
    agent.start()
    try:
        assert agent.status()["directories"][0]["path"] == str(directory)
        # Settings are read again at each reload, from the same place.
        agent.reload()
        (tmp_path / "qb.conf").write_text("supervisor_language_flags = 0\n")
        wait_for(lambda: not agent.call("list")["callbacks"][0]["enabled"], "the new settings")
        assert agent.status()["directories"][0]["path"] == str(directory)
        wait_for(agent.records, "the log")
    finally:
        assert agent.stop() == 0


def test_row_34_umask_0_makes_nothing_writable_by_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    agent = Agent(tmp_path, write(tmp_path / "cb", "a.py = done-job-self\n", a_py="x = 1\n"))
    agent.state = home / ".local/state/callback-agent"
    agent.log = home / ".local/share/log/reload.log"
    agent.prefix = ["sh", "-c", 'umask 0; exec "$@"', "sh"]
    agent.start()
    try:
        edited(agent, "x = 2\n")
        made = [home / ".local", *(home / ".local").rglob("*"), agent.pipe]
        made.append(Path(f"{agent.pipe}.lock"))
        assert len(made) > 8
        assert not [path for path in made if loose(path)]
    finally:
        agent.stop()


def loose(path: Path) -> bool:
    """Whether others may write to a file, if it is still there: the agent removes old ones."""
    try:
        return bool(stat.S_IMODE(path.lstat().st_mode) & 0o022)
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    """The processes that a process started and that have not ended."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return [child for child in found if not ended(child)]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
