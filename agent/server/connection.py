"""One client's connection: bytes in, responses out, in order.

What the client asks for is carried out by `Requests`; this file reads, sends and closes. A request
that takes long (`reload`, `list`) delays only the later requests of its own connection, which wait
unread. So does a client that does not read its responses.

`Connection` has more than 15 methods because it is four small interfaces in one object: the event
loop's protocol, the client of the batcher and the scheduler, the output of `Requests`, and what the
listener and the handlers call. Splitting it would add calls between objects to every response.
Its state changes in `_move` alone, by the table in `states.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import cast

from agent.rpc import jsonrpc
from agent.rpc.messages import ERRORS, INVALID_REQUEST, TOO_LARGE
from agent.server.access import Peer
from agent.server.outbox import Line, Outbox
from agent.server.requests import Requests
from agent.server.shared import Shared
from agent.server.states import Signal, State, next_state

#: Seconds for which a client that got its final response may still send. Closing earlier would
#: reset the connection, and the client could not read that response.
LINGER = 2.0
#: Seconds after which an unfinished line that is a whole JSON value is taken to lack its line feed.
LINE_FEED_SECONDS = 1.5
#: Bytes of small responses that are written together.
_WRITE_SIZE = 1 << 16


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, shared: Shared, peer: Peer) -> None:
        self._shared = shared
        self.peer = peer
        self.state = State.IDLE
        #: Whether the state is IDLE: an attribute, because it is read for every response.
        self.idle = True
        #: See `batcher.Client`.
        self.fd = -1
        self.scheduled = False
        self.blocked = False
        self._transport: asyncio.Transport | None = None
        self._requests = Requests(shared, self)
        #: Small responses that are written together.
        self._small: list[bytes] = []
        self._small_size = 0
        self._outbox = Outbox(shared.ledger)
        #: The response after which the connection closes.
        self._final_response: bytes | None = None
        #: Ends the connection if its unfinished line does not end in time.
        self._timer: asyncio.TimerHandle | None = None
        #: Bytes that the ledger has counted for requests and for responses in progress.
        self._counted = 0
        #: The monotonic time in seconds since which the client took nothing of what waits for it.
        self._since = 0.0

    def _move(self, signal: Signal) -> None:
        self.state = next_state(self.state, signal)
        self.idle = self.state is State.IDLE

    # Called by the event loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop do not derive from those of asyncio.
        self._transport = cast(asyncio.Transport, transport)
        self.fd = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        if self.idle:
            self._shared.batcher.add(self, data)
        else:
            self.feed(data)

    def eof_received(self) -> bool:
        """The client sends no more. It still gets its responses."""
        self._shared.batcher.flush()
        if self.state is State.CLOSED:
            return False
        if self.state is State.LINGERING:
            return bool(self._outbox)
        was_idle = self.idle
        self._move(Signal.END)
        if was_idle:
            self._close()
        else:
            self.wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._close()

    # Called by others -----------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether nobody waits for a response any more. May be called from any thread."""
        return self.state is State.CLOSED or self.state is State.LINGERING

    @property
    def held_bytes(self) -> int:
        """Bytes that are held for it."""
        return self._counted + self._outbox.size

    def burden(self, now: float) -> float:
        """The bytes that are held for it, times the seconds in which it took none of them, at
        least 1: the client with the most is closed first."""
        return self.held_bytes * max(1.0, now - self._since)

    def feed(self, data: bytes) -> None:
        """Carry out what was read, after what is under way."""
        if self.state is not State.IDLE and self.state is not State.BUSY:
            return
        self._requests.inbox.put(data)
        self._count()
        self._read_or_wait()
        self.wake()

    def wake(self) -> None:
        """Do what is under way, in the connection's turn."""
        if self.state is not State.CLOSED:
            self._move(Signal.WORK)
            self._shared.scheduler.add(self)

    def write(self, line: Line) -> None:
        """Give a line to the kernel, or to the queue if the kernel does not take all of it."""
        if self.state is State.CLOSED or not line:
            return
        sent = 0
        if not self._outbox:
            if not self._counted:
                self._since = time.monotonic()
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
        elif not self.blocked:
            self._send()

    def give(self, response: Line) -> None:
        """Send a response; small ones together with those that follow at once."""
        if isinstance(response, bytes) and len(response) < _WRITE_SIZE:
            self._small.append(response)
            self._small_size += len(response)
            if self._small_size < _WRITE_SIZE:
                return
            response = b""
        self.flush()
        self.write(response)

    def flush(self) -> None:
        """Write the small responses that wait for others."""
        if self._small:
            small = b"".join(self._small)
            self._small.clear()
            self._small_size = 0
            self.write(small)

    def notify(self, line: bytes) -> None:
        """Send a notification between two responses."""
        if self.gone:
            return
        if self._outbox.size > self._shared.limits.max_unread_notifications:
            self.abort()
            return
        self.flush()
        self.write(line)

    def after_response(self, act: Callable[[], None]) -> None:
        """As `shared.Client.after_response`."""
        self._requests.afterwards.append(act)

    def finish(self, response: bytes) -> None:
        """Close with this response, after those to earlier requests."""
        self._final_response = response
        self.line_ended()
        self._move(Signal.FINAL)
        self.wake()

    def shed(self) -> None:
        """Close it and drop what is held for it: too much is held for all clients together."""
        size = self.held_bytes
        self._shared.service.report(
            f"closed a client of user id {self.peer.uid}: {size} bytes were held for it unread, and"
            f" more than {self._shared.limits.max_held_bytes} for all clients"
        )
        if not self._outbox.between_lines or self.state is State.LINGERING:
            # The error would be inside another response.
            self.abort()
            return
        self._outbox.clear()
        self._drop_requests()
        message = (
            f"Connection closed: more than {self._shared.limits.max_held_bytes} bytes are held for"
            " all clients, and most of them for this one; read the responses, and ask for less at"
            " once"
        )
        self.finish(jsonrpc.error(None, TOO_LARGE, message, {"found": f"{size} bytes"}))

    def failed(self, error: Exception) -> None:
        """Report an error that no request should cause, and end this connection, and no other."""
        self._shared.service.report(f"internal error on a connection: {error!r}")
        self.abort()

    def close(self) -> None:
        """Write what the kernel takes at once, then close."""
        self.flush()
        self._close()

    def abort(self) -> None:
        """Close at once."""
        if transport := self._release():
            transport.abort()

    def _close(self) -> None:
        if transport := self._release():
            transport.close()

    def _release(self) -> asyncio.Transport | None:
        """Release all that is held for it. Its descriptor may be reused from now on.

        Returns the transport, which the caller must close; None if this was done before.
        """
        if self.state is State.CLOSED:
            return None
        self._shared.writable.forget(self)
        self._move(Signal.CLOSE)
        transport, self._transport = self._transport, None
        self.fd = -1
        self.line_ended()
        self._drop_requests()
        self._outbox.clear()
        self._shared.clients.discard(self)
        self._shared.service.forget(self)
        return transport

    def _drop_requests(self) -> None:
        self._requests.clear()
        self._small.clear()
        self._small_size = 0
        self._count()

    # Steps ----------------------------------------------------------------------------------------

    def step(self, until: float) -> bool:
        """Do some of what is under way; whether more can be done now."""
        more = True
        while more:
            if self._outbox and not self.blocked:
                self._send()
            if self.state is State.CLOSED:
                return False
            if self._requests.waiting or self._outbox.size > self._shared.max_unread:
                more = False
            elif time.monotonic() > until:
                break
            else:
                more = self._pump()
        self.flush()
        self._count()
        self._read_or_wait()
        return more

    def _pump(self) -> bool:
        """One small piece of work; whether there was one."""
        if self.state is State.LINGERING:
            self._end_output()
            return False
        if self._requests.advance():
            return True
        self.flush()
        if self.state is State.CLOSING:
            self._close_with(self._final_response or b"")
            return True
        unfinished = self._requests.inbox.has_unfinished_line
        if self.state is State.ENDED:
            if not self._outbox:
                self._close()
        elif unfinished:
            self._start_timer()
        elif self.state is State.BUSY and not self._outbox:  # `flush` may have closed it
            self._move(Signal.DONE)
        return False

    def _read_or_wait(self) -> None:
        """Read from the client, or pause while enough of what it sent waits here."""
        transport = self._transport
        if transport is None or self.state is State.ENDED or self.state is State.CLOSING:
            return
        full = self._requests.inbox.full
        if full == transport.is_reading():
            transport.pause_reading() if full else transport.resume_reading()

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
        self._move(Signal.WORK)
        if not self.blocked:
            self._shared.writable.wait(self)

    def _count(self) -> None:
        """Tell the ledger what is held for requests and for responses in progress."""
        size = self._requests.size + self._small_size
        change = size - self._counted
        if change:
            if not self.held_bytes:
                self._since = time.monotonic()
            self._counted = size
            self._shared.ledger.add(change)

    # Unfinished lines, and the end ----------------------------------------------------------------

    def _start_timer(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LINE_FEED_SECONDS, self._line_late)

    def line_ended(self) -> None:
        """Stop the timer of the unfinished line: it has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _line_late(self) -> None:
        self._timer = None
        if self._does_not_read():
            self._start_timer()
        elif jsonrpc.is_whole(self._requests.inbox.unfinished_line):
            self.finish(jsonrpc.no_line_feed())
        else:
            loop = asyncio.get_running_loop()
            left = self._shared.limits.max_line_seconds - LINE_FEED_SECONDS
            self._timer = loop.call_later(left, self._line_too_slow)

    def _does_not_read(self) -> bool:
        """Whether a line is late because the agent does not read at present, not the client."""
        unread = self._outbox.size > self._shared.max_unread
        return self.scheduled or self._requests.waiting or unread

    def _line_too_slow(self) -> None:
        self._timer = None
        if self._does_not_read():
            self._start_timer()
            return
        seconds = self._shared.limits.max_line_seconds
        message = f"{ERRORS[INVALID_REQUEST]}: a line took more than {seconds:.0f} s"
        data = {"expected": "a line that is sent in one go and ends with a line feed"}
        self.finish(jsonrpc.error(None, INVALID_REQUEST, message, data))

    def _close_with(self, response: bytes) -> None:
        """Send the final response; close when the client does, or after LINGER."""
        self._move(Signal.FINAL_SENT)
        self._drop_requests()
        self.write(response)
        asyncio.get_running_loop().call_later(LINGER, self.abort)

    def _end_output(self) -> None:
        """Tell the client that the final response was the last, once it is sent."""
        if not self._outbox and self._final_response is not None and self._transport is not None:
            self._final_response = None
            self._transport.write_eof()
