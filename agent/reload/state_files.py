"""Files of the state directory, which are read whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from agent.core.unit import MAX_CODE_BYTES, MAX_CONF_BYTES
from agent.disk import acl
from agent.disk.permissions import IGNORE, REFUSE, SafeWalk, Trust
from agent.disk.whole_file import BEGUN, replace

#: How often something is tried until its error counts.
READS = 3
#: The end of the name of a file with code. It follows the hex digest of the content.
_CODE = ".code"

T = TypeVar("T")


class Damaged(ValueError):
    """A file of the state directory does not have the content that it must have."""


def retry(work: Callable[[], T]) -> T:
    """What `work` returns. An OSError counts only if READS attempts raise one: a brief
    shortage must not cost what is stored. FileNotFoundError counts at once."""
    for _ in range(READS - 1):
        try:
            return work()
        except FileNotFoundError:
            raise
        except OSError:
            continue
    return work()


def read(path: str, most: int) -> bytes:
    """The bytes of a regular file. Never waits for another process.

    Raises OSError if READS attempts failed, FileNotFoundError if there is no such file, and Damaged
    if it is of another kind or has more than `most` bytes.
    """
    return retry(lambda: _read(path, most))


def check_folder(folder: str, trust: Trust) -> None:
    """Raise OSError where others may write to a folder, or to one above it and that counts."""
    status = os.stat(folder)
    wrong = trust.check(folder, status, acl.read(folder, status))
    if wrong is None and trust.mode != IGNORE:
        with SafeWalk(trust) as walk:
            os.close(walk.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        if walk.unsafe and trust.mode == REFUSE:
            wrong = walk.unsafe[0]
    if wrong is not None:
        raise OSError(0, f"{wrong.message}; {wrong.hint}")


def _read(path: str, most: int) -> bytes:
    # O_NONBLOCK: opening a FIFO would wait for a writer. O_NOFOLLOW: nothing here is a link.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    # Not `fdopen`: a descriptor of a directory would stay open, and the error would not name it.
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Damaged("it is not a regular file")
        if status.st_size > most:
            raise Damaged(f"it has {status.st_size} bytes; at most {most} are expected")
        # Not `most`: `read` allocates as many bytes as it is asked for.
        return file.read(status.st_size)


def sync_folder(folder: str) -> None:
    """Sync the names in a folder. Blocks. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class CodeFiles:
    """The code of implementations, and the text of each callbacks.conf, in a folder: a file for
    each digest, written once.

    Digests are `sha256:` and hex. Not safe between threads, except for `sync`.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        #: Digests whose files this process has read or written, so their content is right.
        self._stored: set[str] = set()
        #: Those of them that a power failure may still lose.
        self._unsynced: set[str] = set()

    def store(self, digest: str, code: bytes) -> None:
        """Write the code to a file, if it is not there yet. Raises OSError."""
        path = self._path(digest)
        if digest in self._stored:
            # The file may have been removed or truncated since.
            with contextlib.suppress(OSError):
                if os.lstat(path).st_size == len(code):
                    return
        replace(path, code)
        self._stored.add(digest)
        self._unsynced.add(digest)

    def load(self, digest: str) -> bytes:
        """The code. Raises OSError, and Damaged if the file is missing or has other content."""
        algorithm, _, name = digest.partition(":")
        if algorithm != "sha256" or not name.isalnum():
            raise Damaged(f"{digest!r} is not a digest")
        try:
            code = read(self._path(digest), max(MAX_CODE_BYTES, MAX_CONF_BYTES))
        except FileNotFoundError:
            raise Damaged(f"the file {name}{_CODE} is missing") from None
        if hashlib.sha256(code).hexdigest() != name:
            raise Damaged(f"the file {name}{_CODE} has another digest")
        self._stored.add(digest)
        return code

    def sync(self) -> None:
        """Sync what was stored before this call. Blocks. Raises OSError."""
        unsynced = list(self._unsynced)
        for digest in unsynced:
            with contextlib.suppress(FileNotFoundError):
                opened = os.open(self._path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(opened)
                finally:
                    os.close(opened)
        if unsynced:
            sync_folder(self._folder)
            self._unsynced.difference_update(unsynced)

    def remove_others(self, digests: Collection[str]) -> None:
        """Remove the files of all other digests. Raises OSError."""
        used = self.names(digests)
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    continue
                name = entry.name.removesuffix(BEGUN)
                if name.endswith(_CODE) and (name != entry.name or name not in used):
                    os.unlink(entry.path)
        self._stored.intersection_update(digests)
        self._unsynced.intersection_update(digests)

    def forget_stored(self) -> None:
        """Write every file again when it is stored: the folder may have been removed."""
        self._stored.clear()

    @classmethod
    def names(cls, digests: Iterable[str]) -> set[str]:
        """The names of the files of these digests."""
        return {cls._name(digest) for digest in digests}

    @staticmethod
    def is_code(name: str) -> bool:
        """Whether this is the name of a file with code."""
        return name.removesuffix(BEGUN).endswith(_CODE)

    @staticmethod
    def _name(digest: str) -> str:
        return f"{digest.removeprefix('sha256:')}{_CODE}"

    def _path(self, digest: str) -> str:
        return f"{self._folder}/{self._name(digest)}"
