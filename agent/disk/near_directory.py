"""Finds a directory that exists and has nearly the same path as one that is missing."""

from __future__ import annotations

import os
import re
from itertools import islice

from agent.core import look_alikes

#: The most names that are compared: a listed directory that is missing is looked for every second.
MAX_NAMES = 1_000
#: Characters of the shortest name: of shorter ones, too many are one letter away from another.
MIN_NAME = 4

_DIGITS = re.compile(r"\d+")


def near_directory(path: str) -> str | None:
    """A directory that exists and has nearly the same path as the missing, absolute `path`.

    One name of the path may differ: in upper and lower case, in its Unicode normal form, or in one
    letter. Names that differ only in digits belong to another show or shot, and do not count. None
    if no directory is found. Blocks.
    """
    parts = path.split("/")
    for place, wanted in enumerate(parts):
        if wanted and not os.path.lexists("/".join(parts[: place + 1])):
            break
    else:
        return None
    if len(wanted) < MIN_NAME:
        return None
    above = "/".join(parts[:place]) or "/"
    try:
        with os.scandir(above) as entries:
            names = sorted(entry.name for entry in islice(entries, MAX_NAMES) if entry.is_dir())
    except OSError:
        return None
    series = _DIGITS.sub("", wanted)
    near = look_alikes.nearest(wanted, [n for n in names if _DIGITS.sub("", n) != series])
    if near is None:
        return None
    found = "/".join([*parts[:place], near, *parts[place + 1 :]])
    return found if os.path.isdir(found) else None
