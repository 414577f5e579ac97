"""Finds several events, names of events or files where a trigger has one."""

from __future__ import annotations

import re

from agent.core.diagnostic import Edit, Problem
from agent.core.event import NAMES
from agent.core.likely import JOB_CONTEXTS, known_name, likely_event
from agent.core.typography import quoted_part, suspicious

#: Operators of logic and of other languages, and those that an input method for Chinese writes.
_SIGNS = r"[,;|&/+\u2227\u2228\u2225\u2016\uff5c\uff06]+"
_WORDS = "then|plus|also|und|when|while|if|after|oder|xor"
_SEPARATOR = re.compile(rf"\s*{_SIGNS}\s*|\s+(?:{_WORDS})\s+|\s+", re.IGNORECASE)
_ALL_OF = re.compile("[&+\u2227\uff06]|then|plus|also|und|when|while|if|after", re.IGNORECASE)
#: Names with punctuation or white space between them, in brackets or not.
_NAMES = re.compile(r"\[?\s*\w+(?:[,;|&/+\s]+\w+){1,12}\s*\]?-")
_PUNCTUATED = re.compile(r"\[?\s*\w+(?:\s*[,;|/]\s*\w+){1,12}\s*\]?-")
_GROUP = re.compile(
    r"\(\s*(\w+(?:(?:\s*[,/|;]+\s*|\s+or\s+)\w+){1,12})\s*\)-((?:(?!&&|\|\||[()])[^,;]){1,300})",
    re.IGNORECASE,
)
_ONE_EVENT_EACH = "write an event for each name, with || between them"
#: A second context or name after `self` or `parent`.
_SECOND_JOB = re.compile(r"(\w+)-(\w+)-(self|parent)([,;/|&+\s]+)(\w+)(|-.*)", re.DOTALL)
#: The most characters of an event that decide whether it is one.
MAX_BEFORE = 300
#: The name of a callback's file after an event, and before one.
_FILE_AFTER = re.compile(r"[\s,;|&=]([\w.-]*\w\.(?:py|pl|qcb))[\s,;]*\Z")
_FILE_BEFORE = re.compile(r"([\w.-]*\w\.(?:py|pl|qcb))[\s,;:=]")
#: And one that begins a second `file = trigger`.
_SECOND_LINE = re.compile(r"[\s,;|&]([\w.-]*\w\.(?:py|pl|qcb))\s*=")


def names(term: str) -> Problem | None:
    """Several names before one type."""
    found = _NAMES.match(term)
    if found is None:
        return None
    written = re.findall(r"\w+", found[0])
    meant = [known_name(name) or name for name in written]
    where = term[found.end() :]
    # Names of the site's own count with punctuation only: words before an event are not names.
    are_names = _PUNCTUATED.match(term) or all(map(known_name, written))
    if not are_names or not likely_event(f"{meant[0]}-{where}"):
        return None
    message = f"`{quoted_part(found[0][:-1].strip())}` is read as one name: an event has one"
    edit = Edit(0, len(term), _one_event_each(meant, where))
    return suspicious(0, found.end() - 1, message, _ONE_EVENT_EACH, edit)


def names_in_a_group(value: str) -> Problem | None:
    """Several names in parentheses before one type, in the text of a trigger."""
    found = _GROUP.search(value)
    if found is None:
        return None
    where = found[2].rstrip()
    written = [name for name in re.findall(r"\w+", found[1]) if name.lower() != "or"]
    meant = [known_name(name) or name for name in written]
    if not all(likely_event(f"{name}-{where}") for name in meant):
        return None
    message = f"parentheses group events, not names: `{quoted_part(found[0].rstrip())}`"
    end = found.start(2) + len(where)
    edit = Edit(found.start(), end, _one_event_each(meant, where))
    return suspicious(found.start(), end - found.start(), message, _ONE_EVENT_EACH, edit)


def _one_event_each(names: list[str], where: str) -> str:
    """The text of an event for each name, all with the same type, context and extra."""
    return f"({' || '.join(f'{name}-{where}' for name in names)})"


def contexts(term: str) -> Problem | None:
    """A second context, or the name of a second event, after `self` or `parent`."""
    found = _SECOND_JOB.fullmatch(term)
    if found is None:
        return None
    name, kind, job, between, second, extra = found.groups()
    if second in (name, job):
        return None
    if second in JOB_CONTEXTS:
        other = f"{name}-{kind}-{second}{extra}"
    elif second in NAMES and not extra:
        other = f"{second}-{kind}-{job}"
    else:
        return None
    sign = "&&" if _ALL_OF.search(between) else "||"
    what = quoted_part(f"{job}{between}{second}")
    message = f"`{what}` is read as one label: an event has one name and one context"
    edit = Edit(0, len(term), f"({name}-{kind}-{job}{extra} {sign} {other})")
    hint = f"write two events, with {sign} between them"
    return suspicious(found.start(3), len(term) - found.start(3), message, hint, edit)


def files(term: str) -> Problem | None:
    """The name of a file beside an event."""
    # Two lines that were joined.
    if (found := _SECOND_LINE.search(term)) and likely_event(term[: found.start()][:MAX_BEFORE]):
        file = quoted_part(found[1])
        message = f"`{file} =` is read as part of the event: a line names one file"
        hint = f"write a line of its own for {file}"
        return suspicious(found.start(1), len(found[1]), message, hint)
    found = _FILE_AFTER.search(term)
    event = term[: min(found.start(), MAX_BEFORE)] if found else ""
    if found is None and (found := _FILE_BEFORE.match(term)):
        event = term[found.end() :].lstrip(" \t,;:=")[:MAX_BEFORE]
    if found is None or not likely_event(event):
        return None
    file = quoted_part(found[1])
    message = f"`{file}` is read as part of the event: a line names one file, before its `=`"
    hint = f"write a line of its own for {file}"
    return suspicious(found.start(1), len(found[1]), message, hint)


def events(term: str) -> Problem | None:
    """Two events beside each other, or with punctuation between them."""
    separators = list(_SEPARATOR.finditer(term))
    edits: list[Edit] = []
    first: tuple[int, str, str, str] | None = None
    begin = 0
    for index, found in enumerate(separators):
        following = separators[index + 1].start() if index + 1 < len(separators) else len(term)
        after = term[found.end() : following]
        if not likely_event(after):
            continue
        before = term[begin : min(found.start(), begin + MAX_BEFORE)]
        if not before or "-" not in before:
            # The hyphen of an event without a name belongs to the word before it.
            if after.startswith("-"):
                return None
            return _words_before(term, found.end()) if begin == 0 else None
        if not likely_event(before):
            continue
        operator = " && " if _ALL_OF.search(found[0]) else " || "
        edits.append(Edit(found.start(), found.end(), operator))
        if first is None:
            first = found.start(), found[0], before, after
        begin = found.end()
    if first is None:
        return None
    at, between, before, after = first
    between = between.strip()
    both = f"`{quoted_part(before)}` and `{quoted_part(after)}`"
    if between:
        at += term[at:].index(between)
        message = f"`{quoted_part(between)}` is not an operator: {both} are read as one event"
    else:
        message = f"an operator is missing between {both}: they are read as one event"
        at = term.index(after, at)
    hint = f"write {edits[0].text.strip()} between them"
    return suspicious(at, len(between) or len(after), message, hint, *edits)


def _words_before(term: str, end: int) -> Problem:
    """Words before an event, which are read as part of its name."""
    words = term[:end].rstrip()
    message = f"`{quoted_part(words)}` before the event is read as part of its name"
    return suspicious(0, len(words), message, "remove it", Edit(0, end, ""))
