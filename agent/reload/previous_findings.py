"""Which findings of a record are new: those that the record before did not have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from agent.core.diagnostic import MORE_FINDINGS, Diagnostic
from agent.core.line_diff import Shift
from agent.rpc import messages, results

_LINE_NUMBER = re.compile(r"\bline \d+")


class PreviousFindings:
    """The findings of the record before.

    `shifts` says by path where the lines of a file that was edited since then are now.
    """

    def __init__(
        self,
        findings: Iterable[Diagnostic],
        shifts: Mapping[str, tuple[Shift, ...]] = MappingProxyType({}),
    ) -> None:
        self._findings = findings
        self._shifts = shifts

    def compared(self, now: Iterable[Diagnostic]) -> list[messages.Diagnostic]:
        """The findings of the next record, in order, the new ones marked as new. One that only
        moved to another line is not new."""
        now = list(now)
        left = Counter((_without_place(f), self._line_now(f)) for f in self._findings)
        others = []
        for place, finding in enumerate(now):
            key = _without_place(finding), finding.line
            if left[key]:
                left[key] -= 1
            else:
                others.append(place)
        # Those whose lines are part of an edit may be anywhere.
        moved = Counter(key for key, _ in left.elements())
        new = set()
        for place in others:
            what = _without_place(now[place])
            if moved[what]:
                moved[what] -= 1
            else:
                new.add(place)
        return [results.diagnostic(f, place in new) for place, f in enumerate(now)]

    def _line_now(self, finding: Diagnostic) -> int | None:
        """The line in which a finding of the record before should be now; 0 if anywhere."""
        line = finding.line
        for shift in self._shifts.get(finding.path, ()):
            line = shift.moved(line) or 0 if line else line
        return line


def _without_place(finding: Diagnostic) -> tuple[str, ...]:
    """What stays of a finding while its line moves."""
    message = _LINE_NUMBER.sub("line", finding.message)
    if finding.code == MORE_FINDINGS:
        message = ""
    return finding.severity, finding.code, finding.path, message
