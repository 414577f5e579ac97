"""The helper processes of an agent, as the system shows them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from support.agents import Agent, wait_for

#: About 0.5 s of processor time to compile under Python 3.11; the time grows with the square.
SLOW = "def f():0\n" * 6000
#: More than a minute, so that no test sees the end of it.
ENDLESS = "def f():0\n" * 80_000


def helpers(agent: Agent) -> list[int]:
    """The process ids of the agent's child processes that have not ended."""
    assert agent.process is not None
    children: list[int] = []
    for task in Path(f"/proc/{agent.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            children += map(int, (task / "children").read_text().split())
    return [pid for pid in children if state(pid) not in ("", "Z")]


def state(pid: int) -> str:
    """The state of a process, as proc(5) has it; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return ""


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy(agent: Agent, seconds: float = 0.2) -> int:
    """Wait for a helper in the middle of a check: it has used so much processor time."""

    def found() -> int:
        return next((pid for pid in helpers(agent) if cpu(pid) > seconds), 0)

    return wait_for(found, "a helper at work")


def kill(pid: int) -> None:
    """End a process as the kernel does when memory is short."""
    os.kill(pid, signal.SIGKILL)


def findings(agent: Agent) -> dict[str, str]:
    """Severity by code of the findings of now."""
    found = agent.history()[-1]["diagnostics"]
    return {finding["code"]: finding["severity"] for finding in found}


def all_codes(agent: Agent) -> set[str]:
    """The codes of all findings that any record had."""
    return {d["code"] for record in agent.history() for d in record["diagnostics"]}
