"""Processes that the benchmark starts, ends, and looks at through /proc."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# How long a process may take to come up, or to end before it is killed, in seconds.
START_LIMIT = 60.0
END_LIMIT = 10.0
# Time between two looks whether something is there, in seconds: small beside what is measured.
LOOK_AGAIN = 0.001
# Share of one core below which a process has settled after its start.
SETTLED = 0.05

TICK = 1.0 / os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The benchmark cannot go on; the text says what was found and what to do."""


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in the background, what it prints going to the file `log`; end it after."""
    # Installed programs have their bytecode compiled: what is started again here may keep its own.
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=environ
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process that was started here to stop, and kill it if it does not."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `ready()`; a process that ends or takes too long is an error with its output."""
    deadline = time.monotonic() + START_LIMIT
    while not ready():
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            what = f"ended with {ended}" if ended is not None else f"not up in {START_LIMIT:.0f} s"
            said = log.read_text(errors="replace")[-2000:]
            raise BenchError(f"{process.args!r}: {what}; it said:\n{said}")
        time.sleep(LOOK_AGAIN)


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name; see proc(5), from `state` on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except FileNotFoundError:  # a thread that ended meanwhile
            continue
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its children, those that ended included, in seconds."""
    try:
        user, system, ended_user, ended_system = (int(field) for field in _fields(pid)[11:15])
        total = (user + system + ended_user + ended_system) * TICK
        return total + sum(cpu_seconds(child) for child in _children(pid))
    except FileNotFoundError:  # a child that ended meanwhile
        return 0.0


def resident(pid: int) -> int:
    """Resident memory of the one process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"/proc/{pid}/status has no VmRSS")


def cpu_share(pids: Sequence[int], seconds: float) -> list[float]:
    """Share of one core that each process takes over the next `seconds`."""
    before = [cpu_seconds(pid) for pid in pids]
    began = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    return [(cpu_seconds(pid) - was) / elapsed for pid, was in zip(pids, before, strict=True)]


def settle(*pids: int) -> None:
    """Wait until processes have done what they do after their start, like checking sources."""
    deadline = time.monotonic() + START_LIMIT
    while max(cpu_share(pids, 0.5)) > SETTLED:
        if time.monotonic() > deadline:
            raise BenchError(f"processes {pids} are still busy after {START_LIMIT:.0f} s")
