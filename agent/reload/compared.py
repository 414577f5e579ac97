"""What is new in a record, compared with the record before it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import UNSET

from agent.core.diagnostic import MORE_FINDINGS, Diagnostic
from agent.rpc import messages, results

_LINE_NUMBER = re.compile(r"\bline \d+")


class Compared:
    """Findings and held directories, compared with those of the record before."""

    def __init__(self, findings: Iterable[Diagnostic], held: Mapping[str, str]) -> None:
        self._findings = findings
        self._held = held

    def diagnostics(self, now: Iterable[Diagnostic]) -> list[messages.Diagnostic]:
        """The findings of a record. One that only moved to another line is not new."""
        now = list(now)
        left = Counter(self._findings)
        others = []
        for place, finding in enumerate(now):
            if left[finding]:
                left[finding] -= 1
            else:
                others.append(place)
        moved = Counter(_without_place(finding) for finding in left.elements())
        new = set()
        for place in others:
            key = _without_place(now[place])
            if moved[key]:
                moved[key] -= 1
            else:
                new.add(place)
        return [results.diagnostic(f, place in new) for place, f in enumerate(now)]

    def held(self, now: Mapping[str, str]) -> list[messages.HeldDirectory]:
        """The held directories of a record, given why which directory is held."""
        return [
            messages.HeldDirectory(
                directory=path, reason=reason, new=UNSET if path in self._held else True
            )
            for path, reason in now.items()
        ]


def _without_place(finding: Diagnostic) -> tuple[str, ...]:
    """What stays of a finding while its line moves."""
    message = _LINE_NUMBER.sub("line", finding.message)
    if finding.code == MORE_FINDINGS:
        message = ""
    return finding.severity, finding.code, finding.path, message
