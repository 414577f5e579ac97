"""Finds what people write in a trigger out of habit, from the syntax of other programs.

Nearly any text is a legal term: white space, punctuation and quotes belong to labels and to names
of work. So `failed-job-self, killed-job-self` loads, as one term that no event matches. What is
found here is likely to be such a mistake; it never changes what a trigger means.

One term has at most one of these at a time. The others are found in the corrected text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from agent.core import several
from agent.core.correction import shifted
from agent.core.diagnostic import Edit, Problem
from agent.core.event import DONE, TYPES
from agent.core.likely import is_exact, is_nearly_job, likely_event, meant_names
from agent.core.term_report import MAX_PROBLEMS
from agent.core.typography import (
    SUSPICIOUS,
    dashes,
    quoted_part,
    quotes,
    single_quotes,
    stars,
    suspicious,
    unseen,
    without_ends,
)

#: The code of what is found here.
CODE = SUSPICIOUS


class Habit(NamedTuple):
    """One mistake, and the region of the text that it explains, as offsets."""

    problem: Problem
    start: int
    end: int


#: An event of words, stars and dots, of a type that there is: nothing in it is a habit.
_EVENT = rf"[\w*]+-(?:{'|'.join(TYPES)})(?:-(?!\.\*)[\w*.]*[\w*])+"
#: Nearly every trigger: such events, in parentheses or not, with operators between them.
_EVENTS = re.compile(rf"\(?{_EVENT}\)?(?: (?:&&|\|\|) \(?{_EVENT}\)?)*")
#: An event whose label has several words, such as `render 12`. After `self`, words may be
#: a mistake.
_EVENT_OF_WORDS = re.compile(r"[a-z*]+-[a-z]+-(?!(?:self|parent) )[\w*]+(?:-[\w*]+)*(?: \w+)+")

_ENTITIES = {"&amp;": "&", "&quot;": '"', "&nbsp;": " ", "&#124;": "|", "&#38;": "&"}
_ENTITY = re.compile("|".join(_ENTITIES))
#: A second character after the `=` that other languages have.
_LEADING = re.compile(r"[=:>~][=:>~ \t]*")
_SECOND_NAME = re.compile(r"\w+\s*=\s*")
#: The most characters of what may be an event that decide whether it is one.
MAX_EVENT = 300
_COMMENT = re.compile(r"(?<!\S)//")
#: Comments of other languages that are also plausible in a label.
_WEAK_COMMENT = re.compile(r"(?<!\S)(?:--|/\*|;)(?=\s)|;(?=\s)")
_AND = re.compile(r"&&|\band\b", re.IGNORECASE)
_NOT = re.compile(r"(?:not(?=\s|$)|!)[\s!]*", re.IGNORECASE)
_FIELDS = re.compile(r"[-_.:/\s]+")
_PLACEHOLDER = re.compile(r"\$\{?\w+\}?|<\w[\w -]*>|\{\w+\}")
_BRACKETS = {"[": "]", "<": ">", "{": "}", "^": "$"}


def _is_only_events(value: str) -> bool:
    """Whether a trigger's text can be seen to be only events and operators: then it has no habit.

    False for a few such texts: those are searched.
    """
    return _EVENTS.fullmatch(value) is not None or _EVENT_OF_WORDS.fullmatch(value) is not None


def in_value(
    value: str, terms: Callable[[str], Iterator[tuple[int, int]]], quoted: bool
) -> list[Habit]:
    """The mistakes of a trigger's text, at most MAX_PROBLEMS, in the order of the text.

    `terms` gives where each term of a text begins and ends. `quoted` says whether the text is in
    quotes, where a `#` begins no comment.
    """
    if _is_only_events(value):
        return []
    if "\r" in value:
        return [carriage_return(value)]
    if "&" in value and (found := _entities(value)):
        return [found]
    if found := _leading(value):
        return [found]
    if "(" in value and (group := several.names_in_a_group(value)):
        return [Habit(group, 0, len(value) + 1)]
    result = []
    comment = _comment(value, quoted)
    if comment:
        result.append(comment)
        value = value[: comment.start]
    for start, end in terms(value):
        if len(result) > MAX_PROBLEMS:
            break
        if found := _in_term(value, start, end):
            result.append(found)
    result.sort(key=lambda habit: habit.start)
    return result


# The whole text ----------------------------------------------------------------------------------


def carriage_return(text: str) -> Habit:
    """The warning about a carriage return that does not end a line of its own."""
    at = text.index("\r")
    message = "a CR alone does not end a line: what follows it is read as part of this line"
    problem = suspicious(at, 1, message, "save the file with LF line ends")
    return Habit(problem, 0, len(text) + 1)


def _entities(value: str) -> Habit | None:
    found = list(_ENTITY.finditer(value))
    if not found:
        return None
    first = found[0]
    edits = (Edit(*m.span(), _ENTITIES[m[0]]) for m in found)
    message = f"`{first[0]}` is HTML, and is read as it is written"
    hint = f"write {_ENTITIES[first[0]]} in its place"
    problem = suspicious(first.start(), len(first[0]), message, hint, *edits)
    return Habit(problem, 0, len(value) + 1)


def numbered_entities(line: str) -> list[Edit]:
    """What replaces the characters of a line that HTML writes as `&#` and a number."""
    found = (m for m in _ENTITY.finditer(line) if m[0].startswith("&#"))
    return [Edit(*m.span(), _ENTITIES[m[0]]) for m in found]


def _leading(value: str) -> Habit | None:
    found = _LEADING.match(value)
    if found is None:
        return _second_name(value)
    read = found[0].rstrip()
    mark = quoted_part(read)
    message = f"`={mark}` is not an operator here: `{mark}` is read as part of the event"
    hint = "write one `=` between the file and its trigger"
    problem = suspicious(0, len(read), message, hint, Edit(0, found.end(), " "))
    return Habit(problem, 0, len(value) + 1)


def _second_name(value: str) -> Habit | None:
    """A word and an `=` before the first event, as in `trigger=failed-job-self`."""
    found = _SECOND_NAME.match(value)
    if found is None or not likely_event(value[found.end() :].lstrip("\"'")[:MAX_EVENT]):
        return None
    read = quoted_part(found[0].rstrip())
    message = f"`{read}` is read as part of the event's name"
    problem = suspicious(0, len(read), message, "remove it", Edit(0, found.end(), ""))
    return Habit(problem, 0, len(value) + 1)


def _comment(value: str, quoted: bool) -> Habit | None:
    """What was meant as a comment."""
    found = _COMMENT.search(value)
    if found is None:
        found = _WEAK_COMMENT.search(value)
        if found is None or not _ends_with_exact_event(value[: found.start()]):
            return None
        if likely_event(value[found.end() :].strip()):
            return None
    start, end = found.span()
    text = value[start:]
    read = f"`{quoted_part(text)}` is read as part of the trigger"
    message = f"`{found[0]}` does not begin a comment: {read}"
    edit = Edit(len(value[:start].rstrip()), len(value), "")
    if not quoted:
        edit = Edit(start, end, " #" if start and not value[start - 1].isspace() else "#")
    problem = suspicious(start, len(text), message, "begin the comment with #", edit)
    return Habit(problem, start, len(value) + 1)


def _ends_with_exact_event(text: str) -> bool:
    """Whether the last word of a text is an event that cannot go on in the next word."""
    words = text.rsplit(None, 1)
    return bool(words) and likely_event(words[-1]) and is_exact(words[-1].split("-", 3)[2])


# One term ----------------------------------------------------------------------------------------


def _in_term(value: str, start: int, end: int) -> Habit | None:
    """The first mistake of the term from `start` to `end` of a trigger."""
    term = value[start:end]
    for check in _CHECKS:
        if problem := check(term):
            edits = shifted(problem.edits, start)
            if any(edit.text == " || " for edit in edits) and _needs_a_group(value, start, end):
                edits = (Edit(start, start, "("), *edits, Edit(end, end, ")"))
            assert problem.column is not None
            column = problem.column + start
            return Habit(replace(problem, column=column, edits=edits), start, end)
    return None


def _needs_a_group(value: str, start: int, end: int) -> bool:
    """Whether `||` in the term at `start` to `end` would divide the events that `&&` joins."""
    before, after = value[:start].rstrip(), value[end:].lstrip()
    if before.endswith("(") and after.startswith(")"):
        return False
    return any(map(_AND.search, (before, after)))


def _negation(term: str) -> Problem | None:
    found = _NOT.match(term)
    if found is None:
        return None
    rest = term[found.end() :]
    word = quoted_part(found[0].rstrip())
    message = f"`{quoted_part(term)}`: a trigger has no `{word}`, it fires on what happens"
    hint = "name the events that it is to fire on, with || between them"
    name, hyphen, where = rest.partition("-")
    edits: tuple[Edit, ...] = ()
    if name in DONE and hyphen:
        others = [other for other in ("complete", "failed", "killed") if other != name]
        text = " || ".join(f"{other}-{where}" for other in others)
        edits = (Edit(0, len(term), f"({text})"),)
        hint = f"write {others[0]} or {others[1]}, the other ways to end"
    return suspicious(0, len(word), message, hint, *edits)


def _brackets(term: str) -> Problem | None:
    close = _BRACKETS.get(term[0])
    if close is None or (term[-1] != close and not likely_event(term[1:])):
        return None
    edits = without_ends(term, True, term[-1] == close)
    if term[0] == "^":
        message = "a trigger is not a regular expression: `^` is read as part of the event's name"
        return suspicious(0, 1, message, "remove it; `*` matches any characters", *edits)
    message = f"`{term[0]}` is not a bracket here: it is read as part of the event's name"
    return suspicious(0, 1, message, "remove the brackets; ( and ) group events", *edits)


def _trailing(term: str) -> Problem | None:
    """Punctuation at the end."""
    stem = term.rstrip(" \t,;.:\\|&!?/+")
    trail = term[len(stem) :].strip()
    if not trail:
        return None
    at = term.index(trail, len(stem))
    edit = Edit(len(stem), len(term), "")
    if not stem:
        if trail[0] not in "\\|&":
            return None
        message = f"`{quoted_part(trail)}` is not an event"
        if trail[0] == "\\":
            message = "a `\\` does not continue a line: a trigger is on one line"
        return suspicious(at, len(trail), message, "remove it", edit)
    if not any(c in trail for c in ",;\\|&"):
        last = stem.rpartition("-")[2]
        if not likely_event(stem) or not is_exact(last):
            return None
    elif stem.count("-") < 2 and not meant_names(stem):
        return None
    message = f"the `{quoted_part(trail)}` at the end is read as part of the event"
    if trail[-1] == "\\":
        message = "a `\\` does not continue a line: it is read as part of the event"
    return suspicious(at, len(trail), message, "remove it", edit)


def _spaced(term: str) -> Problem | None:
    """White space around the hyphens."""
    fields = term.split("-", 3)
    if len(fields) < 3:
        return None
    last = fields[3].lstrip() if len(fields) > 3 else ""
    bare = [*(field.strip() for field in fields[:3]), *([last] if len(fields) > 3 else [])]
    if bare == fields or not likely_event("-".join(bare)):
        return None
    if likely_event(term) and not is_exact(bare[2]):
        return None
    edits = []
    at = 0
    for field, text in zip(fields, bare, strict=True):
        inner = at + field.index(text) if text else at
        edits += [Edit(at, inner, ""), Edit(inner + len(text), at + len(field), "")]
        at += len(field) + 1
    edits = [edit for edit in edits if edit.start < edit.end]
    first = edits[0]
    message = f"white space beside a hyphen is read as part of the field: `{quoted_part(term)}`"
    return suspicious(first.start, 1, message, "write the event without white space", *edits)


def _other_separator(term: str) -> Problem | None:
    """Another character where a hyphen ends a field."""
    if likely_event(term):
        return None
    found = list(_FIELDS.finditer(term))[:3]
    fields = _FIELDS.split(term, maxsplit=3)
    if len(fields) < 3 or not meant_names(fields[0]) or fields[1].lower() not in TYPES:
        return None
    if not (is_exact(fields[2]) or is_nearly_job(fields[2])) and "-" in term:
        return None
    edits = [Edit(*m.span(), "-") for m in found if m[0] != "-"]
    if not edits:
        return None
    first = edits[0]
    read = quoted_part(term[first.start : first.end].strip()) or "white space"
    message = f"`{quoted_part(term)}` has {read} where a hyphen ends a field"
    length = first.end - first.start
    return suspicious(first.start, length, message, "write hyphens between the fields", *edits)


def _regular_expression(term: str) -> Problem | None:
    if not term.endswith("-.*"):
        return None
    at = len(term) - 2
    message = "`.*` matches a dot and any characters: a trigger is not a regular expression"
    return suspicious(at, 2, message, "write *", Edit(at, at + 2, "*"))


def _placeholder(term: str) -> Problem | None:
    fields = term.split("-", 3)
    for field in fields[2:]:
        if _PLACEHOLDER.fullmatch(field):
            message = f"`{quoted_part(field)}` is read as it is written: nothing takes its place"
            hint = "write what it stands for: self, parent, a job id, a label or *"
            return suspicious(term.index(field), len(field), message, hint)
    return None


_CHECKS = (
    *(quotes, single_quotes, several.names, _brackets, _negation),
    *(several.files, several.contexts, several.events),
    *(_trailing, unseen, stars, dashes, _spaced, _other_separator),
    *(_regular_expression, _placeholder),
)
