"""What changed on disk, as the causes of a record.

Causes come from two readings that differ. A change of what is served may have no such cause, for
example if a file was missing only while others were written. Then the cause is derived from what
was served before and what is served now. So a record of a change always has a cause.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from agent.core.index import Callback, ServedDirectory
from agent.core.line_diff import Shift
from agent.core.unit import CONF, Unit
from agent.disk.fingerprint import FileInfo, Fingerprint
from agent.disk.snapshot import Snapshot

ChangeKind = Literal["added", "removed", "modified"]


class Cause(NamedTuple):
    """A file or directory that changed."""

    path: str
    change: ChangeKind
    #: What is known of it as it was read; None of one that is gone.
    info: FileInfo | None = None
    #: Of an edited callbacks.conf: the text that was served, and the text that was read.
    edit: tuple[bytes, bytes] | None = None
    #: Of a file that is read: where its lines are now, step by step.
    shifts: tuple[Shift, ...] = ()

    def after(self, earlier: Cause | None) -> Cause:
        """This cause and an earlier one of the same path, as one."""
        if earlier is None:
            return self
        edit = self.edit
        if edit is not None and earlier.edit is not None:
            edit = (earlier.edit[0], edit[1])
        return self._replace(edit=edit, shifts=earlier.shifts + self.shifts)


class ListedDirectory(NamedTuple):
    """A listed directory: what is accepted of it, and its newest reading."""

    unit: Unit | None
    snapshot: Snapshot | None

    def info(self, name: str) -> FileInfo | None:
        """What is known of a file in it; of `.`, of the directory itself."""
        return FileInfo.of(self.snapshot.fingerprints.get(name)) if self.snapshot else None


def of_readings(before: Snapshot | None, now: Snapshot) -> list[Cause]:
    """What changed on disk between two readings of a directory."""
    directory = now.reading.directory
    if before is None:
        return []
    causes = []
    for name in dict.fromkeys((*before.fingerprints, *now.fingerprints)):
        was: Fingerprint | None = before.fingerprints.get(name)
        found = now.fingerprints.get(name)
        if was == found or was is None or found is None:
            continue
        change: ChangeKind = "modified"
        if isinstance(was, int):
            change = "added"
        elif isinstance(found, int):
            change = "removed"
        path = directory if name == "." else os.path.join(directory, name)
        shifts = _shifts(before, now, name) if change == "modified" else ()
        causes.append(Cause(path, change, FileInfo.of(found), None, shifts))
    return causes


def _shifts(before: Snapshot, now: Snapshot, name: str) -> tuple[Shift, ...]:
    """Where the lines of a file moved, if both readings have its text."""
    old, new = before.text(name), now.text(name)
    return () if old is None or new is None else (Shift.between(old, new),)


def with_edit(found: Iterable[Cause], path: str, before: bytes, now: bytes) -> list[Cause]:
    """These causes; the one that the file at `path` was modified has its two texts."""
    return [
        c._replace(edit=(before, now)) if c.path == path and c.change == "modified" else c
        for c in found
    ]


def derived(
    explained: Collection[str],
    before: Mapping[str, ServedDirectory],
    now: Mapping[str, ServedDirectory],
    listed: Mapping[str, ListedDirectory],
    qb_conf: str,
) -> list[Cause]:
    """The causes of what changed in what is served, where no change on disk explains it.

    `explained` has the paths of the changes on disk. `listed` has every listed directory by path.
    """
    found: list[Cause] = []
    for path, served in now.items():
        was, directory = before.get(path), listed.get(path, ListedDirectory(None, None))
        if served is was or path in explained:
            continue
        if was is not None:
            conf_changed = f"{path}/{CONF}" in explained
            for cause in _of_served(was, served, directory, conf_changed):
                # An edited callbacks.conf explains which lines there are.
                if cause.path not in explained and not (conf_changed and cause.change == "added"):
                    found.append(cause)
        elif served.callbacks and qb_conf not in explained:
            # At the start. Later, the cause is qb.conf, which lists the directory.
            found.append(Cause(path, "added", directory.info(".")))
    return found


def _of_served(
    before: ServedDirectory, now: ServedDirectory, directory: ListedDirectory, conf_changed: bool
) -> list[Cause]:
    """What must have changed on disk, given what a directory served before and serves now.

    The unit of `directory` has the lines whose files are missing too. With `conf_changed`,
    callbacks.conf is left out: that it changed is known, and comparing its lines takes time.
    """
    unit = directory.unit
    old = {c.registration.file: c.implementation.digest for c in before.callbacks}
    new = {c.registration.file: c.implementation.digest for c in now.callbacks}
    named = unit.files() if unit else frozenset()
    changes: dict[str, ChangeKind] = {}
    for file in dict.fromkeys((*old, *new)):
        if file not in new and file in named:
            changes[file] = "removed"
        elif file not in old:
            changes[file] = "added"
        elif file in new and old[file] != new[file]:
            changes[file] = "modified"
    if not conf_changed:
        lines = {_line(c) for c in before.callbacks} ^ {_line(c) for c in now.callbacks}
        if any(file in old and file in new for file, _, _ in lines):
            changes[CONF] = "modified"
        elif any(file not in new and file not in named for file in old):
            changes[CONF] = "modified" if named or unit is None else "removed"
    return [
        Cause(
            f"{now.directory}/{file}",
            change,
            None if change == "removed" else directory.info(file),
        )
        for file, change in changes.items()
    ]


def _line(callback: Callback) -> tuple[str, str, int]:
    return callback.registration.file, callback.registration.text, callback.registration.line
