"""How two texts differ by lines: as a unified diff of limited size, and where lines moved to.

The time is limited as well, whatever the texts are: what they have in common at both ends is left
out first, and of the rest only the first MAX_LINES lines are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

#: The most bytes of a diff, in UTF-8: two screens. Whoever wants more has both files.
MAX_BYTES = 4096
#: Lines of each text that are compared: difflib takes quadratic time.
MAX_LINES = 500
#: The most characters of a line that are shown.
MAX_LINE = 500
#: Unchanged lines that are shown around a change.
CONTEXT = 3

#: The last line of a diff that is cut. `patch` ignores lines that begin with a backslash.
CUT = "\\ cut here: more lines differ"

#: What diff prints after a last line without a line feed.
_NO_LINE_FEED = "\n\\ No newline at end of file"
#: Bytes that are compared at a time.
_BLOCK = 1 << 16


class Shift(NamedTuple):
    """Where the lines of a text are after an edit. Line numbers count from 1."""

    #: The first line that changed.
    first: int
    #: The first line after the edit that is the same, by its old number.
    rest: int
    #: How far the lines from `rest` on moved down.
    by: int

    @classmethod
    def between(cls, before: bytes, now: bytes) -> Shift:
        """The edit that made one text of the other."""
        start = before.rfind(b"\n", 0, _common(before, now)) + 1
        end = _common_end(before, now, start)
        first = before.count(b"\n", 0, start) + 1
        old = before.count(b"\n", start, len(before) - end)
        new = now.count(b"\n", start, len(now) - end)
        return cls(first, first + old, new - old)

    def moved(self, line: int) -> int | None:
        """The number that a line has now; None if it is part of the edit."""
        if line < self.first:
            return line
        return line + self.by if line >= self.rest else None


def unified(
    before: bytes,
    now: bytes,
    names: tuple[str, str] = ("served", "on disk"),
    max_bytes: int = MAX_BYTES,
    max_lines: int = MAX_LINES,
) -> str:
    r"""The unified diff from one text to another, of `max_bytes` at most. Empty if they are equal.

    Takes any bytes; those that are not UTF-8 are written as `\xNN`. Lines end with LF; a CR before
    it is a character of the line. Of each text, `max_lines` lines are compared. A diff that is cut
    ends with the line CUT.
    """
    start = before.rfind(b"\n", 0, _common(before, now)) + 1
    end = _common_end(before, now, start)
    above = [line + b"\n" for line in before[:start].split(b"\n")[-CONTEXT - 1 : -1]]
    below = _lines(before[len(before) - end :], CONTEXT)[0] if end else []
    old, old_is_cut = _lines(before[start : len(before) - end], max_lines)
    new, new_is_cut = _lines(now[start : len(now) - end], max_lines)
    if old == new:
        return ""
    is_cut = old_is_cut or new_is_cut
    if is_cut:
        below = []
    first = before.count(b"\n", 0, start) - len(above)
    lines: list[str] = []
    size = 0
    head = (f"--- {names[0]}", f"+++ {names[1]}")
    for line in (*head, *_hunks([*above, *old, *below], [*above, *new, *below], first)):
        size += len(line.encode()) + 1
        if size + len(CUT) + 1 > max_bytes:
            is_cut = True
            break
        lines.append(line)
    if is_cut:
        lines.append(CUT)
    return "\n".join((*lines, ""))


def _hunks(old: list[bytes], new: list[bytes], first: int) -> Iterator[str]:
    """The lines of a diff after its head. `first` counts the lines before these."""
    from difflib import SequenceMatcher  # most agents need it never, and no agent at its start

    for group in SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT):
        old_range = _range(first, group[0][1], group[-1][2])
        new_range = _range(first, group[0][3], group[-1][4])
        yield f"@@ -{old_range} +{new_range} @@"
        for tag, a, b, c, d in group:
            if tag == "equal":
                yield from (" " + _shown(line) for line in old[a:b])
            else:
                yield from ("-" + _shown(line) for line in old[a:b])
                yield from ("+" + _shown(line) for line in new[c:d])


def _range(first: int, start: int, stop: int) -> str:
    """Line numbers as a hunk's header has them."""
    length = stop - start
    begin = first + start + (1 if length else 0)
    return str(begin) if length == 1 else f"{begin},{length}"


def _shown(line: bytes) -> str:
    # A character has 4 bytes at most, so the last one that is shown is whole.
    text = line[: 4 * MAX_LINE + 4].removesuffix(b"\n").decode("utf-8", "backslashreplace")
    shown = text if len(text) <= MAX_LINE else text[:MAX_LINE] + "..."
    return shown if line.endswith(b"\n") else shown + _NO_LINE_FEED


def _lines(data: bytes, most: int) -> tuple[list[bytes], bool]:
    """The first lines, with their line feeds, and whether there are more."""
    *lines, rest = data.split(b"\n", most)
    lines = [line + b"\n" for line in lines]
    if len(lines) == most:
        return lines, bool(rest)
    return [*lines, rest] if rest else lines, False


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common at their beginnings."""
    length = min(len(one), len(other))
    for at in range(0, length, _BLOCK):
        left, right = one[at : at + _BLOCK], other[at : at + _BLOCK]
        if left != right:
            return at + _common_in_block(left, right)
    return length


def _common_in_block(one: bytes, other: bytes) -> int:
    """As `_common`, by halves: comparing byte by byte takes milliseconds for a block."""
    same, most = 0, min(len(one), len(other))
    while same < most:
        half = (same + most + 1) // 2
        if one[same:half] == other[same:half]:
            same = half
        else:
            most = half - 1
    return same


def _common_end(one: bytes, other: bytes, start: int) -> int:
    """How many bytes of whole lines they have in common at their ends, after `start`."""
    length = min(len(one), len(other)) - start
    end = 0
    while end < length:
        size = min(_BLOCK, length - end)
        left = one[len(one) - end - size : len(one) - end]
        right = other[len(other) - end - size : len(other) - end]
        if left != right:
            end += _common_in_block(left[::-1], right[::-1])
            break
        end += size
    if _begins_line(one, len(one) - end) and _begins_line(other, len(other) - end):
        return end
    # Not the line that the common part begins in.
    feed = one.find(b"\n", len(one) - end)
    return len(one) - feed - 1 if feed >= 0 else 0


def _begins_line(text: bytes, at: int) -> bool:
    return at == 0 or text[at - 1 : at] == b"\n"
