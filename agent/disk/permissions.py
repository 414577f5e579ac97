"""Who may change what the agent serves, by the rules that sshd and sudo apply to their own files.

The supervisor runs what the agent serves, often as root. So a callback directory, its
callbacks.conf, each implementation, and every directory on the paths to them must be writable only
for root, the agent's user and, where a group is trusted by name, its members: by the group bit, by
an entry of a POSIX ACL, or as the owner (a save by rename changes the owner). A link is checked by
its target, and by every directory on the path to it.

A sticky directory of root, such as /tmp, may be writable for others: they can remove or rename only
what they own there. So there the owner of the next name decides. It does not matter how others may
write to it: by the bit for others, by its group, or by an ACL.

User ids that this process's user namespace does not map are all shown as one id, so their owners
are unknown. They are not trusted, even if the agent itself is shown with that id.

There is no race between check and use: `SafeWalk` opens each directory of a path from the one
before it without following a link, and what is checked is the descriptor that is then read. The
model is sshd's safe_path_fd.

`disk.watch.paths` follows links too, but is a separate walk: it names each directory and
name on a path, also where the path ends at something missing, keeps no descriptors and checks
nothing. Only MAX_LINKS is common to both.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from agent.core.quoting import printable
from agent.disk import acl, identity

REFUSE, WARN, IGNORE = "refuse", "warn", "ignore"

#: Links on the path to one file; the kernel's own limit.
MAX_LINKS = 40
#: Directories that one reading keeps open because links lead there. Real links lead to one or two.
MAX_OPEN = 16

# On Linux, O_PATH opens a directory that may be searched but not listed.
_WALK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Unsafe:
    """A path that untrusted users may change: what is wrong, and the command that corrects it.

    `unknown`: the user database did not answer, so the path may be safe after all.
    """

    path: str
    message: str
    hint: str
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Trust:
    """Who is trusted: root, the agent's user, and the members of some groups."""

    mode: str = IGNORE
    uid: int = field(default_factory=os.geteuid)
    groups: frozenset[int] = frozenset()

    def owner(self, uid: int) -> bool | None:
        """Whether a user is trusted; None where the user database does not answer. Blocks for a
        bounded time."""
        if uid == identity.unmapped_uid():
            return False
        if uid in (0, self.uid):
            return True
        return identity.is_member(uid, self.groups) if self.groups else False

    def group(self, gid: int) -> bool:
        """Whether the members of a group are trusted."""
        return gid in self.groups and gid != identity.unmapped_gid()

    def check(
        self, path: str, status: os.stat_result, acl_data: bytes | None, inside: bool = False
    ) -> Unsafe | None:
        """What is wrong with a file or directory, None if nothing is.

        `acl_data` is its ACL, from `acl.read`. `inside`: it is a directory on the path, in which
        only the next name matters; there a sticky directory of root is safe. May block for a
        bounded time, for the user database.
        """
        wrong = self.check_owner(path, status)
        if wrong is not None:
            return wrong
        if inside and status.st_mode & stat.S_ISVTX and status.st_uid == 0:
            return None
        return self.check_writers(path, status, acl_data)

    def check_owner(self, path: str, status: os.stat_result) -> Unsafe | None:
        """What is wrong with the owner of a file, directory or link, None if nothing is."""
        trusted = self.owner(status.st_uid)
        if trusted:
            return None
        shown, found = printable(path), owner_and_mode(status)
        if status.st_uid == identity.unmapped_uid():
            message = (
                f"{shown} belongs to a user who is not mapped in the agent's user namespace"
                f" ({found}) and may change it"
            )
            return Unsafe(path, message, "map its owner into the namespace, or copy the files")
        hint = f"chown {self.uid} {shlex.quote(shown)}"
        if trusted is None:
            message = (
                f"{shown} belongs to another user ({found}); the user database does not say"
                " whether they are a member of the trusted group"
            )
            return Unsafe(path, message, hint, unknown=True)
        return Unsafe(path, f"{shown} belongs to another user ({found}), who may change it", hint)

    def check_writers(
        self, path: str, status: os.stat_result, acl_data: bytes | None
    ) -> Unsafe | None:
        """What is wrong with who may write to a file or directory besides its owner. As `check`."""
        if acl_data is None and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return None
        # Commands in hints are quoted for a shell.
        shown, quoted = printable(path), shlex.quote(printable(path))
        found = owner_and_mode(status)
        if acl_data is not None:
            wrong = self._check_acl(path, status, acl_data)
            if wrong is not None:
                return wrong
        group_writes = acl_data is None and status.st_mode & stat.S_IWGRP
        by_group = group_writes and not self.group(status.st_gid)
        if status.st_mode & stat.S_IWOTH:
            message = f"{shown} is writable for all users ({found})"
            return Unsafe(path, message, f"chmod {'go' if by_group else 'o'}-w {quoted}")
        if by_group:
            message = f"{shown} is writable for its group, which is not trusted ({found})"
            return Unsafe(path, message, f"chmod g-w {quoted}, or name the group: --trusted-group")
        return None

    def _check_acl(self, path: str, status: os.stat_result, data: bytes) -> Unsafe | None:
        shown, quoted = printable(path), shlex.quote(printable(path))
        try:
            may_write = acl.writers(data)
        except ValueError as error:
            message = f"the ACL of {shown} cannot be read: {error}"
            return Unsafe(path, message, f"remove the ACL: setfacl -b {quoted}")
        users = {uid: self.owner(uid) for uid in may_write.users}
        strangers = [f"u:{uid}" for uid, trusted in users.items() if not trusted]
        strangers += [f"g:{gid}" for gid in may_write.groups if not self.group(gid)]
        by_group = may_write.owning_group and not self.group(status.st_gid)
        if not strangers and not by_group:
            return None
        command = "setfacl"
        if by_group:
            command += " -m g::r-x" if stat.S_ISDIR(status.st_mode) else " -m g::r--"
        if strangers:
            command += f" -x {','.join(strangers)}"
        named = ", ".join([*strangers, *(["its group"] if by_group else [])])
        message = f"{shown} is writable by its ACL for untrusted {named} ({owner_and_mode(status)})"
        return Unsafe(path, message, f"{command} {quoted}", unknown=None in users.values())


def owner_and_mode(status: os.stat_result) -> str:
    """`owner 0, group 0, mode 0644`."""
    mode = stat.S_IMODE(status.st_mode)
    return f"owner {status.st_uid}, group {status.st_gid}, mode {mode:04o}"


class End(NamedTuple):
    """The end of a path: an open directory, the name in it, and the status of that. The descriptor
    is valid until the next walk."""

    directory: int
    name: str
    status: os.stat_result


@dataclass(frozen=True, slots=True)
class _Place:
    """An open directory: its path, what is unsafe on the path to it, and whether untrusted users
    may create names in it."""

    fd: int
    path: str
    unsafe: tuple[Unsafe, ...] = ()
    shared: bool = False


class SafeWalk:
    """Walks along paths, from the root or from an open directory, link by link.

    `unsafe` is what the last walk found. `passed` has each directory of all walks with its status
    and ACL, so that a later change of it can be noticed. The directories at the ends stay open
    until `close`, so that thousands of links into one directory take one walk.
    """

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self.unsafe: list[Unsafe] = []
        self.passed: dict[str, tuple[os.stat_result, bytes | None]] = {}
        self._places: dict[tuple[str, str], _Place] = {}

    def __enter__(self) -> SafeWalk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directories that stayed open."""
        while self._places:
            os.close(self._places.popitem()[1].fd)

    def open(self, path: str, flags: int) -> int:
        """Open the end of an absolute path, with these flags. The end is not checked; the caller
        does that. Blocks. Raises OSError."""
        end = self.find(path)
        return os.open(end.name, flags | os.O_NOFOLLOW, dir_fd=end.directory)

    def find(self, path: str, at: int | None = None, base: str = "/") -> End:
        """The end of `path`. Unless absolute, it begins at the open directory `at` with the path
        `base`. The end is not checked. Blocks. Raises OSError."""
        self.unsafe = []
        if len(self._places) >= MAX_OPEN:
            self.close()
        if at is None:
            path = f"/{path}"
        # The caller checks the directory that a walk begins at.
        place = _Place(-1 if at is None else at, base)
        for _ in range(MAX_LINKS + 1):
            head, _, name = path.rpartition("/")
            if path.startswith("/"):
                head = f"/{head}"
            if name in ("", ".", ".."):
                head, name = path, "."
            if head:
                place = self._enter(place, head)
            self._note(place.unsafe)
            status = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
            if name == ".":
                return End(place.fd, name, status)
            self._note(self._check_name(place, name, status))
            if not stat.S_ISLNK(status.st_mode):
                return End(place.fd, name, status)
            path = os.readlink(name, dir_fd=place.fd)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _enter(self, start: _Place, path: str) -> _Place:
        """The directory at a path that begins at `start`; it stays open. Raises OSError."""
        key = ("" if path.startswith("/") else start.path, path)
        place = self._places.get(key)
        if place is None:
            found: list[Unsafe] = []
            try:
                place = self._walk(start, path, found)
            except OSError:
                self._note(found)
                raise
            place = self._places[key] = replace(place, unsafe=tuple(dict.fromkeys(found)))
        return place

    def _walk(self, start: _Place, path: str, found: list[Unsafe]) -> _Place:
        here = replace(start, fd=os.dup(start.fd)) if path[0] != "/" else self._root(found)
        links = 0
        try:
            steps = _steps(path)
            while steps:
                name = steps.pop(0)
                status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
                found += self._check_name(here, name, status)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    target = os.readlink(name, dir_fd=here.fd)
                    if target.startswith("/"):
                        root = self._root(found)
                        os.close(here.fd)
                        here = root
                    steps = [*_steps(target), *steps]
                    continue
                below = os.open(name, _WALK, dir_fd=here.fd)
                os.close(here.fd)
                here = _Place(below, os.path.normpath(os.path.join(here.path, name)))
                here = self._pass(here, found)
        except BaseException:
            os.close(here.fd)
            raise
        return here

    def _root(self, found: list[Unsafe]) -> _Place:
        fd = os.open("/", _WALK)
        try:
            return self._pass(_Place(fd, "/"), found)
        except BaseException:
            os.close(fd)
            raise

    def _pass(self, here: _Place, found: list[Unsafe]) -> _Place:
        """Judge a directory on the path."""
        status = os.fstat(here.fd)
        acl_data = acl.read(here.fd, status)
        self.passed.setdefault(here.path, (status, acl_data))
        wrong = self._trust.check(here.path, status, acl_data, inside=True)
        found += [wrong] if wrong is not None else []
        shared = self._trust.check_writers(here.path, status, acl_data) is not None
        return replace(here, shared=shared)

    def _check_name(self, place: _Place, name: str, status: os.stat_result) -> list[Unsafe]:
        """In a directory where untrusted users may create names, the owner of the name decides."""
        if not place.shared or name == "..":
            return []
        wrong = self._trust.check_owner(os.path.join(place.path, name), status)
        return [wrong] if wrong is not None else []

    def _note(self, found: Iterable[Unsafe]) -> None:
        self.unsafe += [wrong for wrong in found if wrong not in self.unsafe]


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in ("", ".")]
