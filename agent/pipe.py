"""The local pipe: a Unix stream socket, its connections, and what each may cost.

Requests are answered in the order in which they came on a connection, as many in one write as one
read brought. An answer that takes time (`reload`) stops its own connection alone: what came behind
it waits there, unread. So does a client that does not read its answers, and one that sends so many
requests at once that others would have to wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import stat
import time
from collections import deque
from collections.abc import Awaitable
from itertools import islice
from typing import Protocol, cast

from agent import protocol
from agent.finding import printable
from agent.peer import Door, Peer
from agent.settings import SettingsError

#: Bytes of answers that may wait for a client before no more of its requests are answered.
MAX_UNREAD = 1 << 20
#: Bytes of notifications that may wait for a subscriber that does not read; then it is closed,
#: so that it learns that it missed some.
MAX_UNREAD_NOTIFICATIONS = 32 << 20
#: Bytes of the answers of one batch, which must be whole before any of it is sent. The rest of its
#: requests are refused, one by one.
MAX_BATCH_BYTES = 64 << 20
#: Seconds for which one connection's requests are answered before the others have their turn.
SLICE = 0.005
#: Seconds for which a client that is told to go may still send, so that it reads why: to close on
#: bytes that nobody read makes the kernel break its writing off, and its reading with an error.
LINGER = 2.0
#: Bytes of one read up to which it is answered together with what others sent; a longer one is
#: answered alone, in pieces of this length.
GATHERED = 4096
#: Connections at the same time. A supervisor has some dozens; each costs some kilobytes.
MAX_CONNECTIONS = 1000
#: Seconds in which a line that was begun must end. A client that is silent between two lines may
#: be so for ever.
MAX_LINE_SECONDS = 30.0
#: The code of a refused connection; JSON-RPC leaves -32000 to -32099 to servers.
REFUSED = -32000
#: The code of a request whose answer does not fit into its batch's.
TOO_MUCH = -32001
#: Connections that wait to be accepted: a farm's supervisor opens its own at once.
BACKLOG = 512
#: Seconds between two looks whether the socket's file is still there.
LOOK = 1.0


class Held(Exception):
    """Another agent holds the pipe."""


class Service(Protocol):
    """What answers requests: encoded results, some of them later."""

    def lookups(
        self, lookups: list[protocol.CommonLookup] | list[protocol.LookupRequest]
    ) -> list[bytes] | None:
        """The answers' lines, None where each must be asked for by itself."""
        ...

    def answer(
        self, request: protocol.Request, connection: Connection
    ) -> bytes | Awaitable[bytes]: ...


class Turn:
    """What clients sent in one turn of the event loop while nothing of theirs was under way.

    It nearly always is whole lines of lookups: one decode for all, then one write after the other.
    Against answering each when it is read, 16 clients get a sixth more answers in the same time,
    and the slowest of them in two thirds of it.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._clients: list[Connection] = []
        self._parts: list[bytes] = []

    def add(self, client: Connection, data: bytes) -> None:
        """Answer this at the end of the turn, or now, where it is long."""
        if len(data) > GATHERED:
            self._long(client, data)
            return
        parts = self._parts
        if not parts:
            self._loop.call_soon(self.end)
        self._clients.append(client)
        parts.append(data)

    def _long(self, client: Connection, data: bytes) -> None:
        """Answer by pieces what was read at once, and leave the rest to the client's own queue when
        others should have their turn."""
        self.end()
        at, until = 0, time.monotonic() + SLICE
        while client.at_rest and time.monotonic() < until:
            piece = data[at : data.rfind(b"\n", at, at + GATHERED) + 1]
            if not piece or not self._answer([client], [piece]):
                break
            at += len(piece)
        if at < len(data):
            client.take(data[at:])

    def end(self) -> None:
        """Answer what came."""
        clients, parts = self._clients, self._parts
        self._clients, self._parts = [], []
        if self._answer(clients, parts):
            return
        several = len(parts) > 1
        for client, data in zip(clients, parts, strict=True):
            if not (several and client.at_rest and self._answer([client], [data])):
                client.take(data)

    def _answer(self, clients: list[Connection], parts: list[bytes]) -> bool:
        """Whether all of it is lookups that can be answered at once, which is done then."""
        lookups = protocol.lookups(parts)
        answers = self._service.lookups(lookups) if lookups else None
        if answers is None:
            return False
        if len(answers) > len(parts):
            lines = iter(answers)
            answers = [b"".join(islice(lines, data.count(b"\n"))) for data in parts]
        for client, line in zip(clients, answers, strict=True):
            # Here and not in a method: it is done for each answer, and counts.
            try:
                sent = os.write(client.fd, line) if client.at_rest else 0
            except OSError:
                sent = 0  # `write` meets it again, and knows what to do
            if sent != len(line):
                client.write(line[sent:])
        return True


class Connection(asyncio.Protocol):
    """One client. Lines in, answers out, in order."""

    def __init__(self, service: Service, clients: set[Connection], door: Door, turn: Turn) -> None:
        self._service = service
        self._clients = clients
        self._turn = turn
        self._door = door
        #: Who asks; nobody until he is let in.
        self.peer = Peer(-1, frozenset())
        #: When the line that is unfinished must be done.
        self._timer: asyncio.TimerHandle | None = None
        self._lines = protocol.Lines()
        #: Lines that came and are not answered yet.
        self._waiting: deque[bytes] = deque()
        self._busy = False
        self._full = False
        self._ended = False
        #: The answer to a line that never ended, after which the connection is closed.
        self._last_words: bytes | None = None
        #: Whether they are sent: what still comes is dropped.
        self._parting = False
        self._transport: asyncio.Transport | None = None
        self.fd = -1
        #: Whether nothing of this client's is under way, neither a request nor an answer that the
        #: kernel did not take yet: what comes may go past both queues.
        self.at_rest = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=MAX_UNREAD)
        self.fd = transport.get_extra_info("socket").fileno()
        self._clients.add(self)
        if len(self._clients) > MAX_CONNECTIONS:
            self._refuse(f"there are {MAX_CONNECTIONS} connections already; try again later")
            return
        try:
            with socket.socket(fileno=os.dup(self.fd)) as one:
                self.peer = Peer.of(one)
        except OSError as error:
            self._refuse(f"the kernel does not say who you are ({error.strerror}); try again")
            return
        if not self._door.admits(self.peer):
            self._refuse(
                f"the user id {self.peer.uid} may not ask: only root, the agent's user and the"
                " members of the group of --pipe-group may"
            )

    def _refuse(self, why: str) -> None:
        assert self._transport is not None
        data = {"expected": "a client that is let in", "found": why}
        self._part(
            self._transport, protocol.error(None, REFUSED, f"Connection refused: {why}", data)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.fd = -1
        self.at_rest = False
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self._clients.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.at_rest:
            self._turn.add(self, data)
        else:
            self.take(data)

    def take(self, data: bytes) -> None:
        """Answer what was read line by line, behind what is under way."""
        if self._parting:
            return
        self.at_rest = False
        try:
            lines = self._lines.feed(data)
        except protocol.LineTooLong as long:
            lines = long.lines
            self._last_words = long.answer
            self._ended = True
        self._waiting.extend(lines)
        if self._timer is not None and (lines or not self._lines.pending):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._lines.pending:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(MAX_LINE_SECONDS, self._too_slow)
        self._work()

    def write(self, answers: bytes) -> None:
        """Write at once what the kernel takes, past the transport's queue, when that is empty. It
        saves a sixth of the time of a lookup."""
        transport = self._transport
        if transport is None:
            return
        sent = 0
        if not transport.get_write_buffer_size():
            try:
                sent = os.write(self.fd, answers)
            except BlockingIOError:
                pass
            except OSError:
                transport.abort()
                return
        if sent != len(answers):
            self.at_rest = False
            transport.write(answers[sent:])

    def _too_slow(self) -> None:
        """A line was begun and not ended."""
        if self._busy or self._full:
            # It is we who do not read.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(MAX_LINE_SECONDS, self._too_slow)
            return
        self._timer = None
        message = f"Invalid Request: a line took more than {MAX_LINE_SECONDS:.0f} s"
        data = {"expected": "a line that is sent in one go and ends with a line feed"}
        self._last_words = protocol.error(None, protocol.INVALID_REQUEST, message, data)
        self._ended = True
        self._work()

    def eof_received(self) -> bool:
        """The client sends no more. It still gets its answers."""
        if self._parting:
            return False
        self._turn.end()
        self._ended = True
        self._work()
        return True

    def pause_writing(self) -> None:
        self._full = True
        self.at_rest = False

    def resume_writing(self) -> None:
        self._full = False
        self._work()

    def notify(self, line: bytes) -> None:
        """Send a notification between two answers."""
        if self._transport is None or self._parting:
            return
        if self._transport.get_write_buffer_size() > MAX_UNREAD_NOTIFICATIONS:
            self._transport.abort()
            return
        self.write(line)

    def close(self) -> None:
        """Close after what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def _work(self) -> None:
        """Answer what waits, until something must be waited for."""
        transport = self._transport
        if transport is None or self._busy or self._parting:
            return
        answers: list[bytes] = []
        size = 0
        until = time.monotonic() + SLICE
        while self._waiting and not self._full and not self._busy:
            if time.monotonic() > until:
                self._busy = True
                asyncio.get_running_loop().call_soon(self._go_on)
                break
            message = protocol.read(self._waiting.popleft())
            answer = self._answer(message)
            if not isinstance(answer, bytes):
                self._busy = True
                task = asyncio.ensure_future(answer)
                task.add_done_callback(self._answered)
                break
            answers.append(answer)
            size += len(answer)
            if size >= MAX_UNREAD:
                self.write(b"".join(answers))
                answers.clear()
                size = 0
        if answers:
            self.write(b"".join(answers))
        if self._busy or self._full:
            transport.pause_reading()
        elif self._last_words is not None:
            self._part(transport, self._last_words)
        elif self._ended:
            transport.close()
        else:
            if not transport.is_reading():
                transport.resume_reading()
            self.at_rest = not (self._lines.pending or transport.get_write_buffer_size())

    def _part(self, transport: asyncio.Transport, last_words: bytes) -> None:
        """Say the last words and send no more; close when the client does, or after LINGER."""
        self._parting = True
        self.at_rest = False
        transport.write(last_words)
        transport.write_eof()
        if not transport.is_reading():
            transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def _go_on(self) -> None:
        self._busy = False
        self._work()

    def _answered(self, task: asyncio.Future[bytes]) -> None:
        self._busy = False
        if not task.cancelled() and self._transport is not None:
            self.write(task.result())
            self._work()

    def _answer(
        self, message: protocol.Request | protocol.Refusal | protocol.Batch
    ) -> bytes | Awaitable[bytes]:
        if isinstance(message, protocol.Refusal):
            return message.answer
        if isinstance(message, protocol.Batch):
            return self._batch(message)
        return self._service.answer(message, self)

    def _batch(self, batch: protocol.Batch) -> bytes | Awaitable[bytes]:
        answers: list[bytes] = []
        size = 0
        until = time.monotonic() + SLICE
        for place, item in enumerate(batch.items):
            if time.monotonic() > until or size > MAX_BATCH_BYTES:
                return self._rest_of_batch(answers, None, batch.items[place:])
            answer = self._answer(item)
            if not isinstance(answer, bytes):
                return self._rest_of_batch(answers, answer, batch.items[place + 1 :])
            answers.append(answer)
            size += len(answer)
        return protocol.batch(answers)

    async def _rest_of_batch(
        self,
        answers: list[bytes],
        first: Awaitable[bytes] | None,
        items: list[protocol.Request | protocol.Refusal],
    ) -> bytes:
        if first is not None:
            answers.append(await first)
        size = sum(map(len, answers))
        until = 0.0
        for item in items:
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + SLICE
                if self._transport is None:
                    # Nobody waits for it any more.
                    return b""
            if size > MAX_BATCH_BYTES and not isinstance(item, protocol.Refusal):
                message = "Batch refused from here on: its answers are too large"
                data = {"expected": f"answers of at most {MAX_BATCH_BYTES} bytes in one batch"}
                answers.append(protocol.error(item.id, TOO_MUCH, message, data))
                continue
            answer = self._answer(item)
            answers.append(answer if isinstance(answer, bytes) else await answer)
            size += len(answers[-1])
        return protocol.batch(answers)


class Pipe:
    """The socket, its lock, and its connections."""

    def __init__(self, path: str, group: int | None = None) -> None:
        self.path = path
        #: Whose members may connect, besides root and the agent's user.
        self._group = group
        self.clients: set[Connection] = set()
        self._lock = -1
        self._server: asyncio.Server | None = None
        #: Device and inode of the socket's file.
        self._made: tuple[int, int] | None = None

    def lock(self) -> None:
        """Take the pipe, for the life of this process. Raises Held, or SettingsError.

        The lock is the kernel's, on a file beside the pipe: it ends with the process, however that
        ends, so it tells a live agent from what a dead one left.
        """
        path = f"{self.path}.lock"
        shown = printable(path)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            lock = os.open(path, flags, 0o600)
        except OSError as error:
            raise SettingsError(
                f"the lock of the pipe, {shown}, cannot be opened: {error.strerror}"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock)
            os.close(lock)
            raise Held(
                f"another agent (process {holder}) holds the pipe {printable(self.path)};"
                " stop it, or say --pipe FILE"
            ) from None
        except OSError as error:
            os.close(lock)
            raise SettingsError(
                f"the lock of the pipe, {shown}, cannot be taken: {error.strerror};"
                " put the pipe on a file system that supports flock, with --pipe"
            ) from None
        with contextlib.suppress(OSError):
            # Only told: a full disk does not matter.
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = lock
        self._refuse_files()

    def _refuse_files(self) -> None:
        """A pipe's path that is somebody's file is never deleted. Raises SettingsError."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise SettingsError(
                    f"{printable(self.path)} is no pipe but a file of another kind; it is left"
                    " alone: move it away, or say --pipe FILE"
                )

    async def listen(self, service: Service, door: Door) -> None:
        """Make the socket, in the place of a dead agent's, and serve it. Needs the lock.

        Raises SettingsError.
        """
        self._refuse_files()
        listener, bound = None, False
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            listener.bind(self.path)
            bound = True
            # Nobody can connect before it listens, which is after the mode is right.
            if self._group is None:
                os.chmod(self.path, 0o600)
            else:
                os.chown(self.path, -1, self._group)
                os.chmod(self.path, 0o660)
            self._made = _identity(os.lstat(self.path))
        except OSError as error:
            if listener is not None:
                listener.close()
            if bound:
                # Else it would be taken for somebody else's, or, with the inode of the last, for
                # one that is served.
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            raise SettingsError(
                f"the pipe {printable(self.path)} cannot be made: {error.strerror};"
                " say where it is to be with --pipe"
            ) from None
        listener.setblocking(False)
        turn = Turn(service)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Connection(service, self.clients, door, turn), sock=listener, backlog=BACKLOG
        )

    def lost(self) -> bool:
        """Whether the socket's file was removed, or that of its lock, without which another agent
        would take it. Raises SettingsError if something else stands in its place, which is left
        alone."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return True
        if not self._is_locked():
            return True
        if _identity(found) != self._made:
            raise SettingsError(
                "somebody put another file in the place of this agent's pipe,"
                f" {printable(self.path)}: nobody new can ask; remove that file, and the pipe is"
                " made anew"
            )
        return False

    def _is_locked(self) -> bool:
        """Whether the lock that this agent holds is the one that another would find."""
        try:
            found = os.lstat(f"{self.path}.lock")
        except OSError:
            return False
        return _identity(found) == _identity(os.fstat(self._lock))

    async def listen_anew(self, service: Service, door: Door) -> None:
        """Make the socket again, after it was lost. Those who are connected notice nothing.

        Raises SettingsError, or Held where another agent has the pipe by now.
        """
        if not self._is_locked():
            # It was removed as well, and another agent may have taken its place.
            self.lock()
        if self._server is not None:
            self._server.close()
        await self.listen(service, door)

    def stop_listening(self) -> None:
        """Take no more clients, and remove the socket. The lock ends with the process."""
        if self._server is not None:
            self._server.close()
            self.remove()

    def remove(self) -> None:
        """Remove the socket, if it is the one that this agent made."""
        with contextlib.suppress(OSError):
            if _identity(os.lstat(self.path)) == self._made:
                os.unlink(self.path)

    def close(self) -> None:
        """Serve nobody any more."""
        for client in list(self.clients):
            client.close()


def _holder(lock: int) -> str:
    """The process id that the holder of a lock wrote into its file."""
    with contextlib.suppress(OSError):
        written = os.pread(lock, 20, 0).decode("utf-8", "replace").strip()
        if written:
            return printable(written)
    return "unknown"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
