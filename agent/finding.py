"""What the agent reports: one form for everything that a person should know of."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How bad a finding is. Only an error degrades the agent."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in a file, a directory or a setting.

    `code` is a stable kebab-case name that scripts may match. `line` and `column` count from 1,
    columns in code points; both are None when the finding is about the whole file. `message` says
    what was found and what was expected, `hint` what to do.
    """

    severity: Severity
    code: str
    path: str
    line: int | None
    column: int | None
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        """`path:line:column: severity: message [code]`, as editors and compilers have it."""
        place = f"{self.path}:{self.line or 1}:{self.column or 1}"
        hint = f"; {self.hint}" if self.hint else ""
        return printable(f"{place}: {self.severity}: {self.message}{hint} [{self.code}]")

    def as_json(self) -> dict[str, str | int | None]:
        """The finding as the records and `check --json` carry it."""
        found: dict[str, str | int | None] = {
            "severity": self.severity.value,
            "code": self.code,
            "path": encodable(self.path),
            "line": self.line,
            "column": self.column,
            "message": encodable(self.message),
        }
        if self.hint:
            found["hint"] = encodable(self.hint)
        return found


def encodable(text: str) -> str:
    r"""`text` with bytes that were not UTF-8 (lone surrogates, in Python) written as `\xNN`.

    File names and lines of a file may hold any bytes; JSON and terminals take only Unicode.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    r"""`text` on one line, its control characters written as `\xNN`.

    A file name or a trigger must not be able to write lines of its own into the log, nor to
    drive the terminal that shows it.
    """
    text = encodable(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
