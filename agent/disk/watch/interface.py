"""The interface of a source of events, and what it watches.

A source of events is one file in this folder with one class that has the methods of `Watcher`;
`combined` chooses it. Everything that it misses is found by `polling`, so a source may fail at any
time: it then says so in `trouble`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.disk.watch.paths import WatchSet

#: Seconds between two polls of a target without events, and between two looks at the mounts.
POLL_INTERVAL = 1.0

#: Reports which targets may have changed: by key, the paths of the events, None if these are not
#: known. None for all targets.
ReportChanges = Callable[[Mapping[str, Collection[str] | None] | None], None]


@dataclass(frozen=True, slots=True)
class Target:
    """A directory or file to watch.

    `paths` are its own path and those of the links in it. `unchanged` says whether it is as it was
    when it was read; it blocks. `needs_polling`: events do not report every change.
    """

    paths: tuple[str, ...]
    unchanged: Callable[[], bool]
    needs_polling: bool = False


class Watcher(Protocol):
    """A source of events."""

    #: Why there are no events; None while there are.
    trouble: str | None

    def follow(self, sets: Mapping[str, WatchSet]) -> bool:
        """Watch these, by the key of their target, and no others.

        When it returns true, the watches are set, or `trouble` says why there are none. False: a
        directory disappeared meanwhile, and the sets must be found again. Blocks; called from one
        thread at a time.
        """

    def needs_polling(self, key: str) -> bool:
        """Whether this target, or a directory on the path to it, gives no events."""

    async def run(self) -> None:
        """Report events until cancelled. If it raises, it is called again."""

    def close(self) -> None:
        """Remove all watches."""
