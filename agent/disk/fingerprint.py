"""Tells by stat whether a file or directory changed, and by a lease whether a file is written.

A fingerprint holds the fields of stat that change with every edit. Equal fingerprints mean equal
bytes only if the bytes were read at least STAT_TRUST_AGE seconds after the fingerprint was first
seen: before Linux 6.13, two writes in one tick of the clock leave equal times. Ages are measured
with the monotonic clock: the clock of a file server differs, and any other clock may be set.

On Linux, a read lease shows whether a file is open for writing: the kernel refuses the lease while
any process has the file open for writing. The lease is released at once, since a lease that is kept
makes writers wait. When a writer comes, the kernel sends SIGIO to the holder of a lease, and the
default action of SIGIO ends the process. So a lease is requested only if SIGIO is ignored or
handled. Source: fcntl(2), F_SETLEASE.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import sys
from typing import NamedTuple

from agent.disk import acl
from agent.disk.filesystems import Kind
from agent.disk.stalls import heartbeat

if sys.platform == "linux":
    import fcntl

#: Seconds between the first sight of a fingerprint and a read of the bytes, from which on the
#: fingerprint stands for these bytes: many ticks of the kernel's clock, which are at most 10 ms.
STAT_TRUST_AGE = 2.0

#: Flags to open a file for reading. Without O_NONBLOCK, opening a named pipe would block.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

#: Errors of the process or the system rather than of the file.
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

#: The fields of stat, or the errno of a stat that failed: a file that is missing and a file that
#: cannot be read differ.
Fingerprint = tuple[int, ...] | int

_MODE, _UID, _SIZE, _MTIME = 2, 3, 5, 6


class FileInfo(NamedTuple):
    """What a person wants to know of a file that changed."""

    uid: int
    #: Nanoseconds since 1970. None for a directory, as is the size in bytes.
    mtime_ns: int | None = None
    size: int | None = None

    @classmethod
    def of(cls, fingerprint: Fingerprint | None) -> FileInfo | None:
        """Taken from a fingerprint. None where stat failed, or nothing is known."""
        if not isinstance(fingerprint, tuple):
            return None
        if stat.S_ISDIR(fingerprint[_MODE]):
            return cls(fingerprint[_UID])
        return cls(fingerprint[_UID], fingerprint[_MTIME], fingerprint[_SIZE])


def of_status(status: os.stat_result, acl_data: bytes | None = None) -> tuple[int, ...]:
    """The fingerprint of a file, or of a directory with its ACL."""
    identity = status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid
    if stat.S_ISDIR(status.st_mode):
        # Without times: they change with every file that an editor creates beside the callbacks. A
        # changed ACL changes only the ctime, so the ACL itself is included.
        return (*identity, hash(acl_data))
    return (*identity, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def of_path(path: str, local: bool) -> Fingerprint:
    """The fingerprint of the file or directory at a path; links are followed. Blocks; never raises.

    Unless `local`, the file is opened: a network file system asks its server at open, and may
    answer a bare stat from a cache.
    """
    heartbeat()
    try:
        if local:
            return _with_acl(path, os.stat(path))
        fd = os.open(path, READ)
        try:
            return _with_acl(fd, os.fstat(fd))
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or errno.EIO


def _with_acl(handle: int | str, status: os.stat_result) -> tuple[int, ...]:
    is_directory = stat.S_ISDIR(status.st_mode)
    return of_status(status, acl.read(handle, status) if is_directory else None)


def is_regular(fingerprint: Fingerprint | None) -> bool:
    """Whether a fingerprint is that of a regular file; false where stat failed."""
    return isinstance(fingerprint, tuple) and stat.S_ISREG(fingerprint[_MODE])


def owner(fingerprint: Fingerprint) -> int | None:
    """The user id of the owner; None where stat failed."""
    return fingerprint[_UID] if isinstance(fingerprint, tuple) else None


def fingerprint_if_closed(path: str, kind: Kind) -> Fingerprint | None:
    """A fingerprint of one file that includes its bytes; None while it is open for writing. Blocks.

    It has no times: on some file systems they change without an edit.
    """
    try:
        fd = os.open(path, READ)
    except OSError as error:
        return None if error.errno == errno.EAGAIN else error.errno or errno.EIO
    try:
        if kind is not Kind.REMOTE and is_open_for_writing(fd):
            return None
        status = os.fstat(fd)
        fields = (status.st_dev, status.st_mode, status.st_uid, status.st_gid)
        if not stat.S_ISREG(status.st_mode):
            return fields
        digest = hashlib.sha256()
        while part := os.read(fd, 1 << 20):
            digest.update(part)
        return (*fields, int.from_bytes(digest.digest(), "big"))
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)


def digest_of(closed: tuple[int, ...]) -> bytes | None:
    """The SHA-256 in a fingerprint of `fingerprint_if_closed`; None if the file is not regular."""
    return closed[-1].to_bytes(32, "big") if stat.S_ISREG(closed[1]) else None


def is_open_for_writing(fd: int) -> bool:
    """Whether any process has an open file open for writing, as far as the kernel shows it.

    Raises OSError where memory or descriptors are short.
    """
    if sys.platform != "linux" or signal.getsignal(signal.SIGIO) is signal.SIG_DFL:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise
        # Another user's file (EACCES), or a file system without leases (EINVAL and others): the
        # quiet period decides.
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def is_path_open_for_writing(path: str) -> bool:
    """As `is_open_for_writing`, by path; false where the file cannot be opened. Blocks."""
    heartbeat()
    try:
        fd = os.open(path, READ)
    except OSError as error:
        return error.errno == errno.EAGAIN
    try:
        return is_open_for_writing(fd)
    except OSError:
        return False
    finally:
        os.close(fd)
