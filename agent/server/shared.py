"""What all connections share: the memory that is held for them, and the loop's time.

Memory is bounded for all clients together. Over the limit, the client that holds most for longest
is closed.
"""

from __future__ import annotations

import asyncio
import select
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from agent.rpc import jsonrpc
from agent.rpc.messages import Request
from agent.server import batcher
from agent.server.access import Peer
from agent.server.batcher import Answering, Batcher, Scheduler, Writable
from agent.server.outbox import Ledger, Line
from agent.timing import DEFAULTS, PipeLimits

#: Bytes of responses that may wait for one client before no more of its requests are carried out.
MAX_UNREAD = 1 << 20
#: The same while half of `PipeLimits.max_held_bytes` is held. With this and one full read of
#: requests, all connections together stay within it.
MAX_UNREAD_IF_SCARCE = 1 << 15
#: Seconds between two checks whether clients whose requests take long are still connected.
HANGUP_CHECK_INTERVAL = 0.25


class Client(batcher.Client, Protocol):
    """What the service, the handlers and `Shared` know of a connection."""

    peer: Peer

    @property
    def gone(self) -> bool:
        """Whether nobody waits for a response any more. May be called from any thread."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes that are held for it."""
        ...

    def burden(self, now: float) -> float:
        """The bytes that are held for it, times the seconds in which it took none of them, at
        least 1: the client with the most is closed first."""
        ...

    def notify(self, line: bytes) -> None:
        """Send a notification between two responses."""
        ...

    def after_response(self, act: Callable[[], None]) -> None:
        """Call `act` when the response in progress is sent, or queued after those that wait to be
        sent; never, if the connection is closed before."""
        ...

    def shed(self) -> None:
        """Close it and drop what is held for it: too much is held for all clients together."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...

    def close(self) -> None:
        """Write what the kernel takes at once, then close."""
        ...


class Service(Answering, Protocol):
    """What carries requests out. No method raises."""

    def answer(self, request: Request, connection: Client) -> Line | Awaitable[Line]:
        """The response to a request; an awaitable of it if it takes long."""
        ...

    def read(self, line: bytes, connection: Client) -> Awaitable[jsonrpc.Message]:
        """Decode a line in a thread: it is long, or something in it is wrong."""
        ...

    def unreadable(self, error: Exception) -> jsonrpc.Refusal:
        """The response to a line whose decoding raised this error."""
        ...

    def forget(self, connection: Client) -> None:
        """Forget a closed connection."""
        ...

    def report(self, message: str) -> None: ...


class Shared:
    """One for all connections of the pipe."""

    def __init__(
        self, service: Service, clients: set[Client], limits: PipeLimits = DEFAULTS.pipe
    ) -> None:
        self.limits = limits
        self.service = service
        self.clients = clients
        self.batcher = Batcher(service)
        self.scheduler = Scheduler()
        self.writable = Writable(self.scheduler)
        self.ledger = Ledger(limits.max_held_bytes, self._over_limit)
        self._relieving = False
        #: Those whose request is carried out elsewhere: they may hang up meanwhile.
        self._waiting: set[Client] = set()
        self._check: asyncio.TimerHandle | None = None

    @property
    def max_unread(self) -> int:
        """Bytes of responses that may wait for one client before no more of its requests are
        carried out."""
        scarce = self.ledger.total >= self.limits.max_held_bytes // 2
        return MAX_UNREAD_IF_SCARCE if scarce else MAX_UNREAD

    def watch(self, connection: Client) -> None:
        """Abort a connection if its client hangs up, until `unwatch`."""
        self._waiting.add(connection)
        self._check_later()

    def unwatch(self, connection: Client) -> None:
        """End `watch`: the request of the connection is carried out."""
        self._waiting.discard(connection)

    def _check_later(self) -> None:
        if self._check is None:
            loop = asyncio.get_running_loop()
            self._check = loop.call_later(HANGUP_CHECK_INTERVAL, self._check_hangups)

    def _check_hangups(self) -> None:
        self._check = None
        # On other systems, a client that only sends no more looks the same.
        if sys.platform == "linux":
            hangups = select.poll()
            by_fd = {one.fd: one for one in self._waiting if one.fd >= 0}
            for fd in by_fd:
                hangups.register(fd, 0)
            for fd, _ in hangups.poll(0):
                by_fd[fd].abort()
        if self._waiting:
            self._check_later()

    def _over_limit(self) -> None:
        if not self._relieving:
            self._relieving = True
            asyncio.get_running_loop().call_soon(self._relieve)

    def _relieve(self) -> None:
        """Close those that hold most for longest until all is within the limit again."""
        self._relieving = False
        now = time.monotonic()
        while self.ledger.total > self.limits.max_held_bytes:
            worst = max(self.clients, key=lambda one: one.burden(now), default=None)
            if worst is None or not worst.held_bytes:
                return
            worst.shed()
