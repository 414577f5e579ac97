"""Who is sent each record, and heartbeats.

A subscription begins when the response to `subscribe` is sent. That is later than the request is
carried out, in a batch or where many records were missed. What was recorded meanwhile is sent right
behind the response. So a subscriber gets each record once, in order, and after the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec import UNSET

from agent.core.index import Index
from agent.reload.publisher import Publisher
from agent.rpc import jsonrpc, results
from agent.rpc.messages import SubscribeParams
from agent.rpc.results import Spend
from agent.server.shared import Client

#: Bytes of records up to which they are copied on the loop, in some 20 us.
MAX_INLINE_RECORDS = 1 << 16


@dataclass
class _Begins:
    """A subscription whose response is in the making."""

    connection: Client
    #: The newest record that the response covers.
    sequence: int
    heartbeat: float | None
    #: Whether the response is a result.
    answered: bool = False


class Subscriptions:
    """The connections that subscribed. For the event loop."""

    def __init__(self, records: Publisher, index: Callable[[], Index]) -> None:
        """`index` returns the index that is served now."""
        self._records = records
        self._index = index
        #: For each subscriber, what sends its next heartbeat.
        self._timers: dict[Client, asyncio.TimerHandle | None] = {}
        records.listeners.append(self._notify)

    def subscribe(
        self, params: SubscribeParams, connection: Client
    ) -> bytes | Callable[[Spend], bytes]:
        """The result of `subscribe`, or what computes it. The subscription begins when the
        connection has sent it. One that the connection has already gets the new heartbeat."""
        recorder = self._records.recorder
        begins = _Begins(connection, recorder.sequence, params.heartbeat)
        missed = None
        if params.since is not None and params.since.instance == recorder.instance:
            missed = self._records.after(params.since.sequence)
        encode = partial(
            results.subscribed,
            self._index(),
            recorder.instance,
            recorder.sequence,
            UNSET if params.since is None else missed,
        )
        connection.after_response(partial(self._begin, begins))
        return in_worker_if_long(partial(_encoded, begins, encode), missed or ())

    def unsubscribe(self, connection: Client) -> None:
        """Send nothing more after the response that is in the making."""
        connection.after_response(partial(self.forget, connection))

    def forget(self, connection: Client) -> None:
        """Send nothing more: the connection is closed, or does not want it."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _begin(self, begins: _Begins) -> None:
        connection = begins.connection
        if not begins.answered or connection.gone:
            return
        if connection not in self._timers:
            between = self._records.after(begins.sequence)
            if between is None:
                # It would not know that it missed some.
                connection.abort()
                return
            for record in between:
                connection.notify(jsonrpc.notification("reload", record))
        self.forget(connection)
        self._timers[connection] = None
        if begins.heartbeat is not None:
            self._beat_later(connection, begins.heartbeat)

    def _notify(self, record: bytes) -> None:
        line = jsonrpc.notification("reload", record)
        for connection in list(self._timers):
            connection.notify(line)

    def _beat_later(self, connection: Client, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[connection] = loop.call_later(seconds, self._beat, connection, seconds)

    def _beat(self, connection: Client, seconds: float) -> None:
        self._beat_later(connection, seconds)
        # Who does not read what was sent would only be sent more and more to read.
        if not connection.blocked:
            connection.notify(jsonrpc.notification("heartbeat", results.heartbeat(self._index())))


def in_worker_if_long(
    encode: Callable[[], bytes], records: Sequence[bytes]
) -> bytes | Callable[[Spend], bytes]:
    """The result that copies these records; what computes it in a worker if they are long."""
    if sum(map(len, records)) > MAX_INLINE_RECORDS:
        return lambda spend: encode()
    return encode()


def _encoded(begins: _Begins, encode: Callable[[], bytes]) -> bytes:
    encoded = encode()
    begins.answered = True
    return encoded
