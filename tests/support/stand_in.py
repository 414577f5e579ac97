"""A server in place of the agent that does what the real one cannot be made to do: hang up in the
middle of an answer, keep silent, or talk nonsense."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Behaviour = Callable[[socket.socket], None]

ANSWER = {"generation": 1, "digest": "d", "callbacks": [], "partial": []}


class StandIn:
    """Accepts connections; the first behaves as the first of `behaviours` does, and so on.

    A behaviour that returns closes its connection. `requests` are all lines that came.
    """

    def __init__(self, path: Path, behaviours: list[Behaviour]) -> None:
        self.path = str(path)
        self.accepted = 0
        self._behaviours = behaviours
        self._open: list[socket.socket] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        for behaviour in self._behaviours:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(behaviour, connection), daemon=True).start()

    @staticmethod
    def _serve(behaviour: Behaviour, connection: socket.socket) -> None:
        # The client may be gone, or the test over.
        with connection, contextlib.suppress(OSError):
            behaviour(connection)

    def stop(self) -> None:
        for open_socket in [self._socket, *self._open]:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()


#: Starts a server with these behaviours: the fixture `start`.
Start = Callable[..., StandIn]


def requests(connection: socket.socket) -> Iterator[dict[str, Any]]:
    with connection.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)


def line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def answer(request: dict[str, Any], result: Any = ANSWER) -> bytes:
    return line({"jsonrpc": "2.0", "id": request["id"], "result": result})


def well(connection: socket.socket) -> None:
    """Answers every request with what was asked."""
    for request in requests(connection):
        connection.sendall(answer(request, request))


def once(connection: socket.socket) -> None:
    """Answers one request and hangs up."""
    connection.sendall(answer(next(requests(connection))))


def says(*chunks: bytes | Callable[[dict[str, Any]], bytes], hold: bool = False) -> Behaviour:
    """Reads one request, sends these, and hangs up, or (hold) keeps silent."""

    def behave(connection: socket.socket) -> None:
        incoming = requests(connection)
        request = next(incoming)
        for chunk in chunks:
            connection.sendall(chunk if isinstance(chunk, bytes) else chunk(request))
        if hold:
            next(incoming, None)

    return behave


def silent(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def hang_up(connection: socket.socket) -> None:
    pass


def hang_up_after_reading(connection: socket.socket) -> None:
    next(requests(connection))
