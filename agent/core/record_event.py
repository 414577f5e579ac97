"""What a record's event means to a person.

By its event, a record is `held` only if a directory is newly held. Another edit of a directory that
stays held makes a `reloaded` record, though nothing is reloaded.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable

#: The word for a record of another edit of a directory that stays held.
STILL_HELD = "still held"


def is_held_again(event: str, held: Collection[str], touched: Iterable[str]) -> bool:
    """Whether a record is about a directory that was held before and is held after it.

    `held` are all directories that are held after it, `touched` the paths of its causes and of its
    new findings.
    """
    if event not in ("reloaded", "restored") or not held:
        return False
    return any(is_in(path, held) for path in touched)


def word(event: str, changes: bool, held: Collection[str], touched: Iterable[str]) -> str:
    """The event as it is shown: STILL_HELD in place of `reloaded` where such a record changes
    nothing that is served. `changes` says whether it does; the rest is as for `is_held_again`."""
    again = event == "reloaded" and not changes and is_held_again(event, held, touched)
    return STILL_HELD if again else event


def is_in(path: str, directories: Collection[str]) -> bool:
    """Whether a path is one of some listed directories, or of a file in one.

    All files of a directory are directly in it. What is further below may be in another listed
    directory.
    """
    return path in directories or posixpath.dirname(path) in directories
