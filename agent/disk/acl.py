"""POSIX access ACLs: who besides the owner may write to a file or directory.

The mode bits do not show the entries of an ACL. With an ACL, the group bits of the mode are its
mask: the most that an entry other than owner and others may grant. So an ACL can grant write
permission only where the mode has group write, and it is read only there.

A default ACL, which files that are created later in a directory inherit, is not read: each file is
judged by its own ACL when it is read.

Source: acl(5), and the kernel's include/uapi/linux/posix_acl_xattr.h for the binary form.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from dataclasses import dataclass

_NAME = "system.posix_acl_access"
_VERSION = 2
_HEADER = struct.Struct("<I")
#: Tag, permissions, user or group id.
_ENTRY = struct.Struct("<HHI")
_USER, _GROUP_OBJ, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10
_WRITE = 2


@dataclass(frozen=True, slots=True)
class Writers:
    """The named users and groups that an ACL lets write, by id; whether the owning group may."""

    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    owning_group: bool = False


def read(handle: int | str, status: os.stat_result) -> bytes | None:
    """The access ACL of a file or directory, None if none can grant write permission.

    `handle` is its descriptor, also one opened with O_PATH, or its path. Blocks. Raises OSError
    where it has an ACL that cannot be read.
    """
    if not status.st_mode & stat.S_IWGRP or stat.S_ISLNK(status.st_mode):
        return None
    if sys.platform != "linux":
        return None
    try:
        return _read(handle)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


if sys.platform == "linux":

    def _read(handle: int | str) -> bytes:
        try:
            return os.getxattr(handle, _NAME)
        except OSError as error:
            if error.errno != errno.EBADF or isinstance(handle, str):
                raise
        # A descriptor opened with O_PATH. The link in /proc leads to the same file without a race.
        try:
            return os.getxattr(f"/proc/self/fd/{handle}", _NAME)
        except FileNotFoundError:
            # /proc is not mounted.
            again = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
            try:
                return os.getxattr(again, _NAME)
            finally:
                os.close(again)


def writers(data: bytes) -> Writers:
    """Who may write by an ACL in its binary form. Raises ValueError if it is malformed."""
    size = len(data) - _HEADER.size
    if size < 0 or size % _ENTRY.size or _HEADER.unpack_from(data)[0] != _VERSION:
        raise ValueError("not an ACL of version 2")
    entries = list(_ENTRY.iter_unpack(data[_HEADER.size :]))
    masks = [permissions for tag, permissions, _ in entries if tag == _MASK]
    mask = masks[0] if masks else _WRITE
    users, groups, owning_group = [], [], False
    for tag, permissions, number in entries:
        if not permissions & mask & _WRITE:
            continue
        if tag == _USER:
            users.append(number)
        elif tag == _GROUP:
            groups.append(number)
        elif tag == _GROUP_OBJ:
            owning_group = True
    return Writers(tuple(users), tuple(groups), owning_group)
