"""What answers the requests of the pipe: from the index that is current when each is read.

What is quick is answered on the loop that serves. What may take long (`list`, `explain`, lookups
with many events or large results, lines in which something is wrong) is done by a few threads. It
ends when its client is gone, or when it costs more than one request may.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Protocol

import msgspec

from agent import schemas
from agent.core.index import Index
from agent.reload.reloader import Reloader
from agent.rpc import jsonrpc as protocol
from agent.rpc import results as answer
from agent.rpc.results import Spend
from agent.server.access import Door
from agent.server.batcher import TIME_SLICE
from agent.server.connection import REFUSED, Connection
from agent.server.listener import Pipe
from agent.server.offload import Abandoned, Effort, OverLimit, Workers
from agent.server.outbox import Line

#: Requests that are worked on beside the loop at the same time, and lines that are decoded there.
MAX_OFFLOADED = 2
#: Seconds for which the result of `list` is remembered, so that those who ask at once share it.
LIST_REMEMBERED = 5.0
#: Seconds between two messages about clients that hold too much, or about internal errors.
REPORT_INTERVAL = 60.0

_logger = logging.getLogger(__name__)


class Notes(Protocol):
    """The last messages that are not records."""

    last: list[str]


class Service:
    """Answers requests."""

    def __init__(self, reloader: Reloader, pipe: Pipe, door: Door, notes: Notes) -> None:
        self._reloader = reloader
        self._door = door
        self._pipe = pipe
        self._notes = notes
        self._began = time.monotonic()
        self._subscribers: set[Connection] = set()
        #: What is loaded late; see `prepare`.
        self._version: str | None = None
        self._openrpc: bytes | None = None
        self._workers = Workers(MAX_OFFLOADED, "answers")
        # Of their own: a good request never waits behind lines in which something is wrong.
        self._readers = Workers(MAX_OFFLOADED, "lines")
        self._lookups = answer.Lookups(reloader.index)
        #: Results of `list`, with and without code, for some seconds.
        self._lists: dict[bool, bytes] = {}
        self._forgetting: asyncio.TimerHandle | None = None
        self._reported: dict[str, float] = {}
        reloader.swapped.append(self._swap)
        reloader.records.listeners.append(self._tell)

    def prepare(self) -> Awaitable[None]:
        """Load in a thread what is needed late: for refused requests, and for `rpc.discover`."""
        return self._readers.run(self._load)

    def _load(self) -> None:
        self._version = version()
        schemas.prepare()
        self._openrpc = answer.encode(protocol.openrpc(self._version))

    async def _first_status(self, request: protocol.Request, connection: Connection) -> Line:
        """The answer to `status` as long as nobody has found out the version."""
        try:
            self._version = await self._readers.run(version)
            return protocol.result_line(request.id, self._result(request, connection))
        except Exception as error:
            return self._failed(request, error)

    def _swap(self) -> None:
        self._lookups = answer.Lookups(self._reloader.index)
        self._lists = {}

    def _forget_lists(self) -> None:
        self._forgetting = None
        self._lists = {}

    # What connections call -------------------------------------------------------------------

    def lookups(
        self, lookups: list[protocol.CommonLookup] | list[protocol.LookupRequest]
    ) -> list[bytes] | None:
        """The answers' lines, None where each must be asked for by itself."""
        until = time.monotonic() + TIME_SLICE
        try:
            return self._lookups.lines(lookups, lambda: time.monotonic() > until)
        except Exception:  # of one of them; `answer` says which, and why
            return None

    def answer(self, request: protocol.Request, connection: Connection) -> Line | Awaitable[Line]:
        """The answer's line; for what takes long, when it is done. Raises nothing."""
        try:
            if type(request) is protocol.LookupRequest and not answer.is_heavy(request.params):
                until = time.monotonic() + TIME_SLICE
                try:
                    result = self._lookups.result(request.params, lambda: time.monotonic() > until)
                except answer.NotQuick:
                    pass
                else:
                    return protocol.result_line(request.id, result)
            if isinstance(request, protocol.ReloadRequest):
                if not self._door.may_reload(connection.peer):
                    why = "Reload refused: only root and the agent's user may ask for one"
                    return protocol.error(request.id, REFUSED, why)
                return self._reload(request)
            index = self._reloader.index
            match request:
                case protocol.LookupRequest(params=params):
                    return self._offload(request, connection, partial(answer.lookup, index, params))
                case protocol.ExplainRequest(params=params):
                    return self._offload(
                        request, connection, partial(answer.explain, index, params)
                    )
                case protocol.ListRequest(params=wanted):
                    if self._forgetting is None:
                        loop = asyncio.get_running_loop()
                        self._forgetting = loop.call_later(LIST_REMEMBERED, self._forget_lists)
                    work = partial(self._list, index, self._lists, wanted.code)
                    return self._offload(request, connection, work)
                case protocol.DiscoverRequest() if self._openrpc is None:
                    return self._offload(request, connection, self._discover)
                case protocol.StatusRequest() if self._version is None:
                    return self._first_status(request, connection)
            return protocol.result_line(request.id, self._result(request, connection))
        except Exception as error:  # one request must never end the agent
            return self._failed(request, error)

    async def read(self, line: bytes, connection: Connection) -> protocol.Message:
        """Decode a line in a thread. Raises nothing."""
        effort = Effort(lambda: connection.gone)

        def work() -> protocol.Message:
            effort.begin()
            return protocol.read_quickly(line) or protocol.read_slowly(line, effort.check)

        try:
            return await self._readers.run(work)
        except OverLimit as over:
            return protocol.Refusal(protocol.error(None, REFUSED, f"Request refused: {over}"))
        except Exception as error:
            return self.unreadable(error)

    def unreadable(self, error: Exception) -> protocol.Refusal:
        """What is answered to a line of which the decoding raised."""
        if not isinstance(error, Abandoned):
            self.report(f"internal error in a request: {error!r}")
        return protocol.Refusal(protocol.error(None, protocol.INTERNAL_ERROR, "Internal error"))

    def forget(self, connection: Connection) -> None:
        """A connection is closed."""
        self._subscribers.discard(connection)

    def report(self, message: str) -> None:
        """Report what clients do, or what fails for them, once a minute for each kind."""
        kind = message.partition(":")[0][:20]
        now = time.monotonic()
        if now - self._reported.get(kind, -REPORT_INTERVAL) < REPORT_INTERVAL:
            return
        self._reported[kind] = now
        _logger.warning("%s", message)

    # Results ---------------------------------------------------------------------------------

    async def _offload(
        self,
        request: protocol.Request,
        connection: Connection,
        work: Callable[[Spend], bytes],
    ) -> Line:
        """The answer to a request that may take long, worked out beside the loop that serves."""
        effort = Effort(lambda: connection.gone)

        def result() -> bytes:
            effort.begin()
            return work(effort.spend)

        try:
            return protocol.result_line(request.id, await self._workers.run(result))
        except Abandoned:
            return b""
        except OverLimit as over:
            message = f"Request refused: {over}"
            return protocol.error(request.id, REFUSED, message, {"expected": "a smaller request"})
        except Exception as error:
            return self._failed(request, error)

    def _list(self, index: Index, lists: dict[bool, bytes], code: bool, spend: Spend) -> bytes:
        """The result of `list`. Those who ask at about the same time share it."""
        known = lists.get(code)
        if known is None:
            # What was remembered of another index is nobody's any more.
            known = lists[code] = answer.callbacks(index, code, spend)
        return known

    def _discover(self, spend: Spend) -> bytes:
        spend(0)
        return answer.encode(protocol.openrpc(version()))

    def _failed(self, request: protocol.Request, error: Exception) -> bytes:
        if isinstance(error, answer.BadEvent):
            message = f"Invalid params: {error}"
            return protocol.error(request.id, protocol.INVALID_PARAMS, message, error.data)
        return self._internal(request, error)

    def _internal(self, request: protocol.Request, error: Exception) -> bytes:
        self.report(f"internal error in {request.method}: {error!r}")
        return protocol.error(request.id, protocol.INTERNAL_ERROR, "Internal error")

    def _result(self, request: protocol.Request, connection: Connection) -> bytes:
        index = self._reloader.index
        match request:
            case protocol.StatusRequest():
                return self._status()
            case protocol.HistoryRequest(params=wanted):
                records = self._reloader.records.history.newest(wanted.limit)
                return b'{"records":[' + b",".join(records) + b"]}"
            case protocol.SubscribeRequest():
                self._subscribers.add(connection)
                return answer.subscribed(index)
            case protocol.UnsubscribeRequest():
                self._subscribers.discard(connection)
                return b"{}"
            case protocol.DiscoverRequest() if self._openrpc is not None:
                return self._openrpc
        raise TypeError(f"no such request: {request!r}")

    async def _reload(self, request: protocol.ReloadRequest) -> Line:
        try:
            return protocol.result_line(request.id, await self._reloader.reload())
        except Exception as error:
            return self._internal(request, error)

    def _status(self) -> bytes:
        reloader = self._reloader
        return answer.encode(
            {
                "version": self._version,
                "pid": os.getpid(),
                "uptime": round(time.monotonic() - self._began, 3),
                "state": reloader.state,
                "generation": reloader.index.generation,
                "digest": reloader.index.digest,
                "callbacks": reloader.index.count,
                "directories": reloader.directories(),
                "settings": reloader.settings.as_json(),
                "last_reload": msgspec.Raw(reloader.records.newest(reloader.index)),
                "clients": len(self._pipe.clients),
                "notes": self._notes.last,
            }
        )

    def _tell(self, record: bytes) -> None:
        """Send a record to those who subscribed."""
        line = protocol.notification("reload", record)
        for connection in list(self._subscribers):
            connection.notify(line)


@cache
def version() -> str:
    """This distribution's version."""
    # It brings half of the `email` package along, which a start need not wait for.
    import importlib.metadata

    try:
        return importlib.metadata.version("callback-agent")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
