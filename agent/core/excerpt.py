"""The source line of a finding, with carets under the place, as compilers show it.

What is returned can be printed: tabs become spaces, and characters that could control the terminal
are written as escapes. Columns of the terminal are counted as it counts them: a wide character
takes two, a combining one none.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from agent.core.quoting import printable

#: Columns from one tab stop to the next.
TAB = 4
#: Stands for what is left out of a long line.
GAP = "..."
#: Columns in which the place is shown, however narrow the terminal is.
MIN_WIDTH = 20


class Excerpt(NamedTuple):
    """A line, or the part of it around the place, and the carets to print below it."""

    text: str
    carets: str


class _Cell(NamedTuple):
    """One character as it is shown, and how many columns of the terminal it takes."""

    text: str
    width: int


def excerpt(line: str, column: int, length: int, width: int) -> Excerpt:
    """The line with carets under `length` code points from `column` on, which counts from 1.

    A place beyond the end of the line is shown just after it. The text takes at most `width`
    columns of a terminal: of a longer line, the part around the place is shown.
    """
    width = max(width, MIN_WIDTH)
    at = min(max(column - 1, 0), len(line))
    end = min(at + max(length, 1), len(line))
    # Nothing farther away can be shown, unless it takes no column.
    first = max(at - width, 0)
    cells = _cells(line[first : min(end, at + width) + width])
    begin, stop = at - first, min(end - first, len(cells))
    whole = first == 0 and len(cells) == len(line)
    if not whole or _width(cells) + (begin == len(cells)) > width:
        return _around(cells, begin, stop, width, first > 0, first + len(cells) < len(line))
    return Excerpt(_text(cells).rstrip(), _carets(cells, begin, stop))


def _around(
    cells: list[_Cell], begin: int, stop: int, width: int, before: bool, after: bool
) -> Excerpt:
    """The cells around a place, with gaps where something is left out. `before` and `after` say
    whether the line has more than these cells."""
    room = width - 2 * len(GAP)
    left, right = begin, begin
    # As much of the place as fits, then a third of the rest before it, the others after it.
    room -= 1 if begin == len(cells) else 0
    while right < stop and cells[right].width <= room:
        room -= cells[right].width
        right += 1
    for share in (room - room // 3, 0):
        while left > 0 and room - cells[left - 1].width >= share:
            left -= 1
            room -= cells[left].width
        while right < len(cells) and cells[right].width <= room:
            room -= cells[right].width
            right += 1
    shown = cells[left:right]
    head = GAP if left > 0 or before else ""
    tail = GAP if right < len(cells) or after else ""
    carets = _carets(shown, begin - left, min(stop, right) - left)
    return Excerpt(f"{head}{_text(shown)}{tail}".rstrip(), " " * len(head) + carets)


def _cells(text: str) -> list[_Cell]:
    if text.isascii() and text.isprintable():
        return [_Cell(character, 1) for character in text]
    cells = []
    column = 0
    for character in text:
        if character == "\t":
            cell = _Cell(" " * (TAB - column % TAB), TAB - column % TAB)
        elif not character.isprintable():
            shown = printable(character)
            cell = _Cell(shown, len(shown))
        elif unicodedata.category(character) in ("Mn", "Me"):
            cell = _Cell(character, 0)
        else:
            wide = unicodedata.east_asian_width(character) in ("W", "F")
            cell = _Cell(character, 2 if wide else 1)
        cells.append(cell)
        column += cell.width
    return cells


def _carets(cells: list[_Cell], begin: int, stop: int) -> str:
    return " " * _width(cells[:begin]) + "^" * max(_width(cells[begin:stop]), 1)


def _width(cells: list[_Cell]) -> int:
    return sum(cell.width for cell in cells)


def _text(cells: list[_Cell]) -> str:
    return "".join(cell.text for cell in cells)
