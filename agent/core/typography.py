"""Finds characters that a word processor or a web page puts where ordinary ones belong."""

from __future__ import annotations

import re

from agent.core.diagnostic import Edit, Problem
from agent.core.likely import is_exact, likely_event
from agent.core.quoting import shorten, shown

SUSPICIOUS = "suspicious"

#: Quotation marks other than " and '.
_TYPOGRAPHIC = (
    "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u2018\u2019\u201a\u201b"
    "`\u00b4\u2032\u2033\uff02\uff07"
)
_DASH = re.compile("[\u2010-\u2015\u2212\u00ad\ufe58\ufe63\uff0d]|--")
_STAR = re.compile("[\u2217\uff0a\u204e\u22c6]|([\"'`])[*]\\1")
_ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
_UNSEEN = re.compile(
    "[\u00a0\u1680\u2000-\u200f\u202a-\u202f\u205f\u2060-\u2064\u2066-\u2069\ufeff\u00ad"
    "\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
#: These join letters in some scripts and in emoji. Beside ASCII they join nothing.
_JOINERS = "\u200c\u200d"


def suspicious(
    start: int, length: int, message: str, hint: str, *edits: Edit, code: str = SUSPICIOUS
) -> Problem:
    """The problem of `length` characters at offset `start`; `hint` says what the edits do."""
    return Problem(code, message, hint, None, start + 1, None, max(length, 1), edits)


def quoted_part(text: str) -> str:
    """A part of the text as messages quote it, at most 60 characters."""
    return shorten(shown(text), 60)


def quotes(term: str) -> Problem | None:
    """Quotes that are text: typographic ones, and those that do not open the value."""
    first, last = term[0] in _TYPOGRAPHIC, term[-1] in _TYPOGRAPHIC
    # A pair inside the term belongs to its text.
    if last and not first and len(term) > 1 and any(c in _TYPOGRAPHIC for c in term[:-1]):
        last = False
    if first or last:
        at = 0 if first else len(term) - 1
        message = f"the quote {named(term[at])} is read as part of the event"
        hint = 'remove it; quotes are not needed, and only " is one'
        return suspicious(at, 1, message, hint, *without_ends(term, first, last))
    fields = term.split("-", 2)
    marks = _TYPOGRAPHIC + '"'
    if len(fields) == 3 and len(fields[2]) > 2 and {fields[2][0], fields[2][-1]} <= set(marks):
        inner = fields[2][1:-1].strip()
        if not any(mark in inner for mark in marks):
            at = len(term) - len(fields[2])
            message = f"the quotes are read as part of the event: {quoted_part(fields[2])}"
            edit = Edit(at, len(term), inner)
            return suspicious(at, len(fields[2]), message, "remove them", edit)
    if '"' not in term:
        return None
    first, last = term[0] == '"', term[-1] == '"'
    if not first and (not last or term.count('"') % 2 == 0):
        return None
    at = 0 if first else len(term) - 1
    message = "a quote counts only as the first character after the `=`: this one is text"
    return suspicious(at, 1, message, "remove it", *without_ends(term, first, last))


def single_quotes(term: str) -> Problem | None:
    """Single quotes around a term."""
    first, last = term[0] == "'", term[-1] == "'"
    if not first and not (last and term.count("'") == 1):
        return None
    message = "to Qube a single quote is not a quote: it is read as part of the value"
    at = 0 if first else len(term) - 1
    edits = without_ends(term, first, last)
    return suspicious(at, 1, message, "use double quotes, or none", *edits, code="single-quote")


def without_ends(term: str, first: bool, last: bool) -> list[Edit]:
    """What removes the first or the last character of a term, with the white space inside."""
    edits = []
    if first:
        inner = term[1:].lstrip()
        edits.append(Edit(0, len(term) - len(inner), ""))
    if last and len(term) > 1:
        edits.append(Edit(len(term[:-1].rstrip()), len(term), ""))
    return edits


def dashes(term: str) -> Problem | None:
    """Dashes where hyphens belong."""
    found = list(_DASH.finditer(term))
    if not found:
        return None
    hyphenated = _DASH.sub("-", term)
    if not likely_event(hyphenated):
        return None
    context = term.split("-", 3)[2] if term.count("-") > 1 else ""
    if likely_event(term) and (is_exact(context) or not is_exact(hyphenated.split("-", 3)[2])):
        return None
    first = found[0]
    edits = (Edit(*m.span(), "-") for m in found)
    message = f"{named(first[0])} is not a hyphen: it is read as part of the field"
    if first[0] == "--":
        message = "there are two hyphens where one ends a field"
    return suspicious(first.start(), len(first[0]), message, "write a hyphen, -", *edits)


def unseen(term: str) -> Problem | None:
    """Characters that cannot be seen."""
    found = [m for m in _UNSEEN.finditer(term) if not _joins(term, m.start())]
    if not found:
        return None
    first = found[0]
    edits = (Edit(*m.span(), " " if _ODD_SPACE.match(m[0]) else "") for m in found)
    what = "a space that is not an ordinary one" if _ODD_SPACE.match(first[0]) else "not visible"
    message = f"the character {named(first[0])} is {what}: it is read as part of the event"
    return suspicious(first.start(), 1, message, "remove it, or write a space", *edits)


def stars(term: str) -> Problem | None:
    """A field that is only a `*`, in quotes or in one of the characters that look like it."""
    at = 0
    for index, field in enumerate(term.split("-")):
        if index > 1 and _STAR.fullmatch(field):
            message = f"only a bare `*` matches any characters: {quoted_part(field)} is text"
            return suspicious(at, len(field), message, "write *", Edit(at, at + len(field), "*"))
        at += len(field) + 1
    return None


def _joins(term: str, at: int) -> bool:
    """Whether the character joins two letters that are not ASCII."""
    around = term[at - 1 : at] + term[at + 1 : at + 2]
    return term[at] in _JOINERS and len(around) == 2 and not any(c.isascii() for c in around)


def named(character: str) -> str:
    """A character as a message names it: itself, if it can be seen, and its code point."""
    code = f"U+{ord(character[0]):04X}"
    return f"`{character}` ({code})" if character.isprintable() and character != " " else code


def outer_quotes(name: str, start: int) -> tuple[Edit, ...]:
    """What removes quotes of any kind around a name that begins at offset `start` of its line."""
    marks = _TYPOGRAPHIC + "'\""
    first = len(name) - len(name.lstrip(marks))
    last = len(name.rstrip(marks))
    edits = (Edit(start, start + first, ""), Edit(start + last, start + len(name), ""))
    return tuple(edit for edit in edits if edit.start < edit.end) if last > first else ()


def invisible(name: str, start: int) -> tuple[Edit, ...]:
    """What removes characters that cannot be seen from a name at offset `start` of its line."""
    return tuple(
        Edit(start + m.start(), start + m.end(), " " if _ODD_SPACE.match(m[0]) else "")
        for m in _UNSEEN.finditer(name)
        if not _joins(name, m.start())
    )
