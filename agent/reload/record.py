"""Makes the records: one for everything that changes, or refuses to change, what is served.

`Recorder` remembers what the last record said. The difference from that is the next record. So if a
record could not be made, because a thread or memory was missing, nothing of it is lost: the next
attempt makes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from agent.core.diagnostic import Diagnostic, Severity
from agent.core.index import Change, Index, ServedDirectory, changes
from agent.core.unit import Unit
from agent.reload import causes
from agent.reload.causes import Cause
from agent.reload.log import Record
from agent.rpc import results

#: The events of records. The first in _ORDER that applies names a record.
STARTED = "started"
HELD = "held"
RESTORED = "restored"
RELOADED = "reloaded"
STOPPED = "stopped"
_ORDER = (STARTED, HELD, RESTORED, RELOADED)


class Recorder:
    """What was recorded, and what is to be recorded. `findings` and `held` are those of the newest
    record, also while it is being made."""

    def __init__(self) -> None:
        self.findings: tuple[Diagnostic, ...] = ()
        #: Why which directory is held.
        self.held: dict[str, str] = {}
        #: The index of the last record, None before the first.
        self._index: Index | None = None
        self._causes: list[Cause] = []
        #: Diagnostics of the next record alone: that it has them no more makes no other record.
        self._once: list[Diagnostic] = []
        #: The event of a record that is to be made.
        self._event: str | None = None

    @property
    def degraded(self) -> bool:
        return bool(self.held) or any(f.severity is Severity.ERROR for f in self.findings)

    def found(self, found: Iterable[Cause]) -> None:
        """Note what changed on disk. It goes into the next record."""
        self._causes += found

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
        elif self._event is None:
            self._causes.clear()
            self._index = index
        return self._event is not None

    def encoded(
        self, index: Index, units: Mapping[str, Unit | None], qb_conf: str, began: float
    ) -> tuple[bytes, bytes]:
        """The record that is due and its summary, as JSON. `index` is served now, `units` are
        accepted, `began` is the monotonic time in seconds when the reload began. Takes long if
        there are many changes."""
        found, changed = list(self._causes), list[Change]()
        if self._index is None or index.digest != self._index.digest:
            old = {s.directory: s for s in self._index.served} if self._index else {}
            new = {s.directory: s for s in index.served}
            found += _missing_causes(found, old, new, units, qb_conf)
            changed = changes(
                [s for path, s in old.items() if new.get(path) is not s],
                [s for path, s in new.items() if old.get(path) is not s],
            )
        assert self._event is not None
        record = self.other(self._event, index, began, found, [c.as_json() for c in changed])
        record["diagnostics"] += [f.as_json() for f in self._once]
        return results.encode(record), results.summary(record)

    def done(self, index: Index) -> None:
        """The record of this index was made."""
        self._index = index
        self._event = None
        self._causes.clear()
        self._once.clear()

    def other(
        self,
        event: str,
        index: Index,
        began: float,
        found: list[Cause] | None = None,
        changed: list[dict[str, Any]] | None = None,
    ) -> Record:
        """A record of the state now, with these causes and changes or without any."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "time": now,
            "event": event,
            "generation": index.generation,
            "digest": index.digest,
            "callbacks": index.count,
            "duration_ms": round((time.monotonic() - began) * 1000, 3),
            "causes": found or [],
            "changes": changed or [],
            "held": [{"directory": p, "reason": reason} for p, reason in self.held.items()],
            "diagnostics": [f.as_json() for f in self.findings],
        }


def _missing_causes(
    found: list[Cause],
    old: Mapping[str, ServedDirectory],
    new: Mapping[str, ServedDirectory],
    units: Mapping[str, Unit | None],
    qb_conf: str,
) -> list[Cause]:
    """The causes of what changed in directories of which no cause was found on disk."""
    missing: list[Cause] = []
    known = [c["path"] for c in found]
    for path, served in new.items():
        was = old.get(path)
        if served is was or any(k == path or k.startswith(f"{path}/") for k in known):
            continue
        if was is not None:
            missing += causes.of_served(was, served, units.get(path))
        elif served.callbacks and qb_conf not in known:
            # At the start. Later, the cause is qb.conf, which lists the directory.
            missing.append(causes.cause(path, "added"))
    return missing
