"""What is known of a directory while it is being read, until it is quiet."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.core.unit import Reading
from agent.disk import second_look
from agent.disk.snapshot import Snapshot
from agent.reload.checks import PythonSources
from agent.reload.removed_files import MissingFiles


@dataclass(slots=True, eq=False)
class Look:
    """One reading of a directory, and what a second look after a quiet period showed."""

    snapshot: Snapshot
    #: The reading of the previous look, None if the directory was quiet then.
    before: Snapshot | None = None
    #: None where it is not known which sources the directory has.
    python: PythonSources | None = None
    #: Whether stat says the same at the second look.
    same: bool = False
    #: Whether the same files were there and missing both times.
    same_names: bool = False
    #: The names that were missing both times and count as removed, and those that are awaited.
    gone: frozenset[str] = frozenset()
    awaited: frozenset[str] = frozenset()

    @property
    def quiet(self) -> bool:
        """Whether nothing changed between two looks, by stat or by what the files contain."""
        if self.same and not self.snapshot.busy and not self.snapshot.unstable:
            return True
        return (
            self.same_names
            and self.before is not None
            and second_look.same_content(self.before, self.snapshot)
        )

    @property
    def settled(self) -> bool:
        """Whether the reading can be used: it is quiet, and no missing file is awaited."""
        return self.quiet and not self.awaited


@dataclass(slots=True, eq=False)
class Attempt:
    """The attempt to read one directory. It begins when the directory is found unsettled."""

    #: The last look, None while the directory is settled.
    look: Look | None = None
    #: Monotonic seconds when it was first found unsettled; None while it is settled.
    unsettled_since: float | None = None
    #: What was reported of its writers, None if that was not necessary yet.
    writers: Reading | None = None
    #: Monotonic seconds when the writers were looked up.
    writers_at: float = 0.0
    #: Whether it only waits for a missing file that may come back.
    only_absent: bool = False
    #: Monotonic seconds since when an edit waits for a check; None while none does.
    check_since: float | None = None
    missing: MissingFiles = field(default_factory=MissingFiles)

    @property
    def only_writers(self) -> bool:
        """Whether it only waits for files to be closed."""
        look = self.look
        return look is not None and look.same and bool(look.snapshot.busy) and not look.awaited

    def end(self) -> None:
        """End the attempt: the directory is settled, or cannot be read at all."""
        self.look = self.writers = self.unsettled_since = None
