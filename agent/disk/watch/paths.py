"""Which directories must be watched to notice that a target changed.

A target changes with any name that is looked up on the path to it: a link that is switched, a
parent that is renamed or created again, all change a name in one of the directories on the path. So
a `WatchSet` has each directory on the path with the name looked up in it, links followed one by
one, and the target itself with all names in it.

The walk is by names, not by descriptors as `SafeWalk` in `disk.permissions`: it needs the names
also where the path ends at something missing, and nothing that it finds is opened or trusted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.disk.mounts import Mounts
from agent.disk.permissions import MAX_LINKS
from agent.disk.stalls import heartbeat

#: A directory, and the name that is looked up in it; None for every name.
Component = tuple[str, str | None]


@dataclass(frozen=True, slots=True, eq=False)
class WatchSet:
    """What is looked up on the paths of one target.

    `names` has each component with the path that it is looked up for, None for several paths.
    `directories` are those of the components; `watched` those of them that can be watched, by path,
    device and inode. `needs_polling`: others cannot be watched. `device` is that of the target.
    """

    names: Mapping[Component, str | None]
    directories: frozenset[str]
    watched: frozenset[tuple[str, int, int]]
    needs_polling: bool
    device: int | None = None

    def is_current(self, changed: str, walker: PathWalker) -> bool:
        """Whether the set is the same after a change of this path. Blocks."""
        if changed in self.directories:
            return False
        directory, _, name = changed.rpartition("/")
        component = directory or "/", name
        if component not in self.names:
            # A file that is not on any path, in a directory where every name matters.
            return True
        path = self.names[component]
        if path is None:
            return False
        now = list(walker.path_components(path))
        own = {component for component, of in self.names.items() if of == path}
        return all(component in self.names for component in now) and own == {
            component for component in now if self.names[component] == path
        }


#: Of a target that was not looked at yet.
UNKNOWN = WatchSet({}, frozenset(), frozenset(), needs_polling=True)


def watch_set(paths: tuple[str, ...], mounts: Mounts) -> WatchSet:
    """The watch set of a target with these paths. Blocks."""
    walker = PathWalker()
    names: dict[Component, str | None] = {}
    for path in paths:
        for component in walker.path_components(path):
            names[component] = path if names.setdefault(component, path) == path else None
    watched = set()
    remote: list[str] = []
    directories = frozenset(directory for directory, _ in names)
    # Sorted: parents come first.
    for directory in sorted(directories):
        heartbeat()
        if any(directory.startswith(f"{above}/") for above in remote):
            # A watch below would be set through the remote file system.
            continue
        try:
            status = os.stat(directory)
        except OSError:
            continue
        if mounts.remote(status.st_dev):
            # If its server is down, setting a watch blocks: in watchfiles, which holds the GIL.
            remote.append(directory.rstrip("/"))
        elif stat.S_ISDIR(status.st_mode) and os.access(directory, os.R_OK):
            watched.add((directory, status.st_dev, status.st_ino))
    try:
        device = os.stat(paths[0]).st_dev
    except OSError:
        device = None
    return WatchSet(names, directories, frozenset(watched), bool(remote), device)


class PathWalker:
    """Walks along many paths. Links are read once, so that thousands of links into one directory
    take one walk and one system call each."""

    def __init__(self) -> None:
        #: By path without links, the target of a link there; "" if it is not a link.
        self._targets: dict[str, str] = {}

    def path_components(self, path: str) -> Iterator[Component]:
        """Each directory on a path, with the name that is looked up in it.

        Links are followed one by one, so that no directory is named through a link. If a directory
        is at the end, it comes last, with None. Blocks.
        """
        rest = [part for part in path.split("/") if part][::-1]
        here = "/"
        links = 0
        while rest:
            heartbeat()
            name = rest.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = os.path.dirname(here)
                continue
            yield here, name
            there = f"{here}/{name}" if here != "/" else f"/{name}"
            target = self._target(there, bool(rest))
            if target is None:
                return
            if not target:
                here = there
                continue
            links += 1
            if links > MAX_LINKS:
                return
            if target.startswith("/"):
                here = "/"
            rest += target.split("/")[::-1]
        if os.path.isdir(here):
            yield here, None

    def _target(self, path: str, inside: bool) -> str | None:
        """The target of a link, "" for what is not a link, None for what is missing. `inside`: the
        path goes on, so other paths may lead through it too."""
        target: str | None = self._targets.get(path)
        if target is None:
            try:
                target = os.readlink(path)
            except OSError:
                target = "" if os.path.lexists(path) else None
            if inside and target is not None:
                self._targets[path] = target
        return target
