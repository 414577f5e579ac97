"""What is accepted of one listed directory, and what is served of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from agent.core.diagnostic import Diagnostic
from agent.core.index import ServedDirectory
from agent.core.unit import BEING_WRITTEN, CONF, FAULT, Evaluation, Plan, Reading, Unit, evaluate
from agent.disk import second_look
from agent.disk.snapshot import Snapshot
from agent.disk.watch.interface import Target
from agent.reload import causes, checks
from agent.reload.attempt import Attempt
from agent.reload.causes import Cause
from agent.reload.syntax_check import Checker


@dataclass(slots=True, eq=False)
class DirectoryState:
    """One listed directory. Its reading is evaluated against the unit accepted before."""

    path: str
    #: The accepted unit, None if there never was one.
    unit: Unit | None = None
    #: The device of the directory when its callbacks.conf was last found.
    device: int | None = None
    #: The newest settled reading.
    snapshot: Snapshot | None = None
    attempt: Attempt = field(default_factory=Attempt)
    evaluation: Evaluation | None = None
    #: What `evaluation` was made of: a reading and the unit accepted before, both with the verdicts
    #: on their Python. It is made again as soon as one of the two differs.
    evaluated: tuple[Reading, Unit | None] | None = None
    served: ServedDirectory = field(default_factory=lambda: ServedDirectory(""))
    #: What `served` was made of: the unit and the language flags.
    served_from: tuple[Unit | None, frozenset[str]] = (None, frozenset())
    #: The last call of `reload` since which it was settled or held.
    ticket: int = -1
    #: Diagnostics of its files in the state directory.
    stored_findings: tuple[Diagnostic, ...] = ()
    #: The plan of the callbacks.conf in the state directory, until one is read.
    stored_plan: Plan | None = None
    #: Whether the accepted unit is not in the state directory yet.
    unsaved: bool = False
    #: What is watched of it.
    _target: Target | None = None

    @property
    def held(self) -> str | None:
        """Why it is held, None if it is not."""
        return self.evaluation.held if self.evaluation else None

    @property
    def findings(self) -> list[Diagnostic]:
        """All diagnostics about the directory."""
        found = [*self.stored_findings]
        if self.evaluation is not None:
            found += self.evaluation.findings
        return [*found, *self.served.findings]

    def is_stale(self, languages: frozenset[str]) -> bool:
        """Whether `served` was made of another unit or of other language flags."""
        unit, flags = self.served_from
        return unit is not self.unit or flags != languages

    def serve(self, served: ServedDirectory, languages: frozenset[str]) -> None:
        """Set what is served. It was made of the accepted unit with these language flags."""
        self.served, self.served_from = served, (self.unit, languages)

    def evaluate(self, snapshot: Snapshot, checker: Checker) -> list[Cause]:
        """Decide what is accepted of a settled reading. Returns what changed on disk.

        Never raises: an exception becomes a fault of this directory.
        """
        found: list[Cause] = []
        try:
            found = causes.of_readings(self.snapshot, snapshot)
            conf = self.unit.conf if self.unit else None
            self._evaluate(snapshot, checker)
            found = self._with_edit(found, snapshot, conf)
        except Exception as error:  # of any kind
            self.snapshot = Snapshot.failed(self.path, snapshot, error)
            fault = self.snapshot.reading.fault
            self.evaluation = Evaluation(self.unit, FAULT, (fault,) if fault else ())
            self.evaluated = None
        return found

    def _with_edit(
        self, found: list[Cause], snapshot: Snapshot, before: bytes | None
    ) -> list[Cause]:
        """These causes, with the edit of callbacks.conf. `before` is the text that was accepted."""
        now = snapshot.text(CONF)
        # Of a text that is still being written, the rest would seem to be removed.
        if before is None or now is None or self.held == BEING_WRITTEN:
            return found
        return causes.with_edit(found, f"{self.path}/{CONF}", before, now)

    def _evaluate(self, snapshot: Snapshot, checker: Checker) -> None:
        self.snapshot, self.stored_plan = snapshot, None
        accepted = self.unit
        if accepted is not None:
            verdicts = checks.with_verdicts(checker, accepted.implementations)
            accepted = replace(accepted, implementations=verdicts)
        reading = checks.checked_reading(checker, snapshot.reading, accepted)
        if _is_evaluated(self, (reading, accepted)):
            return
        self.evaluation = evaluate(reading, accepted)
        # With the unit that it gives, a reading gives the same evaluation.
        self.evaluated = reading, self.evaluation.unit
        device = snapshot.device if reading.plan is not None else self.device
        if _differ(self.evaluation.unit, self.unit) or device != self.device:
            self.unsaved = True
        self.unit, self.device = self.evaluation.unit, device

    def stop_removed(self, snapshot: Snapshot, gone: frozenset[str]) -> None:
        """Stop serving the files that an unsettled reading shows as removed.

        A removal is an emergency stop: it waits neither for the writer of another file nor for
        the check of another source. The unit is then another one, so the directory is
        evaluated again when it settles.
        """
        if self.unit is None or self.snapshot is None or not gone:
            return
        if self.snapshot.fingerprints.get(".") != snapshot.fingerprints.get("."):
            # Another directory is at this path now: what is missing in it was not removed.
            return
        unit = Unit() if CONF in gone else self.unit.without(gone)
        if unit.implementations.keys() != self.unit.implementations.keys():
            self.unit, self.unsaved = unit, True

    @property
    def watched(self) -> tuple[tuple[str, ...], bool]:
        """Which paths are to be watched, and whether events do not report every change there."""
        if self.snapshot is None:
            return (self.path,), False
        links = (f"{self.path}/{link}" for link in self.snapshot.links)
        return (self.path, *links), self.snapshot.needs_polling

    def target(self) -> Target:
        """What to watch: the previous target if `watched` is the same."""
        paths, needs_polling = self.watched
        target = self._target
        if target is None or (target.paths, target.needs_polling) != (paths, needs_polling):
            self._target = target = Target(paths, partial(_is_unchanged, self), needs_polling)
        return target


def _differ(unit: Unit | None, other: Unit | None) -> bool:
    """Whether what is stored of two units differs. An edited comment changes only the text."""
    return unit != other or (unit.conf if unit else None) != (other.conf if other else None)


def _is_evaluated(state: DirectoryState, inputs: tuple[Reading, Unit | None]) -> bool:
    return state.evaluation is not None and state.evaluated == inputs


def _is_unchanged(state: DirectoryState) -> bool:
    snapshot = state.snapshot
    return snapshot is not None and not snapshot.retry and second_look.unchanged(snapshot)
