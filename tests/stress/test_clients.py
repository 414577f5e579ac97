"""Short forms of the attacks in `clients.py`. What is compared is measured in the same run."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.rpc import messages
from agent.timing import PipeLimits, Timing
from stress import clients
from support.agents import DEADLINE, Agent, running, wait_for, write

CONF = "a.pl = done-job-self\n"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with running(tmp_path, write(tmp_path / "cb", CONF, a_pl="#\n")) as agent:
        yield agent


def closed(connections: list[socket.socket]) -> None:
    for one in connections:
        one.close()


def test_batches_of_bad_requests_are_refused_between_the_lookups_of_others(agent: Agent) -> None:
    """To refuse one request takes a millisecond; each line has 500."""
    line = clients.bad_batch(500, 400_000)
    with contextlib.closing(agent.connect()) as good, good.makefile("rb") as answers:
        waits: list[float] = []
        # Again where this process stood still while the agent refused.
        while len(waits) < 20:
            asked = clients.ask(agent, line, 4)
            began = time.monotonic()
            while len(readable(asked)) < len(asked):
                sent = time.monotonic()
                good.sendall(clients.request("lookup", event="done-job-self"))
                assert b'"result"' in answers.readline()
                waits.append(time.monotonic() - sent)
            taken = time.monotonic() - began
            assert clients.drain(asked, 1) > 4 * 500 * 100
            closed(asked)
    # If a line were refused as a whole, each lookup would wait for a quarter of that. Nine of ten,
    # not all: this process and the agent may both lose the processor to other tests.
    assert sorted(waits)[len(waits) * 9 // 10] < taken / 8


def readable(connections: list[socket.socket]) -> list[socket.socket]:
    """Those on which an answer has come."""
    return select.select(connections, [], [], 0)[0]


def test_who_asks_one_thing_is_not_behind_those_who_ask_thousands(agent: Agent) -> None:
    line = clients.request("lookup", event="done-job-self") * 2000
    asked = clients.ask(agent, line, 50)
    # It has begun. As nobody reads, many of the 100,000 wait from now on.
    wait_for(lambda: readable(asked), "the first answers")
    with contextlib.closing(agent.connect()) as good, good.makefile("rb") as answers:
        good.sendall(clients.request("lookup", event="done-job-self"))
        answers.readline()
        good.sendall(clients.request("status"))
        assert json.loads(answers.readline())["result"]["clients"] == 50
    assert clients.drain(asked, 2000) > 50 * 2000 * 100
    closed(asked)


def test_heavy_work_ends_when_its_client_is_gone(tmp_path: Path) -> None:
    directory = clients.large_site(tmp_path / "cb", 2000)
    occurred = [f"done-job-{'x*' * 20}{n}" for n in range(3000)]
    heavy = clients.request("explain", event="x1-job-self", occurred=occurred)
    with running(tmp_path, directory) as agent:

        def answered() -> float:
            """The seconds that one of them takes."""
            began = time.monotonic()
            with contextlib.closing(agent.connect()) as one, one.makefile("rb") as answers:
                one.sendall(heavy)
                assert b'"result"' in answers.readline()
            return time.monotonic() - began

        def ends() -> bool:
            alone = answered()
            for _ in range(3):
                closed(clients.ask(agent, heavy, 20))
            wait_for(lambda: agent.status()["clients"] == 0, "them to be gone")
            # Sixty of them would take thirty times as long, two at a time.
            return answered() < 10 * alone + 1

        # This machine may be slower the second time, though not each time.
        assert any(ends() for _ in range(5))


def test_what_many_do_not_read_is_in_memory_once(tmp_path: Path) -> None:
    directory = clients.large_site(tmp_path / "cb", 10_000)
    with running(tmp_path, directory) as agent:
        one = agent.call("list")
        size = len(json.dumps(one))
        before = clients.resident(agent)
        lists = clients.ask(agent, clients.request("list"), 40)
        deaf = clients.ask(agent, clients.request("subscribe"), 40)
        (directory / "a.pl").write_text("# new\n")
        wait_for(lambda: len(agent.history()) > 1, "the edit")
        wait_for(lambda: len(readable(lists)) == len(lists), "the lists")
        # Twice 40 of them would be 80 times the size.
        assert clients.resident(agent) - before < 30 * size
        closed(deaf)
        assert clients.drain(lists, 1) > 40 * size // 2
        closed(lists)


def test_a_subscriber_that_goes_leaves_nothing(agent: Agent) -> None:
    def come_and_go(times: int) -> None:
        for _ in range(times):
            closed(clients.ask(agent, clients.request("subscribe"), 100))
            # Those of several rounds at once would need more.
            wait_for(lambda: agent.status()["clients"] == 0, "them to be gone")

    come_and_go(10)
    before = clients.resident(agent)
    come_and_go(40)
    # Each cost 1.4 KiB until the next record.
    assert clients.resident(agent) - before < 4000 * 700


def test_many_subscribers_hear_heartbeats(agent: Agent) -> None:
    asked = clients.ask(agent, clients.request("subscribe", heartbeat=messages.MIN_HEARTBEAT), 200)
    try:
        for one in asked:
            with one.makefile("rb") as lines:
                one.settimeout(DEADLINE)
                got = [json.loads(lines.readline()) for _ in range(4)]
            assert [m.get("method") for m in got] == [None, *["heartbeat"] * 3]
    finally:
        closed(asked)
    wait_for(lambda: agent.status()["clients"] == 0, "them to be gone")


def test_a_client_that_is_closed_for_what_it_holds_is_told(tmp_path: Path) -> None:
    agent = Agent(tmp_path, write(tmp_path / "cb", CONF, a_pl="#\n"))
    agent.use(Timing(pipe=PipeLimits(max_held_bytes=500_000))).start()
    try:
        with contextlib.closing(agent.connect()) as one, one.makefile("rb") as answers:
            # A line that is not ended is held as well. Who is slow to send it is told meanwhile.
            with contextlib.suppress(OSError):
                one.sendall(b"[" + b" " * 900_000)
            error = json.loads(answers.readline())["error"]
            assert error["code"] == messages.TOO_LARGE
            assert "read the responses" in error["message"]
            assert answers.readline() == b""
        assert agent.fires("done-job-self") == ["a.pl"]
        wait_for(lambda: "held for it unread" in agent.errors.read_text())
    finally:
        agent.stop()
