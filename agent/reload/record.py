"""Makes the records: one for everything that changes, or refuses to change, what is served.

`Recorder` remembers what the last record said. The difference from that is the next record. So if a
record could not be made, because a thread or memory was missing, nothing of it is lost: the next
attempt makes it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal

from msgspec import UNSET, UnsetType

from agent.core import line_diff
from agent.core.diagnostic import Diagnostic, Severity
from agent.core.index import Change, Index, changes
from agent.core.quoting import encodable
from agent.disk import identity
from agent.reload import causes
from agent.reload.causes import Cause, ListedDirectory
from agent.reload.previous_findings import PreviousFindings
from agent.rpc import messages
from agent.rpc.messages import Record

#: The events of records. The first in _ORDER that applies names a record.
Event = Literal["started", "reloaded", "held", "restored", "stopped"]
STARTED: Event = "started"
HELD: Event = "held"
RESTORED: Event = "restored"
RELOADED: Event = "reloaded"
STOPPED: Event = "stopped"
_ORDER = (STARTED, HELD, RESTORED, RELOADED)

#: The most diffs in one record. Each takes time and 4 KiB; nobody edits so many files at once.
MAX_DIFFS = 64


class Recorder:
    """What was recorded, and what is to be recorded. `findings` and `held` are those of the newest
    record, also while it is being made."""

    def __init__(self) -> None:
        #: A random name of this run of the agent.
        self.instance = secrets.token_hex(8)
        #: The number of the newest record, 0 before the first.
        self.sequence = 0
        self.findings: tuple[Diagnostic, ...] = ()
        #: How many of the findings are warnings. They may be many, so they are counted once.
        self.warnings = 0
        #: Why which directory is held.
        self.held: dict[str, str] = {}
        #: Index, findings and held directories of the last record; no index before the first.
        self._index: Index | None = None
        self._recorded: tuple[Diagnostic, ...] = ()
        self._recorded_held: dict[str, str] = {}
        #: By path.
        self._causes: dict[str, Cause] = {}
        #: Diagnostics of the next record alone: that it has them no more makes no other record.
        self._once: list[Diagnostic] = []
        #: The event of a record that is to be made.
        self._event: Event | None = None

    @property
    def degraded(self) -> bool:
        return bool(self.held) or any(f.severity is Severity.ERROR for f in self.findings)

    def add_causes(self, found: Iterable[Cause]) -> None:
        """Add what changed on disk to the next record."""
        for cause in found:
            self._causes[cause.path] = cause.after(self._causes.get(cause.path))

    def report_once(self, findings: Iterable[Diagnostic]) -> None:
        """Have the next record carry these, and make one for them if nothing else does."""
        self._once += findings

    def is_due(
        self,
        index: Index,
        findings: tuple[Diagnostic, ...],
        held: dict[str, str],
        listed: Iterable[str],
    ) -> bool:
        """Whether there is something to record.

        Given are the index that is served now, all diagnostics, why which directory is held, and
        all listed directories. If there is nothing, the causes had no effect and are dropped.
        """
        changed = self._index is None or index.digest != self._index.digest
        if changed or findings != self.findings or held != self.held or self._once:
            if self._index is None:
                event = STARTED
            elif held.keys() - self.held.keys():
                event = HELD
            elif (self.held.keys() - held.keys()) & set(listed):
                event = RESTORED
            else:
                event = RELOADED
            self._event = min(event, self._event or event, key=_ORDER.index)
            self.findings, self.held = findings, held
            self.warnings = sum(f.count for f in findings if f.severity is Severity.WARNING)
        elif self._event is None:
            self._causes.clear()
            self._index = index
        return self._event is not None

    def make(
        self, index: Index, listed: Mapping[str, ListedDirectory], qb_conf: str, began: float
    ) -> Record:
        """The record that is due. `index` is served now, `listed` is what is known of each listed
        directory, `began` is the monotonic time in seconds when the reload began.

        Takes long if there are many changes, and asks the user database."""
        found, changed = dict(self._causes), list[Change]()
        if self._index is None or index.digest != self._index.digest:
            old = {s.directory: s for s in self._index.served} if self._index else {}
            new = {s.directory: s for s in index.served}
            found |= {c.path: c for c in causes.derived(found, old, new, listed, qb_conf)}
            changed = changes(
                [s for path, s in old.items() if new.get(path) is not s],
                [s for path, s in new.items() if old.get(path) is not s],
            )
        assert self._event is not None
        return self._record(
            self._event,
            index,
            began,
            self.sequence + 1,
            PreviousFindings(self._recorded, {p: c.shifts for p, c in self._causes.items()}),
            [*found.values()],
            changed,
            [p for p in self.held if p not in self._recorded_held],
            [p for p in self._recorded_held if p not in self.held and p in listed],
        )

    def done(self, index: Index) -> None:
        """Note that the record of this index was made."""
        self.sequence += 1
        self._index = index
        self._recorded, self._recorded_held = self.findings, self.held
        self._event = None
        self._causes.clear()
        self._once.clear()

    def stopped(self, index: Index) -> Record:
        """The last record."""
        self.sequence += 1
        return self._record(STOPPED, index, time.monotonic(), self.sequence)

    def unchanged(self, index: Index, event: Event = RELOADED) -> Record:
        """A record of the state now, without causes and changes, which is not published."""
        return self._record(event, index, time.monotonic(), max(self.sequence, 1))

    def _record(
        self,
        event: Event,
        index: Index,
        began: float,
        sequence: int,
        previous: PreviousFindings | None = None,
        found: Iterable[Cause] = (),
        changed: Iterable[Change] = (),
        newly_held: Iterable[str] = (),
        restored: Iterable[str] = (),
    ) -> Record:
        """A record of the state now. Without `previous`, nothing in it is new."""
        previous = previous or PreviousFindings((*self.findings, *self._once))
        found = list(found)
        diffs = (
            messages.ConfDiff(path=encodable(c.path), diff=diff)
            for c in found
            if c.edit is not None and (diff := line_diff.unified(*c.edit))
        )
        return Record(
            time=_rfc3339(datetime.now(UTC)),
            instance=self.instance,
            sequence=sequence,
            event=event,
            generation=index.generation,
            digest=index.digest,
            callbacks=index.count,
            duration_ms=round((time.monotonic() - began) * 1000, 3),
            causes=[_cause(c) for c in found],
            changes=[_change(c) for c in changed],
            held=[
                messages.HeldDirectory(directory=path, reason=reason)
                for path, reason in self.held.items()
            ],
            newly_held=list(newly_held),
            restored=list(restored),
            diagnostics=previous.compared((*self.findings, *self._once)),
            conf_diff=list(islice(diffs, MAX_DIFFS)),
        )


def _cause(cause: Cause) -> messages.Cause:
    path, info = encodable(cause.path), cause.info
    if info is None:
        return messages.Cause(path=path, change=cause.change)
    name = identity.user_name(info.uid)
    return messages.Cause(
        path=path,
        change=cause.change,
        owner=encodable(name) if name else str(info.uid),
        mtime=UNSET if info.mtime_ns is None else _mtime(info.mtime_ns),
        size=UNSET if info.size is None else info.size,
    )


def _change(change: Change) -> messages.Change:
    callback = change.callback
    return messages.Change(
        change=change.change,
        path=callback.path,
        trigger=callback.registration.text,
        line=callback.registration.line,
        digest=callback.implementation.digest,
        what=list(change.what) or UNSET,
    )


def _mtime(nanoseconds: int) -> str | UnsetType:
    """As RFC 3339, which has no years before 0 and after 9999."""
    try:
        return _rfc3339(
            datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
        )
    except OverflowError:
        return UNSET


def _rfc3339(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
