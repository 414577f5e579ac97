"""The local pipe: a Unix stream socket, its lock, and who is let in.

What a connection may ask and cost is in `connection.py`.
"""

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

#: Connections at the same time. A supervisor has some dozens; each costs some kilobytes.
MAX_CONNECTIONS = 1000
#: Descriptors that connections leave free, for reading directories and starting helpers: a reload
#: needs some dozens. Where the process may have few, half of them.
RESERVED_DESCRIPTORS = 128
#: Refused clients that are kept until they had time to read why. Each has a descriptor.
MAX_LINGERING = 16
#: Connections that wait to be accepted: a farm's supervisor opens its own at once.
BACKLOG = 512
#: Connections that are accepted in one turn of the loop: about a millisecond.
MAX_ACCEPTED = 8
#: Seconds without accepting after the system had no descriptor or no memory for a connection.
ACCEPT_PAUSE = 0.5
#: Seconds between two looks whether the socket's file is still there.
LOOK = 1.0


class Held(Exception):
    """Another agent holds the pipe."""


class Pipe:
    """The socket, its lock, and its connections."""

    def __init__(self, path: str, group: int | None = None) -> None:
        self.path = path
        #: Whose members may connect, besides root and the agent's user.
        self._group = group
        self.clients: set[Client] = set()
        self._lock = -1
        self._listener: _Listener | None = None
        self._shared: Shared | None = None
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

    async def listen(self, service: Service, access: AccessPolicy) -> None:
        """Make the socket, in the place of a dead agent's, and serve it. Needs the lock.

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
            # Nobody can connect before it listens, which is after the mode is right.
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
                # Else it would be taken for somebody else's, or, with the inode of the last, for
                # one that is served.
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            raise SettingsError(
                f"the pipe {printable(self.path)} cannot be made: {error.strerror};"
                " say where it is to be with --pipe"
            ) from None
        if self._shared is None:
            self._shared = Shared(service, self.clients)
        self._listener = _Listener(listener, self._shared, access)

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

    async def listen_anew(self, service: Service, access: AccessPolicy) -> None:
        """Make the socket again, after it was lost. Those who are connected notice nothing.

        Raises SettingsError, or Held where another agent has the pipe by now.
        """
        if not self._is_locked():
            # It was removed as well, and another agent may have taken its place.
            self.lock()
        if self._listener is not None:
            self._listener.close()
        await self.listen(service, access)

    def stop_listening(self) -> None:
        """Take no more clients, and remove the socket. The lock ends with the process."""
        if self._listener is not None:
            self._listener.close()
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


class _Listener:
    """Accepts clients, as long as there is room for them."""

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
        """Accept nobody any more."""
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
                # No descriptor, or no memory. The loop would come here again at once.
                self._loop.remove_reader(listening.fileno())
                self._loop.call_later(ACCEPT_PAUSE, self._accept_again)
                return
            # Those that closed meanwhile are noticed before.
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
                client, f"the kernel does not say who you are ({error.strerror}); try again"
            )
            return
        why = self._full(client)
        if why is None and not self._access.allows(peer):
            why = (
                f"the user id {peer.uid} may not ask: only root, the agent's user and the"
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
        """Why there is no room for one more."""
        there = len(self._shared.clients)
        if there >= MAX_CONNECTIONS:
            return f"there are {MAX_CONNECTIONS} connections already; try again later"
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The kernel gives the lowest number that is free: all below it are in use.
        if limit != resource.RLIM_INFINITY and client.fileno() >= limit - reserved(limit):
            return (
                f"there are {there} connections already, all that the limit of {limit} open files"
                " leaves room for; try again later, or raise the agent's limit (ulimit -n,"
                " LimitNOFILE)"
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
        """Say why, and close a little later: a client whose request is unread would otherwise read
        that the connection was reset."""
        data = {"expected": "a client that is let in", "found": why}
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


def reserved(limit: int) -> int:
    """How many of so many descriptors connections leave free."""
    return min(RESERVED_DESCRIPTORS, limit // 2)


def _holder(lock: int) -> str:
    """The process id that the holder of a lock wrote into its file."""
    with contextlib.suppress(OSError):
        written = os.pread(lock, 20, 0).decode("utf-8", "replace").strip()
        if written:
            return printable(written)
    return "unknown"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
