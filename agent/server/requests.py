"""Carries out what one client asks for, in order and in small steps."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from agent.rpc import jsonrpc
from agent.rpc.lines import LineTooLong
from agent.rpc.messages import TOO_LARGE, Request
from agent.server.inbox import Inbox
from agent.server.outbox import Line, joined, length
from agent.server.shared import Client, Shared

#: Bytes of memory that a request may take for each byte of its line once it is decoded. Measured
#: for events as objects, the costliest that is accepted.
DECODED_FACTOR = 8
#: Bytes of a line from which it is decoded in a thread. The decoder needs up to 2 ms for it.
MAX_INLINE_LINE = 1 << 16
#: Bytes of a line up to which its errors are explained on the loop, in about a millisecond.
MAX_INLINE_REFUSAL = 2048
#: Bytes of the responses of a batch from which they are not copied into its line.
_MIN_PIECES = 1 << 16


class BatchResponse:
    """The requests of a batch, and the responses to those that are carried out."""

    def __init__(self, items: list[Request | jsonrpc.Refusal]) -> None:
        self.items = deque(items)
        self.size = 0
        self._responses: list[Line] = []

    def add(self, response: Line) -> None:
        """Add the response to the next item."""
        self._responses.append(response)
        self.size += length(response)

    def line(self) -> Line:
        """All responses in one array; empty if there are none."""
        if self.size < _MIN_PIECES:
            whole = [r if isinstance(r, bytes) else b"".join(r) for r in self._responses]
            return jsonrpc.batch(whole)
        pieces = [b"["]
        for response in self._responses:
            if response:
                parts = (response,) if isinstance(response, bytes) else response
                pieces += [*parts[:-1], parts[-1][:-1], b","]
        pieces[-1] = b"]\n"
        return joined(pieces)


class Output(Client, Protocol):
    """Where the responses go: the connection."""

    def give(self, response: Line) -> None:
        """Send a response; small ones together with those that follow at once."""
        ...

    def flush(self) -> None:
        """Write the small responses that wait for others."""
        ...

    def finish(self, response: bytes) -> None:
        """Close with this response, after those to earlier requests."""
        ...

    def line_ended(self) -> None:
        """Stop the timer of the unfinished line: it has ended."""
        ...

    def wake(self) -> None:
        """Do what is under way, in the connection's turn."""
        ...


class Requests:
    """What one client asked for, from its bytes to the responses."""

    def __init__(self, shared: Shared, connection: Output) -> None:
        self._shared = shared
        # Weak: two objects that hold each other are freed only by the garbage collector.
        self._output = weakref.ref(connection)
        self.inbox = Inbox()
        self._batch: BatchResponse | None = None
        #: What to do when the response in progress is given.
        self.afterwards: list[Callable[[], None]] = []
        #: Bytes of memory that the request in progress may take.
        self._decoded = 0
        #: The request or line that is carried out elsewhere, and what to do with the outcome.
        self._task: asyncio.Future[Any] | None = None
        self._then: Callable[[Any], None] | None = None

    @property
    def _connection(self) -> Output:
        # It is alive: only the connection calls this object, and `clear` drops what was begun.
        connection = self._output()
        assert connection is not None
        return connection

    @property
    def waiting(self) -> bool:
        """Whether a request is carried out elsewhere; later ones wait for it."""
        return self._task is not None

    @property
    def size(self) -> int:
        """Bytes that are held for requests, and for responses in progress."""
        return self.inbox.size + self._decoded + (self._batch.size if self._batch else 0)

    def advance(self) -> bool:
        """Do one small step. False if there is nothing to do."""
        if self._batch is not None:
            self._advance_batch(self._batch)
            return True
        line = self.inbox.take_line()
        if line is not None:
            self._read_line(line)
            return True
        if self.inbox.has_bytes:
            self._cut()
            return True
        self._decoded = 0
        return False

    def clear(self) -> None:
        """Drop everything. A request that is carried out elsewhere is not stopped: a reload is made
        even if its client is gone."""
        self.inbox.clear()
        self._batch = None
        self.afterwards.clear()
        self._decoded = 0
        self._task = self._then = None
        self._shared.unwatch(self._connection)

    def _cut(self) -> None:
        piece = self.inbox.take_piece()
        if piece is not None:
            self._connection.flush()
            if not self._shared.batcher.answer([self._connection], [piece]):
                self.inbox.split(piece)
            return
        try:
            ended = self.inbox.cut_line()
        except LineTooLong:
            ended = True
            self._connection.finish(jsonrpc.line_too_long())
        if ended:
            self._connection.line_ended()

    def _read_line(self, line: bytes) -> None:
        self._decoded = 0
        size = len(line)
        try:
            message = jsonrpc.read_quickly(line) if size <= MAX_INLINE_LINE else None
            if message is None and size <= MAX_INLINE_REFUSAL:
                message = jsonrpc.read_slowly(line)
        except Exception as error:  # one request must never end the agent, nor its connection
            message = self._shared.service.unreadable(error)
        if message is None:
            read = self._shared.service.read(line, self._connection)
            self._await(read, lambda found: self._carry_out(found, size))
        else:
            self._carry_out(message, size)

    def _carry_out(self, message: jsonrpc.Message, size: int) -> None:
        if size > MAX_INLINE_REFUSAL:
            self._decoded = DECODED_FACTOR * size
        if isinstance(message, jsonrpc.Batch):
            self._batch = BatchResponse(message.items)
        else:
            self._answer(message, self._give)

    def _give(self, response: Line) -> None:
        self._connection.give(response)
        if self.afterwards:
            acts, self.afterwards = self.afterwards, []
            for act in acts:
                act()

    def _answer(self, message: Request | jsonrpc.Refusal, give: Callable[[Line], None]) -> None:
        if isinstance(message, jsonrpc.Refusal):
            give(message.response)
            return
        response = self._shared.service.answer(message, self._connection)
        if isinstance(response, bytes | tuple):
            give(response)
        else:
            self._await(response, give)

    def _advance_batch(self, batch: BatchResponse) -> None:
        if not batch.items:
            self._batch = None
            self._give(batch.line())
            return
        item = batch.items.popleft()
        most = self._shared.limits.max_batch_bytes
        if batch.size > most and not isinstance(item, jsonrpc.Refusal):
            message = "Batch refused from here on: its responses are too large"
            data = {"expected": f"responses of at most {most} bytes in one batch"}
            batch.add(jsonrpc.error(item.id, TOO_LARGE, message, data))
            return
        self._answer(item, batch.add)

    def _await(self, work: Awaitable[Any], then: Callable[[Any], None]) -> None:
        self._task = task = asyncio.ensure_future(work)
        self._then = then
        self._shared.watch(self._connection)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        # Always retrieved: else asyncio logs that the error was never retrieved.
        error = None if task.cancelled() else task.exception()
        if task is not self._task:
            return
        self._task = None
        self._shared.unwatch(self._connection)
        then, self._then = self._then, None
        if task.cancelled() or then is None:
            return
        if error is not None:
            failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            self._connection.failed(failure)
            return
        then(task.result())
        self._connection.wake()
