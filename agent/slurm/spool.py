"""The spool: where hooks leave events, and from where the daemon takes them in order.

A hook writes `BOOT.UPTIME.PID.tmp`, and renames it to `BOOT.UPTIME.PID.event` when it is on the
disk. BOOT names the run of the kernel and UPTIME is the seconds since its start, so the order does
not depend on a clock that somebody sets. Of another run of the kernel, or of another machine, the
time of the file counts.

The spool belongs to the user of slurmctld, whose hooks write into it; those of slurmd are root's.
What others left there is never read: it would run callbacks.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Private, as in agent.disk.watch: its public functions set the watch too late.
from watchfiles._rust_notify import RustNotify

from agent.core.quoting import shown

#: The most bytes of one event. Slurm's own variables have some kilobytes.
MAX_BYTES = 1 << 20
#: Seconds after which a file that a hook has begun is that of a dead one.
DEAD_SECONDS = 600.0
#: Where files go that are not events.
BAD = "bad"
#: The most files there; the oldest are removed.
MAX_BAD = 1000
#: Milliseconds that watchfiles sleeps between two looks, and may gather changes. Each look costs
#: processor time, also where no job runs.
_STEP, _DEBOUNCE = 5, 10

_NAME = re.compile(r"([0-9a-f-]{36})\.([0-9]{1,12}\.[0-9]{1,9})\.([0-9]{1,10})\.(event|tmp)")


class BadFile(Exception):
    """A file in the spool is not an event: what was found and expected."""


class SpoolError(Exception):
    """The spool cannot be used: what was found, and what to do."""


class Waiting(NamedTuple):
    """A file in the spool. They sort in the order of their events."""

    #: When it was written, in seconds since 1970 by the clock as it is set now.
    time: float
    #: The time of the file: it orders what has the same uptime.
    mtime: int
    name: str


class Spool:
    """A spool. Raises SpoolError if it is not there, or if others may write to it."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Why files could not be removed, by name. They are handled, and not to be handled again.
        self.stuck: dict[str, str] = {}
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        try:
            status = os.stat(path)
        except OSError as error:
            why = f"{path}: {error.strerror}; `callback-agent slurm setup` says how to make it"
            raise SpoolError(f"the spool cannot be used: {why}") from None
        if not stat.S_ISDIR(status.st_mode):
            raise SpoolError(f"the spool {path} is not a directory")
        if status.st_mode & 0o022:
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise SpoolError(
                f"others may write to the spool {path} (mode {mode}), and so run callbacks;"
                f" make it the directory of the user of slurmctld: chmod 700 {path}"
            )
        self._trusted = {0, os.geteuid(), status.st_uid}

    def waiting(self) -> list[Waiting]:
        """All files but those that hooks still write, in the order of their events.

        Raises OSError.
        """
        since_boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith(".tmp") or entry.name == BAD or entry.name in self.stuck:
                    continue
                name = _NAME.fullmatch(entry.name)
                with contextlib.suppress(FileNotFoundError):
                    mtime = entry.stat(follow_symlinks=False).st_mtime_ns
                    ours = name is not None and name[1] == self._boot
                    at = since_boot + float(name[2]) if name and ours else mtime / 1e9
                    found.append(Waiting(at, mtime, entry.name))
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The environment that a hook left. Raises BadFile, FileNotFoundError, and OSError."""
        if not (found := _NAME.fullmatch(name)) or found[4] != "event":
            raise BadFile("its name is not that of an event; expected BOOT.UPTIME.PID.event")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        path = f"{self.path}/{name}"
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise BadFile("it is a link; expected a regular file")
        # Not `fdopen`: a descriptor of a directory would stay open.
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadFile("it is not a regular file")
            if status.st_uid not in self._trusted:
                expected = ", ".join(map(str, sorted(self._trusted)))
                raise BadFile(f"it belongs to user {status.st_uid}; expected one of {expected}")
            if status.st_nlink > 1:
                raise BadFile("it has another name elsewhere")
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise BadFile(f"it has more than {MAX_BYTES} bytes")
        return data

    def remove(self, name: str) -> None:
        """Remove an event that has been handled. If that fails, it is in `stuck`."""
        try:
            os.unlink(f"{self.path}/{name}")
        except FileNotFoundError:
            pass
        except OSError as error:
            self.stuck[name] = f"{shown(name)} cannot be removed: {error.strerror}"

    def set_aside(self, name: str) -> str:
        """Move a file that is not an event to where a person can look at it; where it is then."""
        folder = f"{self.path}/{BAD}"
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            # Not a link: the user of slurmctld may be another, who must not lead root elsewhere.
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.rename(f"{self.path}/{name}", name, dst_dir_fd=opened)
                _remove_oldest(opened)
            finally:
                os.close(opened)
        except OSError as error:
            self.stuck[name] = why = f"{shown(name)} cannot be moved to {BAD}: {error.strerror}"
            return why
        return f"it is now in {folder}"

    def remove_dead(self) -> None:
        """Remove what hooks began DEAD_SECONDS ago and did not finish. Raises OSError."""
        uptime, now = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        with os.scandir(self.path) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                if name is None or name[4] != "tmp":
                    continue
                with contextlib.suppress(OSError):
                    ours = name[1] == self._boot
                    age = uptime - float(name[2]) if ours else now - entry.stat().st_mtime
                    if age > DEAD_SECONDS:
                        os.unlink(entry.path)


def _remove_oldest(folder: int) -> None:
    """Remove the oldest files of an open directory beyond MAX_BAD."""
    names = os.listdir(folder)
    if len(names) <= MAX_BAD:
        return
    times = {name: os.lstat(name, dir_fd=folder).st_mtime for name in names}
    for name in sorted(names, key=times.__getitem__)[:-MAX_BAD]:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)


def watch(path: str, notice: Callable[[], object], stop: threading.Event) -> str:
    """Call `notice`, in a thread, for changes of a directory until `stop` is set.

    Returns why that cannot be done, empty if it can: the directory must then be scanned.
    """

    def work(watcher: Any) -> None:
        while not stop.is_set():
            if isinstance(watcher.watch(_DEBOUNCE, _STEP, 0, stop), set):
                notice()

    try:
        watcher = RustNotify([path], False, False, 0, False, False)
        threading.Thread(target=work, args=(watcher,), name="spool", daemon=True).start()
    except BaseException as error:
        # Native code raises what is not an Exception if watches or threads run out.
        if isinstance(error, KeyboardInterrupt):
            raise
        return str(error) or type(error).__name__
    return ""
