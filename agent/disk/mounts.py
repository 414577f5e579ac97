"""Which file systems are mounted, and of what type."""

from __future__ import annotations

import os
import re
import select

from agent.disk import filesystems as filesystem
from agent.disk.filesystems import LOCAL_TYPES, Kind

_MOUNTS = "/proc/self/mountinfo"
#: How white space and the like stand in it.
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mounts:
    """The mounted file systems, as of the last `read`. Where the system does not tell (not Linux),
    or /proc is not mounted), there are none, and they never change. Source: proc(5),
    /proc/pid/mountinfo."""

    def __init__(self) -> None:
        self._types: dict[tuple[int, int], str] = {}
        #: By mount point, the type of the file system there.
        self._points: dict[str, str] = {}
        #: By mount point, the number of the mount, which another in its place has not, and that of
        #: the device.
        self._mounts: dict[str, tuple[str, str]] = {}
        #: Whether the system tells what is mounted.
        self.known = False
        self._poll = select.poll()
        try:
            # It stays open: the kernel counts changes for each open file.
            self._file = open(_MOUNTS, "rb")  # noqa: SIM115
        except OSError:
            return
        self.known = True
        self._poll.register(self._file, select.POLLPRI)
        self.read()

    def read(self) -> None:
        """Look which they are now."""
        types: dict[tuple[int, int], str] = {}
        points: dict[str, str] = {}
        mounts: dict[str, tuple[str, str]] = {}
        self._file.seek(0)
        for line in self._file.read().decode("utf-8", "surrogateescape").split("\n"):
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            if len(fields) > 4 and after:
                major, _, minor = fields[2].partition(":")
                point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
                mounts[point] = fields[0], fields[2]
                types[int(major), int(minor)] = points[point] = after.split(" ")[0]
        self._types, self._points, self._mounts = types, points, mounts

    def changed(self) -> bool:
        """Whether something was mounted or unmounted since the last call, or since the first look.

        The kernel counts. To compare the file's text would miss what was mounted, read by a reload
        that something else called for, and unmounted again between two looks.
        """
        changed = bool(self._poll.poll(0))
        if changed:
            self.read()
        return changed

    def kind(self, path: str) -> Kind:
        """The kind of file system at a path, or at the nearest one above it that exists. Blocks.

        By its device in the table of mounts; else by what statfs says (btrfs gives its subvolumes
        devices that are in no table); else by the mount point on the path.
        """
        while True:
            try:
                device = os.stat(path).st_dev
                break
            except OSError:
                if path == "/":
                    return Kind.UNKNOWN
                path = os.path.dirname(path)
        kind = self._type(device)
        if kind is not None:
            return filesystem.of_type(kind)
        found = filesystem.of(path)
        if found is not Kind.UNKNOWN or not self._points:
            return found
        point = os.path.realpath(path)
        while point not in self._points:
            if point == "/":
                return Kind.UNKNOWN
            point = os.path.dirname(point)
        return filesystem.of_type(self._points[point])

    def remote_mount(self, path: str) -> str | None:
        """Where the file system is mounted that a path lies on, None if it is one of this machine
        alone. Judged by the name: links are not followed, since nothing is asked."""
        points = self._points
        while path not in points:
            if path in ("/", ""):
                return None
            path = os.path.dirname(path)
        return path if points[path] not in LOCAL_TYPES else None

    def mount(self, path: str) -> tuple[str, str] | None:
        """Which mount a path lies on, by its number and that of its device (`major:minor`); None
        where `remote_mount` says None."""
        point = self.remote_mount(path)
        return None if point is None else self._mounts.get(point)

    def remote(self, device: int) -> bool:
        """Whether a file system is known to be none of this machine's alone, by its device number.

        Of some nobody knows it: btrfs gives its parts numbers that the system does not tell.
        """
        kind = self._type(device)
        return kind is not None and kind not in LOCAL_TYPES

    def _type(self, device: int) -> str | None:
        return self._types.get((os.major(device), os.minor(device)))
