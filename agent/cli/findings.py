"""Findings as text: the forms of `check --output-format`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import decode_source

from agent.cli.rendering import Paint
from agent.core.counting import count
from agent.core.diagnostic import Diagnostic, Severity, format_line
from agent.core.excerpt import excerpt
from agent.core.quoting import printable

#: Columns of a source line where the output is not a terminal.
SOURCE_WIDTH = 160
#: Digits of a line number that the margin has room for, as in gcc's form.
_MARGIN = 5

#: By severity, its colour.
COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
#: By severity, its word in an annotation of GitHub Actions.
_GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def concise(finding: Diagnostic, paint: Paint) -> str:
    """The finding's one line, its severity in colour."""
    colour = COLOURS[finding.severity]
    return format_line(finding.as_json(), lambda severity: paint(severity, colour))


def full(finding: Diagnostic, line: str | None, width: int, paint: Paint) -> Iterator[str]:
    """The finding's line without its hint, the source line with carets, and the hint as help.

    `line` is the source line, or None if the finding has no line. `width` is that of the terminal.
    """
    colour = COLOURS[finding.severity]
    fields = finding.as_json()
    hint = fields.pop("hint", None)
    yield format_line(fields, lambda severity: paint(severity, colour))
    if line is not None and finding.line is not None:
        number = f"{finding.line:{_MARGIN}}"
        room = width - len(number) - len(" | ")
        text, carets = excerpt(line, finding.column or 1, finding.length, room)
        yield f"{number} | {text}".rstrip()
        at = len(carets) - len(carets.lstrip())
        yield f"{'':{len(number)}} | {carets[:at]}{paint(carets[at:], colour)}"
    if hint:
        yield f"{'':{_MARGIN + 1}}{paint('help', 'cyan')}: {printable(str(hint))}"


def github(finding: Diagnostic) -> str:
    """The finding as a workflow command of GitHub Actions, which shows it beside the line."""
    fields = finding.as_json()
    place = [("file", str(fields["path"]))]
    if finding.line is not None:
        place.append(("line", str(finding.line)))
        if finding.column is not None:
            place.append(("col", str(finding.column)))
            place.append(("endColumn", str(finding.column + finding.length)))
    place.append(("title", f"callback-agent ({finding.code})"))
    properties = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in place)
    text = "\n".join(str(fields[name]) for name in ("message", "hint") if name in fields)
    return f"::{_GITHUB[finding.severity]} {properties}::{_escaped(text)}"


def _escaped(text: str, more: str = "") -> str:
    """Text in a workflow command: `%`, line ends and `more` are written in percent form."""
    encoded = re.sub(f"[%\r\n{more}]", lambda m: f"%{ord(m[0]):02X}", text)
    return printable(encoded)


def tally(findings: Sequence[Diagnostic]) -> str:
    """`2 errors, 1 warning`, or `nothing found`."""
    counts = {s: sum(f.severity is s for f in findings) for s in Severity}
    return ", ".join(count(n, s.value) for s, n in counts.items() if n) or "nothing found"


class Sources:
    """The lines of the files that findings are about. `read` gives the bytes of a file, None where
    they are not known."""

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        self._read = read
        self._lines: dict[str, list[str]] = {}

    def line(self, finding: Diagnostic) -> str | None:
        """The line that a finding is about, without its end; None if it is about a whole file."""
        if finding.line is None:
            return None
        path = finding.path
        if path not in self._lines:
            self._lines[path] = _lines(path, self._read(path) or b"")
        lines = self._lines[path]
        # The line after the last one is where something is missing.
        return lines[finding.line - 1] if finding.line <= len(lines) else None


def _lines(path: str, data: bytes) -> list[str]:
    """The lines of a file as the agent counts them."""
    if path.endswith(".py"):
        try:
            return decode_source(data).split("\n")
        except (SyntaxError, UnicodeDecodeError, LookupError):
            return re.split(r"\r\n|\r|\n", data.decode("utf-8", "surrogateescape"))
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return [line.removesuffix("\r") for line in text.split("\n")]
