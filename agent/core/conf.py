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
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from typing import NamedTuple

from agent.core import near_settings
from agent.core.correction import from_byte
from agent.core.diagnostic import MAX_UNCAPPED, Diagnostic, Edit, Problem, ProblemError, capped
from agent.core.likely import likely_event
from agent.core.quoting import shown

#: The longest line of a callbacks.conf, in characters. A trigger at its own limit fits, in quotes
#: and with every character escaped.
MAX_LINE = 1 << 17

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_ESCAPE = re.compile(r'\\([\\"])')
# Found one after the other: one pattern for a whole quoted text would take 20 bytes of memory for
# each of its characters.
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

    def edit_in_line(self, edit: Edit) -> Edit:
        """An edit of the value as one of the line. A character goes with its escape."""
        start = self.value_column - 1 + edit.start + bisect_left(self.escapes, edit.start)
        end = self.value_column - 1 + edit.end + bisect_left(self.escapes, edit.end)
        return Edit(start, end, edit.text)


def lines_of(data: bytes) -> list[str]:
    """The lines of a file without their ends. Bytes that are not UTF-8 become lone surrogates."""
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    # The text after the last line feed is a line only if it is not empty.
    return lines if lines[-1] else lines[:-1]


def is_utf_16(data: bytes) -> bool:
    """Whether a file is UTF-16 or UTF-32. No line of such a file can be read."""
    return b"\0" in data and all(
        b"\0" in line.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")[:2]
        for line in data.split(b"\n")
        if line
    )


def read_line(line: str, number: int) -> Setting | None:
    """The setting on a line of a callbacks.conf; None on a line without one.

    Raises ProblemError.
    """
    _check_length(line)
    setting = _setting(line, number)
    if setting is None:
        return None
    _check_encoding(line, setting)
    start = setting.value_column - 1
    if line.startswith("{", start):
        message = "a trigger must not be in braces"
        hint = "write it without them: name = trigger"
        value = setting.value
        edits: tuple[Edit, ...] = ()
        if value.endswith("}") and len(value) > 2:
            end = start + len(value)
            inner = value[1:-1].strip()
            edits = (Edit(start, end, inner),) if inner else ()
        column = setting.value_column
        raise ProblemError("brace-value", message, hint, None, column, 1, edits)
    if setting.name.startswith('"'):
        message = "a file name must not be in quotes"
        hint = "write it without them: name = trigger"
        start = setting.column - 1
        quotes = [i for i, c in enumerate(setting.name, start) if c == '"']
        edits = tuple(Edit(i, i + 1, "") for i in quotes)
        length = len(setting.name)
        raise ProblemError("quoted-name", message, hint, None, setting.column, length, edits)
    return setting


def read_qb(
    data: bytes, path: str, wanted: Collection[str]
) -> tuple[dict[str, Setting], list[Diagnostic]]:
    """The `wanted` settings of a qb.conf, by name, and their diagnostics.

    Takes any bytes; never raises. Other settings give neither a setting nor a diagnostic, unless
    they look like a wanted one. If there are more than MAX_FINDINGS diagnostics, the last one
    counts the rest (see `capped`).
    """
    found: dict[str, Setting] = {}
    findings: list[Diagnostic] = []
    #: The setting of the line before, if it does not look finished.
    unfinished: Setting | None = None
    for line, number, unclosed in _outside_braces(lines_of(data)):
        if len(findings) > MAX_UNCAPPED:
            findings = capped(findings)
        try:
            setting = _wanted_setting(line, number, wanted)
        except ProblemError as error:
            findings.append(error.problem.at(path, number, error.problem.column))
            continue
        if setting is None:
            problem = near_settings.problem_of(line, wanted)
            text = line.partition("#")[0].strip()
            if unfinished and text and "=" not in text and problem is None:
                message = f"this line is ignored: {unfinished.name} is set on line {number - 1}"
                hint = f"write all of its value on line {number - 1}"
                column = line.index(text) + 1
                problem = Problem("unknown-setting", message, hint, None, column, None, len(text))
            if problem:
                findings.append(problem.at(path, number, problem.column))
            unfinished = None
            continue
        unfinished = setting if setting.value.endswith((",", "\\")) else None
        if "'" in setting.value:
            findings.append(single_quote(setting).at(path))
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
        message = f"there is no `=` in {shown(name)}"
        hint = "write name = value, or a # before it if it is a comment"
        raise ProblemError("no-equals", message, hint, None, column, len(name))
    if not name:
        message = "there is no name before the `=`"
        hint = "write the name before it"
        raise ProblemError("no-name", message, hint, column=len(left) + 1)
    start = len(left) + 1 + len(right) - len(right.lstrip())
    if not right.lstrip().startswith('"'):
        value = right.partition("#")[0].strip()
        return Setting(name, value, number, column, start + 1)
    end = closing_quote(line, start)
    if end is None:
        message = "this double quote is never closed"
        hint = 'write a " at the end of the value'
        closing = _closing(line, start)
        raise ProblemError("unclosed-quote", message, hint, None, start + 1, 1, (closing,))
    after = line[end + 1 :]
    if after.strip() and not after.lstrip().startswith("#"):
        message = "only a comment may follow the closing quote"
        hint = "remove it, or put the whole value inside the quotes"
        rest = after.partition("#")[0].rstrip()
        column = end + len(after) - len(after.lstrip()) + 2
        length = end + 2 + len(rest) - column
        edits = _around(line, start, end, rest)
        raise ProblemError("after-quote", message, hint, None, column, length, edits)
    raw = line[start + 1 : end]
    escapes = tuple(m.start() - i for i, m in enumerate(_ESCAPE.finditer(raw)))
    return Setting(name, unescaped(raw), number, column, start + 2, escapes)


def _closing(line: str, start: int) -> Edit:
    """The edit that closes the double quote at `start`: before a comment, if there is one."""
    comment = line.find(" #", start)
    value = (line if comment < 0 else line[:comment]).rstrip()
    if value.endswith('\\"'):
        return Edit(len(value) - 2, len(value), '"')
    return Edit(len(value), len(value), '"')


def _around(line: str, start: int, end: int, rest: str) -> tuple[Edit, ...]:
    """The edits that make one value of the text in quotes, from `start` to `end`, and of the `rest`
    after it; none if it is not clear what was meant."""
    if end == start + 1 and rest.strip('"'):
        # Two quotes where one belongs.
        return (Edit(start, start + 1, ""),)
    if not rest.strip(' \t,;.\\]})"'):
        return (Edit(end + 1, end + 1 + len(rest), ""),)
    raw = line[start + 1 : end]
    if "#" in raw or "\\" in raw or rest[0] not in " \t&|),;":
        return ()
    # Words that are neither an operator nor an event would become part of the event before them.
    following = rest.lstrip(" \t),;")
    word = "".join(following.lstrip("&|( \t\"'").split(None, 1)[:1])
    if following[0] not in "&|" and word.lower() not in ("and", "or") and not likely_event(word):
        return ()
    return Edit(start, start + 1, ""), Edit(end, end + 1, "")


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
    meant = from_byte(first[0])
    message = f"the byte 0x{ord(first[0]) - 0xDC00:02x} is not UTF-8; in Windows-1252 it is {meant}"
    found = _NOT_UTF8.finditer(line)
    edits = tuple(Edit(m.start(), m.end(), from_byte(m[0])) for m in found)
    hint = "save the file as UTF-8"
    raise ProblemError("not-utf-8", message, hint, None, first.start() + 1, 1, edits)


def single_quote(setting: Setting) -> Problem:
    """The warning about the first single quote of a value that has one."""
    message = "to Qube a single quote is not a quote: it is read as part of the value"
    column = setting.column_of(setting.value.index("'"))
    return Problem("single-quote", message, "use double quotes, or none", setting.line, column)


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
