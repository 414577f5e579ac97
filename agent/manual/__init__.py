"""The manual: one Markdown page for each topic, and one in `codes/` for each finding code.

`callback-agent help` shows a page in the terminal. `find` and `topics` read the pages, which ship
inside the package; `rendered` turns Markdown into text without markup.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator
from importlib import resources
from itertools import groupby
from operator import itemgetter

#: Columns to which the last cell of a table is wrapped. The pages themselves are written to 80.
WIDTH = 80
#: The narrowest that a last cell gets, however wide the cells before it are.
MIN_LAST_CELL = 30

#: Names that `near` gives at most.
MAX_NEAR = 3

#: What ends a cell of a table; a link or a picture with its text.
CELL = re.compile(r"(?<!\\)\|")
LINK = re.compile(r"!?\[([^\]]+)\]\([^)\s]+\)")
#: `code`, which stays as it is; **bold**; *emphasis*.
_MARKUP = re.compile(r"(`[^`]+`)|\*\*(.+?)\*\*|\*(\w[^*`]*)\*")


def topics() -> dict[str, str]:
    """The first sentence of each topic's page, by the topic's name, in alphabetical order."""
    return {name: _first_sentence(text) for name, text in _pages("")}


def codes() -> list[str]:
    """The finding codes that have a page, in alphabetical order."""
    return [name for name, _ in _pages("codes")]


def find(name: str) -> str | None:
    """The Markdown of the page of a finding code or a topic; None where there is no such page.

    `trigger-syntax` is both: then the code's page comes first.
    """
    found = [text for folder in ("codes", "") for page, text in _pages(folder) if page == name]
    return "\n".join(found) or None


def overview() -> str:
    """The list of topics, each with its first sentence, and the list of codes."""
    listed = topics()
    rows = [[f"  {name}", sentence] for name, sentence in listed.items()]
    wrapped = textwrap.wrap(
        ", ".join(codes()),
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "\n".join(
        [
            "Topics, for `callback-agent help TOPIC`:",
            *_aligned(rows),
            "",
            "Finding codes, for `callback-agent help CODE`:",
            *wrapped,
            "",
        ]
    )


def near(name: str) -> list[str]:
    """The topics and codes that begin with `name`, else those whose names look like it, the most
    alike first."""
    names, begin = [*topics(), *codes()], name.lower()
    longer = [known for known in names if begin and known.startswith(begin)]
    return longer[:MAX_NEAR] or difflib.get_close_matches(begin, names, MAX_NEAR, cutoff=0.7)


def rendered(markdown: str) -> str:
    """A page as text for a terminal: no fences, links, bold or emphasis, code indented, tables
    aligned, prose wrapped."""
    lines: list[str] = []
    for kind, group in groupby(kinds(markdown), itemgetter(0)):
        found = [line for _, line in group]
        if kind == "code":
            lines += [f"    {line}".rstrip() for line in found]
        elif kind == "table":
            cells = ([plain_text(cell.strip()) for cell in CELL.split(row)[1:-1]] for row in found)
            lines += _aligned(list(cells))
        elif kind == "heading":
            titles = ((line.startswith("##"), plain_text(line.lstrip("# "))) for line in found)
            lines += [title.upper() if below else title for below, title in titles]
        else:
            lines += _wrapped(found) if kind == "prose" else found
    return "\n".join(lines).strip("\n") + "\n"


def kinds(markdown: str) -> Iterator[tuple[str, str]]:
    """Each line of a page, fences left out, with its kind: code, table, heading, blank or prose.

    Code is between fences, or indented by four columns.
    """
    fenced = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            yield "code", line
        elif line.startswith("    "):
            yield "code", line.removeprefix("    ")
        elif line.startswith("|"):
            yield "table", line
        elif line.startswith("#"):
            yield "heading", line
        else:
            yield ("prose" if line.strip() else "blank"), line


def _wrapped(lines: list[str]) -> Iterator[str]:
    """A paragraph or a list, wrapped again: without the targets of links its lines are shorter."""
    items: list[str] = []
    for line in lines:
        if line.startswith("- ") or not items:
            items.append(line)
        else:
            items[-1] += f" {line.strip()}"
    for item in items:
        indent = "  " if item.startswith("- ") else ""
        yield from textwrap.wrap(
            plain_text(item),
            WIDTH,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )


def _pages(folder: str) -> Iterator[tuple[str, str]]:
    """The name and text of every page in a folder, in alphabetical order."""
    found = resources.files(__name__).joinpath(folder)
    for file in sorted(found.iterdir(), key=lambda file: file.name):
        name, dot, ending = file.name.rpartition(".")
        if dot and ending == "md":
            yield name, file.read_text(encoding="utf-8")


def _first_sentence(markdown: str) -> str:
    """The first sentence after the heading."""
    paragraph = markdown.partition("\n\n")[2].partition("\n\n")[0]
    text = plain_text(" ".join(paragraph.split()))
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def plain_text(line: str) -> str:
    r"""A line without links, pictures, bold and emphasis: their texts stay. `\|` is `|`."""
    return _MARKUP.sub(r"\1\2\3", LINK.sub(r"\1", line)).replace("\\|", "|")


def _aligned(table: list[list[str]]) -> Iterator[str]:
    """A table's rows with their columns aligned, the last one wrapped."""
    body = [row for row in table if not all(set(cell) <= set("-:") and cell for cell in row)]
    if not body:
        return
    widths = [max(map(len, column)) for column in zip(*body, strict=False)]
    indent = sum(width + 2 for width in widths[:-1])
    for row in body:
        before = "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=False))
        before = before[:indent]
        last = textwrap.wrap(
            row[-1], max(WIDTH - indent, MIN_LAST_CELL), break_on_hyphens=False
        ) or [""]
        yield (before + last[0]).rstrip()
        for more in last[1:]:
            yield " " * indent + more
