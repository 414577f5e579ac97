"""Reports the agent's state to systemd, if $NOTIFY_SOCKET is set. Source: sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notify:
    """The service manager's socket, if there is one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # `@` stands for the NUL of an abstract address.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: Seconds between two WATCHDOG=1: half of the manager's timeout. None if it has no timeout.
        self.interval: float | None = None
        if ours and address and watchdog.isascii() and watchdog.isdigit():
            self.interval = int(watchdog) / 2e6 or None

    def send(self, *assignments: str) -> None:
        """Send some `NAME=value`. Never blocks; errors are ignored."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            one.sendto("\n".join(assignments).encode(), self._address)
