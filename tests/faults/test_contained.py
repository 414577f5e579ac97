"""Row 23: what one reading or task raises does not end the agent, and no edit is lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent import client
from faults.steps import Stranger, edit, linux, root, started
from support import editors
from support.agents import Agent, wait_for, write

ONE = "a.qcb = done-job-self\n"

#: Runs an agent in which what a flag file names raises, for as long as the file is there.
FAILING = """
import os, sys, threading
from agent.disk import directory, second_look
from agent.reload import directory_state
from agent.core import index
from agent import __main__
FLAGS = {flags!r}
ERRORS = {{
    'MemoryError': MemoryError,
    'RuntimeError': lambda: RuntimeError("can't start new thread"),
    'UnicodeEncodeError': lambda: UnicodeEncodeError('latin-1', 'x', 0, 1, 'no such character'),
}}
def raising(name, work):
    def replaced(*arguments, **options):
        try:
            kind = open(os.path.join(FLAGS, name)).read()
        except FileNotFoundError:
            return work(*arguments, **options)
        # Not a name that the address of an object in hexadecimal may have in it.
        of_one = name in ('read', 'evaluate', 'unchanged')
        if of_one and not any('wrong' in str(a) for a in arguments):
            return work(*arguments, **options)
        raise ERRORS[kind]()
    return replaced
directory.read = raising('read', directory.read)
second_look.unchanged = raising('unchanged', second_look.unchanged)
directory_state.evaluate = raising('evaluate', directory_state.evaluate)
index.Index.replace = raising('replace', index.Index.replace)
threading.Thread.start = raising('thread', threading.Thread.start)
sys.argv[0] = 'callback-agent'
__main__.main()
"""


class Failing:
    """An agent of two directories, `good` and `bad`, and the failures that are switched on."""

    def __init__(self, folder: Path) -> None:
        self.flags = folder / "flags"
        self.flags.mkdir()
        self.good = write(folder / "good", ONE, a_qcb="block-self\n")
        self.bad = write(folder / "wrong", ONE, a_qcb="block-self\n")
        self.agent = Agent(folder, self.good, self.bad)
        self.agent.program = ["-c", FAILING.format(flags=str(self.flags))]

    @contextlib.contextmanager
    def failing(self, what: str, kind: str) -> Iterator[None]:
        flag = self.flags / what
        new = self.flags / "new"
        new.write_text(kind)
        new.rename(flag)
        try:
            yield
        finally:
            flag.unlink()

    def served(self) -> list[str]:
        """The code of `good`, then that of `bad`. While no thread can be started, `list` fails."""
        with contextlib.suppress(client.AgentError):
            return [code for _, _, code in self.agent.served()]
        return []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Failing]:
    site = Failing(tmp_path)
    site.agent.start()
    yield site
    site.agent.stop()


@pytest.mark.parametrize("what", ["read", "unchanged", "evaluate"])
@pytest.mark.parametrize("kind", ["MemoryError", "RuntimeError", "UnicodeEncodeError"])
def test_row_23_what_a_directory_raises_is_its_fault(site: Failing, what: str, kind: str) -> None:
    agent = site.agent
    with site.failing(what, kind):
        edit(site.bad / "a.qcb", "kill-self\n")
        edit(site.good / "a.qcb", "kill-self\n")
        wait_for(
            lambda: site.served() == ["kill-self\n", "block-self\n"],
            "the other edit",
        )
        record = agent.reload()
        assert record["held"] == [{"directory": str(site.bad), "reason": "fault"}]
        (found,) = record["diagnostics"]
        assert (found["code"], found["path"]) == ("internal-error", str(site.bad))
        assert kind in found["message"]
        assert agent.status()["state"] == "degraded"
    wait_for(lambda: site.served() == ["kill-self\n", "kill-self\n"], "the edit, without a reload")
    wait_for(lambda: agent.status()["state"] == "ok", "well again")


@pytest.mark.parametrize("what", ["replace", "thread"])
def test_row_23_a_reload_that_fails_as_a_whole_is_repeated(site: Failing, what: str) -> None:
    agent = site.agent
    records = len(agent.history())
    with site.failing(what, "RuntimeError"):
        edit(site.good / "a.qcb", "kill-self\n")
        wait_for(lambda: agent.status()["state"] == "degraded", "the failure")
        assert agent.fires("done-job-self") == ["a.qcb", "a.qcb"]
        assert site.served() in ([], ["block-self\n", "block-self\n"])
    wait_for(lambda: site.served() == ["kill-self\n", "block-self\n"], "the edit, without a reload")
    wait_for(lambda: agent.status()["state"] == "ok", "well again")
    # The record of it is not lost, nor its cause.
    (record,) = agent.history()[records:]
    assert [c["change"] for c in record["changes"]] == ["modified"]
    (cause,) = record["causes"]
    assert (cause["path"], cause["change"]) == (f"{site.good}/a.qcb", "modified")


@linux
@root
def test_row_23_no_thread_can_be_started(stranger: Stranger) -> None:
    """The kernel's own limit, at an edit, a reload, and while nothing happens."""
    editors.need("prlimit")
    directory = write(stranger.folder / "cb", ONE, a_qcb="block-self\n")
    with started(stranger.agent(directory)) as agent:
        assert agent.process is not None
        asked = threading.Thread(target=agent.reload)
        for number, code in enumerate(("kill-self\n", "fail-self\n")):
            _limit_threads(stranger, agent, "1")
            edit(directory / "a.qcb", code)
            if number == 0:
                asked.start()
            wait_for(lambda: agent.status()["state"] == "degraded", "the failure")
            assert agent.fires("done-job-self") == ["a.qcb"]
            _limit_threads(stranger, agent, "1000")
            wait_for(partial(_serves, agent, code), "the edit, without a reload")
            wait_for(lambda: agent.status()["state"] == "ok", "well again")
        asked.join()
        assert agent.process.poll() is None


def _limit_threads(stranger: Stranger, agent: Agent, most: str) -> None:
    """Set the most processes and threads of this user, as the agent sees it."""
    assert agent.process is not None
    editors.run(*stranger.prefix, "prlimit", f"--pid={agent.process.pid}", f"--nproc={most}:")


def _serves(agent: Agent, code: str) -> bool:
    """Whether the one callback has this code. While no thread can be started, `list` fails."""
    with contextlib.suppress(client.AgentError):
        return [found for _, _, found in agent.served()] == [code]
    return False


def test_row_23_a_task_that_fails_is_started_again(tmp_path: Path) -> None:
    """The scan: without events it is the only way by which an edit is noticed."""
    directory = write(tmp_path / "cb", ONE, a_qcb="block-self\n")
    program = (
        "import sys; from agent.disk.watch import events, polling\n"
        "from agent import __main__; n = []\n"
        "def fails(self, targets, poll=polling.Poller._changed):\n"
        "    n.append(1)\n"
        '    if len(n) < 3: raise RuntimeError("can\'t start new thread")\n'
        "    return poll(self, targets)\n"
        "def deaf(*_): raise OSError(28, 'no watches left')\n"
        "polling.Poller._changed = fails; events.RustNotify = deaf\n"
        "__main__.main()\n"
    )
    agent = Agent(tmp_path, directory)
    agent.program = ["-c", program]
    with started(agent):
        edit(directory / "a.qcb", "kill-self\n")
        wait_for(lambda: _serves(agent, "kill-self\n"), "the edit")
        assert any("polling failed" in note for note in agent.status()["notes"])
