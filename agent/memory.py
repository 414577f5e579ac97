"""Has the C library give memory back that is not used any more. Source: mallopt(3) of Linux.

glibc makes several heaps for a process with threads, and keeps in them what a large answer or a
flood of clients took, the more the longer it runs: after ten minutes of clients that misbehave the
agent held twice as much as it used, and it went on growing. With one heap, and large blocks that
are the kernel's again as soon as they are free, it stays level, and lookups are no slower.
"""

from __future__ import annotations

import contextlib
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

#: Bytes from which on a block is the kernel's again when it is free: glibc's own first value, which
#: to set keeps it from being raised at every large block.
LARGE = 128 << 10


def give_back() -> None:
    """Once for the process. Blocks for some milliseconds; without glibc it does nothing."""
    if sys.platform != "linux":
        return
    # Not at the top: no start need wait for it.
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in (
            (_M_ARENA_MAX, 1),
            (_M_MMAP_THRESHOLD, LARGE),
            (_M_TRIM_THRESHOLD, LARGE),
        ):
            libc.mallopt(parameter, value)
