"""Row 31: clients use up the descriptors. Connections are refused first."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.rpc.messages import REFUSED
from agent.server import listener as pipe
from support.agents import Agent, wait_for, write

pytestmark = pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit")

CONF = "a.pl = done-job-self\nb.pl = done-job-self\n"
LIMIT = 256


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """One that may have 256 files open."""
    agent = Agent(tmp_path, write(tmp_path / "cb", CONF, a_pl="#\n", b_pl="#\n"))
    agent.prefix = ["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
    agent.start()
    yield agent
    agent.stop()


def crowd(agent: Agent, stack: contextlib.ExitStack, number: int) -> list[socket.socket]:
    """This number of clients that stay and say nothing."""
    clients = []
    for _ in range(number):
        one = stack.enter_context(socket.socket(socket.AF_UNIX))
        one.settimeout(5)
        with contextlib.suppress(OSError):
            one.connect(str(agent.pipe))
        clients.append(one)
    return clients


def test_a_removal_is_served_however_many_clients_stay(agent: Agent, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(agent.connect())
        answers = stack.enter_context(good.makefile("rb"))
        crowd(agent, stack, 250)

        def files() -> list[str]:
            good.sendall(
                b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"done-job-self"}}\n'
            )
            return [c["file"] for c in json.loads(answers.readline())["result"]["callbacks"]]

        assert files() == ["a.pl", "b.pl"]
        (tmp_path / "cb" / "b.pl").unlink()
        wait_for(lambda: files() == ["a.pl"], "the removal")
        (tmp_path / "cb" / "a.pl").write_text("# new\n")
        good.sendall(b'{"jsonrpc":"2.0","id":1,"method":"reload"}\n')
        record = json.loads(answers.readline())["result"]
        assert [h["reason"] for h in record["held"]] != ["fault"]


def test_who_is_refused_reads_how_many_may_connect_and_what_to_raise(agent: Agent) -> None:
    with contextlib.ExitStack() as stack:
        clients = crowd(agent, stack, LIMIT - pipe.reserved_descriptors(LIMIT) + 20)
        for one in clients:
            one.setblocking(False)

        def said() -> bytes:
            for one in reversed(clients):
                with contextlib.suppress(OSError):
                    if came := one.recv(4096):
                        return came
            return b""

        error = json.loads(wait_for(said, "a refusal"))["error"]
        assert error["code"] == REFUSED
        assert f"limit of {LIMIT} open files" in error["message"]
        assert "LimitNOFILE" in error["message"]
    # There is room again for those who come later.
    wait_for(lambda: agent.answers(), "room again")


def test_accepting_rests_where_there_is_no_descriptor_at_all(agent: Agent) -> None:
    """The limit is lowered below what is open: each accept fails."""
    assert agent.process is not None
    pid = agent.process.pid
    with agent.connect() as good, good.makefile("rb") as answers:
        good.sendall(b'{"jsonrpc":"2.0","id":1,"method":"status"}\n')
        answers.readline()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (10, LIMIT))
        with contextlib.ExitStack() as stack:
            crowd(agent, stack, 3)
            before, began = processor_time(pid), time.monotonic()
            while time.monotonic() - began < 1.0:
                good.sendall(b'{"jsonrpc":"2.0","id":1,"method":"unsubscribe"}\n')
                assert b"result" in answers.readline()
                time.sleep(0.05)
            # To try without a pause would take all of the time.
            assert processor_time(pid) - before < 0.5 * (time.monotonic() - began)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        wait_for(agent.answers, "room again")


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
