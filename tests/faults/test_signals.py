"""Signals: HUP reloads, TERM and INT stop, all others that can be ignored are."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from faults.steps import linux
from support.agents import Agent, wait_for, write

#: Not ignored: faults of the process, what cannot be ignored, and what does not end a process.
EXCEPT = {
    *("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"),
    *("SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTERM", "SIGINT"),
}
#: What the agent promises, and what a busy machine may add.
ENDS = 5.0
BUSY = 20.0


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path, write(tmp_path / "cb", "a.py = done-job-self\n", a_py="x = 1\n"))
    yield agent
    if agent.process is not None:
        agent.stop(signal.SIGKILL)


def test_signals_that_mean_nothing_end_nothing(agent: Agent) -> None:
    process = agent.start().process
    assert process is not None
    for number in signal.valid_signals():
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = str(number)
        if name not in EXCEPT:
            process.send_signal(number)
    assert agent.fires("done-job-self") == ["a.py"]
    (agent.directories[0] / "a.py").write_text("x = 2\n")
    wait_for(lambda: agent.served()[0][2] == "x = 2\n", "an edit afterwards")
    assert process.poll() is None
    assert agent.stop() == 0


@linux
def test_signals_during_the_start_end_nothing(agent: Agent) -> None:
    """From the moment at which the process's first module runs."""
    for _ in range(4):
        process = agent.launch()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            wait_for(partial(is_harmless, process.pid, number), "its disposition")
            process.send_signal(number)
        wait_for(agent.answers, "an answer")
        assert process.poll() is None, agent.errors.read_text()
        assert agent.stop() == 0


@linux
def test_the_mask_is_set_before_what_takes_long_is_imported() -> None:
    """The start has no window in which a signal ends it, once a module of the agent runs."""
    program = (
        "import sys; sys.argv = ['callback-agent', 'serve', '--help']\n"
        "from agent.daemon import signals\n"
        "slow = {'anyio', 'click', 'msgspec', 'uvloop', 'watchfiles'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    text = (Path(__file__).parents[2] / "agent/__main__.py").read_text()
    assert text.index("signals.start()") < text.index("from agent import cli")


@linux
def test_a_stop_during_the_start_is_a_stop(agent: Agent) -> None:
    process = agent.launch()
    wait_for(partial(is_harmless, process.pid, signal.SIGTERM), "the mask")
    assert agent.stop(signal.SIGTERM) == 0
    assert not agent.pipe.exists()


def is_harmless(pid: int, number: int) -> bool:
    return bool((mask(pid, "SigBlk") | mask(pid, "SigIgn")) & 1 << (number - 1))


def mask(pid: int, which: str) -> int:
    """A signal mask of a process, as proc(5) shows it."""
    found = re.search(rf"^{which}:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1], 16) if found else 0


# A stop ends the agent whatever hangs -------------------------------------------------------------

#: A thread that must be waited for and does not return: the one that makes the last record.
HUNG_THREAD = """
import threading
from agent.rpc import results
results.encode = lambda record, encode=results.encode: (
    threading.Event().wait() if b'"event":"stopped"' in encode(record) else encode(record)
)
"""
#: The event loop itself: the handler of SIGUSR1 runs in its thread, and keeps it.
HUNG_LOOP = """
import signal, threading
from agent.daemon import process
def prepare(serves, prepare=process.prepare):
    prepare(serves)
    signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait())
process.prepare = prepare
"""
#: The disk of the state directory does not answer.
HUNG_DISK = """
import os, threading
fsync = os.fsync
os.fsync = lambda fd: threading.Event().wait()
"""
#: A thread that the interpreter waits for at its end.
HUNG_EXIT = """
import threading
from agent.daemon import run as serve
def run(*arguments, run=serve.run):
    threading.Thread(target=threading.Event().wait).start()
    return run(*arguments)
serve.run = run
"""


@pytest.mark.parametrize(
    "hung", [HUNG_THREAD, HUNG_LOOP, HUNG_DISK, HUNG_EXIT], ids=["record", "loop", "disk", "exit"]
)
def test_a_stop_ends_it_whatever_stands_still(agent: Agent, hung: str) -> None:
    agent.program = ["-c", f"{hung}\nfrom agent.cli import main; raise SystemExit(main())"]
    process = agent.start().process
    assert process is not None
    # What the start served is kept when the next reload is done.
    agent.reload()
    if hung == HUNG_LOOP:
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: not answers(agent), "the loop, stuck")
    began = time.monotonic()
    assert agent.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < ENDS + BUSY
    assert not os.path.lexists(agent.pipe)
    if hung == HUNG_DISK:
        assert agent.records()[-1]["event"] == "stopped"
    # What was accepted is kept.
    conf = agent.directories[0] / "callbacks.conf"
    conf.write_text("broken\n")
    agent.program = ["-m", "agent"]
    agent.start()
    assert agent.fires("done-job-self") == ["a.py"]
    assert agent.stop() == 0


def answers(agent: Agent) -> bool:
    with agent.connect() as one:
        one.settimeout(0.3)
        one.sendall(b'{"jsonrpc":"2.0","id":1,"method":"history"}\n')
        try:
            return bool(one.recv(1))
        except TimeoutError:
            return False
