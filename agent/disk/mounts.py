"""Which file systems are mounted, and of what type."""

from __future__ import annotations

import os
import re
import select

from agent.disk import filesystems
from agent.disk.filesystems import LOCAL_TYPES, Kind

_MOUNTS = "/proc/self/mountinfo"
#: How white space and the like are written in it.
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mounts:
    """The mounted file systems, as of the last `read`.

    Where they are not known (not Linux, or /proc is not mounted), there are none, and they never
    change. Source: proc(5), /proc/pid/mountinfo.
    """

    def __init__(self) -> None:
        self._types: dict[tuple[int, int], str] = {}
        #: By mount point, the type of the file system there.
        self._points: dict[str, str] = {}
        #: By mount point, the id of the mount, which a later mount there does not have, and the
        #: device (`major:minor`).
        self._mounts: dict[str, tuple[str, str]] = {}
        #: Whether it is known what is mounted.
        self.known = False
        self._poll = select.poll()
        try:
            # It stays open: the kernel counts the changes since the file was opened or polled.
            self._file = open(_MOUNTS, "rb")  # noqa: SIM115
        except OSError:
            return
        self.known = True
        self._poll.register(self._file, select.POLLPRI)
        self.read()

    def read(self) -> None:
        """Read the table of mounts again."""
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
        """Whether something was mounted or unmounted since the last call, or the first `read`.

        The kernel counts the changes. Comparing the text of the file would miss a file system that
        was mounted and unmounted between two calls, and read by a reload in between.
        """
        changed = bool(self._poll.poll(0))
        if changed:
            self.read()
        return changed

    def kind(self, path: str) -> Kind:
        """The kind of the file system at a path, or at the nearest existing parent. Blocks.

        By its device in the table of mounts; else by statfs (the devices of btrfs subvolumes are
        not in the table); else by the mount point on the path.
        """
        while True:
            try:
                device = os.stat(path).st_dev
                break
            except OSError:
                if path == "/":
                    return Kind.UNKNOWN
                path = os.path.dirname(path)
        name = self._type(device)
        if name is not None:
            return filesystems.of_type(name)
        found = filesystems.of(path)
        if found is not Kind.UNKNOWN or not self._points:
            return found
        point = os.path.realpath(path)
        while point not in self._points:
            if point == "/":
                return Kind.UNKNOWN
            point = os.path.dirname(point)
        return filesystems.of_type(self._points[point])

    def remote_mount(self, path: str) -> str | None:
        """The mount point of the file system that a path is on; None if that is local. By name:
        links are not followed, and no file system is asked."""
        points = self._points
        while path not in points:
            if path in ("/", ""):
                return None
            path = os.path.dirname(path)
        return path if points[path] not in LOCAL_TYPES else None

    def mount(self, path: str) -> tuple[str, str] | None:
        """The mount that a path is on, as its id and its device (`major:minor`); None if it is
        local. As `remote_mount`, by name."""
        point = self.remote_mount(path)
        return None if point is None else self._mounts.get(point)

    def remote(self, device: int) -> bool:
        """Whether the file system with this device number is known and not local.

        The devices of btrfs subvolumes are not known.
        """
        name = self._type(device)
        return name is not None and name not in LOCAL_TYPES

    def _type(self, device: int) -> str | None:
        return self._types.get((os.major(device), os.minor(device)))
