"""From the problems of a line to the line that a person should write instead.

A problem that can be corrected mechanically carries edits. Those of all problems of a line are
applied together, so that one corrected line removes all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from agent.core.diagnostic import Edit

#: The longest line that a hint shows, in characters. A longer one is not pasted from a terminal;
#: the hint then says in words what to do.
MAX_WRITTEN = 300

#: How a hint begins that gives the whole corrected line.
WRITE = "write: "

_BYTE_AS_SURROGATE = range(0xDC80, 0xDD00)


def merged(edits: Iterable[Edit]) -> list[Edit]:
    """The edits in the order of the text, without those that overlap an earlier one."""
    result: list[Edit] = []
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        if result and (edit.start < result[-1].end or edit == result[-1]):
            continue
        result.append(edit)
    return result


def shifted(edits: Iterable[Edit], by: int) -> tuple[Edit, ...]:
    """The edits of a part of a text as edits of the text, in which it begins at offset `by`."""
    return tuple(Edit(edit.start + by, edit.end + by, edit.text) for edit in edits)


class Corrected:
    """A text after edits, and where its characters were before."""

    def __init__(self, text: str, edits: list[Edit]) -> None:
        """`edits` are in order and do not overlap."""
        parts: list[str] = []
        #: Of each piece of the new text: its offset there; its offset in the old text, and whether
        #: it is the text of an edit. All of an edit is at the beginning of what it replaces.
        self._new: list[int] = [0]
        self._old: list[tuple[int, bool]] = [(0, False)]
        at = length = 0
        for edit in edits:
            parts += (text[at : edit.start], edit.text)
            length += edit.start - at
            self._new.append(length)
            self._old.append((edit.start, True))
            length += len(edit.text)
            self._new.append(length)
            self._old.append((edit.end, False))
            at = edit.end
        parts.append(text[at:])
        self.text = "".join(parts)

    def before(self, offset: int) -> int:
        """The offset in the old text of the character at `offset` of the new one."""
        piece = bisect_right(self._new, offset) - 1
        old, replaced = self._old[piece]
        return old if replaced else old + offset - self._new[piece]


def as_hint(line: str) -> str | None:
    """`write: LINE` for a corrected line, None if a terminal cannot show the line as it is.

    White space around the line is left out: it says nothing. Bytes that are not UTF-8, which a
    comment may hold, are read as Windows-1252.
    """
    if not line.isprintable():
        if any(ord(c) in _BYTE_AS_SURROGATE for c in line):
            line = "".join(from_byte(c) for c in line)
        line = line.replace("\t", " ")
    line = line.rstrip()
    return WRITE + line if len(line) <= MAX_WRITTEN and line.isprintable() else None


def from_byte(character: str) -> str:
    """What a byte that is not UTF-8, a lone surrogate in Python, is in Windows-1252."""
    if ord(character) not in _BYTE_AS_SURROGATE:
        return character
    byte = bytes([ord(character) - 0xDC00])
    # Five bytes have no meaning there. Latin-1 has one for each.
    return byte.decode("cp1252", "ignore") or byte.decode("latin-1")
