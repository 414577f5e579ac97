"""User and group ids: names, members of groups, and ids that this user namespace does not map.

The user database may be a directory server that does not answer. So it is asked in a thread of its
own, for a limited time, and the answer is cached. While one question is overdue, no other of its
kind is asked: at most one thread of each kind waits.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
import threading
import time
from collections.abc import Callable, Collection
from functools import cache, partial
from typing import Generic, TypeVar

#: Seconds to wait for a user's groups. Only the reload of the directory concerned waits.
MEMBER_TIMEOUT = 2.0
#: Seconds for which a membership is cached: a user who left the group is trusted for as long.
MEMBER_AGE = 60.0
#: Seconds for which it is cached that a user is not a member. Short, so that a new member needs
#: only a reload.
STRANGER_AGE = 1.0
#: Seconds to wait for a user's name, which only the next record needs. A directory server that is
#: asked for the first time takes some tenths.
NAME_TIMEOUT = 1.0
#: Seconds for which a name is cached. Names hardly ever change.
NAME_AGE = 600.0
#: Users that are cached; more than own files in any callback directory.
MAX_CACHED = 1024

#: The id that the kernel shows for all ids that are not mapped. Source: user_namespaces(7).
_OVERFLOW_ID = 65534


T = TypeVar("T")


class _Query(Generic[T]):
    """One question to the user database. It is overdue after `timeout` seconds."""

    def __init__(self, ask: Callable[[], T | None], timeout: float) -> None:
        self.began = time.monotonic()
        self.answer: T | None = None
        self.done = threading.Event()
        self._ask = ask
        self._timeout = timeout
        threading.Thread(target=self._run, name="asks the user database", daemon=True).start()

    def _run(self) -> None:
        try:
            self.answer = self._ask()
        except OSError:
            self.answer = None
        finally:
            self.done.set()

    @property
    def age(self) -> float:
        return time.monotonic() - self.began

    @property
    def is_overdue(self) -> bool:
        return not self.done.is_set() and self.age >= self._timeout

    def wait(self) -> T | None:
        """The answer; None if there is none in time."""
        return self.answer if self.done.wait(max(0.0, self._timeout - self.age)) else None


_lock = threading.Lock()
_groups: dict[int, _Query[frozenset[int]]] = {}
_names: dict[int, _Query[str]] = {}


def is_member(uid: int, groups: Collection[int]) -> bool | None:
    """Whether a user is in one of these groups, by the user database; None if it does not say.

    The primary group counts. Blocks, for at most MEMBER_TIMEOUT seconds.
    """

    def is_old(query: _Query[frozenset[int]]) -> bool:
        member = query.answer is not None and not query.answer.isdisjoint(groups)
        return query.age > (MEMBER_AGE if member else STRANGER_AGE)

    found = _asked(_groups, uid, _groups_of, MEMBER_TIMEOUT, is_old)
    return None if found is None else not found.isdisjoint(groups)


def user_name(uid: int) -> str | None:
    """A user's name; None if there is none, or the user database does not say.

    Blocks, for at most NAME_TIMEOUT seconds; then at once, for every user, until it answers.
    """
    return _asked(_names, uid, _name_of, NAME_TIMEOUT, lambda query: query.age > NAME_AGE)


def _asked(
    cached: dict[int, _Query[T]],
    uid: int,
    ask: Callable[[int], T | None],
    timeout: float,
    is_old: Callable[[_Query[T]], bool],
) -> T | None:
    with _lock:
        query = cached.get(uid)
        if query is None or (query.done.is_set() and is_old(query)):
            if any(other.is_overdue for other in cached.values()):
                return None
            if len(cached) >= MAX_CACHED:
                cached.clear()
            try:
                query = cached[uid] = _Query(partial(ask, uid), timeout)
            except RuntimeError:
                # No thread can be started at the moment.
                return None
    return query.wait()


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


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
