"""Findings as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from agent.cli.rendering import Paint
from agent.core.counting import count
from agent.core.diagnostic import Diagnostic, Severity, format_line

#: By severity, its colour.
COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def finding_line(finding: Diagnostic, paint: Paint) -> str:
    """The finding's one line, its severity in colour."""
    colour = COLOURS[finding.severity]
    return format_line(finding.as_json(), lambda severity: paint(severity, colour))


def tally(findings: Sequence[Diagnostic]) -> str:
    """`2 errors, 1 warning`, or `nothing found`."""
    counts = {s: sum(f.severity is s for f in findings) for s in Severity}
    return ", ".join(count(n, s.value) for s, n in counts.items() if n) or "nothing found"
