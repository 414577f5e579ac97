"""Subscriptions of the clients: what was missed, heartbeats, restarts, and an agent that is silent.

Each test is of `agent.client` and of `agent.aio`, on asyncio and on trio.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from agent import aio, client
from agent.client import AgentError, BadArgument, Client, NoAgent, RecordsLost, Refused, TimedOut
from support.agents import DEADLINE, Agent, running, wait_for, write
from support.requests import call
from support.sites import replace
from support.stand_in import Behaviour, Start, answer, line, requests, says

#: What a test reads records with: `subscribe(path, timeout, restart, **params)`.
Subscribe = Callable[..., Any]
CONF = "a.py = failed-job-self\n"


class Awaited:
    """A subscription of `agent.aio`, as one of `agent.client`."""

    def __init__(self, portal: Any, subscription: aio.Subscription) -> None:
        self._portal = portal
        self._subscription = subscription

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subscription, name)

    def next(self, timeout: float | None = None) -> Any:
        return self._portal.call(self._subscription.next, timeout)


@pytest.fixture(params=["client", "asyncio", "trio"])
def subscribe(request: pytest.FixtureRequest) -> Iterator[Subscribe]:
    if request.param == "client":
        made: list[Any] = []

        def plain(path: object, timeout: float = DEADLINE, restart: float = 0, **of: Any) -> Any:
            made.append(Client(str(path), timeout, restart=restart).subscribe(**of))
            return made[-1]

        yield plain
        for one in made:
            one.close()
        return
    with start_blocking_portal(request.param) as portal:

        def awaited(path: object, timeout: float = DEADLINE, restart: float = 0, **of: Any) -> Any:
            one = aio.Client(str(path), timeout, restart=restart)
            made.append(portal.call(lambda: one.subscribe(**of)))
            return Awaited(portal, made[-1])

        made = []
        yield awaited
        for one in made:
            portal.call(one.aclose)


def record(sequence: int, instance: str = "i") -> dict[str, Any]:
    index = {"generation": sequence, "digest": f"d{sequence}"}
    return {"instance": instance, "sequence": sequence, **index}


def told(sequence: int, method: str = "reload") -> bytes:
    return line({"jsonrpc": "2.0", "method": method, "params": record(sequence)})


def resumed(expected: Any, result: dict[str, Any], *then: bytes) -> Behaviour:
    """Is asked from `expected` on, answers with this result, sends these lines, and hangs up."""

    def behave(connection: socket.socket) -> None:
        for request in requests(connection):
            params = request.get("params", {})
            right = params.get("since") == expected
            connection.sendall(answer(request, result if right else params) + b"".join(then))
            return

    return behave


# Records that are made while nobody is connected -------------------------------------------------


def test_what_was_missed_on_the_way_is_not_missing(subscribe: Subscribe, start: Start) -> None:
    """The agent closed the connection, and has made records before there was another."""
    two = {"instance": "i", "sequence": 4}
    three = {"instance": "i", "sequence": 7}
    server = start(
        resumed(None, record(3), told(4)),
        resumed(two, {**record(6), "missed": [record(5), record(6)]}, told(7)),
        resumed(three, {**record(7), "missed": []}, told(8)),
    )
    # `heartbeat` makes it go on.
    records = subscribe(server.path, heartbeat=60, restart=DEADLINE)
    assert (records.generation, records.digest) == (3, "d3")
    assert records.position == {"instance": "i", "sequence": 3}
    for sequence in (4, 5, 6, 7, 8):
        assert records.next(DEADLINE) == record(sequence)
        assert records.position == {"instance": "i", "sequence": sequence}
    assert records.generation == 8


def test_a_caller_that_remembers_where_it_was_goes_on_there(
    subscribe: Subscribe, tmp_path: Path
) -> None:
    directory = write(tmp_path / "callback", CONF, a_py="0\n")
    with running(tmp_path, directory) as agent:
        position = subscribe(agent.pipe).position
        for text in ("1\n", "2\n"):
            replace(directory / "a.py", text)
            agent.reload()
        records = subscribe(agent.pipe, since=position)
        assert [records.next(DEADLINE), records.next(DEADLINE)] == agent.history()[-2:]
        assert records.position == {**position, "sequence": agent.status()["sequence"]}
        records = subscribe(agent.pipe, since={**position, "instance": "another"})
        with pytest.raises(RecordsLost, match="read everything again"):
            records.next(DEADLINE)
        assert records.position["instance"] == position["instance"]
        with pytest.raises(TimedOut):
            records.next(0.01)


def test_a_subscription_goes_on_over_a_restart(subscribe: Subscribe, tmp_path: Path) -> None:
    directory = write(tmp_path / "callback", CONF, a_py="0\n")
    with running(tmp_path, directory) as agent:
        records = subscribe(agent.pipe, heartbeat=1, restart=DEADLINE)
        before = records.position
        agent.stop()
        assert records.next(DEADLINE)["event"] == "stopped"
        with pytest.raises(TimedOut):
            records.next(0.02)
        agent.start()

        def lost() -> bool:
            try:
                raise AssertionError(records.next(0.05))
            except TimedOut:
                return False
            except RecordsLost:
                return True

        wait_for(lost, "the new agent")
        assert records.position["instance"] == agent.status()["instance"] != before["instance"]
        assert records.digest == agent.status()["digest"]
        (directory / "a.py").write_text("1\n")
        agent.reload()
        seen = records.next(DEADLINE)
        while seen["sequence"] < agent.status()["sequence"]:
            seen = records.next(DEADLINE)
        assert seen["digest"] == records.digest == agent.status()["digest"]


def test_an_agent_that_does_not_come_back_is_waited_for_as_long_as_the_caller_says(
    subscribe: Subscribe, start: Start, tmp_path: Path
) -> None:
    def serve_once(**params: Any) -> Any:
        server = start(resumed(None, {**record(3), "missed": []}))
        records = subscribe(server.path, **params)
        server.stop()
        return records

    for restart, heartbeat in ((0, 60), (0.2, 60), (DEADLINE, None)):
        # Without `since` and `heartbeat` nothing is tried again.
        records = serve_once(restart=restart, heartbeat=heartbeat)
        with pytest.raises(NoAgent):
            records.next(DEADLINE)
        # It is over.
        with pytest.raises(NoAgent, match="closed"):
            records.next(DEADLINE)
    for seconds in ({"restart": 0}, {"timeout": 0.2, "restart": DEADLINE}):
        for params in ({"heartbeat": 60}, {}):
            with pytest.raises(NoAgent, match="no pipe"):
                subscribe(tmp_path / "none", **seconds, **params)


@pytest.mark.parametrize("heartbeat", [60, None])
def test_an_agent_that_is_about_to_start_is_waited_for(
    subscribe: Subscribe, tmp_path: Path, heartbeat: int | None
) -> None:
    agent = Agent(tmp_path, write(tmp_path / "callback", CONF, a_py="0\n"))
    thread = threading.Thread(target=agent.start)
    thread.start()
    try:
        assert subscribe(agent.pipe, heartbeat=heartbeat, restart=DEADLINE).generation == 1
    finally:
        thread.join()
        agent.stop()


# Heartbeats --------------------------------------------------------------------------------------


@contextmanager
def beating(folder: Path) -> Iterator[Agent]:
    with running(folder, write(folder / "callback", CONF, a_py="0\n")) as agent:
        yield agent


def test_heartbeats_say_that_the_agent_is_alive_and_what_it_serves(
    subscribe: Subscribe, tmp_path: Path
) -> None:
    with beating(tmp_path) as agent:
        records = subscribe(agent.pipe, heartbeat=0.1)

        def is_heard(since: float) -> bool:
            with pytest.raises(TimedOut):
                records.next(0.05)
            return bool(records.heard > since)

        heard = records.heard
        wait_for(lambda: is_heard(heard), "a heartbeat")
        assert records.heard <= time.monotonic()
        # Who did not read for long does not take that for silence.
        with agent.connect() as clock, clock.makefile("rb") as lines:
            clock.sendall(call("subscribe", heartbeat=0.1))
            for _ in range(4):
                lines.readline()
        records._records._quiet_since -= 1000
        records._records.heard -= 1000
        wait_for(lambda: is_heard(heard), "what has arrived")


def impatient(records: Any) -> Any:
    """From now on its time limit is 0.2 s. Its first answer may take longer: a machine that is
    busy must not make it fail."""
    records._records._timeout = 0.2
    return records


def test_an_agent_that_is_silent_is_gone(subscribe: Subscribe, start: Start) -> None:
    """After `heartbeat + timeout` seconds, in one call or in many."""
    server = start(*[says(lambda r: answer(r, record(3)), hold=True)] * 3)
    began = time.monotonic()
    records = impatient(subscribe(server.path, heartbeat=0.1, restart=DEADLINE))
    with pytest.raises(NoAgent, match="nothing came for"):
        records.next()
    assert time.monotonic() - began > 0.3
    records = impatient(subscribe(server.path, heartbeat=0.1, restart=DEADLINE))

    def gone() -> bool:
        try:
            records.next(0)
        except TimedOut:
            return False
        except NoAgent as error:
            return "nothing came for" in str(error)
        raise AssertionError("a record of nobody")

    wait_for(gone, "an end")
    # Without heartbeats silence is no news.
    records = impatient(subscribe(server.path))
    with pytest.raises(TimedOut):
        records.next(0.3)


def test_a_new_connection_that_is_not_answered_is_given_up(
    subscribe: Subscribe, start: Start
) -> None:
    server = start(resumed(None, record(3)), says(hold=True))
    records = impatient(subscribe(server.path, heartbeat=60, restart=DEADLINE))
    with pytest.raises(NoAgent, match="nothing came for"):
        records.next()


def test_a_connection_on_which_the_request_was_not_sent_in_time_is_not_used(
    subscribe: Subscribe, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = {"instance": "i", "sequence": 3}
    # Each of them answers to a request alone. A slow machine may make more than two.
    again = [resumed(three, {**record(3), "missed": []}, told(4))] * 20
    server = start(resumed(None, record(3)), *again)
    records = subscribe(server.path, heartbeat=60, restart=DEADLINE)
    is_late = iter([True])
    send, asynchronous_send = client._Connection.send, aio._Connection.send

    def late(connection: Any, data: bytes, deadline: float) -> Any:
        if next(is_late, False):
            raise TimeoutError
        return send(connection, data, deadline)

    async def asynchronous_late(connection: Any, data: bytes) -> Any:
        if next(is_late, False):
            await anyio.sleep_forever()
        return await asynchronous_send(connection, data)

    monkeypatch.setattr(client._Connection, "send", late)
    monkeypatch.setattr(aio._Connection, "send", asynchronous_late)

    def come() -> Any:
        try:
            return records.next(0.05)
        except TimedOut:
            return None

    assert wait_for(come, "the record") == record(4)
    assert next(is_late, None) is None
    assert server.accepted > 2


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"heartbeat": 0.01}, Refused),
        ({"heartbeat": "x"}, Refused),
        ({"heartbeat": float("nan")}, BadArgument),
        ({"since": {"instance": "x"}}, Refused),
        ({"since": {1, 2}}, BadArgument),
    ],
    ids=str,
)
def test_wrong_parameters_are_an_error_of_the_agent(
    subscribe: Subscribe, shared: Agent, params: dict[str, Any], error: type[AgentError]
) -> None:
    with pytest.raises(error):
        subscribe(shared.pipe, **params)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with beating(tmp_path_factory.mktemp("agent")) as agent:
        yield agent


@pytest.mark.parametrize(
    "wrong", [{"missed": [7]}, {"missed": "x"}, {"missed": 5}, {"held": 5}], ids=str
)
def test_a_result_of_another_form_is_an_agent_error(
    subscribe: Subscribe, start: Start, wrong: dict[str, Any]
) -> None:
    server = start(says(lambda request: answer(request, {**record(3), **wrong})))
    with pytest.raises(AgentError, match="is not"):
        subscribe(server.path, since={"instance": "i", "sequence": 1})
