"""What the agent reports to people, in one form, and the registry of all diagnostic codes.

A `Problem` says what is wrong in one text. A `Diagnostic` is a problem of a named file, directory
or setting; it is what records, `check` and the pipe carry. People know it as a *finding*: so it is
called in messages, in the manual and in variables. The severity of a problem comes from
the registry `CODES`, except where a rule gives the code's other severity.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent.core.quoting import encodable, printable

#: The most diagnostics that are reported of one file. A person reads the first few; a broken file
#: of 16 MiB can have millions.
MAX_FINDINGS = 100
#: A growing list is capped whenever it has more diagnostics than this.
MAX_UNCAPPED = 10 * MAX_FINDINGS
#: The code of the diagnostic that counts those that are not reported.
MORE_FINDINGS = "more-findings"


class Severity(enum.StrEnum):
    """How bad a diagnostic is. Only an error degrades the agent."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Effect(enum.StrEnum):
    """What a diagnostic means for what is served."""

    #: The directory is held: what it served before stays served.
    HELD = "held"
    #: The edit takes effect.
    SERVED = "served"
    #: The edit takes effect and removes callbacks: those of one file, or all of the directory.
    REMOVED = "removed"
    #: The settings that were in use before stay in use.
    SETTINGS = "settings"


class Code(NamedTuple):
    """One row of the registry.

    `effect` belongs to `severity`. A code with an `other` severity has the effect `held` as an
    error and `served` as a warning.
    """

    severity: Severity
    effect: Effect
    explanation: str
    other: Severity | None = None


ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
HELD, SERVED, REMOVED, SETTINGS = Effect.HELD, Effect.SERVED, Effect.REMOVED, Effect.SETTINGS

#: Every code, in the order of the manual's list. Three codes have two severities:
#: `does-not-compile` is an error if the accepted version compiled; `unsafe` is a warning if the
#: setting unsafe_permissions is `warn`; `more-findings` has the worst severity that it counts.
CODES: Mapping[str, Code] = {
    # Lines of callbacks.conf.
    "no-equals": Code(ERROR, HELD, "A line of callbacks.conf has text and no `=`"),
    "no-name": Code(ERROR, HELD, "A line of callbacks.conf begins with `=`: no file is named"),
    "bad-name": Code(ERROR, HELD, "The name before the `=` is not a plain file name"),
    "quoted-name": Code(ERROR, HELD, "The file name is in double quotes"),
    "other-extension": Code(ERROR, HELD, "The file's extension names no callback language"),
    "not-utf-8": Code(ERROR, HELD, "A name or a trigger holds a byte that is not UTF-8"),
    "unclosed-quote": Code(ERROR, HELD, "The double quote that opens the value is never closed"),
    "after-quote": Code(ERROR, HELD, "Text that is not a comment follows the closing quote"),
    "brace-value": Code(ERROR, HELD, "The value is in braces"),
    "single-quote": Code(WARNING, SERVED, "The value holds a single quote"),
    "duplicate-line": Code(WARNING, SERVED, "An earlier line has the same file and trigger"),
    # Triggers.
    "empty-trigger": Code(ERROR, HELD, "Nothing follows the `=`, so there is no trigger"),
    "trigger-syntax": Code(ERROR, HELD, "An event, an operator or a parenthesis is missing"),
    "not-an-event": Code(ERROR, HELD, "A term has no hyphen, so it cannot be an event"),
    "empty-field": Code(ERROR, HELD, "A field of an event is empty"),
    "unknown-type": Code(ERROR, HELD, "The second field of an event is not a type of Qube"),
    "dependency-syntax": Code(ERROR, HELD, "`link-...` belongs in a job's `dependency`"),
    "too-long": Code(ERROR, HELD, "The trigger is longer than the agent reads"),
    "too-deep": Code(ERROR, HELD, "Parentheses are nested deeper than the agent reads"),
    "never-fires": Code(WARNING, SERVED, "Events of this type have an extra, the term has none"),
    "name-case": Code(WARNING, SERVED, "The event name is one of Qube's in another case"),
    "context-case": Code(WARNING, SERVED, "The context is `self` or `parent` in another case"),
    "unknown-name": Code(WARNING, SERVED, "The event name is not one of Qube's, and is like one"),
    "not-a-number": Code(WARNING, SERVED, "The extra of this type of event is a number"),
    "odd-hyphen": Code(WARNING, SERVED, "The label begins or ends with a hyphen"),
    "single-operator": Code(WARNING, SERVED, "A single `&` or `|` is between two words"),
    "word-operator": Code(WARNING, SERVED, "The operators are written as `and` and `or`"),
    "global-trigger": Code(WARNING, SERVED, "The trigger has an event of a global type"),
    "escaped-star": Code(WARNING, SERVED, "The trigger holds `\\*`"),
    "suspicious": Code(WARNING, SERVED, "A line loads and does not do what it seems to say"),
    # Files and directories.
    "missing-file": Code(ERROR, HELD, "A file is missing that was not served before"),
    "removed": Code(ERROR, REMOVED, "A file whose callbacks were served was removed"),
    "no-conf": Code(ERROR, REMOVED, "The directory can be read and has no callbacks.conf"),
    "empty-conf": Code(WARNING, REMOVED, "callbacks.conf served callbacks and now has 0 bytes"),
    "not-a-regular-file": Code(ERROR, HELD, "A directory, device, socket or pipe has the name"),
    "unreadable": Code(ERROR, HELD, "A file or a directory cannot be read"),
    "too-big": Code(ERROR, HELD, "A file is larger than the agent reads"),
    "line-too-long": Code(ERROR, HELD, "A line of callbacks.conf is longer than the agent reads"),
    "unit-too-big": Code(ERROR, HELD, "The files have more bytes together than the agent keeps"),
    "too-many-lines": Code(ERROR, HELD, "callbacks.conf has more lines than the agent reads"),
    "too-many-callbacks": Code(ERROR, HELD, "One directory has more callbacks than are served"),
    "being-written": Code(ERROR, HELD, "A process keeps a file open for writing"),
    "unsafe": Code(ERROR, HELD, "Other users may change a file or directory", WARNING),
    "missing": Code(ERROR, HELD, "A listed callback directory does not exist"),
    "not-a-directory": Code(ERROR, HELD, "A listed path, or a part of it, is a file"),
    "dangling-link": Code(ERROR, HELD, "The target of a symbolic link is missing"),
    "unmounted": Code(ERROR, HELD, "The directory's file system is not mounted"),
    "no-answer": Code(ERROR, HELD, "The directory's file system does not answer"),
    "out-of-resources": Code(ERROR, HELD, "No file descriptor or no memory was left"),
    "check-budget": Code(ERROR, HELD, "The Python files take too long to compile"),
    "internal-error": Code(ERROR, HELD, "The agent failed while it read or checked the directory"),
    # Code.
    "language-off": Code(WARNING, SERVED, "The supervisor does not run this language"),
    "does-not-compile": Code(WARNING, SERVED, "Python cannot compile the file", ERROR),
    "not-checked": Code(WARNING, SERVED, "A Python file is not checked yet"),
    "exits": Code(WARNING, SERVED, "The code ends the process that runs it"),
    "blocks": Code(WARNING, SERVED, "The code waits for a process, the network, or time"),
    "wrong-target": Code(WARNING, SERVED, "No event of the trigger has what the code acts on"),
    "unknown-code": Code(WARNING, SERVED, "The text is not one of Qube's code strings"),
    # Settings and state.
    "qb-conf-unreadable": Code(ERROR, SETTINGS, "qb.conf exists and cannot be read"),
    "qb-conf-lost": Code(ERROR, SETTINGS, "qb.conf was there and is gone"),
    "bad-settings": Code(ERROR, SETTINGS, "The settings, read again, cannot be used"),
    "bad-flags": Code(
        ERROR, SETTINGS, "`supervisor_language_flags` begins with a digit and is no number"
    ),
    "bad-path": Code(ERROR, SETTINGS, "A path in qb.conf cannot be the path of a directory"),
    "too-many-directories": Code(ERROR, SETTINGS, "The callback path lists too many directories"),
    "no-qb-conf": Code(NOTE, SERVED, "The qb.conf that a flag or variable names does not exist"),
    "unknown-setting": Code(
        WARNING, SERVED, "A line of qb.conf looks like a parameter and sets none"
    ),
    "relative-path": Code(WARNING, SERVED, "A path in qb.conf does not begin with `/`"),
    "unknown-flag": Code(WARNING, SERVED, "A language flag is unknown"),
    "duplicate-directory": Code(WARNING, SERVED, "The callback path lists a directory twice"),
    "duplicate-setting": Code(WARNING, SERVED, "qb.conf sets a parameter twice"),
    "unclosed-brace": Code(WARNING, SERVED, "A brace in qb.conf is never closed"),
    "restart-needed": Code(WARNING, SERVED, "A supervisor reads the parameter only when it starts"),
    "kept-damaged": Code(WARNING, SERVED, "The stored version of a directory cannot be used"),
    "more-findings": Code(WARNING, SERVED, "There are more findings than are shown", ERROR),
}


class Edit(NamedTuple):
    """A part of a correction: `text` in place of the characters from offset `start` to `end`.

    The edits of one problem are in order and do not overlap.
    """

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in one text: a trigger, a line, a source, a value.

    `message` says what was found and what was expected, `hint` what to do. `line` and `column`
    count from 1, columns in code points; None where the problem has no place in the text, or the
    caller knows it. `length` is how many code points from there are wrong; it may exceed the line.
    `override` is given only where a rule gives the code's other severity. `edits`, if any, correct
    the text; `hint` then says in words what they do.
    """

    code: str
    message: str
    hint: str | None = None
    line: int | None = None
    column: int | None = None
    override: Severity | None = None
    length: int = 1
    edits: tuple[Edit, ...] = ()

    @property
    def severity(self) -> Severity:
        return self.override or CODES[self.code].severity

    def at(self, path: str, line: int | None = None, column: int | None = None) -> Diagnostic:
        """The problem as one of a file, directory or setting; without a `line` at its own place."""
        if line is None:
            line, column = self.line, self.column
        return Diagnostic(
            self.severity,
            self.code,
            path,
            line,
            column,
            self.message,
            self.hint,
            length=self.length,
        )


class ProblemError(Exception):
    """Ends the reading of a text because of one problem. Takes the fields of a `Problem`."""

    def __init__(
        self,
        code: str,
        message: str,
        hint: str | None = None,
        line: int | None = None,
        column: int | None = None,
        length: int = 1,
        edits: tuple[Edit, ...] = (),
    ) -> None:
        super().__init__(message)
        self.problem = Problem(code, message, hint, line, column, None, length, edits)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A problem of a file, a directory or a setting. Made by `Problem.at`.

    `code` is a stable kebab-case name that scripts may match. `line`, `column` and `length` are as
    in `Problem`; line and column are None for a diagnostic about a whole file.
    """

    severity: Severity
    code: str
    path: str
    line: int | None
    column: int | None
    message: str
    hint: str | None = None
    #: How many diagnostics this one counts: more than one only for `more-findings`.
    count: int = 1
    length: int = 1

    def __str__(self) -> str:
        return format_line(self.as_json())

    def as_json(self) -> dict[str, str | int | None]:
        """The diagnostic as records and `check --json` carry it."""
        fields: dict[str, str | int | None] = {
            "severity": self.severity.value,
            "code": self.code,
            "path": encodable(self.path),
            "line": self.line,
            "column": self.column,
            "message": encodable(self.message),
        }
        if self.length != 1:
            fields["length"] = self.length
        if self.hint:
            fields["hint"] = encodable(self.hint)
        return fields


def format_line(found: Mapping[str, Any], paint: Callable[[str], str] = str) -> str:
    """`path:line:column: severity: message; hint [code]`, the form of editors and compilers.

    Takes the JSON form of a diagnostic. `paint` colours the severity.
    """
    place = f"{found['path']}:{found['line'] or 1}:{found['column'] or 1}: "
    hint = f"; {found['hint']}" if found.get("hint") else ""
    text = f": {found['message']}{hint} [{found['code']}]"
    return printable(place) + paint(found["severity"]) + printable(text)


def capped(
    findings: Iterable[Diagnostic], limit: int = MAX_FINDINGS, under: str | None = None
) -> list[Diagnostic]:
    """At most `limit` diagnostics of each path, and one of code `more-findings` for the rest.

    The worst are kept, among equals the first, all in the order given. The one that counts the
    rest follows at the end and has the worst severity among them, so no error is lost. With
    `under`, the path of a directory, all count as diagnostics of that one path.

    The result may be passed in again, alone or with more diagnostics: the counts add up, and
    nothing else changes. So a long list can be capped while it grows.
    """
    by_path: dict[str, list[tuple[int, Diagnostic]]] = {}
    rest: dict[str, list[Diagnostic]] = {}
    for position, finding in enumerate(findings):
        path = finding.path if under is None else under
        if finding.code == MORE_FINDINGS:
            rest.setdefault(path, []).append(finding)
        else:
            by_path.setdefault(path, []).append((position, finding))
    kept: list[tuple[int, Diagnostic]] = []
    for path, found in by_path.items():
        if len(found) > limit:
            found.sort(key=lambda item: RANK[item[1].severity])
            rest.setdefault(path, []).extend(finding for _, finding in found[limit:])
            del found[limit:]
        kept += found
    kept.sort(key=lambda item: item[0])
    return [finding for _, finding in kept] + [_more(path, left) for path, left in rest.items()]


def _more(path: str, left: list[Diagnostic]) -> Diagnostic:
    """The diagnostic that counts those that are left out."""
    count = sum(finding.count for finding in left)
    severity = min((finding.severity for finding in left), key=RANK.__getitem__)
    return more_findings(path, count, severity)


def more_findings(path: str, count: int, severity: Severity = WARNING) -> Diagnostic:
    """The diagnostic that counts `count` more of a path; `severity` is the worst of them."""
    message = f"there are {count} more findings like these" if count > 1 else "there is one more"
    hint = "correct those that are reported, then look again"
    return Diagnostic(severity, MORE_FINDINGS, path, None, None, message, hint, count)


#: By severity, its place from the worst on.
RANK = {severity: rank for rank, severity in enumerate(Severity)}
