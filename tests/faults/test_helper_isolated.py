"""Row 21, row 35: the helper that checks Python inherits nothing, and is as it was at the start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import agent as package
from agent.timing import CheckLimits, Timing
from faults.helpers import ENDLESS, busy, findings, helpers, kill
from faults.steps import held, linux
from support.agents import Agent, wait_for, write
from support.sites import replace

#: Modules that the agent, its libraries or the helper import, with a mark that they were.
HOSTILE = (
    "anyio",
    "json",
    "ast",
    "signal",
    "select",
    "sitecustomize",
    "usercustomize",
    "encodings",
)
COMMAND = Path(sys.executable).with_name("callback-agent")


def hostile_folder(folder: Path) -> Path:
    """A folder of another user, who wants their modules to be run."""
    folder.mkdir()
    mark = folder / "was-run"
    for name in HOSTILE:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\n")
    return mark


def test_check_runs_no_module_of_the_working_directory(tmp_path: Path, directory: Path) -> None:
    write(directory, "a.py = done-job-self\n", a_py="x = (\n")
    mark = hostile_folder(tmp_path / "hostile")
    done = subprocess.run(
        [COMMAND, "check", directory, "--unsafe-permissions", "ignore"],
        cwd=tmp_path / "hostile",
        capture_output=True,
        text=True,
        check=False,
    )
    assert not mark.exists(), mark.read_text()
    assert "does-not-compile" in done.stdout, done.stderr
    assert not [p for p in (tmp_path / "hostile").rglob("*") if "__pycache__" in p.parts]


def test_the_agent_runs_no_module_of_the_working_directory(tmp_path: Path, directory: Path) -> None:
    write(directory, "a.py = done-job-self\n", a_py="1\n")
    mark = hostile_folder(tmp_path / "hostile")
    agent = Agent(tmp_path, directory)
    # The command as it is installed; `python -m` and `-c` themselves search the working directory.
    agent.program = [str(COMMAND)]
    agent.prefix = ["env", "-C", str(tmp_path / "hostile")]
    agent.start()
    try:
        (directory / "a.py").write_text("x = (\n")
        wait_for(lambda: held(agent) == {str(directory): "error"})
        (directory / "a.py").write_text("2\n")
        wait_for(lambda: agent.served()[0][2] == "2\n")
        assert not mark.exists(), mark.read_text()
    finally:
        agent.stop()


def test_a_callback_named_like_a_module_is_checked(tmp_path: Path, directory: Path) -> None:
    """People who edit callbacks have their directory as the working directory."""
    write(directory, "signal.py = done-job-self\nast.py = done-job-self\n", signal_py="x = (\n")
    (directory / "ast.py").write_text("raise SystemExit\n")
    done = subprocess.run(
        [COMMAND, "check", directory, "--unsafe-permissions", "ignore"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "does-not-compile" in done.stdout
    assert "exits" in done.stdout
    assert sorted(p.name for p in directory.iterdir()) == ["ast.py", "callbacks.conf", "signal.py"]


@linux
def test_the_helper_inherits_nothing(tmp_path: Path, directory: Path) -> None:
    write(directory, "a.py = done-job-self\n", a_py="1\n")
    agent = Agent(tmp_path, directory)
    # What a launcher leaves may come to light after the agent has put right its own state.
    launcher = "\n".join(
        [
            "import os, signal",
            "from agent.cli import main",
            "from agent.reload import check_helper",
            "start = check_helper._start",
            "def careless():",
            "    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
            "    os.umask(0)",
            "    os.set_inheritable(os.open('/', os.O_RDONLY), True)",
            "    return start()",
            "check_helper._start = careless",
            "main()",
        ]
    )
    agent.program = ["-c", launcher]
    agent.start()
    try:
        (directory / "a.py").write_text("2\n")
        wait_for(lambda: agent.served()[0][2] == "2\n")
        (pid,) = wait_for(lambda: helpers(agent))
        proc = Path(f"/proc/{pid}")
        status = dict(
            line.split(":\t", 1)
            for line in (proc / "status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Umask"] == "0077"
        assert int(status["SigBlk"], 16) == 0
        assert int(status["SigIgn"], 16) == 0
        assert (proc / "cwd").readlink() == Path("/")
        assert set((proc / "environ").read_bytes().split(b"\0")) <= {b""}
        descriptors = {fd.name: str(fd.readlink()) for fd in (proc / "fd").iterdir()}
        assert descriptors.keys() == {"0", "1", "2"}
        assert descriptors["2"] == "/dev/null"
        assert os.getsid(pid) == pid
    finally:
        agent.stop(signal.SIGKILL)


def block(*numbers: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def ignore(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)


LAUNCHERS: dict[str, Callable[[], None]] = {
    "SIGCHLD blocked": partial(block, signal.SIGCHLD),
    "SIGTERM blocked": partial(block, signal.SIGTERM),
    "SIGCHLD ignored": partial(ignore, signal.SIGCHLD),
    "descriptors closed": partial(close, 0, 1, 2),
}


@linux
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_edits_are_taken_after_the_end_of_a_helper(
    tmp_path: Path, directory: Path, launcher: str
) -> None:
    write(directory, "a.py = done-job-self\n", a_py="1\n")
    agent = Agent(tmp_path, directory)
    launched(agent, LAUNCHERS[launcher])
    try:
        for number in range(2):
            (directory / "a.py").write_text(f"{number}\n")
            wait_for(lambda n=number: agent.served()[0][2] == f"{n}\n")  # type: ignore[misc]
            for pid in helpers(agent):
                kill(pid)
        (directory / "a.py").write_text("x = (\n")
        wait_for(lambda: held(agent) == {str(directory): "error"})
        # The record follows the swap.
        wait_for(lambda: findings(agent) == {"does-not-compile": "error"})
    finally:
        assert agent.stop() == 0


def launched(agent: Agent, before: Callable[[], None]) -> None:
    """Start an agent with the state that `before` leaves."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CALLBACK_AGENT")}
    agent.process = subprocess.Popen(
        agent.command, env=environ, cwd=agent.folder, preexec_fn=before, close_fds=True
    )
    wait_for(agent.answers)


@linux
def test_the_helper_ends_with_an_agent_that_was_killed(tmp_path: Path, directory: Path) -> None:
    """Also in the middle of a check, in which no Python code of it runs."""
    write(directory, "a.py = done-job-self\n", a_py=ENDLESS)
    agent = Agent(tmp_path, directory).use(Timing(checks=CheckLimits(max_cpu=10_000)))
    agent.start()
    pid = busy(agent)
    agent.stop(signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the helper")


@linux
def test_the_package_is_replaced_under_a_running_agent(tmp_path: Path, directory: Path) -> None:
    write(directory, "a.py = done-job-self\n", a_py="1\n")
    source = Path(package.__file__).parent
    copy = tmp_path / "site" / "agent"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    agent = Agent(tmp_path, directory)
    agent.program = ["-P", "-c", "from agent.cli import main\nmain()"]
    agent.environ["PYTHONPATH"] = str(copy.parent)
    agent.start()
    try:
        for file in copy.rglob("*.py"):
            replace(file, "raise SystemExit('this is a newer version')\n")
        for pid in helpers(agent):
            kill(pid)
        (directory / "a.py").write_text("2\n")
        wait_for(lambda: agent.served()[0][2] == "2\n")
        (directory / "a.py").write_text("x = (\n")
        wait_for(lambda: held(agent) == {str(directory): "error"})
        wait_for(lambda: findings(agent) == {"does-not-compile": "error"})
    finally:
        assert agent.stop() == 0
