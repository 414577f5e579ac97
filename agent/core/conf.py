r"""The `key = value` text that qb.conf and callbacks.conf share.

The rules, for both files:

- Text is UTF-8, with or without a byte order mark; lines end with LF or CRLF.
- Everything from a `#` on is a comment, but for a `#` inside double quotes. What a comment holds
  does not matter, not even whether it is UTF-8.
- A line is split at its first `=`; the white space around name and value goes.
- Quotes count only as the first character of a value. Inside them `#` and `=` are text, `\\` and
  `\"` are escapes, any other backslash stays. Only a comment may follow the closing quote.

In qb.conf a value may also stand in braces, which may span lines; the lines inside look like
settings and are none. Only the settings that are asked for are looked at, and a setting that
appears twice counts as written last. In callbacks.conf every line counts, and what cannot be read
is an error.

Columns count code points from 1, and each byte that is not UTF-8 counts as one.

All of it takes time and memory linear in the size of the file, whatever is in it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator
from typing import NamedTuple

from agent.core.diagnostic import MAX_FINDINGS, Diagnostic, Severity, capped, shown

#: The longest line of a callbacks.conf, in characters. A trigger at its own limit fits, in quotes
#: and with every character escaped.
MAX_LINE = 1 << 17
#: So many findings are gathered before those over the cap are counted and dropped.
GATHERED = 10 * MAX_FINDINGS

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_ESCAPE = re.compile(r'\\([\\"])')
# Found one after the other: a repeated group keeps a state of 20 bytes for each character.
_QUOTE_OR_ESCAPE = re.compile(r'"|\\.', re.DOTALL)
#: In a brace value: what can open or close one, or hide a brace.
_BRACE_TOKEN = re.compile(r'["#{}]')


class Setting(NamedTuple):
    """One `name = value` line. Lines and columns count from 1, columns in code points."""

    name: str
    value: str
    line: int
    column: int
    value_column: int
    #: Offsets in `value` before which a backslash of an escape stood.
    escapes: tuple[int, ...] = ()

    def column_of(self, offset: int) -> int:
        """The column in the file of the character at `offset` in the value."""
        return self.value_column + offset + bisect_right(self.escapes, offset)


class _Unreadable(Exception):
    """A line that is no setting: what is wrong with it, and where."""

    def __init__(self, code: str, column: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self._found = code, column, message, hint

    def finding(self, path: str, line: int) -> Diagnostic:
        code, column, message, hint = self._found
        return Diagnostic(Severity.ERROR, code, path, line, column, message, hint)


def read_callbacks(
    data: bytes, path: str, most_lines: int | None = None
) -> tuple[list[Setting], list[Diagnostic]]:
    """The registrations of a callbacks.conf, in line order, and what is wrong with its lines.

    A line with a finding of severity error gives no setting. Of more than MAX_FINDINGS findings
    the last counts the rest (see `capped`). Takes any bytes; never raises.
    """
    settings: list[Setting] = []
    findings: list[Diagnostic] = []
    # What follows the last line feed is a line only if there is something.
    count = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    if most_lines is not None and count > most_lines:
        message = f"this file has {count} lines; at most {most_lines} are read"
        hint = "split the callbacks over several directories"
        return [], [Diagnostic(Severity.ERROR, "too-many-lines", path, None, None, message, hint)]
    for number, line in enumerate(_lines(data), 1):
        if len(findings) > GATHERED:
            findings = capped(findings)
        try:
            _refuse_long(line)
            setting = _setting(line, number)
            if setting is None:
                continue
            _refuse_bad_bytes(line, setting)
            if line[setting.value_column - 1 :].startswith("{"):
                raise _Unreadable(
                    "brace-value",
                    setting.value_column,
                    "a trigger does not stand in braces",
                    "write it without them: name = trigger",
                )
            if setting.name.startswith('"'):
                raise _Unreadable(
                    "quoted-name",
                    setting.column,
                    "a file name does not stand in quotes",
                    "write it without them: name = trigger",
                )
        except _Unreadable as wrong:
            findings.append(wrong.finding(path, number))
            continue
        if "'" in setting.value:
            findings.append(_single_quote(setting, path))
        settings.append(setting)
    return settings, capped(findings)


def read_qb(
    data: bytes, path: str, wanted: Collection[str]
) -> tuple[dict[str, Setting], list[Diagnostic]]:
    """The `wanted` settings of a qb.conf, by name, and what is wrong with them.

    Other settings are not ours: they give neither a setting nor a finding. Of more than
    MAX_FINDINGS findings the last counts the rest (see `capped`). Takes any bytes; never raises.
    """
    found: dict[str, Setting] = {}
    findings: list[Diagnostic] = []
    for line, number, unclosed in _outside_braces(_lines(data)):
        if len(findings) > GATHERED:
            findings = capped(findings)
        try:
            setting = _setting(line, number, wanted)
            if setting is None:
                continue
            _refuse_bad_bytes(line, setting)
            if line[setting.value_column - 1 :].startswith("{"):
                raise _Unreadable(
                    "brace-value",
                    setting.value_column,
                    f"{setting.name} does not take a value in braces",
                    "write the values with commas between them, in double quotes or bare",
                )
        except _Unreadable as wrong:
            findings.append(wrong.finding(path, number))
            continue
        if "'" in setting.value:
            findings.append(_single_quote(setting, path))
        if unclosed is not None:
            findings.append(
                Diagnostic(
                    Severity.WARNING,
                    "unclosed-brace",
                    path,
                    unclosed,
                    None,
                    f"the brace that opens here is never closed; {setting.name} on line {number}"
                    " is read as if it were",
                    "write the `}` that closes it",
                )
            )
        if setting.name in found:
            message = (
                f"{setting.name} is set twice; this one counts,"
                f" the one on line {found[setting.name].line} does not"
            )
            findings.append(
                Diagnostic(
                    Severity.WARNING,
                    "duplicate-setting",
                    path,
                    number,
                    setting.column,
                    message,
                    "remove one of the two",
                )
            )
        found[setting.name] = setting
    return found, capped(findings)


def closing_quote(text: str, start: int) -> int | None:
    """The offset of the double quote that closes the one at `start`; None if nothing does."""
    for found in _QUOTE_OR_ESCAPE.finditer(text, start + 1):
        if found[0] == '"':
            return found.start()
    return None


def unescaped(raw: str) -> str:
    """What a text in quotes means, given what is between them."""
    return _ESCAPE.sub(r"\1", raw)


def _lines(data: bytes) -> list[str]:
    """The lines without their ends. Bytes that are not UTF-8 become lone surrogates."""
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _setting(line: str, number: int, wanted: Collection[str] | None = None) -> Setting | None:
    """The setting on a line, None on a line without one, _Unreadable where it is wrong.

    With `wanted`, a line that sets something else, or nothing, is None however it looks.
    """
    left, equals, right = line.partition("=")
    if equals and "#" not in line and '"' not in line:
        # Nearly every line that is a setting.
        name, value = left.strip(), right.strip()
        if name and value and (wanted is None or name in wanted):
            value_column = len(left) + right.index(value) + 2
            return Setting(name, value, number, left.index(name) + 1, value_column)
    comment = left.find("#")
    if comment >= 0 or not equals:
        left, equals, right = line.partition("#")[0], "", ""
    name = left.strip()
    if wanted is not None and (not equals or name not in wanted):
        return None
    column = len(left) - len(left.lstrip()) + 1
    if not equals:
        if not name:
            return None
        raise _Unreadable(
            "no-equals",
            column,
            f"{shown(name)} is not a setting: there is no `=`",
            "write name = value, or a # before it if it is a comment",
        )
    if not name:
        raise _Unreadable("no-name", len(left) + 1, "there is no name before the `=`")
    start = len(left) + 1 + len(right) - len(right.lstrip())
    if not right.lstrip().startswith('"'):
        value = right.partition("#")[0].strip()
        return Setting(name, value, number, column, start + 1)
    end = closing_quote(line, start)
    if end is None:
        raise _Unreadable(
            "unclosed-quote",
            start + 1,
            "this double quote is never closed",
            'write a " at the end of the value',
        )
    after = line[end + 1 :]
    if after.strip() and not after.lstrip().startswith("#"):
        raise _Unreadable(
            "after-quote",
            end + len(after) - len(after.lstrip()) + 2,
            "only a comment may follow the closing quote",
            "put the whole value inside the quotes",
        )
    raw = line[start + 1 : end]
    escapes = tuple(m.start() - i for i, m in enumerate(_ESCAPE.finditer(raw)))
    return Setting(name, unescaped(raw), number, column, start + 2, escapes)


def _refuse_long(line: str) -> None:
    """Raise where a line that is not a comment is longer than MAX_LINE."""
    if len(line) > MAX_LINE and not line.lstrip().startswith("#"):
        raise _Unreadable(
            "line-too-long",
            MAX_LINE + 1,
            f"this line has {len(line)} characters; at most {MAX_LINE} are read",
            "shorten the trigger, or split it into several lines",
        )


def _refuse_bad_bytes(line: str, setting: Setting) -> None:
    """Raise where a byte outside the line's comment is not UTF-8."""
    if line.isascii():
        return
    bad = _NOT_UTF8.search(setting.name) or _NOT_UTF8.search(setting.value)
    if bad is None:
        return
    first = _NOT_UTF8.search(line)
    assert first is not None
    raise _Unreadable(
        "not-utf-8",
        first.start() + 1,
        f"the byte 0x{ord(first[0]) - 0xDC00:02x} is not UTF-8",
        "save the file as UTF-8",
    )


def _single_quote(setting: Setting, path: str) -> Diagnostic:
    return Diagnostic(
        Severity.WARNING,
        "single-quote",
        path,
        setting.line,
        setting.column_of(setting.value.index("'")),
        "a single quote is no quote to Qube: it is read as part of the value",
        "use double quotes, or none",
    )


def _outside_braces(lines: list[str]) -> Iterator[tuple[str, int, int | None]]:
    """Each line that may be a setting, its number, and the number of a line whose brace is open.

    A brace opens a value only as its first character. Where one is never closed, the lines after
    it are read as if it stood alone, and the last item of the triple says so from then on.
    """
    number = 0
    unclosed: int | None = None
    while number < len(lines):
        line = lines[number]
        number += 1
        yield line, number, unclosed
        left, _, right = line.partition("=")
        if unclosed is not None or "#" in left or not right.lstrip().startswith("{"):
            continue
        closing = _closing_line(lines, number - 1, len(left) + 1)
        if closing is None:
            unclosed = number
        else:
            number = closing + 1


def _closing_line(lines: list[str], first: int, column: int) -> int | None:
    """The index of the line on which the brace value that begins on line `first` is closed."""
    depth = 0
    for index in range(first, len(lines)):
        line = lines[index]
        at = column if index == first else 0
        while (token := _BRACE_TOKEN.search(line, at)) is not None:
            at = token.end()
            if token[0] == "#":
                break
            if token[0] == '"':
                end = closing_quote(line, token.start())
                if end is None:
                    break
                at = end + 1
                continue
            depth += 1 if token[0] == "{" else -1
            if depth == 0:
                return index
    return None
