"""Who may change what the agent hands out, as sshd and sudo judge it of their own files.

What the agent hands out is run by the supervisor, often as root. So a callback directory, its
callbacks.conf, an implementation, and every directory on the way to them must be writable for
nobody but root, the agent's user and, by the group bit, a group that is trusted by name. A link is
judged by what it leads to, and by every directory on that way too. In a sticky directory of root's,
such as /tmp, what belongs to root or to the agent's user counts as theirs: nobody else can remove
or rename it there.

There is no race between check and use: the way is walked with open descriptors, each opened from
the one before without following a link, and what is judged is the descriptor that is then read.
sshd's safe_path_fd is the model.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from dataclasses import dataclass, field

from agent.finding import printable

REFUSE, WARN, IGNORE = "refuse", "warn", "ignore"

#: The kernel's own limit of links on the way to one file.
MAX_LINKS = 40

# Linux opens a directory to walk through it even where it may not be listed.
_WALK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Unsafe:
    """Something that others may change: its path, what is wrong, and the command that mends it."""

    path: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Trust:
    """Who is trusted: root, the agent's user, and the members of some groups."""

    mode: str = IGNORE
    uid: int = field(default_factory=os.geteuid)
    groups: frozenset[int] = frozenset()

    def judge(self, path: str, status: os.stat_result, inside: bool = False) -> Unsafe | None:
        """What is wrong with an open file or directory. `inside` says that it is a directory on
        the way, in which only the next name matters: there root's sticky ones are well."""
        # The commands are to be pasted into a shell.
        shown, quoted = printable(path), shlex.quote(printable(path))
        mode = stat.S_IMODE(status.st_mode)
        found = f"owner {status.st_uid}, group {status.st_gid}, mode {mode:04o}"
        if status.st_uid not in (0, self.uid):
            message = f"{shown} belongs to another user ({found}), who may change it"
            return Unsafe(path, message, f"chown {self.uid} {quoted}")
        if inside and mode & stat.S_ISVTX and status.st_uid == 0:
            return None
        by_group = mode & stat.S_IWGRP and status.st_gid not in self.groups
        if mode & stat.S_IWOTH:
            message = f"{shown} may be written to by anybody ({found})"
            return Unsafe(path, message, f"chmod {'go' if by_group else 'o'}-w {quoted}")
        if by_group:
            message = f"{shown} may be written to by its group, which is not trusted ({found})"
            return Unsafe(path, message, f"chmod g-w {quoted}, or name the group: --trusted-group")
        return None


class Way:
    """A walk along one path, from the root or from an open directory, link by link.

    `open` gives the descriptor at its end. `unsafe` is what was found on the way, `passed` each
    directory on it with its status, so that a later change of one can be noticed.
    """

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self.unsafe: list[Unsafe] = []
        self.passed: dict[str, os.stat_result] = {}

    def open(self, path: str, flags: int, at: int | None = None, base: str = "/") -> int:
        """Open what is at the end of `path`, which begins at the directory `at`, called `base`,
        unless it is absolute. The end itself is not judged. Raises OSError."""
        here, where = self._root() if at is None or path.startswith("/") else (os.dup(at), base)
        links = 0
        try:
            steps = [step for step in path.split("/") if step not in ("", ".")]
            while steps:
                name = steps.pop(0)
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
                there = os.path.join(where, name)
                sticky = os.fstat(here)
                if sticky.st_mode & stat.S_IWOTH and status.st_uid not in (0, self._trust.uid):
                    # In a sticky directory all depends on whose the name is.
                    wrong = self._trust.judge(there, status)
                    self._note(wrong)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    target = os.readlink(name, dir_fd=here)
                    if target.startswith("/"):
                        root = self._root()
                        os.close(here)
                        here, where = root
                    steps = [*(s for s in target.split("/") if s not in ("", ".")), *steps]
                    continue
                if not steps:
                    return os.open(name, flags | os.O_NOFOLLOW, dir_fd=here)
                below = os.open(name, _WALK, dir_fd=here)
                os.close(here)
                here, where = below, os.path.normpath(there)
                self._pass(where, os.fstat(here))
            # The path was the root, or ended in `..`.
            return os.open(".", flags, dir_fd=here)
        finally:
            os.close(here)

    def _root(self) -> tuple[int, str]:
        root = os.open("/", _WALK)
        self._pass("/", os.fstat(root))
        return root, "/"

    def _pass(self, where: str, status: os.stat_result) -> None:
        if where not in self.passed:
            self.passed[where] = status
            self._note(self._trust.judge(where, status, inside=True))

    def _note(self, wrong: Unsafe | None) -> None:
        if wrong is not None and wrong not in self.unsafe:
            self.unsafe.append(wrong)
