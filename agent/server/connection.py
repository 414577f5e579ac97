"""One client's connection, and what all connections share.

Requests are answered in the order in which they came on a connection, as many in one write as one
read brought. An answer that takes time (`reload`, `list`) stops its own connection alone: what came
behind it waits there, unread. So does a client that does not read its answers. What all clients
together let wait is bounded: where it is too much, the one that holds most for longest is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import select
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from agent import schemas
from agent.rpc import jsonrpc as protocol
from agent.server.access import Peer
from agent.server.batcher import Answering, Batcher, Scheduler, Writable
from agent.server.outbox import Ledger, Line, Outbox, joined

#: Bytes of answers that may wait for a client before no more of its requests are answered.
MAX_UNREAD = 1 << 20
#: The same where half of MAX_HELD_BYTES is held. With this and one full read of requests, all
#: connections together stay within it.
MAX_UNREAD_IF_MUCH = 1 << 15
#: Bytes of requests that may wait before no more is read from a client.
MAX_WAITING_INPUT = 1 << 16
#: Bytes of notifications that may wait for a subscriber that does not read; then it is closed,
#: so that it learns that it missed some.
MAX_UNREAD_NOTIFICATIONS = 32 << 20
#: Bytes of the answers of one batch, which must be whole before any of it is sent. The rest of its
#: requests are refused, one by one.
MAX_BATCH_BYTES = 64 << 20
#: Bytes that are held for all clients together: requests, answers in the making, answers unread.
#: Answers that several have not read count once. A fifth of what the systemd unit allows.
MAX_HELD_BYTES = 384 << 20
#: Bytes of memory that a request may take for each byte of its line, once it is decoded. Measured
#: for events as objects, the costliest that is accepted.
DECODED_FACTOR = 8
#: Bytes of a line from which it is decoded in a thread. The decoder needs up to 2 ms for it.
MAX_INLINE_LINE = 1 << 16
#: Bytes of a line up to which it is said at once what is wrong with it, which takes a millisecond.
MAX_INLINE_REFUSAL = 2048
#: Seconds for which a client that is told to go may still send, so that it reads why: to close on
#: bytes that nobody read makes the kernel break its writing off, and its reading with an error.
LINGER = 2.0
#: Seconds in which a line that was begun must end. A client that is silent between two lines may
#: be so for ever.
MAX_LINE_SECONDS = 30.0
#: Seconds between two looks whether clients whose requests take long are still there.
HANGUP_CHECK_INTERVAL = 0.25
#: Bytes of small answers that are written at once.
_WRITE_SIZE = 1 << 16
#: Bytes of lines that are cut at once from what was read.
_PIECE = 4096

#: The code of a refused connection or request; JSON-RPC leaves -32000 to -32099 to servers.
REFUSED = -32000
#: The code of a request whose answer does not fit into its batch's, or into the memory that there
#: is for what is unread.
TOO_MUCH = -32001


class Service(Answering, Protocol):
    """What answers requests: encoded results, some of them later."""

    def answer(
        self, request: protocol.Request, connection: Connection
    ) -> Line | Awaitable[Line]: ...

    def read(self, line: bytes, connection: Connection) -> Awaitable[protocol.Message]:
        """Decode a line beside the loop: it is long, or it must be said what is wrong with it."""
        ...

    def unreadable(self, error: Exception) -> protocol.Refusal:
        """What is answered to a line of which the decoding raised."""
        ...

    def forget(self, connection: Connection) -> None:
        """A connection is closed."""
        ...

    def report(self, message: str) -> None: ...


class Shared:
    """What all connections share: their number, the memory held for them, and the loop's time."""

    def __init__(self, service: Service, clients: set[Connection]) -> None:
        self.service = service
        self.clients = clients
        self.batcher = Batcher(service)
        self.scheduler = Scheduler()
        self.writable = Writable(self.scheduler)
        self.ledger = Ledger(MAX_HELD_BYTES, self._over)
        self._relieving = False
        #: Those whose request is worked on elsewhere: they may hang up meanwhile.
        self.waiting: set[Connection] = set()
        self._looking: asyncio.TimerHandle | None = None

    @property
    def max_unread(self) -> int:
        """Bytes of answers that may wait for one client before no more of its requests are
        answered."""
        return MAX_UNREAD if self.ledger.total < MAX_HELD_BYTES // 2 else MAX_UNREAD_IF_MUCH

    def wait(self, connection: Connection) -> None:
        """Look now and then whether this one is still there, until it is out of `waiting`."""
        self.waiting.add(connection)
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(HANGUP_CHECK_INTERVAL, self._look)

    def _look(self) -> None:
        self._looking = None
        if sys.platform == "linux":
            # Elsewhere a client that only sends no more looks the same.
            hangups = select.poll()
            by_fd = {one.fd: one for one in self.waiting if one.fd >= 0}
            for fd in by_fd:
                hangups.register(fd, 0)
            for fd, _ in hangups.poll(0):
                by_fd[fd].abort()
        if self.waiting:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(HANGUP_CHECK_INTERVAL, self._look)

    def _over(self) -> None:
        if not self._relieving:
            self._relieving = True
            asyncio.get_running_loop().call_soon(self._relieve)

    def _relieve(self) -> None:
        """Close those that hold most for longest until all is within the limit again."""
        self._relieving = False
        now = time.monotonic()
        while self.ledger.total > MAX_HELD_BYTES:
            worst = max(self.clients, key=lambda one: one.burden(now), default=None)
            if worst is None or not worst.held:
                return
            worst.shed()


class State(enum.Enum):
    """Of a connection."""

    OPEN = "requests are answered"
    #: The client sends no more, and still gets its answers.
    ENDED = "the client sends no more"
    #: It has its last answer. What it still sends is dropped until it closes.
    PARTING = "told to go"
    CLOSED = "closed"


class _Batch:
    """A batch that is being answered."""

    def __init__(self, items: list[protocol.Request | protocol.Refusal]) -> None:
        self.items = deque(items)
        self.answers: list[Line] = []
        self.size = 0

    def add(self, answer: Line) -> None:
        self.answers.append(answer)
        self.size += length(answer)

    def line(self) -> Line:
        """The answers in one array, nothing where none is to be answered."""
        if self.size < _WRITE_SIZE:
            whole = [a if isinstance(a, bytes) else b"".join(a) for a in self.answers]
            return protocol.batch(whole)
        pieces = [b"["]
        for answer in self.answers:
            if not answer:
                continue
            parts: tuple[bytes, ...] = (answer,) if isinstance(answer, bytes) else answer
            pieces += [*parts[:-1], parts[-1][:-1], b","]
        pieces[-1] = b"]\n"
        return joined(pieces)


def length(line: Line) -> int:
    """Bytes of a line."""
    return len(line) if isinstance(line, bytes) else sum(map(len, line))


class Connection(asyncio.Protocol):
    """One client. Lines in, answers out, in order."""

    def __init__(self, shared: Shared, peer: Peer) -> None:
        self._shared = shared
        self.peer = peer
        self.state = State.OPEN
        self.fd = -1
        #: See `turns.Client`.
        self.idle = True
        self.scheduled = False
        self.blocked = False
        self._transport: asyncio.Transport | None = None
        #: What was read and not cut into lines yet, and how far it is cut.
        self._input = b""
        self._cut = 0
        self._lines = protocol.Lines()
        #: Lines that are not answered yet.
        self._waiting: deque[bytes] = deque()
        #: The batch that is being answered, and bytes that the request at work may take.
        self._batch: _Batch | None = None
        self._working = 0
        #: What is being worked out elsewhere, and what is done with it.
        self._task: asyncio.Future[Any] | None = None
        self._then: Callable[[Any], None] | None = None
        #: Small answers that are written together.
        self._answers: list[bytes] = []
        self._answers_size = 0
        self._outbox = Outbox(shared.ledger)
        #: The answer after which the connection is closed, once those before it are given.
        self._last: bytes | None = None
        #: When the line that is unfinished must be done.
        self._timer: asyncio.TimerHandle | None = None
        #: Bytes of requests and answers in the making that the ledger has of it, and since when
        #: something waits without getting less.
        self._counted = 0
        self._since = 0.0

    # What the loop calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self.fd = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        if self.idle:
            self._shared.batcher.add(self, data)
        else:
            self.take(data)

    def eof_received(self) -> bool:
        """The client sends no more. It still gets its answers."""
        if self.state is not State.OPEN:
            return False
        self._shared.batcher.flush()
        self.state = State.ENDED
        if self.idle:
            self._close()
        else:
            self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._close()

    # What others call ------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self.state is State.CLOSED

    @property
    def gone(self) -> bool:
        """Whether nobody waits for an answer any more. May be asked from any thread."""
        return self.state is State.CLOSED or self.state is State.PARTING

    @property
    def held(self) -> int:
        """Bytes that are held for it."""
        return self._counted + self._outbox.size

    def burden(self, now: float) -> float:
        """How much it holds, times for how long it took nothing of it, at least a second."""
        return self.held * max(1.0, now - self._since)

    def take(self, data: bytes) -> None:
        """Answer what was read, behind what is under way."""
        if self.state is not State.OPEN or self._last is not None:
            return
        self._input = self._input[self._cut :] + data
        self._cut = 0
        self._count()
        self._read_or_wait()
        self._wake()

    def write(self, line: Line) -> None:
        """Give a line to the kernel, or to the queue where the kernel does not take all of it."""
        if self.closed or not line:
            return
        if not self._outbox:
            if not self._counted:
                self._since = time.monotonic()
            sent = 0
            if isinstance(line, bytes):
                try:
                    sent = os.write(self.fd, line)
                except BlockingIOError:
                    pass
                except OSError:
                    self.abort()
                    return
                if sent == len(line):
                    return
            self._outbox.put(line, sent)
            if sent:
                self._wait_writable()
                return
        else:
            self._outbox.put(line)
        if not self.blocked:
            self._send()

    def notify(self, line: bytes) -> None:
        """Send a notification between two answers."""
        if self.closed or self.state is State.PARTING:
            return
        if self._outbox.size > MAX_UNREAD_NOTIFICATIONS:
            self.abort()
            return
        self._write_answers()
        self.write(line)

    def refuse(self, why: str, code: int = REFUSED) -> None:
        """Say why it may not ask, and close."""
        data = {"expected": "a client that is let in", "found": why}
        self._last = protocol.error(None, code, f"Connection refused: {why}", data)
        self._wake()

    def shed(self) -> None:
        """Close it, and drop what is held for it: all clients together hold too much."""
        message = (
            f"Connection closed: what is held for all clients exceeds {MAX_HELD_BYTES} bytes, and"
            " most of it for this one; read the answers, and ask for less at once"
        )
        size = self.held
        self._shared.service.report(
            f"closed a client of the user id {self.peer.uid} for which {size} bytes were held"
            " unread: together clients exceeded the limit"
        )
        if not self._outbox.between_lines or self.state is State.PARTING:
            # The error would stand inside another answer.
            self.abort()
            return
        self._outbox.clear()
        self._answers.clear()
        self._drop_requests()
        self._last = protocol.error(None, TOO_MUCH, message, {"found": f"{size} bytes"})
        self._wake()

    def failed(self, error: Exception) -> None:
        """A step raised what no request should: this connection ends, and no other."""
        self._shared.service.report(f"internal error on a connection: {error!r}")
        self.abort()

    def close(self) -> None:
        """Close after the kernel took what it takes."""
        if not self.closed:
            self._write_answers()
        self._close()

    def abort(self) -> None:
        """Close at once."""
        transport = self._transport
        self._forget()
        if transport is not None:
            transport.abort()

    def _close(self) -> None:
        transport = self._transport
        self._forget()
        if transport is not None:
            transport.close()

    def _forget(self) -> None:
        """Let go of all that is held for it. The descriptor may be another's from now on."""
        if self.closed:
            return
        self._shared.writable.forget(self)
        self.state = State.CLOSED
        self._transport = None
        self.fd = -1
        self.idle = False
        if self._timer is not None:
            self._timer.cancel()
        self._drop_requests()
        self._outbox.clear()
        self._shared.clients.discard(self)
        self._shared.service.forget(self)

    def _drop_requests(self) -> None:
        self._input, self._cut = b"", 0
        self._lines.clear()
        self._waiting.clear()
        self._batch = None
        self._working = 0
        # It is left to its end: a reload is made, whoever waits for it.
        self._task = None
        self._shared.waiting.discard(self)
        self._count()

    # Steps -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        self.idle = False
        self._shared.scheduler.add(self)

    def step(self, until: float) -> bool:
        """Do some of what is under way; whether more can be done now."""
        while True:
            if self.closed:
                return False
            if self._outbox and not self.blocked:
                self._send()
                if self.closed:
                    return False
            if self._task is not None or self._outbox.size > self._shared.max_unread:
                more = False
                break
            if time.monotonic() > until:
                more = True
                break
            if not self._advance():
                more = False
                break
        self._write_answers()
        self._count()
        self._read_or_wait()
        return more

    def _read_or_wait(self) -> None:
        """Read on, or leave what comes in the sender's buffers while enough waits here."""
        transport = self._transport
        if transport is None or self.state is State.ENDED:
            return
        enough = len(self._input) - self._cut > MAX_WAITING_INPUT
        if enough == transport.is_reading():
            transport.pause_reading() if enough else transport.resume_reading()

    def _advance(self) -> bool:
        """One small piece of work; whether there was one."""
        if self.state is State.PARTING:
            return self._part_further()
        if self._batch is not None:
            self._advance_batch(self._batch)
        elif self._waiting:
            self._read_line(self._waiting.popleft())
        elif self._cut < len(self._input):
            self._cut_lines()
        else:
            return self._rest()
        return True

    def _rest(self) -> bool:
        """All is answered that came."""
        self._working = 0
        self._write_answers()
        if self._last is not None:
            self._part(self._last)
            return True
        if self.state is State.ENDED:
            if not self._outbox:
                self._close()
            return False
        if self._lines.pending and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(MAX_LINE_SECONDS, self._too_slow)
        self.idle = not (self._lines.pending or self._outbox)
        return False

    def _cut_lines(self) -> None:
        data, at = self._input, self._cut
        if not self._lines.pending:
            end = data.rfind(b"\n", at, at + _PIECE) + 1
            if end > at:
                piece = data[at:end]
                self._write_answers()
                self._cut = end
                if not self._shared.batcher.answer([self], [piece]):
                    self._waiting.extend(self._lines.feed(piece))
                return
        # A long line, or one that began before.
        end = data.find(b"\n", at) + 1 or len(data)
        self._cut = end
        try:
            lines = self._lines.feed(data[at:end] if at or end < len(data) else data)
        except protocol.LineTooLong as long:
            lines = long.lines
            self._last = long.answer
            self._input, self._cut = b"", 0
        self._waiting.extend(lines)
        if lines and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read_line(self, line: bytes) -> None:
        self._working = 0
        size = len(line)
        try:
            message = protocol.read_quickly(line) if size <= MAX_INLINE_LINE else None
            if message is None and size <= MAX_INLINE_REFUSAL and schemas.prepared():
                message = protocol.read_slowly(line)
        except Exception as error:  # one request must never end the agent, nor its connection
            message = self._shared.service.unreadable(error)
        if message is None:
            read = self._shared.service.read(line, self)
            self._await(read, lambda found: self._answer_message(found, size))
        else:
            self._answer_message(message, size)

    def _answer_message(self, message: protocol.Message, size: int) -> None:
        if size > MAX_INLINE_REFUSAL:
            self._working = DECODED_FACTOR * size
        if isinstance(message, protocol.Batch):
            self._batch = _Batch(message.items)
        else:
            self._answer(message, self._give)

    def _answer(
        self, message: protocol.Request | protocol.Refusal, give: Callable[[Line], None]
    ) -> None:
        if isinstance(message, protocol.Refusal):
            give(message.answer)
            return
        answer = self._shared.service.answer(message, self)
        if isinstance(answer, bytes | tuple):
            give(answer)
        else:
            self._await(answer, give)

    def _advance_batch(self, batch: _Batch) -> None:
        if not batch.items:
            self._batch = None
            self._give(batch.line())
            return
        item = batch.items.popleft()
        if batch.size > MAX_BATCH_BYTES and not isinstance(item, protocol.Refusal):
            message = "Batch refused from here on: its answers are too large"
            data = {"expected": f"answers of at most {MAX_BATCH_BYTES} bytes in one batch"}
            batch.add(protocol.error(item.id, TOO_MUCH, message, data))
            return
        self._answer(item, batch.add)

    def _give(self, answer: Line) -> None:
        """Send an answer, small ones together with those that follow at once."""
        if isinstance(answer, bytes) and len(answer) < _WRITE_SIZE:
            self._answers.append(answer)
            self._answers_size += len(answer)
            if self._answers_size < _WRITE_SIZE:
                return
            answer = b""
        self._write_answers()
        self.write(answer)

    def _write_answers(self) -> None:
        if self._answers:
            answers = b"".join(self._answers)
            self._answers.clear()
            self._answers_size = 0
            self.write(answers)

    def _send(self) -> None:
        """Write what the kernel takes, and wait for it to take the rest."""
        before = self._outbox.size
        try:
            with contextlib.suppress(BlockingIOError):
                self._outbox.send(self.fd)
        except OSError:
            self.abort()
            return
        if self._outbox.size < before:
            self._since = time.monotonic()
        if self._outbox:
            self._wait_writable()

    def _wait_writable(self) -> None:
        self.idle = False
        if not self.blocked:
            self._shared.writable.wait(self)

    # Work elsewhere --------------------------------------------------------------------------

    def _await(self, work: Awaitable[Any], then: Callable[[Any], None]) -> None:
        self._task = task = asyncio.ensure_future(work)
        self._then = then
        self._shared.wait(self)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if task is not self._task:
            return
        self._task = None
        self._shared.waiting.discard(self)
        then, self._then = self._then, None
        if task.cancelled() or self.closed or then is None:
            return
        if error is not None:
            self.failed(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            return
        then(task.result())
        self._wake()

    # Last words ------------------------------------------------------------------------------

    def _too_slow(self) -> None:
        """A line was begun and not ended."""
        self._timer = None
        if self.scheduled or self._task is not None or self._outbox.size > self._shared.max_unread:
            # It is the agent that does not read.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(MAX_LINE_SECONDS, self._too_slow)
            return
        message = f"Invalid Request: a line took more than {MAX_LINE_SECONDS:.0f} s"
        data = {"expected": "a line that is sent in one go and ends with a line feed"}
        self._last = protocol.error(None, protocol.INVALID_REQUEST, message, data)
        self._wake()

    def _part(self, last: bytes) -> None:
        """Say the last words and send no more; close when the client does, or after LINGER."""
        self.state = State.PARTING
        self.idle = False
        self._drop_requests()
        self.write(last)
        asyncio.get_running_loop().call_later(LINGER, self.abort)

    def _part_further(self) -> bool:
        if not self._outbox and self._last is not None and self._transport is not None:
            self._last = None
            self._transport.write_eof()
        return False

    def _count(self) -> None:
        """Tell the ledger what is held for requests and answers in the making."""
        size = len(self._input) - self._cut + self._lines.size + sum(map(len, self._waiting))
        size += self._working + self._answers_size
        if self._batch is not None:
            size += self._batch.size
        change = size - self._counted
        if change:
            if not self.held:
                self._since = time.monotonic()
            self._counted = size
            self._shared.ledger.add(change)
