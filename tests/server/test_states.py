"""The states of a connection: every transition, in the table and on a real connection."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent.rpc import jsonrpc
from agent.rpc.messages import Request, UnreadLookup
from agent.server import connection as connections
from agent.server.access import Peer
from agent.server.connection import Connection
from agent.server.outbox import Line
from agent.server.shared import Client, Shared
from agent.server.states import TRANSITIONS, Signal, State, next_state

PAIRS = list(itertools.product(State, Signal))


@pytest.mark.parametrize(("state", "signal"), PAIRS)
def test_each_signal_leads_to_one_state_or_is_refused(state: State, signal: Signal) -> None:
    if (state, signal) in TRANSITIONS:
        assert next_state(state, signal) is TRANSITIONS[state, signal]
    else:
        with pytest.raises(RuntimeError, match=f"{state.name} got {signal.name}"):
            next_state(state, signal)


def test_every_state_is_reached_and_only_closed_is_the_end() -> None:
    reached, pending = {State.IDLE}, [State.IDLE]
    while pending:
        state = pending.pop()
        after = {to for (of, _), to in TRANSITIONS.items() if of is state} - reached
        reached |= after
        pending += after
    assert reached == set(State)
    assert {state for state in State if not any(of is state for of, _ in TRANSITIONS)} == {
        State.CLOSED
    }
    for state in set(State) - {State.CLOSED}:
        assert next_state(state, Signal.CLOSE) is State.CLOSED


class Service:
    """Answers `reload` when it is told to, everything else at once."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.reports: list[str] = []

    def answer_together(self, lookups: list[UnreadLookup]) -> list[bytes] | None:
        return None

    def answer(self, request: Request, connection: Client) -> Line | Awaitable[Line]:
        if request.method == "reload":
            return self._later(request)
        return jsonrpc.result(request.id, b"{}")

    async def _later(self, request: Request) -> Line:
        await self.release.wait()
        return jsonrpc.result(request.id, b"{}")

    async def read(self, line: bytes, connection: Client) -> jsonrpc.Message:
        return jsonrpc.read(line)

    def unreadable(self, error: Exception) -> jsonrpc.Refusal:
        raise AssertionError from error

    def forget(self, connection: Client) -> None:
        pass

    def measured(self, seconds: float, number: int) -> None:
        pass

    def report(self, message: str) -> None:
        self.reports.append(message)


class Trial:
    """One connection in this process, and the signals that it got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[tuple[State, Signal]] = set()
        self.service = Service()
        self.shared = Shared(self.service, set())

        def watched(state: State, signal: Signal) -> State:
            self.seen.add((state, signal))
            return next_state(state, signal)

        monkeypatch.setattr(connections, "next_state", watched)

    async def open(self) -> None:
        self.client, served = socket.socketpair()
        self.client.setblocking(False)
        served.setblocking(False)
        self.connection = Connection(self.shared, Peer(0, frozenset()))
        self.shared.clients.add(self.connection)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self.connection, served)

    async def until(self, state: State) -> None:
        async with asyncio.timeout(10):
            while self.connection.state is not state:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def read(self) -> list[Any]:
        """All responses up to the end of the stream."""
        loop = asyncio.get_running_loop()
        came = b""
        async with asyncio.timeout(10):
            while got := await loop.sock_recv(self.client, 1 << 16):
                came += got
        return [json.loads(line) for line in came.splitlines()]

    def send(self, method: str) -> None:
        self.client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"%b"}\n' % method.encode())


Walk = Callable[[Trial], Awaitable[None]]


async def request_and_close(trial: Trial) -> None:
    trial.send("status")
    await trial.until(State.BUSY)
    await trial.until(State.IDLE)
    trial.connection.close()


async def end_while_idle(trial: Trial) -> None:
    trial.client.shutdown(socket.SHUT_WR)
    await trial.until(State.CLOSED)


async def end_while_busy(trial: Trial) -> None:
    trial.send("reload")
    trial.client.shutdown(socket.SHUT_WR)
    await trial.until(State.ENDED)
    trial.service.release.set()
    assert [one["id"] for one in await trial.read()] == [1]


async def line_too_long(trial: Trial) -> None:
    trial.send("reload")
    trial.service.release.set()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(trial.client, b"x" * (1 << 20) + b"xx")
    assert ["error" in one for one in await trial.read()] == [False, True]
    assert trial.connection.state is State.LINGERING
    trial.connection.wake()
    trial.client.close()
    await trial.until(State.CLOSED)


async def shed(trial: Trial) -> None:
    trial.connection.shed()
    trial.connection.shed()
    trial.client.shutdown(socket.SHUT_WR)
    assert ["error" in one for one in await trial.read()] == [True]
    await trial.until(State.CLOSED)


async def shed_while_busy(trial: Trial) -> None:
    trial.send("reload")
    await trial.until(State.BUSY)
    trial.connection.eof_received()
    trial.connection.shed()
    trial.connection.eof_received()
    assert ["error" in one for one in await trial.read()] == [True]


async def abort_while(trial: Trial, state: State) -> None:
    trial.send("reload")
    await trial.until(State.BUSY)
    if state is State.ENDED:
        trial.client.shutdown(socket.SHUT_WR)
    elif state is not State.BUSY:
        trial.connection.finish(jsonrpc.line_too_long())
    if state is State.CLOSING:
        assert trial.connection.state is State.CLOSING
    else:
        trial.service.release.set() if state is State.LINGERING else None
        await trial.until(state)
    trial.connection.abort()


WALKS: list[Walk] = [
    *(request_and_close, end_while_idle, end_while_busy, line_too_long, shed, shed_while_busy),
    *(
        (lambda trial, state=state: abort_while(trial, state))
        for state in (State.BUSY, State.ENDED, State.CLOSING, State.LINGERING)
    ),
]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[State, Signal]]:
    found: set[tuple[State, Signal]] = set()

    async def walk(one: Walk) -> None:
        trial = Trial(monkeypatch)
        await trial.open()
        try:
            await one(trial)
            await trial.until(State.CLOSED) if trial.connection.state is State.ENDED else None
        finally:
            trial.connection.abort()
            trial.client.close()
            await asyncio.sleep(0)
        assert trial.connection.state is State.CLOSED
        assert trial.shared.ledger.total == 0
        found.update(trial.seen)

    for one in WALKS:
        asyncio.run(walk(one))
    return found


def test_connections_walk_every_transition_and_no_other(
    seen: set[tuple[State, Signal]],
) -> None:
    assert seen == set(TRANSITIONS)
