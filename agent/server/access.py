"""Which user is at the other end of a Unix socket, as the kernel reports it, and what they may do.

The modes of the pipe and of its folder protect it first. This check holds even if somebody changed
them.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass

#: Seconds between two messages about the same user.
REPORT_INTERVAL = 60.0
#: Users of whom the last message is remembered; more than a machine has.
MAX_REPORTED = 1000

_SO_PEERGROUPS = 59
#: Bytes of a socket option that Python can read: 256 groups.
_MAX_OPTION = 1024
#: Groups that a process may have on Linux; see limits.h.
_NGROUPS_MAX = 65536
_LOCAL_PEERCRED = 1

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """A process at the other end: its effective user, and all of its groups."""

    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, one: socket.socket) -> Peer:
        """The peer of a connected Unix socket, as it was when it connected. Raises OSError.

        Source: unix(7) and, for the supplementary groups, socket(7) of Linux; unix(4) of macOS.
        """
        if sys.platform == "darwin":
            form = "=IIh2x16I"
            raw = one.getsockopt(0, _LOCAL_PEERCRED, struct.calcsize(form))
            _, uid, count, *groups = struct.unpack(form, raw)
            return cls(uid, frozenset(groups[:count]))
        raw = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3I", raw)
        try:
            raw = one.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                # A Linux before 4.13. The user database is not asked: its server may be down.
                return cls(uid, frozenset((gid,)))
            raw = _many_groups(one)
        groups = struct.unpack(f"{len(raw) // 4}I", raw)
        return cls(uid, frozenset((gid, *groups)))


def _many_groups(one: socket.socket) -> bytes:
    """More groups than Python's `getsockopt` can read. Raises OSError."""
    import ctypes  # Imported late: few users are in so many groups.

    libc = ctypes.CDLL(None, use_errno=True)
    raw = ctypes.create_string_buffer(4 * _NGROUPS_MAX)
    length = ctypes.c_uint(len(raw))
    if libc.getsockopt(one.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, raw, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return raw.raw[: length.value]


class AccessPolicy:
    """Allows root, the agent's user, and the members of one group if there is one."""

    def __init__(self, uid: int, group: int | None, reload_for: str) -> None:
        self._owners = {0, uid}
        self._group = group
        self._reload_for = reload_for
        self._reported: dict[int, float] = {}

    def allows(self, peer: Peer) -> bool:
        """Whether the peer may connect. A refusal is logged, once in REPORT_INTERVAL for each
        user."""
        if peer.uid in self._owners or self._group in peer.groups:
            return True
        now = time.monotonic()
        last = self._reported.get(peer.uid)
        if last is None or now - last >= REPORT_INTERVAL:
            if len(self._reported) >= MAX_REPORTED:
                self._reported.clear()
            self._reported[peer.uid] = now
            _logger.warning("refused a client of user id %d, who may not connect", peer.uid)
        return False

    def allows_reload(self, peer: Peer) -> bool:
        """Whether the peer may ask for a reload."""
        return self._reload_for == "all" or peer.uid in self._owners
