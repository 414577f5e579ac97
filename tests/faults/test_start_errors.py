"""What the system does not provide at a start is reported as what it is: one line, status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.steps import linux, root
from support.agents import Agent, wait_for, write


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path, write(tmp_path / "cb", "a.py = done-job-self\n", a_py="x = 1\n"))


def refused(agent: Agent, *prefix: str) -> str:
    """Standard error of a start that must fail with status 2 and in one line."""
    agent.prefix = list(prefix)
    status = agent.fail_to_start()
    said = agent.errors.read_text()
    assert status == 2, said
    assert len(said.splitlines()) == 1, said
    assert "output cannot be written" not in said
    return said


def limited(name: str, value: int) -> list[str]:
    code = (
        f"import os, resource, sys; resource.setrlimit(resource.{name}, ({value}, {value}));"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("limit", [8, 12, 24, 40])
def test_too_few_descriptors(agent: Agent, limit: int) -> None:
    assert "raise the limit (ulimit -n" in refused(agent, *limited("RLIMIT_NOFILE", limit))


def test_too_few_descriptors_for_check(tmp_path: Path, agent: Agent) -> None:
    command = [*limited("RLIMIT_NOFILE", 20), sys.executable, "-m", "agent", "check"]
    found = subprocess.run(
        [*command, str(agent.directories[0])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert "raise the limit (ulimit -n" in found.stderr


def test_as_many_descriptors_as_it_asks_for_are_enough(agent: Agent) -> None:
    agent.prefix = limited("RLIMIT_NOFILE", 100)
    agent.start()
    try:
        (agent.directories[0] / "a.py").write_text("x = 2\n")
        wait_for(lambda: agent.served()[0][2] == "x = 2\n", "the edit")
    finally:
        assert agent.stop() == 0


@linux
@root
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_too_few_threads(agent: Agent, limit: int) -> None:
    for path in (agent.folder, *agent.folder.rglob("*")):
        os.chown(path, 64007, 64007)
    # Only another user is limited. It may read what root may, where this Python lies.
    powers = "+dac_read_search,+dac_override"
    user = ["--reuid=64007", "--regid=64007", "--clear-groups"]
    capable = ["setpriv", *user, f"--inh-caps={powers}", f"--ambient-caps={powers}"]
    said = refused(agent, *capable, *limited("RLIMIT_NPROC", limit))
    assert "can't start new thread; raise the limit of processes" in said


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        (
            "class PanicException(BaseException): pass\n"
            "def fail(*_): raise PanicException('called `Result::unwrap()` on an `Err` value')\n",
            1,
            "a library failed: called `Result::unwrap()`",
        ),
        (
            "def fail(*_): raise OSError(23, 'Too many open files in system')\n",
            2,
            "does not provide what the agent needs: Too many open files in system",
        ),
    ],
)
def test_what_stops_the_loop_is_one_line(
    agent: Agent, program: str, status: int, said: str
) -> None:
    agent.program = [
        "-c",
        f"{program}from agent.server import listener as pipe; pipe.Pipe.listen = fail\n"
        "from agent.cli import main; raise SystemExit(main())",
    ]
    assert agent.fail_to_start() == status
    assert said in agent.errors.read_text()
    assert "Traceback" not in agent.errors.read_text()


def test_an_installation_that_lacks_a_library(agent: Agent) -> None:
    agent.program = [
        "-c",
        "import sys; sys.modules['uvloop'] = None\n"
        "from agent.cli import main; raise SystemExit(main())",
    ]
    assert "the installation is incomplete" in refused(agent)
