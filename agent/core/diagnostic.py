"""What the agent reports: one form for everything that a person should know of."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

#: The longest name or quoted text in a message, in characters. Longer ones are cut in the middle.
MAX_QUOTED = 200
#: The most findings that are reported of one file. A person reads the first few; a broken file of
#: 16 MiB can have millions.
MAX_FINDINGS = 100
#: The code of the finding that counts those that are not reported.
MORE_FINDINGS = "more-findings"


class Severity(enum.StrEnum):
    """How bad a finding is. Only an error degrades the agent."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Diagnostic:
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
    #: How many findings this one counts: more than one only for `more-findings`.
    count: int = 1

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


def capped(
    findings: Iterable[Diagnostic], limit: int = MAX_FINDINGS, under: str | None = None
) -> list[Diagnostic]:
    """At most `limit` findings of each path, and one more of code `more-findings` for the rest.

    The worst are kept, among equals the first, all in the order given. The one that counts the
    rest follows at the end and has the worst severity among them, so no error is lost. With
    `under`, the path of a directory, all count as findings of that one path.

    The result may be given again, alone or with more findings: the counts add up, and nothing
    else changes. So a long list can be capped while it grows.
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
            found.sort(key=lambda item: _RANK[item[1].severity])
            rest.setdefault(path, []).extend(finding for _, finding in found[limit:])
            del found[limit:]
        kept += found
    kept.sort(key=lambda item: item[0])
    return [finding for _, finding in kept] + [_more(path, left) for path, left in rest.items()]


def _more(path: str, left: list[Diagnostic]) -> Diagnostic:
    """The finding that counts those that are left out."""
    count = sum(finding.count for finding in left)
    severity = min((finding.severity for finding in left), key=_RANK.__getitem__)
    message = f"there are {count} more findings like these" if count > 1 else "there is one more"
    hint = "correct those that are reported, then look again"
    return Diagnostic(severity, MORE_FINDINGS, path, None, None, message, hint, count)


_RANK = {severity: rank for rank, severity in enumerate(Severity)}


def shorten(text: str, limit: int = MAX_QUOTED) -> str:
    """`text` with its middle replaced by `...` where it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    tail = (limit - 3) // 3
    return f"{text[: limit - 3 - tail]}...{text[len(text) - tail :]}"


def shown(text: str) -> str:
    """A name or a text that was read as a message quotes it: one line, MAX_QUOTED characters."""
    return shorten(printable(shorten(text)))


def encodable(text: str) -> str:
    r"""`text` with bytes that were not UTF-8 (lone surrogates, in Python) written as `\xNN`.

    File names and lines of a file may hold any bytes; JSON and terminals take only Unicode.
    """
    if text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # Surrogates that stand for no byte.
        text = _SURROGATE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)
        raw = text.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def printable(text: str) -> str:
    r"""`text` on one line, all that does not print written as `\xNN`, `\uNNNN` or `\UNNNNNNNN`.

    That is: control characters (C1 too), format characters such as those that turn the direction
    of writing, separators other than the space, and code points without a character. A file name
    or a trigger must not be able to write lines of its own into the log, nor to drive the
    terminal that shows it, nor to look like another.
    """
    text = encodable(text)
    if text.isprintable():
        return text
    unseen = {c for c in set(text) if not c.isprintable()}
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in unseen})


# DEL, C1 and all that Unicode 16 calls a format character or a separator of lines or paragraphs.
# Written out: a walk over all code points would take 100 ms of each start.
_UNSEEN = re.compile(
    "[\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)


def escape_json(data: bytes) -> bytes:
    r"""Encoded JSON with `\uNNNN` for characters that could drive a terminal that shows it.

    Takes and gives UTF-8; what it decodes to stays the same. Encoders escape C0 only. This adds
    DEL, C1, and format characters such as those that turn the direction of writing.
    """
    if data.isascii() and b"\x7f" not in data:
        return data
    return _UNSEEN.sub(_as_json_escape, data.decode()).encode()


def _as_json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
