"""Looks at directories twice: reads them, and a quiet period later finds out what changed.

All of this blocks, and runs in threads. An exception is a fault of the directory that it concerns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from agent.core.unit import CONF
from agent.disk import directory, second_look
from agent.disk.directory import Planner
from agent.disk.filesystems import Kind
from agent.disk.permissions import Trust
from agent.disk.snapshot import Snapshot
from agent.disk.stalls import StallMonitor
from agent.reload import checks
from agent.reload.attempt import Look
from agent.reload.directory_state import DirectoryState
from agent.reload.plans import Plans
from agent.reload.removed_files import git_is_writing
from agent.reload.syntax_check import Checker


def _follow_nothing(names: Collection[str], everything: bool) -> None:
    """Nobody waits for changes."""


class Looker:
    """Makes the first and the second look. One call at a time.

    `kind` says on which kind of file system a path is. `follow` is called before directories are
    read, with their paths, and with whether more may have changed than events report: from then on,
    changes of them must be noticed. Without `plans`, each callbacks.conf is parsed at once.
    """

    def __init__(
        self,
        kind: Callable[[str], Kind],
        monitor: StallMonitor,
        checker: Checker,
        trust: Trust,
        follow: Callable[[Collection[str], bool], None] = _follow_nothing,
        plans: Plans | None = None,
    ) -> None:
        self._kind = kind
        self._monitor = monitor
        self._checker = checker
        self._trust = trust
        self._follow = follow
        self._plans = plans
        #: How many bytes each directory had when it was last read, and all of them together.
        self._sizes: dict[str, int] = {}
        self._total_size = 0

    def forget(self, directories: Collection[str]) -> None:
        """Forget these directories, which are not listed any more."""
        for path in directories:
            self._total_size -= self._sizes.pop(path, 0)
        if self._plans is not None:
            self._plans.forget(directories)

    def first_looks(
        self, directories: list[DirectoryState], everything: bool
    ) -> list[tuple[DirectoryState, Look]]:
        """Read directories. Blocks."""
        self._follow([d.path for d in directories], everything)
        looks = []
        for d in directories:
            self._total_size -= self._sizes.pop(d.path, 0)
            look = self._first_look(d)
            self._sizes[d.path] = look.snapshot.size
            self._total_size += look.snapshot.size
            looks.append((d, look))
        return looks

    def _first_look(self, d: DirectoryState) -> Look:
        """Read a directory. An exception is a fault of this directory alone. Blocks."""
        before = d.attempt.look.snapshot if d.attempt.look else None
        also = d.unit.files() if d.unit else frozenset()
        try:
            with self._monitor.asking(d.path):
                snapshot = directory.read(
                    d.path,
                    before or d.snapshot,
                    also,
                    self._kind(d.path),
                    d.device,
                    self._trust,
                    self._planner(d),
                    self._total_size,
                )
        except Exception as error:  # of any kind; `read` makes diagnostics of file system errors
            return Look(Snapshot.failed(d.path, d.snapshot, error), before)
        # Checks begin at once: they need not wait for the quiet period.
        return Look(snapshot, before, self._python(d, snapshot))

    def _planner(self, d: DirectoryState) -> Planner | None:
        """What parses the callbacks.conf of a directory. If its bytes are those that were stored,
        the stored plan is used."""
        if self._plans is None:
            return None
        plan, known = self._plans.plan, d.stored_plan
        if known is None:
            return plan
        return lambda name, path, data, before: (
            known if data == known.data else plan(name, path, data, before or known)
        )

    def second_looks(self, looks: list[tuple[DirectoryState, Look]]) -> bool:
        """Complete the looks: what changed since the first one, and what is missing. Blocks."""
        for d, look in looks:
            self._second_look(d, look)
        return True

    def _second_look(self, d: DirectoryState, look: Look) -> None:
        """Find out whether a directory looks as it did, and which files are missing. Blocks."""
        snapshot = look.snapshot
        try:
            with self._monitor.asking(d.path):
                look.same = second_look.unchanged(snapshot)
                look.same_names = look.same or second_look.same_names(snapshot)
                asked = time.monotonic()
                look.gone = second_look.confirmed_missing(snapshot)
                look.awaited = look.gone & self._awaited(d, snapshot, asked)
                look.gone -= look.awaited
        except Exception as error:  # as above
            look.snapshot, look.same = Snapshot.failed(d.path, d.snapshot, error), True
            look.python = None
            return
        if look.python is not None and look.python.urgent:
            look.python = self._python(d, snapshot)

    def _awaited(self, d: DirectoryState, snapshot: Snapshot, asked: float) -> frozenset[str]:
        """The missing files that may come back, as a part of an edit that goes on. They were asked
        for at `asked`, in monotonic seconds: only until then it is known that they were missing,
        however long this thread took since. Blocks."""
        plan = snapshot.reading.plan
        served = set(d.unit.implementations) if d.unit else set()
        if plan is not None:
            # A file that is not named any more may go at once.
            served &= set(plan.files())
        if served:
            served.add(CONF)
        missing = d.attempt.missing
        missing.update(snapshot.fingerprints, served, time.monotonic())
        awaited = missing.awaited(asked)
        if awaited and (missing.is_edited(asked) or git_is_writing(d.path)):
            return awaited
        return frozenset()

    def _python(self, d: DirectoryState, snapshot: Snapshot) -> checks.PythonSources | None:
        if snapshot.busy or snapshot.unparsed:
            return None
        return checks.python_sources(self._checker, snapshot.reading, d.unit)
