"""Makes system calls of an agent fail: the Nth call of one kind, once or from then on.

A small library that is loaded before all others stands between the agent and the C library. It is
told what to do through memory that the test shares with it, so one agent serves many trials.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
from pathlib import Path

from support.agents import Agent

_SOURCE = Path(__file__).with_name("inject.c")

#: What network file systems answer as well, though the manual pages do not list it.
_NETWORK = ("EIO", "ESTALE", "ETIMEDOUT")
_STAT = (
    *("EACCES", "EBADF", "EFAULT", "EINVAL", "ELOOP", "ENAMETOOLONG", "ENOENT", "ENOMEM"),
    *("ENOTDIR", "EOVERFLOW"),
)

#: The kinds of calls, in the order of inject.c, each with the errors that the manual pages list for
#: it (section 2; pthread_create: 3).
KINDS: dict[str, tuple[str, ...]] = {
    "open": (
        *("EACCES", "EAGAIN", "EBADF", "EBUSY", "EDQUOT", "EEXIST", "EFAULT", "EFBIG", "EINTR"),
        *("EINVAL", "EISDIR", "ELOOP", "EMFILE", "ENAMETOOLONG", "ENFILE", "ENODEV", "ENOENT"),
        *("ENOMEM", "ENOSPC", "ENOTDIR", "ENXIO", "EOPNOTSUPP", "EOVERFLOW", "EPERM", "EROFS"),
        *("ETXTBSY", *_NETWORK),
    ),
    "read": ("EAGAIN", "EBADF", "EFAULT", "EINTR", "EINVAL", "EISDIR", *_NETWORK),
    "stat": (*_STAT, *_NETWORK),
    "rename": (
        *("EACCES", "EBADF", "EBUSY", "EDQUOT", "EEXIST", "EFAULT", "EINVAL", "EISDIR", "ELOOP"),
        *("EMLINK", "ENAMETOOLONG", "ENOENT", "ENOMEM", "ENOSPC", "ENOTDIR", "ENOTEMPTY", "EPERM"),
        *("EROFS", "EXDEV", *_NETWORK),
    ),
    "fsync": ("EBADF", "EDQUOT", "EINTR", "EINVAL", "EIO", "ENOSPC", "EROFS"),
    # Also what file systems answer that know no locks.
    "flock": (
        *("EBADF", "EINTR", "EINVAL", "ENOLCK", "EWOULDBLOCK"),
        *("ENOSYS", "EOPNOTSUPP", "ENOMEM", *_NETWORK),
    ),
    "lease": (
        *("EACCES", "EAGAIN", "EBADF", "EBUSY", "EDEADLK", "EFAULT", "EINTR", "EINVAL", "EMFILE"),
        *("ENOLCK", "ENOMEM", "ENOTDIR", "EPERM"),
    ),
    "getxattr": ("E2BIG", "ENODATA", "ENOTSUP", "ERANGE", *_STAT, *_NETWORK),
    "write": (
        *("EAGAIN", "EBADF", "EDESTADDRREQ", "EDQUOT", "EFAULT", "EFBIG", "EINTR", "EINVAL", "EIO"),
        *("ENOSPC", "EPERM", "EPIPE"),
    ),
    "stderr": (
        *("EAGAIN", "EBADF", "EDESTADDRREQ", "EDQUOT", "EFAULT", "EFBIG", "EINTR", "EINVAL", "EIO"),
        *("ENOSPC", "EPERM", "EPIPE"),
    ),
    "thread": ("EAGAIN", "EINVAL", "ENOMEM", "EPERM"),
    # fork and clone.
    "process": (
        *("EACCES", "EAGAIN", "EBUSY", "EEXIST", "EINVAL", "ENOMEM", "ENOSPC", "ENOSYS"),
        *("EOPNOTSUPP", "EPERM", "EUSERS"),
    ),
    "exec": (
        *("E2BIG", "EACCES", "EAGAIN", "EFAULT", "EINVAL", "EIO", "EISDIR", "ELIBBAD", "ELOOP"),
        *("EMFILE", "ENAMETOOLONG", "ENFILE", "ENOENT", "ENOEXEC", "ENOMEM", "ENOTDIR", "EPERM"),
        "ETXTBSY",
    ),
    "accept": (
        *("EAGAIN", "EBADF", "ECONNABORTED", "EFAULT", "EINTR", "EINVAL", "EMFILE", "ENFILE"),
        *("ENOBUFS", "ENOMEM", "ENOTSOCK", "EOPNOTSUPP", "EPERM", "EPROTO", "EPROTONOSUPPORT"),
        *("ESOCKTNOSUPPORT", "ENOSR", "ETIMEDOUT"),
    ),
    "bind": (
        *("EACCES", "EADDRINUSE", "EADDRNOTAVAIL", "EBADF", "EFAULT", "EINVAL", "ELOOP"),
        *("ENAMETOOLONG", "ENOENT", "ENOMEM", "ENOTDIR", "ENOTSOCK", "EROFS"),
    ),
}


def available() -> bool:
    """Whether this machine can build the library."""
    return os.uname().sysname == "Linux" and shutil.which("cc") is not None


def _library(folder: Path) -> Path:
    """Build the library in a folder."""
    library = folder / "inject.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-fno-builtin", "-o", library, _SOURCE, "-ldl"],
        check=True,
    )
    return library


class Injector:
    """What is to fail in one agent. Give it to the agent before it is started."""

    #: The places of struct shared in inject.c.
    _PROCESS, _KIND, _NTH, _ERROR, _FOR_EVER, _COUNT, _FAILED = range(7)

    def __init__(self, agent: Agent) -> None:
        path = agent.folder / "inject"
        path.write_bytes(bytes(7 * 8))
        with path.open("r+b") as file:
            self._shared = memoryview(mmap.mmap(file.fileno(), 7 * 8)).cast("q")
        agent.environ |= {"LD_PRELOAD": str(_library(agent.folder)), "INJECT": str(path)}

    def next_process(self) -> None:
        """From now on it is about the next process that starts."""
        self._shared[self._PROCESS] = 0

    def arm(self, kind: str, nth: int, error: int, for_ever: bool) -> None:
        """From now on, count the calls of a kind and let the Nth fail, and those after it if
        `for_ever`. `error` is an errno."""
        self.disarm()
        self._shared[self._NTH] = nth
        self._shared[self._ERROR] = error
        self._shared[self._FOR_EVER] = for_ever
        self._shared[self._COUNT] = self._shared[self._FAILED] = 0
        self._shared[self._KIND] = list(KINDS).index(kind) + 1

    def disarm(self) -> None:
        """Nothing fails from now on."""
        self._shared[self._KIND] = 0

    @property
    def count(self) -> int:
        """How many calls of the kind there were."""
        return self._shared[self._COUNT]

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return self._shared[self._FAILED]


def number(name: str) -> int:
    """The errno of a name."""
    found: int = getattr(errno, name)
    return found
