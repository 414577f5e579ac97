"""Finds the directory that was probably meant by a path at which there is none."""

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
    """An existing directory whose path differs from the absolute `path` in one name, and there in
    its case, its normal form or one letter; None if there is none.

    Names that differ in their digits alone are those of another show or shot. Blocks.
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
