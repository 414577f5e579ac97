r"""The `key = value` text that qb.conf and callbacks.conf share.

The rules, for both files:

- Text is UTF-8, with or without a byte order mark; lines end with LF or CRLF.
- Everything from a `#` on is a comment, except a `#` inside double quotes. A comment may hold
  anything, even bytes that are not UTF-8.
- A line is split at its first `=`; the white space around name and value is removed.
- Quotes count only as the first character of a value. Inside them `#` and `=` are text, `\\` and
  `\"` are escapes, any other backslash is kept. Only a comment may follow the closing quote.

In qb.conf a value may also be in braces, which may span lines; the lines inside look like settings
and are not. Only the requested settings are read, and the last of two settings of one name counts.
In callbacks.conf every line counts, and a line that cannot be read is an error.

Columns count code points from 1; each byte that is not UTF-8 counts as one.

Time and memory are linear in the size of the file, whatever is in it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator
from typing import NamedTuple

from agent.core.diagnostic import MAX_UNCAPPED, Diagnostic, Problem, ProblemError, capped
from agent.core.quoting import shown

#: The longest line of a callbacks.conf, in characters. A trigger at its own limit fits, in quotes
#: and with every character escaped.
MAX_LINE = 1 << 17

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_ESCAPE = re.compile(r'\\([\\"])')
# Searched for one by one: a repeated group would keep a state of 20 bytes for each character.
_QUOTE_OR_ESCAPE = re.compile(r'"|\\.', re.DOTALL)
#: In a value in braces: what opens or closes a brace, or hides one.
_BRACE_TOKEN = re.compile(r'["#{}]')


class Setting(NamedTuple):
    """One `name = value` line. Lines and columns count from 1, columns in code points."""

    name: str
    value: str
    line: int
    column: int
    value_column: int
    #: Offsets in `value` of the characters that were escaped with a backslash.
    escapes: tuple[int, ...] = ()

    def column_of(self, offset: int) -> int:
        """The column in the file of the character at `offset` in the value."""
        return self.value_column + offset + bisect_right(self.escapes, offset)


def read_callbacks(
    data: bytes, path: str, max_lines: int | None = None
) -> tuple[list[Setting], list[Diagnostic]]:
    """The registrations of a callbacks.conf, in line order, and the diagnostics of its lines.

    Takes any bytes; never raises. A line with an error gives no setting. If there are more than
    MAX_FINDINGS diagnostics, the last one counts the rest (see `capped`).
    """
    settings: list[Setting] = []
    findings: list[Diagnostic] = []
    # The text after the last line feed is a line only if it is not empty.
    count = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    if max_lines is not None and count > max_lines:
        message = f"this file has {count} lines; at most {max_lines} are read"
        hint = "split the callbacks over several directories"
        return [], [Problem("too-many-lines", message, hint).at(path)]
    for number, line in enumerate(_lines(data), 1):
        if len(findings) > MAX_UNCAPPED:
            findings = capped(findings)
        try:
            setting = _registration(line, number)
        except ProblemError as error:
            findings.append(error.problem.at(path, number, error.problem.column))
            continue
        if setting is None:
            continue
        if "'" in setting.value:
            findings.append(_single_quote(setting, path))
        settings.append(setting)
    return settings, capped(findings)


def _registration(line: str, number: int) -> Setting | None:
    """The setting on a line of a callbacks.conf; None on a line without one.

    Raises ProblemError.
    """
    _check_length(line)
    setting = _setting(line, number)
    if setting is None:
        return None
    _check_encoding(line, setting)
    if line[setting.value_column - 1 :].startswith("{"):
        message = "a trigger must not be in braces"
        hint = "write it without them: name = trigger"
        raise ProblemError("brace-value", message, hint, column=setting.value_column)
    if setting.name.startswith('"'):
        message = "a file name must not be in quotes"
        hint = "write it without them: name = trigger"
        raise ProblemError("quoted-name", message, hint, column=setting.column)
    return setting


def read_qb(
    data: bytes, path: str, wanted: Collection[str]
) -> tuple[dict[str, Setting], list[Diagnostic]]:
    """The `wanted` settings of a qb.conf, by name, and their diagnostics.

    Takes any bytes; never raises. Other settings give neither a setting nor a diagnostic. If there
    are more than MAX_FINDINGS diagnostics, the last one counts the rest (see `capped`).
    """
    found: dict[str, Setting] = {}
    findings: list[Diagnostic] = []
    for line, number, unclosed in _outside_braces(_lines(data)):
        if len(findings) > MAX_UNCAPPED:
            findings = capped(findings)
        try:
            setting = _wanted_setting(line, number, wanted)
        except ProblemError as error:
            findings.append(error.problem.at(path, number, error.problem.column))
            continue
        if setting is None:
            continue
        if "'" in setting.value:
            findings.append(_single_quote(setting, path))
        if unclosed is not None:
            message = (
                f"the brace that opens here is never closed; {setting.name} on line {number} is"
                " read as if it were"
            )
            hint = "write the `}` that closes it"
            findings.append(Problem("unclosed-brace", message, hint).at(path, unclosed))
        if setting.name in found:
            earlier = found[setting.name].line
            message = (
                f"{setting.name} is set twice; the value on this line is used,"
                f" the one on line {earlier} is not"
            )
            problem = Problem("duplicate-setting", message, "remove one of the two")
            findings.append(problem.at(path, number, setting.column))
        found[setting.name] = setting
    return found, capped(findings)


def _wanted_setting(line: str, number: int, wanted: Collection[str]) -> Setting | None:
    """The setting on a line of a qb.conf if it is a wanted one, else None. Raises ProblemError."""
    setting = _setting(line, number, wanted)
    if setting is None:
        return None
    _check_encoding(line, setting)
    if line[setting.value_column - 1 :].startswith("{"):
        message = f"{setting.name} does not take a value in braces"
        hint = "write the values with commas between them, in double quotes or bare"
        raise ProblemError("brace-value", message, hint, column=setting.value_column)
    return setting


def closing_quote(text: str, start: int) -> int | None:
    """The offset of the double quote that closes the one at `start`; None if nothing does."""
    for found in _QUOTE_OR_ESCAPE.finditer(text, start + 1):
        if found[0] == '"':
            return found.start()
    return None


def unescaped(raw: str) -> str:
    """The value of a text in quotes, given without the quotes."""
    return _ESCAPE.sub(r"\1", raw)


def _lines(data: bytes) -> list[str]:
    """The lines without their ends. Bytes that are not UTF-8 become lone surrogates."""
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _setting(line: str, number: int, wanted: Collection[str] | None = None) -> Setting | None:
    """The setting on a line; None on a line without one. Raises ProblemError.

    With `wanted`, None for every line that does not set one of these, whatever it holds.
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
        message = f"{shown(name)} is not a setting: there is no `=`"
        hint = "write name = value, or a # before it if it is a comment"
        raise ProblemError("no-equals", message, hint, column=column)
    if not name:
        message = "there is no name before the `=`"
        raise ProblemError("no-name", message, column=len(left) + 1)
    start = len(left) + 1 + len(right) - len(right.lstrip())
    if not right.lstrip().startswith('"'):
        value = right.partition("#")[0].strip()
        return Setting(name, value, number, column, start + 1)
    end = closing_quote(line, start)
    if end is None:
        message = "this double quote is never closed"
        hint = 'write a " at the end of the value'
        raise ProblemError("unclosed-quote", message, hint, column=start + 1)
    after = line[end + 1 :]
    if after.strip() and not after.lstrip().startswith("#"):
        message = "only a comment may follow the closing quote"
        hint = "put the whole value inside the quotes"
        column = end + len(after) - len(after.lstrip()) + 2
        raise ProblemError("after-quote", message, hint, column=column)
    raw = line[start + 1 : end]
    escapes = tuple(m.start() - i for i, m in enumerate(_ESCAPE.finditer(raw)))
    return Setting(name, unescaped(raw), number, column, start + 2, escapes)


def _check_length(line: str) -> None:
    """Raise ProblemError for a line that is longer than MAX_LINE and not a comment."""
    if len(line) > MAX_LINE and not line.lstrip().startswith("#"):
        message = f"this line has {len(line)} characters; at most {MAX_LINE} are read"
        hint = "shorten the trigger, or split it into several lines"
        raise ProblemError("line-too-long", message, hint, column=MAX_LINE + 1)


def _check_encoding(line: str, setting: Setting) -> None:
    """Raise ProblemError if a byte outside the line's comment is not UTF-8."""
    if line.isascii():
        return
    bad = _NOT_UTF8.search(setting.name) or _NOT_UTF8.search(setting.value)
    if bad is None:
        return
    first = _NOT_UTF8.search(line)
    assert first is not None
    message = f"the byte 0x{ord(first[0]) - 0xDC00:02x} is not UTF-8"
    raise ProblemError("not-utf-8", message, "save the file as UTF-8", column=first.start() + 1)


def _single_quote(setting: Setting, path: str) -> Diagnostic:
    message = "to Qube a single quote is not a quote: it is read as part of the value"
    column = setting.column_of(setting.value.index("'"))
    return Problem("single-quote", message, "use double quotes, or none").at(
        path, setting.line, column
    )


def _outside_braces(lines: list[str]) -> Iterator[tuple[str, int, int | None]]:
    """Each line that may be a setting, its number, and that of a line with an unclosed brace.

    A brace opens a value only as its first character. The lines after a brace that is never closed
    are read as if it were closed on its own line; from then on the last item is that line's number.
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
    """The index of the line that closes the brace at `column` of line `first`; else None."""
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
