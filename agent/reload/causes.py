"""What changed on disk, as the causes of a record.

Causes come from two readings that differ. A change of what is served may have no such cause, for
example if a file was missing only while others were written. Then the cause is derived from what
was served before and what is served now. So a record of a change always has a cause.
"""

from __future__ import annotations

import os

from agent.core.index import Callback, ServedDirectory
from agent.core.quoting import encodable
from agent.core.unit import CONF, Unit
from agent.disk.fingerprint import Fingerprint
from agent.disk.snapshot import Snapshot

Cause = dict[str, str]


def cause(path: str, change: str) -> Cause:
    """One cause; `change` is `added`, `removed` or `modified`."""
    return {"path": encodable(path), "change": change}


def of_readings(before: Snapshot | None, now: Snapshot) -> list[Cause]:
    """What changed on disk between two readings of a directory."""
    directory = now.reading.directory
    if before is None:
        return []
    causes = []
    for name in dict.fromkeys((*before.fingerprints, *now.fingerprints)):
        was: Fingerprint | None = before.fingerprints.get(name)
        mark = now.fingerprints.get(name)
        if was == mark or was is None or mark is None:
            continue
        change = "modified"
        if isinstance(was, int):
            change = "added"
        elif isinstance(mark, int):
            change = "removed"
        causes.append(cause(directory if name == "." else os.path.join(directory, name), change))
    return causes


def of_served(before: ServedDirectory, now: ServedDirectory, unit: Unit | None) -> list[Cause]:
    """What must have changed on disk, given what a directory served before and serves now.
    `unit` is what is accepted of it now, with the lines whose files are missing."""
    old = {c.registration.file: c.implementation.digest for c in before.callbacks}
    new = {c.registration.file: c.implementation.digest for c in now.callbacks}
    named = unit.files() if unit else frozenset()
    causes = []
    for file in dict.fromkeys((*old, *new)):
        if file not in new and file in named:
            causes.append(cause(f"{now.directory}/{file}", "removed"))
        elif file not in old:
            causes.append(cause(f"{now.directory}/{file}", "added"))
        elif file in new and old[file] != new[file]:
            causes.append(cause(f"{now.directory}/{file}", "modified"))
    lines = {_line(c) for c in before.callbacks} ^ {_line(c) for c in now.callbacks}
    if any(file in old and file in new for file, _, _ in lines):
        causes.append(cause(f"{now.directory}/{CONF}", "modified"))
    elif any(file not in new and file not in named for file in old):
        change = "modified" if named or unit is None else "removed"
        causes.append(cause(f"{now.directory}/{CONF}", change))
    return causes


def _line(callback: Callback) -> tuple[str, str, int]:
    return callback.registration.file, callback.registration.text, callback.registration.line
