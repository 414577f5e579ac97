"""What an asynchronous supervisor imports to ask the callback agent, on asyncio or trio.

The methods, results and errors are those of `agent.client`, awaited:

    async with Client(pipe, timeout=2.0) as agent:
        answer = await agent.lookup("failed-job-self")
        records = await agent.subscribe()
        async for record in records:
            ...

Several tasks may use one `Client` at the same time. It belongs to one event loop.
"""

# This file is long because it has every method of agent.client, with its types.

# Calls take a `timeout`, as those of agent.client do.
# ruff: noqa: ASYNC109

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, overload

import anyio
from anyio.abc import SocketStream

from agent import client
from agent.client import (
    DEFAULT_RESTART,
    DEFAULT_TIMEOUT,
    CodeResult,
    Event,
    ExplainResult,
    HistoryResult,
    Job,
    ListResult,
    LookupResult,
    NoAgent,
    Owner,
    OwnersResult,
    Pending,
    Record,
    Refused,
    Since,
    StatusResult,
    TimedOut,
)

#: `list` is a method of the client.
_Lines = list[bytes]
_Results = list[Any]
_Lookups = list[LookupResult]


class Client:
    """Connections to the agent whose pipe is at `path`. The first call opens one.

    `timeout` and `restart` are in seconds, as those of `agent.client.Client`.
    """

    def __init__(
        self, path: str, timeout: float = DEFAULT_TIMEOUT, *, restart: float = DEFAULT_RESTART
    ) -> None:
        self.path = os.fspath(path)
        self.timeout = timeout
        self.restart = restart
        #: Connections that no call uses.
        self._idle: deque[_Connection] = deque()
        self._code = client._Code()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that no call uses now. The next call opens a new one."""
        while self._idle:
            await self._idle.pop().aclose()

    @overload
    async def lookup(
        self,
        event: Event,
        owner: Job | None = None,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        *,
        timeout: float | None = None,
    ) -> LookupResult: ...

    @overload
    async def lookup(
        self,
        event: Event,
        *,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        owners: Sequence[Owner],
        timeout: float | None = None,
    ) -> OwnersResult: ...

    async def lookup(
        self,
        event: Event,
        owner: Job | None = None,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        owners: Sequence[Owner] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The callbacks that fire on `event`; see `agent.client.Client.lookup`."""
        params = client._params(event, owner, occurred, pending)
        if owners is not None:
            params["owners"] = owners
        return await self._with_code("lookup", params, code, timeout)

    async def lookup_many(
        self,
        events: Sequence[Event],
        owner: Job | None = None,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        timeout: float | None = None,
    ) -> _Lookups:
        """`lookup` of each event, in order; see `agent.client.Client.lookup_many`."""
        lines = []
        for number, event in client._numbered(events):
            params = client._params(event, owner, occurred, pending)
            if code:
                params["code"] = True
            lines.append(client._request(number, "lookup", params))
        deadline = self._deadline(timeout)
        return [self._object(a) for a in await self._exchange(lines, deadline)] if lines else []

    async def explain(
        self,
        event: Event,
        owner: Job | None = None,
        occurred: Sequence[Event] | None = None,
        code: bool = False,
        pending: Sequence[Pending] | None = None,
        timeout: float | None = None,
    ) -> ExplainResult:
        """As `lookup`, with a `verdict` (`fires`, `partial`, `no`) and a `reason` for each."""
        params = client._params(event, owner, occurred, pending)
        result: ExplainResult = await self._with_code("explain", params, code, timeout)
        return result

    async def list(self, code: bool = False, timeout: float | None = None) -> ListResult:
        """Every callback that is served: `{generation, digest, callbacks}`."""
        result: ListResult = await self._with_code("list", {}, code, timeout)
        return result

    async def code(self, digests: Sequence[str], timeout: float | None = None) -> CodeResult:
        """The files with these digests: `{code: {digest: {text} or {base64}}}`."""
        result: CodeResult = self._object(await self.call("code", {"digests": digests}, timeout))
        return result

    async def status(self, timeout: float | None = None) -> StatusResult:
        """The agent's health, directories, settings and last reload."""
        result: StatusResult = self._object(await self.call("status", {}, timeout))
        return result

    async def reload(self, timeout: float | None = None) -> Record:
        """Read everything again; the record of it. Changes made before the call are then served."""
        result: Record = self._object(await self.call("reload", {}, timeout))
        return result

    async def history(
        self, limit: int | None = None, timeout: float | None = None
    ) -> HistoryResult:
        """The last records, newest last: `{records}`."""
        params = {} if limit is None else {"limit": limit}
        result: HistoryResult = self._object(await self.call("history", params, timeout))
        return result

    async def metrics(self, timeout: float | None = None) -> dict[str, str]:
        """What is measured: `{text}`, in the OpenMetrics format."""
        result: dict[str, str] = self._object(await self.call("metrics", {}, timeout))
        return result

    async def subscribe(
        self, since: Since | None = None, heartbeat: float | None = None
    ) -> Subscription:
        """The records from now on, on a separate connection; see
        `agent.client.Client.subscribe`."""
        deadline = self._deadline(None)
        records = client._Records(self.path, self.timeout, since, heartbeat, self.restart)
        subscription = Subscription(records)
        try:
            while not records.answered:
                if not await subscription._receive(deadline.at):
                    raise client._too_late(self.path, deadline)
        except BaseException:
            await subscription.aclose()
            raise
        return subscription

    async def call(self, method: str, params: Any = None, timeout: float | None = None) -> Any:
        """The result of any method of the agent, as JSON gives it. Raises `AgentError`s."""
        deadline = self._deadline(timeout)
        return (await self._exchange([client._request(0, method, params)], deadline))[0]

    # Connections --------------------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> client._Deadline:
        return client._Deadline(self.timeout if timeout is None else timeout)

    @staticmethod
    def _limit(deadline: client._Deadline) -> anyio.CancelScope:
        return anyio.move_on_after(max(0.0, deadline.at - time.monotonic()))

    async def _with_code(
        self, method: str, params: dict[str, Any], code: bool, timeout: float | None
    ) -> Any:
        deadline = self._deadline(timeout)
        steps: Generator[bytes, Any, Any] = self._code.steps(self.path, method, params, code)
        try:
            request = next(steps)
            while True:
                request = steps.send((await self._exchange([request], deadline))[0])
        except StopIteration as end:
            return self._object(end.value)

    async def _exchange(self, lines: _Lines, deadline: client._Deadline) -> _Results:
        """The results of some requests. They are sent again while the agent is not there."""
        wait_until = min(deadline.at, client._Deadline(self.restart, "restart").at)
        pause = client._CONNECT_PAUSE
        absent: NoAgent | None = None
        while True:
            with self._limit(deadline):
                is_new = not self._idle
                try:
                    async with self._connection() as connection:
                        absent = None
                        return await connection.ask(lines)
                except client._Absent as error:
                    if is_new and time.monotonic() + pause > wait_until:
                        raise
                    absent = error
                if is_new:
                    await anyio.sleep(pause)
                    pause = min(2 * pause, client._LONGEST_PAUSE)
                continue
            # The time ran out during a pause: raise the error of the last attempt.
            raise absent or client._too_late(self.path, deadline)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """A connection for one call. It is kept if everything that was asked is answered."""
        connection = self._idle.pop() if self._idle else await _Connection.open(self.path)
        is_reusable = False
        try:
            yield connection
            is_reusable = True
        except Refused as refused:
            is_reusable = refused.index is not None
            raise
        finally:
            if is_reusable:
                self._idle.append(connection)
            else:
                # The rest of the answer may still arrive.
                await connection.aclose()

    def _object(self, result: Any) -> Any:
        if not isinstance(result, dict):
            raise client._not_an_agent(self.path, "the result is not an object")
        return result


class Subscription(client._Subscribed):
    """An asynchronous iterator of records; see `agent.client.Subscription`."""

    def __init__(self, records: client._Records) -> None:
        super().__init__(records)
        self._connection: _Connection | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the subscription. Iterating ends too."""
        self._closed = True
        await self._disconnect()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        if self._closed:
            raise StopAsyncIteration
        return await self.next()

    async def next(self, timeout: float | None = None) -> Record:
        """The next record; waits for `timeout` seconds, or without limit. 0 takes what has arrived.

        Raises TimedOut or RecordsLost, after which it can be called again and no record is lost,
        NoAgent if the agent is gone, AgentError if what it sends is not JSON-RPC.
        """
        deadline = client._record_deadline(timeout)
        while not self._closed:
            record = self._records.take()
            if record is not None:
                return record
            try:
                in_time = await self._receive(deadline)
            except client.AgentError:
                await self.aclose()
                raise
            if not in_time:
                raise TimedOut(f"no record within {timeout or 0:g} s")
        raise NoAgent("this subscription is closed")

    async def _receive(self, deadline: float) -> bool:
        """Receive one message, or do one step towards a new connection. False at the deadline."""
        try:
            until = self._records.wait_until(deadline)
            with anyio.move_on_after(until - time.monotonic()):
                if self._connection is None:
                    self._connection = await self._connect()
                self._records.add(await self._connection.message())
                return True
            self._records.check_silence(self._connection.heard if self._connection else 0.0)
            return until != deadline
        except client._Absent:
            await self._disconnect()
            pause = self._records.pause(deadline)
            if pause is None:
                raise
            left = deadline - time.monotonic()
            await anyio.sleep(max(0.0, min(pause, left)))
            return left >= pause

    async def _connect(self) -> _Connection:
        """A new connection, on which the request is sent."""
        connection = await _Connection.open(self._records.path)
        try:
            # If it cannot be sent, what is received says why.
            await connection.send(self._records.request())
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()


class _Connection:
    """One open socket, and the bytes received after the last whole line."""

    def __init__(self, path: str, stream: SocketStream) -> None:
        self._path = path
        self._stream = stream
        self._rest = bytearray()
        #: When bytes last came, in seconds of `time.monotonic`.
        self.heard = time.monotonic()

    @classmethod
    async def open(cls, path: str) -> _Connection:
        """Connect. Raises NoAgent."""
        client._check_owner(path)
        while True:
            try:
                return cls(path, await anyio.connect_unix(path))
            except BlockingIOError:
                # The queue of new connections is full: Linux fails at once in place of waiting.
                await anyio.sleep(client._CONNECT_PAUSE)
            except (OSError, ValueError) as error:
                raise client._no_connection(path, error) from None

    async def aclose(self) -> None:
        """Close the socket."""
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()

    async def ask(self, lines: list[bytes]) -> list[Any]:
        """The results of requests, whose ids count from 0. Raises Refused for the first that is
        refused; where its `index` is not None, the connection can be used again."""
        results: list[Any] = []
        refused: Refused | None = None
        for window in client._windows(lines):
            broken = await self.send(b"".join(window))
            for _ in window:
                try:
                    results.append(await self._result(len(results)))
                except Refused as error:
                    if error.index is None:
                        raise
                    refused = refused or error
                    results.append(None)
                except client._HungUp:
                    raise broken or client._HungUp(
                        f"{self._path}: the agent closed the connection"
                    ) from None
        if refused is not None:
            raise refused
        return results

    async def send(self, data: bytes) -> client._HungUp | None:
        """Send bytes. An error is returned: the agent may have sent the reason why it closed."""
        try:
            await self._stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return client._HungUp(f"{self._path}: the agent closed the connection")
        return None

    async def _result(self, number: int) -> Any:
        while True:
            message = await self.message()
            if client._is_result(self._path, message, number):
                return message["result"]

    async def message(self) -> dict[str, Any]:
        """The next line, which must be a JSON object. If this is cancelled, what has arrived of
        the line is kept."""
        searched = 0
        while (end := self._rest.find(b"\n", searched)) < 0:
            searched = len(self._rest)
            if searched > client.MAX_ANSWER_BYTES:
                raise client._not_an_agent(self._path, "its answer does not end")
            try:
                self._rest += await self._stream.receive(client._READ_BYTES)
                self.heard = time.monotonic()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise client._HungUp(f"{self._path}: the agent closed the connection") from None
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return client._decoded(self._path, line)
