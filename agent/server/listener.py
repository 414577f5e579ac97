"""The pipe: a Unix stream socket, its lock, and which clients are accepted."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import socket
import stat
from collections import deque

from agent.core.quoting import printable
from agent.rpc import jsonrpc
from agent.rpc.messages import REFUSED
from agent.server.access import AccessPolicy, Peer
from agent.server.connection import LINGER, Connection
from agent.server.shared import Client, Service, Shared
from agent.settings import SettingsError
from agent.timing import DEFAULTS, PipeLimits

#: Descriptors that connections leave free. A reload needs some dozens, to read directories and to
#: start helpers. If the process may have few, half of them.
RESERVED_DESCRIPTORS = 128
#: Refused clients whose sockets stay open for LINGER seconds, so that they can read why.
MAX_LINGERING = 16
#: Connections that may wait to be accepted. A supervisor may open all of its own at once.
BACKLOG = 512
#: Connections that are accepted in one turn of the loop, in about a millisecond.
MAX_ACCEPTED = 8
#: Seconds without accepting after the system lacked a descriptor or memory for a connection.
ACCEPT_PAUSE = 0.5
#: Seconds between two checks whether the file of the socket is still there.
SOCKET_CHECK_INTERVAL = 1.0


class PipeInUse(Exception):
    """Another agent holds the pipe."""


class Pipe:
    """The socket, its lock, and its connections."""

    def __init__(
        self, path: str, group: int | None = None, limits: PipeLimits = DEFAULTS.pipe
    ) -> None:
        self.path = path
        self._limits = limits
        #: The group whose members may connect, besides root and the agent's user.
        self._group = group
        self.clients: set[Client] = set()
        self._lock = -1
        self._listener: _Listener | None = None
        self._shared: Shared | None = None
        #: Device and inode of the file of the socket.
        self._made: tuple[int, int] | None = None

    def lock(self) -> None:
        """Take the pipe for the life of this process. Raises PipeInUse or SettingsError.

        The kernel drops the lock when the process ends, however it ends. So a lock that is held
        means that an agent runs; the file alone means nothing.
        """
        path = f"{self.path}.lock"
        shown = printable(path)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            lock = os.open(path, flags, 0o600)
        except OSError as error:
            raise SettingsError(
                f"the lock of the pipe, {shown}, cannot be opened: {error.strerror};"
                " correct its folder, or use --pipe FILE"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock)
            os.close(lock)
            raise PipeInUse(
                f"another agent (process {holder}) holds the pipe {printable(self.path)};"
                " stop it, or use --pipe FILE"
            ) from None
        except OSError as error:
            os.close(lock)
            raise SettingsError(
                f"the lock of the pipe, {shown}, cannot be taken: {error.strerror};"
                " put the pipe on a file system that supports flock, with --pipe"
            ) from None
        with contextlib.suppress(OSError):
            # For messages only, so a full disk does not matter.
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = lock
        self._refuse_files()

    def _refuse_files(self) -> None:
        """Never delete a file that is not a socket. Raises SettingsError."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise SettingsError(
                    f"{printable(self.path)} is not a socket, and is not replaced; move it away, or"
                    " use --pipe FILE"
                )

    async def listen(self, service: Service, access: AccessPolicy) -> None:
        """Make the socket and serve it. It replaces one that a dead agent left. Needs the lock.

        Raises SettingsError.
        """
        self._refuse_files()
        listener, bound = None, False
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            listener.setblocking(False)
            listener.bind(self.path)
            bound = True
            # Nobody can connect before it listens, so the mode is right by then.
            if self._group is None:
                os.chmod(self.path, 0o600)
            else:
                os.chown(self.path, -1, self._group)
                os.chmod(self.path, 0o660)
            self._made = _identity(os.lstat(self.path))
            listener.listen(BACKLOG)
        except OSError as error:
            if listener is not None:
                listener.close()
            if bound:
                # Otherwise it would count as another program's, or, if it has the inode of the
                # last one, as served.
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            raise SettingsError(
                f"the pipe {printable(self.path)} cannot be made: {error.strerror};"
                " correct its folder, or use --pipe FILE"
            ) from None
        if self._shared is None:
            self._shared = Shared(service, self.clients, self._limits)
        self._listener = _Listener(listener, self._shared, access)

    def is_missing(self) -> bool:
        """Whether the file of the socket was removed, or that of its lock, without which another
        agent would take the pipe. Raises SettingsError if another file is in its place, which is
        not touched."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return True
        if not self._is_locked():
            return True
        if _identity(found) != self._made:
            raise SettingsError(
                f"another file is in the place of this agent's pipe {printable(self.path)}, so no"
                " new client can connect; remove that file, and the pipe is made again"
            )
        return False

    def _is_locked(self) -> bool:
        """Whether the lock that this agent holds is the one that another would try."""
        try:
            found = os.lstat(f"{self.path}.lock")
        except OSError:
            return False
        return _identity(found) == _identity(os.fstat(self._lock))

    async def rebind(self, service: Service, access: AccessPolicy) -> None:
        """Make the socket again after it was lost. Connected clients are not affected.

        Raises SettingsError, or PipeInUse where another agent has the pipe by now.
        """
        if not self._is_locked():
            # It was removed as well, and another agent may have taken its place.
            self.lock()
        if self._listener is not None:
            self._listener.close()
        await self.listen(service, access)

    def stop_listening(self) -> None:
        """Accept no more clients, and remove the socket. The lock ends with the process."""
        if self._listener is not None:
            self._listener.close()
            self.remove()

    def remove(self) -> None:
        """Remove the file of the socket, if it is the one that this agent made."""
        with contextlib.suppress(OSError):
            if _identity(os.lstat(self.path)) == self._made:
                os.unlink(self.path)

    def close(self) -> None:
        """Close all connections."""
        for client in list(self.clients):
            client.close()


class _Listener:
    """Accepts clients, and refuses those that may not connect or for whom there is no room."""

    def __init__(self, listening: socket.socket, shared: Shared, access: AccessPolicy) -> None:
        self._socket: socket.socket | None = listening
        self._shared = shared
        self._access = access
        #: Refused clients, the oldest first.
        self._lingering: deque[socket.socket] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more clients."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        listening = self._socket
        assert listening is not None
        for _ in range(MAX_ACCEPTED):
            try:
                client, _ = listening.accept()
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            except OSError:
                # No descriptor or no memory. Without a pause, the loop would call this at once.
                self._loop.remove_reader(listening.fileno())
                self._loop.call_later(ACCEPT_PAUSE, self._accept_again)
                return
            # Later, so that connections that closed meanwhile are not counted.
            self._loop.call_soon(self._admit, client)

    def _accept_again(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    def _admit(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            peer = Peer.of(client)
        except OSError as error:
            self._refuse(
                client, f"the kernel does not report your user id ({error.strerror}); try again"
            )
            return
        why = self._full(client)
        if why is None and not self._access.allows(peer):
            why = (
                f"user id {peer.uid} may not connect: only root, the agent's user and the"
                " members of the group of --pipe-group may"
            )
        if why is not None:
            self._refuse(client, why)
            return
        connection = Connection(self._shared, peer)
        self._shared.clients.add(connection)
        task = self._loop.create_task(self._open(client, connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _full(self, client: socket.socket) -> str | None:
        """Why there is no room for one more client; None if there is."""
        there = len(self._shared.clients)
        most = self._shared.limits.max_connections
        if there >= most:
            return f"there are {most} connections already; try again later"
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The kernel gives the lowest free number, so all below it are in use.
        if limit != resource.RLIM_INFINITY and client.fileno() >= limit - reserved_descriptors(
            limit
        ):
            return (
                f"there are {there} connections already, as many as the limit of {limit} open files"
                " allows; try again later, or raise the agent's limit (ulimit -n, LimitNOFILE)"
            )
        return None

    async def _open(self, client: socket.socket, connection: Connection) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, client)
        except Exception:
            client.close()
            connection.abort()
            raise

    def _refuse(self, client: socket.socket, why: str) -> None:
        """Say why, and close after LINGER seconds: closing a socket with unread bytes resets it,
        and the client could not read why."""
        data = {"expected": "a client that may connect", "found": why}
        with contextlib.suppress(OSError):
            client.send(jsonrpc.error(None, REFUSED, f"Connection refused: {why}", data))
            client.shutdown(socket.SHUT_WR)
        self._lingering.append(client)
        self._loop.call_later(LINGER, self._close_lingering, client)
        if len(self._lingering) > MAX_LINGERING:
            self._lingering.popleft().close()

    def _close_lingering(self, client: socket.socket) -> None:
        client.close()
        with contextlib.suppress(ValueError):
            self._lingering.remove(client)


def reserved_descriptors(limit: int) -> int:
    """How many descriptors connections leave free, given the limit of the process."""
    return min(RESERVED_DESCRIPTORS, limit // 2)


def _holder(lock: int) -> str:
    """The process id that the holder of a lock wrote into its file, or `unknown`."""
    with contextlib.suppress(OSError):
        written = os.pread(lock, 20, 0).decode("utf-8", "replace").strip()
        if written:
            return printable(written)
    return "unknown"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
