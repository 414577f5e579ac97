"""What is checked of a directory one quiet period after it was read.

All functions block. None reads the bytes of a file: a second reading does that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from agent.disk import fingerprint
from agent.disk.filesystems import Kind
from agent.disk.snapshot import Snapshot
from agent.disk.stalls import heartbeat


def unchanged(snapshot: Snapshot) -> bool:
    """Whether the directory and its files have the same fingerprints as when they were read."""
    return next(changed_names(snapshot), None) is None


def changed_names(snapshot: Snapshot) -> Iterator[str]:
    """The names, as in `Snapshot.fingerprints`, whose fingerprints changed."""
    directory = snapshot.reading.directory
    local = snapshot.kind is Kind.LOCAL
    remote = snapshot.details.remote
    for name, before in snapshot.fingerprints.items():
        path = directory if name == "." else os.path.join(directory, name)
        # Directories on the path may be unreadable for the agent: they are not opened.
        by_stat = (local and name not in remote) or name.startswith("/")
        if fingerprint.of_path(path, by_stat) != before:
            yield name


def confirmed_missing(snapshot: Snapshot) -> frozenset[str]:
    """The names that were missing when they were read, and still are, in the same directory.

    A dangling link is not missing.
    """
    directory = snapshot.reading.directory
    now = fingerprint.of_path(directory, snapshot.kind is Kind.LOCAL)
    if now != snapshot.fingerprints.get("."):
        return frozenset()
    missing = set()
    for name, before in snapshot.fingerprints.items():
        heartbeat()
        if before == errno.ENOENT and not os.path.lexists(os.path.join(directory, name)):
            missing.add(name)
    return frozenset(missing)


def same_names(snapshot: Snapshot) -> bool:
    """Whether the files that were there still are, and those that were missing still are."""
    directory = snapshot.reading.directory
    return all(
        (before == errno.ENOENT) != os.path.lexists(os.path.join(directory, name))
        for name, before in snapshot.fingerprints.items()
        if name != "." and not name.startswith("/")
    )


def same_content(one: Snapshot, other: Snapshot) -> bool:
    """Whether two readings have the same bytes and findings and no file was open for writing.

    Fingerprints do not count: on some file systems they differ at every stat.
    """
    return not one.busy and not other.busy and one.reading == other.reading


def still_written(snapshot: Snapshot) -> bool:
    """Whether one of the files that were open for writing still is.

    The search ends at the first: the directory waits until all of them are closed.
    """
    directory = snapshot.reading.directory
    return any(
        fingerprint.is_path_open_for_writing(os.path.join(directory, name))
        for name in sorted(snapshot.busy)
    )
