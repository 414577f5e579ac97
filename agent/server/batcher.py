"""How connections share the time of the loop that serves them.

Short reads of whole lookups, which nearly all are, are answered together in the turn of the loop in
which they arrive. Everything else waits in one queue. In each turn a bounded time is spent on it,
in small steps, one connection after the other. A connection that was idle comes before those that
were busy, so a client with few requests never waits for one with many.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections import deque
from itertools import islice
from typing import Protocol

from agent.rpc import jsonrpc
from agent.rpc.messages import UnreadLookup

#: Seconds of each turn of the loop that queued work may take.
TIME_SLICE = 0.005
#: Seconds of one step of one connection.
QUANTUM = 0.0005
#: Bytes of one read up to which it is answered together with those of other clients.
MAX_COALESCED_READ = 4096
#: Bytes from which only the shortest reads are still added: some hundred lookups, which take about
#: half a millisecond.
MAX_COALESCED = 1 << 15
#: One turn in this number is measured: measuring each would cost every lookup. A prime, so that it
#: is not always the same of several clients that take turns.
MEASURED_TURNS = 17
#: Bytes of a read that is always added: a few lookups. A thousand of them take some 10 ms.
SHORT_READ = 512


class Client(Protocol):
    """What the batcher and the scheduler know of a connection."""

    fd: int
    #: Whether nothing is under way: no request, and no response that the kernel did not take.
    idle: bool
    #: Whether it is in the queue of the scheduler.
    scheduled: bool
    #: Whether the kernel takes no more of its responses at present.
    blocked: bool

    def feed(self, data: bytes) -> None:
        """Carry out what was read, after what is under way."""
        ...

    def write(self, line: bytes) -> None: ...

    def step(self, until: float) -> bool:
        """Do some of what is under way; whether more can be done now."""
        ...

    def failed(self, error: Exception) -> None:
        """Note that a step raised this error."""
        ...


class Answering(Protocol):
    """What answers many requests at once."""

    def answer_together(self, lookups: list[UnreadLookup]) -> list[bytes] | None:
        """The response to each lookup; None if any of them cannot be answered at once."""
        ...

    def measured(self, seconds: float, number: int) -> None:
        """Record that `number` lookups took `seconds` each."""
        ...


class Batcher:
    """What idle clients sent in one turn of the event loop.

    Nearly always it is whole lines of lookups: one decoding for all, then one write after the
    other. Compared with answering each read alone, 16 clients get a sixth more responses in the
    same time, and the slowest of them waits a third less.
    """

    def __init__(self, service: Answering) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._clients: list[Client] = []
        self._parts: list[bytes] = []
        self._size = 0
        #: Turns until one is measured, and when the reads of that one began.
        self._unmeasured = 0
        self._began = 0.0

    def add(self, client: Client, data: bytes) -> None:
        """Answer this read at the end of the turn, or leave it to the client's own queue."""
        size = len(data)
        if size > SHORT_READ and (size > MAX_COALESCED_READ or self._size > MAX_COALESCED):
            client.feed(data)
            return
        parts = self._parts
        if not parts:
            self._loop.call_soon(self.flush)
            if not self._unmeasured:
                self._began = time.monotonic()
        self._clients.append(client)
        parts.append(data)
        self._size += size

    def flush(self) -> None:
        """Answer what was added."""
        clients, parts = self._clients, self._parts
        self._clients, self._parts, self._size = [], [], 0
        began, self._began = self._began, 0.0
        if self.answer(clients, parts, began):
            return
        # One of them cannot be answered at once. The others do not wait for it.
        several = len(parts) > 1
        until = time.monotonic() + TIME_SLICE
        for client, data in zip(clients, parts, strict=True):
            quick = several and client.idle and time.monotonic() < until
            if not (quick and self.answer([client], [data])):
                client.feed(data)

    def answer(self, clients: list[Client], parts: list[bytes], began: float = 0.0) -> bool:
        """Answer these reads at once; False if that cannot be done.

        `began` is the monotonic time in seconds of the first of them, 0 for now.
        """
        if not self._unmeasured and not began:
            began = time.monotonic()
        try:
            lookups = jsonrpc.read_together(parts)
        except Exception:  # such as MemoryError: contained where each is answered alone
            return False
        responses = self._service.answer_together(lookups) if lookups else None
        if responses is None:
            return False
        if len(responses) > len(parts):
            lines = iter(responses)
            responses = [b"".join(islice(lines, data.count(b"\n"))) for data in parts]
        for client, line in zip(clients, responses, strict=True):
            # Not a method: the call would cost every response.
            try:
                sent = os.write(client.fd, line) if client.idle else 0
            except OSError:
                sent = 0  # `write` meets the error again, and handles it
            if sent != len(line):
                client.write(line[sent:])
        if self._unmeasured:
            self._unmeasured -= 1
        else:
            self._unmeasured = MEASURED_TURNS - 1
            self._service.measured(time.monotonic() - began, MEASURED_TURNS * len(lookups or ()))
        return True


class Scheduler:
    """One queue of the connections that have work to do."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        #: Those that were idle, and those that already had a step.
        self._new: deque[Client] = deque()
        self._old: deque[Client] = deque()
        self._woken = False

    def add(self, client: Client) -> None:
        """Give a connection its steps, until it has nothing to do."""
        if not client.scheduled:
            client.scheduled = True
            self._new.append(client)
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._woken = False
        until = time.monotonic() + TIME_SLICE
        # However many are new, one of the others has a step in each turn.
        if self._old:
            self._step(self._old.popleft())
        while (self._new or self._old) and time.monotonic() < until:
            self._step((self._new or self._old).popleft())
        if self._new or self._old:
            self._wake()

    def _step(self, client: Client) -> None:
        try:
            more = client.step(time.monotonic() + QUANTUM)
        except Exception as error:
            client.failed(error)
            more = False
        if more:
            self._old.append(client)
        else:
            client.scheduled = False


class Writable:
    """Puts connections back into the queue when the kernel takes more of their responses.

    The transports of the loop are not used for this: they copy what they cannot send.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._selector = selectors.DefaultSelector()
        asyncio.get_running_loop().add_reader(self._selector.fileno(), self._ready)

    def wait(self, client: Client) -> None:
        """Wait for this client, which must not be waiting already."""
        self._selector.register(client.fd, selectors.EVENT_WRITE, client)
        client.blocked = True

    def forget(self, client: Client) -> None:
        """Stop waiting for this client. Call it before its descriptor is closed."""
        if client.blocked:
            self._selector.unregister(client.fd)
            client.blocked = False

    def _ready(self) -> None:
        for key, _ in self._selector.select(0):
            self._selector.unregister(key.fd)
            client: Client = key.data
            client.blocked = False
            self._scheduler.add(client)
