"""What is reported of a directory in which a file stays open for writing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent.core.diagnostic import Diagnostic, Problem
from agent.core.quoting import shown
from agent.core.unit import BEING_WRITTEN, Reading
from agent.disk.second_look import changed_names
from agent.disk.snapshot import Snapshot
from agent.disk.stalls import heartbeat

#: Seconds that the search for writing processes may take. Enough for some thousand processes.
SEARCH_TIME = 0.2
#: Files, and processes of one file, that are reported by name.
MAX_NAMED = 3

#: Where the kernel shows the open files of each process. Source: proc(5).
_PROC = "/proc"
_WRITES = os.O_WRONLY | os.O_RDWR


def held(snapshot: Snapshot, seconds: float) -> Reading:
    """A reading that says only which processes write which files: what was read may be half a file.

    `seconds` is how long they have done so. Blocks.
    """
    path = snapshot.reading.directory
    names = sorted(snapshot.busy)
    changing = not names
    if changing:
        names = sorted(snapshot.unstable or set(changed_names(snapshot)))
    paths = [path if name == "." else os.path.join(path, name) for name in names] or [path]
    processes = {} if changing else writing_processes(paths[:MAX_NAMED])
    findings = [finding(p, seconds, processes.get(p, ()), changing) for p in paths[:MAX_NAMED]]
    if len(paths) > MAX_NAMED:
        findings[-1] = _with_rest(findings[-1], len(paths) - MAX_NAMED)
    files = snapshot.reading.files
    return Reading(path, None, None, files, BEING_WRITTEN, tuple(findings))


def finding(
    path: str, seconds: float, processes: Iterable[str] = (), changing: bool = False
) -> Diagnostic:
    """The finding that a file is open for writing, or a file or directory keeps changing, after so
    many seconds."""
    by = ", ".join(processes)
    what = "still changes" if changing else "is still open for writing"
    message = f"{shown(path)} {what} after {seconds:.0f} s{f', by {by}' if by else ''}"
    hint = "it is read as soon as it stops changing"
    if not changing:
        hint = "it is read as soon as that process closes it"
    return Problem(BEING_WRITTEN, message, hint).at(path)


def _with_rest(last: Diagnostic, count: int) -> Diagnostic:
    more = "1 more file" if count == 1 else f"{count} more files"
    return replace(last, message=f"{last.message} (and {more})")


def writing_processes(paths: Iterable[str]) -> dict[str, list[str]]:
    """By path, the processes that have the file open for writing: `process 12 (vim)`.

    Only on Linux; those of other users only if the agent runs as root; and only those that are
    found within SEARCH_TIME. Blocks; never raises.
    """
    wanted = {os.path.realpath(path): path for path in paths}
    found: dict[str, list[str]] = {}
    until = time.monotonic() + SEARCH_TIME
    for process in _entries(_PROC):
        if not process.isdecimal():
            continue
        if time.monotonic() > until:
            break
        heartbeat()
        for number in _entries(f"{_PROC}/{process}/fd"):
            # Only the link is read: the file system that the file is on is not asked.
            with contextlib.suppress(OSError):
                path = wanted.get(os.readlink(f"{_PROC}/{process}/fd/{number}"))
                if path is None or not _writes(process, number):
                    continue
                named = found.setdefault(path, [])
                who = f"process {process} ({_command(process)})"
                if who not in named and len(named) < MAX_NAMED:
                    named.append(who)
    return found


def _entries(folder: str) -> Iterator[str]:
    try:
        yield from os.listdir(folder)
    except OSError:
        # Another user's process, or one that ended.
        return


def _writes(process: str, number: str) -> bool:
    with open(f"{_PROC}/{process}/fdinfo/{number}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "flags":
                return bool(int(value, 8) & _WRITES)
    return False


def _command(process: str) -> str:
    with open(f"{_PROC}/{process}/comm", encoding="utf-8", errors="replace") as file:
        return shown(file.read().rstrip("\n"))
