"""Makes the C library return unused memory to the system. Source: mallopt(3) of Linux.

By default glibc gives each thread an arena, and the arenas keep the memory of large answers and of
many clients. After ten minutes of hostile clients the agent held twice the memory that it used, and
the figure was still growing. With one arena, and large blocks returned as soon as they are free, it
is constant, and lookups are not slower.
"""

from __future__ import annotations

import contextlib
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

#: Bytes from which on a block is returned as soon as it is free. This is glibc's own initial value;
#: setting it stops glibc from raising it at every large block.
LARGE = 128 << 10


def limit_malloc_arenas() -> None:
    """Use one arena. Call it before the first thread starts: existing arenas stay. Does nothing
    without glibc."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in (
            (_M_ARENA_MAX, 1),
            (_M_MMAP_THRESHOLD, LARGE),
            (_M_TRIM_THRESHOLD, LARGE),
        ):
            libc.mallopt(parameter, value)
