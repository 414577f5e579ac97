"""What the C library and the garbage collector do with memory. Source: mallopt(3) of Linux.

By default glibc gives each thread an arena, and the arenas keep the memory of large answers and of
many clients. After ten minutes of hostile clients the agent held twice the memory that it used, and
the figure was still growing. With one arena, and large blocks returned as soon as they are free, it
is constant, and lookups are not slower.
"""

from __future__ import annotations

import contextlib
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

#: Bytes from which on a block is returned as soon as it is free. This is glibc's own initial value;
#: setting it stops glibc from raising it at every large block.
LARGE = 128 << 10


#: Objects that are made before the collector looks at them once, while modules are loaded. They
#: nearly all stay. With the usual thresholds it looks at them again and again, for 10 ms. If it
#: never looked, a megabyte of garbage would stay.
_WHILE_LOADING = (20_000, 1_000, 1_000)
_usual = gc.get_threshold()


def collect_young_objects_only() -> None:
    """Set the collector for a start. Ends with `freeze_objects`."""
    gc.set_threshold(*_WHILE_LOADING)


def collect_nothing() -> None:
    """Set the collector for what makes many objects and no garbage: collecting would double the
    time. Ends with `freeze_objects`."""
    gc.collect(0)
    gc.disable()


def freeze_objects() -> None:
    """Have the collector never look at the objects of now, and as usual at those to come."""
    gc.freeze()
    gc.set_threshold(*_usual)
    gc.enable()


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
