"""The listed directories: what is accepted and served of each, in the order of the list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from agent.core.diagnostic import Diagnostic
from agent.core.index import Index, ServedDirectory
from agent.disk.watch.combined import Watch
from agent.disk.watch.interface import Target
from agent.reload.causes import Cause, ListedDirectory
from agent.reload.directory_state import DirectoryState
from agent.reload.last_good import LastGood
from agent.reload.settle import Settled
from agent.reload.syntax_check import Checker


class Listing:
    """All listed directories. Accepted units are stored in `last_good`."""

    def __init__(self, last_good: LastGood) -> None:
        self._last_good = last_good
        self._states: dict[str, DirectoryState] = {}

    def __iter__(self) -> Iterator[DirectoryState]:
        return iter(self._states.values())

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths, in order."""
        return tuple(self._states)

    def relist(self, paths: Iterable[str]) -> None:
        """List these directories from now on. Those that were listed before stay as they are.
        Stored units are loaded for the first list only. Blocks."""
        before = self._states
        states: dict[str, DirectoryState] = {}
        for path in paths:
            state = before.get(path)
            if state is None:
                state = DirectoryState(path, served=ServedDirectory(path))
                stored, findings = self._last_good.load(path) if not before else (None, [])
                if stored is not None:
                    state.unit, state.device = stored.unit, stored.device
                    state.stored_plan = stored.plan
                state.stored_findings = tuple(findings)
            states[path] = state
        self._states = states

    def evaluate(
        self, settled: Iterable[Settled], checker: Checker
    ) -> tuple[list[Cause], set[str]]:
        """Decide what is accepted of settled readings.

        Returns what changed on disk, and the directories whose watches must change. Blocks.
        """
        found: list[Cause] = []
        unwatched = set()
        for d, snapshot in settled:
            before = d.watched
            found += d.evaluate(snapshot, checker)
            if d.watched != before:
                unwatched.add(d.path)
        return found, unwatched

    def _is_current(self, index: Index, languages: frozenset[str]) -> bool:
        """Whether an index has what is accepted now, under these language flags."""
        listed = tuple(s.directory for s in index.served) == self.paths
        return listed and not any(d.is_stale(languages) for d in self)

    def next_index(
        self, index: Index, languages: frozenset[str], first: bool
    ) -> tuple[Index, dict[str, ServedDirectory]]:
        """The index of what is accepted now, and what it has of the directories of which `index`
        has something else. `first` says whether nothing was served yet. Blocks."""
        if not first:
            if self._is_current(index, languages):
                return index, {}
            # What is served must not be lost by a crash.
            self.save()
        made = {
            d.path: ServedDirectory.of(d.path, d.unit, languages)
            for d in self
            if d.is_stale(languages)
        }
        if first or tuple(s.directory for s in index.served) != self.paths:
            served = [made.get(d.path, d.served) for d in self]
            new = Index.of(index.generation + 1, served)
            if not first and new.digest == index.digest:
                new = new.with_generation(index.generation)
            return new, made
        changed = {
            place: made[d.path]
            for place, d in enumerate(self)
            if d.path in made and made[d.path].digest != d.served.digest
        }
        # A directory's digest is a part of the index's, so the index has another digest too.
        return (index.replace(index.generation + 1, changed) if changed else index), made

    def serve(self, made: dict[str, ServedDirectory], languages: frozenset[str]) -> None:
        """Note what the index has of some directories."""
        for path, served in made.items():
            self._states[path].serve(served, languages)

    def settled_since(self, ticket: int) -> int:
        """The last call of `reload` since which every directory was settled once; `ticket` if none
        is listed. Not all at one time: where many are edited without a pause, that may never be.
        """
        return min((d.ticket for d in self), default=ticket)

    def save(self) -> None:
        """Store what was accepted and is not stored yet. Blocks."""
        for d in self:
            if d.unsaved and d.unit is not None:
                d.unsaved = not self._last_good.save(d.path, d.unit, d.device)

    def save_again(self) -> None:
        """Store everything that is accepted: what was stored is lost. Blocks."""
        self._last_good.start_again()
        for d in self:
            d.unsaved = d.unit is not None
        self.save()

    def targets(self) -> dict[str, Target]:
        """What to watch."""
        return {d.path: d.target() for d in self}

    def summary(self) -> tuple[list[Diagnostic], dict[str, str], dict[str, ListedDirectory]]:
        """All diagnostics, in order; why which directory is held; and each of them."""
        findings = [finding for d in self for finding in d.findings]
        held = {d.path: d.held for d in self if d.held is not None}
        return findings, held, {d.path: ListedDirectory(d.unit, d.snapshot) for d in self}

    def rows(self, held: dict[str, str], watch: Watch) -> list[dict[str, Any]]:
        """Each directory, as `status` has it. `held` is that of the newest record."""
        return [
            {
                "path": d.path,
                "callbacks": len(d.served.callbacks),
                "held": held.get(d.path),
                "watch": "scan" if watch.trouble or d.watched[1] else "events",
                "digest": d.served.digest,
            }
            for d in self
        ]
