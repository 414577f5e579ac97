"""What user and group ids mean here: members of groups, and ids without a user in this namespace.

The user database may be a directory server that does not answer. So it is asked in a thread of its
own, for at most LOOKUP_TIMEOUT seconds, and the result is remembered. While a lookup is overdue, no
other is begun: at most one thread waits.
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

#: Seconds to wait for the user database. A reload of the directory waits as long, no other does.
LOOKUP_TIMEOUT = 2.0
#: Seconds for which a membership is remembered: the longest that someone who left the group may
#: still be trusted.
MEMBER_AGE = 60.0
#: Seconds for which it is remembered that a user is not a member. Short, so that a new member only
#: has to ask for a reload.
STRANGER_AGE = 1.0
#: Users that are remembered; more than own files in any callback directory.
MAX_REMEMBERED = 1024

#: The id that the kernel shows for all ids that it cannot show. Source: user_namespaces(7).
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
    """Whether a user is in one of these groups, by the user database; None where it does not tell.

    The primary group counts. Blocks, for at most LOOKUP_TIMEOUT seconds.
    """
    with _lock:
        lookup = _lookups.get(uid)
        if lookup is None or _is_old(lookup, groups):
            if any(not other.done.is_set() and _is_overdue(other) for other in _lookups.values()):
                return None
            if len(_lookups) >= MAX_REMEMBERED:
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
    # os.getgrouplist holds the interpreter's lock while it waits for a server; ctypes does not.
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(entry.pw_name)
    room = 64
    while room <= 1 << 16:
        found = (ctypes.c_uint32 * room)()
        count = ctypes.c_int(room)
        if libc.getgrouplist(name, ctypes.c_uint32(entry.pw_gid), found, ctypes.byref(count)) >= 0:
            return frozenset((entry.pw_gid, *found[: count.value]))
        room = max(room * 4, count.value)
    raise OSError(0, "the user is in too many groups")


@cache
def unmapped_uid() -> int | None:
    """The user id that stands for all owners from outside this process's user namespace.

    None where every id can be shown. Where it cannot be found out, the kernel's default: it is
    better to take a user of this machine for a stranger than the reverse.
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
