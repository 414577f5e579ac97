"""User and group ids: members of groups, and ids that are not mapped in this user namespace.

The user database may be a directory server that does not answer. So it is asked in a thread of its
own, for at most LOOKUP_TIMEOUT seconds, and the result is cached. While a lookup is overdue, no
other is started: at most one thread waits.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
import threading
import time
from collections.abc import Collection
from functools import cache

#: Seconds to wait for the user database. Only the reload of the directory concerned waits.
LOOKUP_TIMEOUT = 2.0
#: Seconds for which a membership is cached: a user who left the group is trusted for as long.
MEMBER_AGE = 60.0
#: Seconds for which it is cached that a user is not a member. Short, so that a new member needs
#: only a reload.
STRANGER_AGE = 1.0
#: Users that are cached; more than own files in any callback directory.
MAX_CACHED = 1024

#: The id that the kernel shows for all ids that are not mapped. Source: user_namespaces(7).
_OVERFLOW_ID = 65534


class _Lookup:
    """One question to the user database: all groups of a user."""

    def __init__(self, uid: int) -> None:
        self.began = time.monotonic()
        self.groups: frozenset[int] | None = None
        self.done = threading.Event()
        self._uid = uid
        threading.Thread(target=self._run, name="asks the user database", daemon=True).start()

    def _run(self) -> None:
        try:
            self.groups = _groups_of(self._uid)
        except OSError:
            self.groups = None
        finally:
            self.done.set()


_lock = threading.Lock()
_lookups: dict[int, _Lookup] = {}


def is_member(uid: int, groups: Collection[int]) -> bool | None:
    """Whether a user is in one of these groups, by the user database; None if it does not say.

    The primary group counts. Blocks, for at most LOOKUP_TIMEOUT seconds.
    """
    with _lock:
        lookup = _lookups.get(uid)
        if lookup is None or _is_old(lookup, groups):
            if any(not other.done.is_set() and _is_overdue(other) for other in _lookups.values()):
                return None
            if len(_lookups) >= MAX_CACHED:
                _lookups.clear()
            try:
                lookup = _lookups[uid] = _Lookup(uid)
            except RuntimeError:
                # No thread can be started at the moment.
                return None
    if not lookup.done.wait(max(0.0, lookup.began + LOOKUP_TIMEOUT - time.monotonic())):
        return None
    return None if lookup.groups is None else not lookup.groups.isdisjoint(groups)


def _is_overdue(lookup: _Lookup) -> bool:
    return time.monotonic() - lookup.began > LOOKUP_TIMEOUT


def _is_old(lookup: _Lookup, groups: Collection[int]) -> bool:
    if not lookup.done.is_set():
        return False
    member = lookup.groups is not None and not lookup.groups.isdisjoint(groups)
    return time.monotonic() - lookup.began > (MEMBER_AGE if member else STRANGER_AGE)


def _groups_of(uid: int) -> frozenset[int]:
    """All groups of a user, none for an unknown one. Blocks. Raises OSError."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    # os.getgrouplist holds the GIL while it waits for a server; ctypes releases it.
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(entry.pw_name)
    size = 64
    while size <= 1 << 16:
        found = (ctypes.c_uint32 * size)()
        count = ctypes.c_int(size)
        if libc.getgrouplist(name, ctypes.c_uint32(entry.pw_gid), found, ctypes.byref(count)) >= 0:
            return frozenset((entry.pw_gid, *found[: count.value]))
        size = max(size * 4, count.value)
    raise OSError(0, "the user is in too many groups")


@cache
def unmapped_uid() -> int | None:
    """The user id that is shown for all owners who are not mapped in this user namespace.

    None if all ids are mapped. If it cannot be read, the kernel's default: not to trust a user of
    this machine is safer than to trust a stranger.
    """
    return _unmapped("uid")


@cache
def unmapped_gid() -> int | None:
    """As `unmapped_uid`, of groups."""
    return _unmapped("gid")


def _unmapped(kind: str) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
            ranges = [[int(number) for number in line.split()] for line in file]
        if any(inside == 0 and count == 0xFFFFFFFF for inside, _, count in ranges):
            return None
        with open(f"/proc/sys/kernel/overflow{kind}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        # A kernel without user namespaces shows every id.
        return None if os.path.exists("/proc/self/status") else _OVERFLOW_ID
