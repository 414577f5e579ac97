"""The kind of a file system: whether the kernel sees every change of its files.

It is known by the name of its type, as in /proc/self/mountinfo, or by the magic number of
statfs(2). The number is needed where there is no name: btrfs gives its subvolumes device numbers
that no mount has, and /proc may not be mounted.
"""

from __future__ import annotations

import ctypes
import enum
import os
import sys


class Kind(enum.Enum):
    """LOCAL: only this machine changes it. Events report every change, and a read lease shows
    whether a file is open for writing. REMOTE: changes made elsewhere give no event, a lease proves
    nothing, and a bare stat may be stale. UNKNOWN: either is possible. A lease that is refused
    shows a writer; one that is granted proves nothing."""

    LOCAL = "local"
    REMOTE = "remote"
    UNKNOWN = "unknown"


LOCAL_TYPES = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs"),
        *("tmpfs", "devtmpfs", "ramfs", "rootfs", "overlay", "vfat", "exfat", "ntfs3"),
        *("squashfs", "erofs", "iso9660", "udf", "apfs", "hfs"),
    }
)
REMOTE_TYPES = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "fuse", "fuseblk", "ceph"),
        *("afs", "coda", "lustre", "gpfs", "beegfs", "glusterfs", "orangefs", "gfs2", "ocfs2"),
        *("vboxsf", "vmhgfs", "prl_fs", "panfs", "ncpfs"),
    }
)

#: Magic numbers of these types. Sources: statfs(2), and the kernel's include/uapi/linux/magic.h.
_LOCAL_NUMBERS = frozenset(
    {
        *(0xEF53, 0x58465342, 0x9123683E, 0x2FC12FC1, 0xF2F52010, 0x3153464A, 0x52654973),
        *(0xCA451A4E, 0x01021994, 0x858458F6, 0x794C7630, 0x4D44, 0x2011BAB0, 0x7366746E),
        *(0x73717368, 0xE0F5E1E2, 0x9660, 0x15013346, 0x4244),
    }
)
_REMOTE_NUMBERS = frozenset(
    {
        *(0x6969, 0xFF534D42, 0xFE534D42, 0x517B, 0x01021997, 0x65735546, 0x00C36400),
        *(0x5346414F, 0x6B414653, 0x73757245, 0x0BD00BD0, 0x47504653, 0x19830326, 0x20030528),
        *(0x01161970, 0x7461636F, 0x786F4256, 0xBACBACBC, 0xAAD7AAEA, 0x564C),
    }
)
#: Bytes; no struct statfs is larger.
_STATFS = 512


def of_type(name: str) -> Kind:
    """The kind of a file system of this type."""
    if name in LOCAL_TYPES:
        return Kind.LOCAL
    return Kind.REMOTE if name in REMOTE_TYPES or name.startswith("fuse.") else Kind.UNKNOWN


def of(place: int | str) -> Kind:
    """The kind of the file system that an open file or a path is on. Blocks; never raises."""
    if sys.platform != "linux":
        return Kind.UNKNOWN
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_STATFS)
    if isinstance(place, int):
        failed = libc.fstatfs(place, buffer)
    else:
        failed = libc.statfs(os.fsencode(place), buffer)
    if failed:
        return Kind.UNKNOWN
    # The first field, f_type, is a long; on s390x it is an int.
    size = 4 if os.uname().machine == "s390x" else ctypes.sizeof(ctypes.c_long)
    number = int.from_bytes(buffer.raw[:size], sys.byteorder) & 0xFFFFFFFF
    if number in _LOCAL_NUMBERS:
        return Kind.LOCAL
    return Kind.REMOTE if number in _REMOTE_NUMBERS else Kind.UNKNOWN
