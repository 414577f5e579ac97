"""Who is sent each record, and heartbeats.

A subscription begins when the response to `subscribe` is sent. That is later than the request is
carried out, in a batch or where many records were missed. What was recorded meanwhile is sent right
after the response. So a subscriber gets each record once, in order, and after the response.
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
class _Beginning:
    """A subscription whose response is not sent yet."""

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
        connection has sent it. If there is one already, only its heartbeat changes."""
        recorder = self._records.recorder
        beginning = _Beginning(connection, recorder.sequence, params.heartbeat)
        missed = None
        if params.since is not None and params.since.instance == recorder.instance:
            missed = self._records.records_after(params.since.sequence)
        encode = partial(
            results.subscribed,
            self._index(),
            recorder.instance,
            recorder.sequence,
            UNSET if params.since is None else missed,
        )
        connection.after_response(partial(self._begin, beginning))
        return in_worker_if_long(partial(_encoded, beginning, encode), missed or ())

    def unsubscribe(self, connection: Client) -> None:
        """Send nothing more after the response to this request."""
        connection.after_response(partial(self.forget, connection))

    def forget(self, connection: Client) -> None:
        """Send nothing more: the connection is closed, or does not want it."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _begin(self, beginning: _Beginning) -> None:
        connection = beginning.connection
        if not beginning.answered or connection.gone:
            return
        if connection not in self._timers:
            between = self._records.records_after(beginning.sequence)
            if between is None:
                # Some are no longer known, and the response did not say that any were missed.
                connection.abort()
                return
            for record in between:
                connection.notify(jsonrpc.notification("reload", record))
        self.forget(connection)
        self._timers[connection] = None
        if beginning.heartbeat is not None:
            self._beat_later(connection, beginning.heartbeat)

    def _notify(self, record: bytes) -> None:
        line = jsonrpc.notification("reload", record)
        for connection in list(self._timers):
            connection.notify(line)

    def _beat_later(self, connection: Client, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[connection] = loop.call_later(seconds, self._beat, connection, seconds)

    def _beat(self, connection: Client, seconds: float) -> None:
        self._beat_later(connection, seconds)
        # A subscriber that does not read needs no more heartbeats: they would only pile up.
        if not connection.blocked:
            connection.notify(jsonrpc.notification("heartbeat", results.heartbeat(self._index())))


def in_worker_if_long(
    encode: Callable[[], bytes], records: Sequence[bytes]
) -> bytes | Callable[[Spend], bytes]:
    """The result that copies these records; what computes it in a worker if they are long."""
    if sum(map(len, records)) > MAX_INLINE_RECORDS:
        return lambda spend: encode()
    return encode()


def _encoded(beginning: _Beginning, encode: Callable[[], bytes]) -> bytes:
    encoded = encode()
    beginning.answered = True
    return encoded
