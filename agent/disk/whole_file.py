"""Writes files by rename: a reader finds the old file or the new one, never a part of one."""

from __future__ import annotations

import contextlib
import os
import re
import stat

from agent.core.quoting import printable, shown

#: The end of the name of a file that is being written, beside the one that it replaces.
BEGUN = ".begun"
#: The mode of a file that its owner alone may read.
PRIVATE = 0o600
#: Bytes of a file that are read to find out who wrote it.
_HEAD_BYTES = 200


def replace(path: str, data: bytes, mode: int = PRIVATE, *, sync: bool = False) -> None:
    """Write a file, whole or not at all. With `sync`, its bytes have reached the disk before it
    takes the place of the old one. Otherwise a power failure may lose them. Raises
    OSError."""
    begun = f"{path}{BEGUN}"
    try:
        # Left by a crash, or not a file of the agent. Opening a FIFO would wait.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(begun)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(begun, flags, mode), "wb") as file:
            if mode != PRIVATE:
                os.fchmod(file.fileno(), mode)  # whatever the umask
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.rename(begun, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(begun)
        raise


def check_own(path: str, own: re.Pattern[bytes], option: str, *, remove: bool = False) -> None:
    """Raise OSError unless a file may be replaced or removed: its folder exists, and there is none,
    or its beginning matches `own`, as in every file that this program writes there.

    Unless it is to be removed, the same must be true of the file that `replace` writes beside it.
    An empty file may be replaced: a power failure can empty one that was just written. `option` is
    the option that named the file.
    """
    folder = os.path.dirname(path) or "."
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    if not is_folder:
        raise OSError(
            0,
            f"{printable(folder)} is not a folder that exists: create it, or name another with"
            f" {option}",
        )
    begun = (f"{path}{BEGUN}", f"{printable(path)}{BEGUN}")
    for name, what in ((path, "it"),) if remove else ((path, "it"), begun):
        try:
            found = _what_is_there(name, own)
        except FileNotFoundError:
            continue
        if found:
            raise OSError(
                0,
                f"{what} is {found}; expected no file, or one that this program wrote: name another"
                f" with {option}, or remove this one",
            )


def _what_is_there(path: str, own: re.Pattern[bytes]) -> str:
    """What a path is in words, if it must not be replaced; else an empty text. Raises OSError."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return f"a link to {printable(os.readlink(path))}"
    if stat.S_ISDIR(mode):
        return "a directory"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    # The flags are for what may have taken its place since.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        head = file.read(_HEAD_BYTES)
    if not head or own.match(head):
        return ""
    line = head.splitlines()[0].decode("utf-8", "replace")
    return f'a file of another program and begins with "{shown(line)}"'
