"""What fits on a terminal: its size, texts shortened to it, and tables.

A table has one line for each row, on a terminal never longer than it is wide. Where the output is
not a terminal, nothing is shortened and there are no headings: a line is a row, for grep and wc. A
terminal that can only print lines, or that is too narrow for any text, gets the same.

rich is loaded only where it is needed: loading it takes longer than a whole lookup.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agent.cli.output import colours, is_dumb, is_terminal, paint
from agent.core.quoting import printable

if TYPE_CHECKING:
    from rich.console import Console


class Size(NamedTuple):
    """The size of a terminal, in characters."""

    columns: int
    lines: int


#: The size that is assumed of a terminal that does not report one.
DEFAULT_SIZE = Size(80, 24)
#: Columns of the narrowest terminal that is a screen. On a narrower one a shortened text has no
#: meaning left, and whole lines, which the terminal wraps, do.
MIN_COLUMNS = 15
#: Replaces the part of a text that is left out. ASCII, so that every terminal can show it.
GAP = "..."
#: Spaces between two columns of a table.
BETWEEN = "  "
#: Columns to which a text may be shortened: less says nothing.
MIN_WIDTH = 8
#: Spaces before what belongs to the row above.
INDENT = "    "


class Cell(NamedTuple):
    """One cell of a table: its text, of any characters, and its colour (none if empty)."""

    text: str
    colour: str = ""


class Row(NamedTuple):
    """One row of a table."""

    cells: Sequence[Cell]
    #: A sentence about the row: its last column if every row then fits, else beneath the row.
    about: str = ""
    #: Lines beneath the row, which are printed as they are.
    beneath: Sequence[str] = ()


def terminal_size() -> Size:
    """The size of the terminal that standard output is."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return DEFAULT_SIZE
    return Size(found.columns or DEFAULT_SIZE.columns, found.lines or DEFAULT_SIZE.lines)


def size() -> Size | None:
    """The size that the output must fit into; None if it need not, since standard output is not a
    terminal, or one whose lines and columns are of no use."""
    if not is_terminal() or is_dumb():
        return None
    found = terminal_size()
    return found if found.columns >= MIN_COLUMNS else None


def width() -> int | None:
    """The columns that the output must fit into; None if it need not."""
    found = size()
    return found.columns if found else None


def console() -> Console:
    """rich's console on standard output: in colour where `paint` is, and never interpreting text.

    Where the output is not a terminal, its width has no limit.
    """
    from rich.console import Console

    return Console(
        file=sys.stdout,
        force_terminal=is_terminal(),
        width=None if size() else sys.maxsize,
        no_color=not colours(),
        markup=False,
        highlight=False,
        emoji=False,
    )


def cells(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shorten(text: str, limit: int | None) -> str:
    """A printable text whose middle is left out if it takes more than `limit` columns.

    Twice as much of the end is kept as of the beginning: paths differ at their ends.
    """
    if limit is None or cells(text) <= limit:
        return text
    if limit <= len(GAP):
        return GAP[: max(limit, 0)]
    room = limit - len(GAP)
    head = _start(text, room // 3)
    return f"{head}{GAP}{_start(text[::-1], room - cells(head))[::-1]}"


def cut(text: str, limit: int | None) -> str:
    """A printable text whose end is left out if it takes more than `limit` columns."""
    if limit is None or cells(text) <= limit:
        return text
    return _start(text, max(limit - len(GAP), 0)) + GAP[: max(limit, 0)]


def _start(text: str, limit: int) -> str:
    """As much of a text as takes at most `limit` columns."""
    if text.isascii():
        return text[:limit]
    taken = 0
    for end, character in enumerate(text):
        taken += cells(character)
        if taken > limit:
            return text[:end]
    return text


def wrap(text: str, limit: int | None, first: str = "", then: str = "") -> list[str]:
    """A printable text in lines of at most `limit` columns, broken between words where possible.

    The first line begins with `first`, the others with `then`.
    """
    if limit is None or cells(first + text) <= limit:
        return [first + text]
    limit = max(limit, cells(then) + MIN_WIDTH)
    lines: list[str] = []
    line = first
    for number, word in enumerate(text.split(" ")):
        longer = f"{line} {word}" if number else line + word
        if number and cells(longer) > limit:
            lines.append(line)
            longer = then + word
        while cells(longer) > limit:
            start = _start(longer, limit)
            lines.append(start)
            longer = then + longer[len(start) :]
        line = longer
    return [*lines, line]


def table(
    headings: Sequence[str], rows: Sequence[Row], limit: int | None, fixed: Iterable[int] = ()
) -> Iterator[str]:
    """The lines of a table that is at most `limit` columns wide; None: unlimited, no headings.

    `headings` has one more item than each row has cells: that of `about`. A column in which every
    cell is empty is left out. The columns numbered in `fixed` are shortened only if nothing else
    helps; of the others, the widest are shortened first.
    """
    if not rows:
        return
    texts = [[printable(cell.text) for cell in row.cells] for row in rows]
    abouts = [printable(row.about) for row in rows]
    # Loading rich for the width of Chinese would make `lookup` slow, and only a terminal needs it.
    measure = len if limit is None else cells
    widths = [max(measure(t) or len(t) for t in column) for column in zip(*texts, strict=True)]
    beside = True
    if limit is not None:
        widths = [max(w, len(h)) if w else 0 for w, h in zip(widths, headings, strict=False)]
        last = max(map(cells, abouts))
        beside = not last or _total([*widths, max(last, len(headings[-1]))]) <= limit
        names = [*headings[:-1], headings[-1] if last and beside else ""]
        widths = _fitted(widths, limit, frozenset(fixed))
        shown = [n.ljust(w) for n, w in zip(names, [*widths, 1], strict=True) if w]
        yield paint(cut(BETWEEN.join(shown).rstrip(), limit), "")
    for row, line, about in zip(rows, texts, abouts, strict=True):
        parts = []
        for cell, text, columns in zip(row.cells, line, widths, strict=True):
            if columns:
                short = text if limit is None else shorten(text, columns)
                blank = " " * (columns - measure(short))
                parts.append((paint(short, cell.colour) if cell.colour else short) + blank)
        if about and beside:
            parts.append(about)
        yield BETWEEN.join(parts).rstrip()
        if about and not beside:
            yield from wrap(about, limit, INDENT, INDENT)
        yield from row.beneath


def _total(widths: Iterable[int]) -> int:
    """The columns that a table with columns of these widths takes. One of 0 is left out."""
    present = [w for w in widths if w]
    return sum(present) + len(BETWEEN) * (len(present) - 1)


def _fitted(widths: Sequence[int], limit: int, fixed: frozenset[int]) -> list[int]:
    """Widths that fit into `limit` columns."""

    def capped(cap: int) -> list[int]:
        return [w if i in fixed else min(w, cap) for i, w in enumerate(widths)]

    cap = limit
    while cap > MIN_WIDTH and _total(capped(cap)) > limit:
        cap -= 1
    fitted = capped(cap)
    for last in reversed(range(1, len(fitted))):
        if _total(fitted) <= limit:
            break
        # A terminal on which not even that fits: the columns at the end are left out.
        fitted[last] = 0
    fitted[0] = min(fitted[0], limit)
    return fitted
