"""The command `metrics`."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys

from cli.stand_in import SOON, Run, StandIn

TEXT = '# TYPE a gauge\na{path="/x\\\\ \u202e\x1b[2J"} 1.0\n# EOF\n'


def test_a_program_gets_the_text_as_it_is_and_a_terminal_is_not_driven_by_it(
    agent: StandIn, run: Run, environment: dict[str, str]
) -> None:
    agent.well("metrics", {"text": TEXT})
    done = run("metrics", "--pipe", agent.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")
    assert json.loads(run("metrics", "--json", "--pipe", agent.path).stdout) == {"text": TEXT}
    ours, its = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "agent", "metrics", "--pipe", agent.path],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=its,
        check=True,
        timeout=2 * SOON,
    )
    os.close(its)
    read = b""
    with contextlib.suppress(OSError):  # EIO: the terminal's other end is closed.
        while data := os.read(ours, 1 << 16):
            read += data
    os.close(ours)
    shown = read.decode().splitlines()
    assert shown == [
        "# TYPE a gauge",
        r'a{path="/x\\ \u202e\x1b[2J"} 1.0',
        "# EOF",
    ]


def test_no_agent_is_reported_in_one_line(run: Run) -> None:
    done = run("metrics", "--pipe", "none")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1


def test_an_answer_that_is_no_text_is_reported(agent: StandIn, run: Run) -> None:
    agent.answers["metrics"] = {"text": 7}
    done = run("metrics", "--pipe", agent.path)
    assert (done.returncode, done.stdout) == (3, "")
