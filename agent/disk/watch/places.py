"""Which targets the change of a path may concern."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.disk.watch.paths import WatchSet


class Places:
    """The directories of watch sets, each with the names in it that matter."""

    def __init__(self, sets: Mapping[str, WatchSet]) -> None:
        #: By directory, by name in it (None for every name), the keys of the targets.
        self._keys: dict[str, dict[str | None, set[str]]] = {}
        for key, one in sets.items():
            for directory, name in one.names:
                self._keys.setdefault(directory, {}).setdefault(name, set()).add(key)

    def __contains__(self, path: str) -> bool:
        """Whether a path is one of the directories."""
        return path in self._keys

    def changed(self, paths: Iterable[str]) -> dict[str, set[str]]:
        """By key of a target, those of some changed paths that may concern it."""
        changed: dict[str, set[str]] = {}
        for path in paths:
            for key in self._concerned(path):
                changed.setdefault(key, set()).add(path)
        return changed

    def _concerned(self, path: str) -> Iterator[str]:
        if (names := self._keys.get(path)) is not None:
            # The directory itself: it was removed or renamed, or its mode changed.
            for keys in names.values():
                yield from keys
        directory, _, name = path.rpartition("/")
        names = self._keys.get(directory or "/")
        if names is not None:
            yield from names.get(name, ())
            yield from names.get(None, ())
