"""How often each callback matched, and when it matched last.

A match is a lookup that was answered and for which the callback fires. It is counted by the
callback's identity, so a reload changes no count. What is no longer served is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.core.index import Callback, Index
from agent.rpc.results import Found

Identity = tuple[str, str, str]
"""Directory, file and trigger of a callback."""


class Count:
    """The matches of one callback. Times are in seconds since the epoch."""

    __slots__ = ("last", "matches", "since")

    def __init__(self, since: float, matches: int = 0, last: float | None = None) -> None:
        #: From when on matches are counted.
        self.since = since
        self.matches = matches
        #: When it matched last, None if it never did.
        self.last = last


class Matches:
    """The counts of all callbacks that are served.

    The event loop writes; `rows` and `unknown` may be called in any thread. Single operations on a
    dictionary are atomic, and nothing iterates over it.
    """

    def __init__(self, stored: Mapping[Identity, Count] | None = None) -> None:
        self._counts: dict[Identity, Count] = dict(stored or {})
        #: Changes with every change, so that what is unchanged need not be stored.
        self.version = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, found: Found, number: int, now: float) -> None:
        """Count `number` matches of each of these callbacks, the last of them at `now`."""
        self.version += 1
        for callback in found:
            count = self._of(callback, now)
            count.matches += number
            count.last = now

    def rows(self, index: Index, now: float) -> Iterator[tuple[Callback, Count]]:
        """Each callback of the index with its count. One that is new is counted from now on."""
        for callback in index.callbacks():
            yield callback, self._of(callback, now)

    def unknown(self, index: Index) -> list[Identity]:
        """Those that the index does not have. Takes some 100 ms for 100,000 callbacks."""
        if len(self._counts) <= index.count:
            # After `rows` each callback of the index has a count, so there are no others.
            return []
        served = {_identity(callback) for callback in index.callbacks()}
        return [one for one in list(self._counts) if one not in served]

    def forget(self, identities: Iterable[Identity]) -> None:
        """Drop the counts of these callbacks."""
        for identity in identities:
            self._counts.pop(identity, None)

    def _of(self, callback: Callback, now: float) -> Count:
        identity = _identity(callback)
        count = self._counts.get(identity)
        if count is None:
            # Another thread may add it at the same time: both then get the same one.
            self.version += 1
            count = self._counts.setdefault(identity, Count(now))
        return count


def _identity(callback: Callback) -> Identity:
    registration = callback.registration
    return callback.directory, registration.file, registration.text
