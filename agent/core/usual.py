"""Reads the triggers that nearly every line has, quickly.

A *usual* trigger is canonical text, and nothing can be said against it: one event of a common form,
or several with operators between them, in groups or not. `agent.core.trigger` reads every text, and
would give the same tree of these, without a problem.
"""

from __future__ import annotations

import re

from agent.core.event import NAMES, canonical_id, is_id
from agent.core.likely import JOB_CONTEXTS, MAX_NEAR_JOB, is_nearly_job
from agent.core.term import CONTEXTS, Term
from agent.core.trigger import MAX_LENGTH, And, Or, Trigger

#: One field or several, with hyphens between them. A field can be matched in one way only, so it is
#: never tried again (`++`). The groups are not possessive: Pythons before 3.11.5 have a bug there.
_FIELDS = r"[\w*]++(?:[-.][\w*]++)*"
#: Name, type, then context and extra or a label. Words in a label are no operators.
_TERM = re.compile(
    r"([a-z]++)-(job|subjob|work)-"
    rf"(?:(self|parent|\*|[0-9]++)(?:-({_FIELDS}))?"
    rf"|({_FIELDS}(?: (?!(?i:and|or)\b)\w++)*))",
    re.ASCII,
)
#: A word that is one letter away from `self` or `parent` has its first letter or its last.
_FIRST, _LAST = "sSpP", "fFtT"
_AT_THE_END = tuple(f"-{job}" for job in JOB_CONTEXTS)
_WITH_A_DOT = tuple(f"{job}." for job in JOB_CONTEXTS)
#: Texts that many terms share, each to itself.
_NAMES = {name: name for name in NAMES}
_TYPES = {kind: kind for kind in ("job", "subjob", "work")}
_CONTEXTS = {context: context for context in CONTEXTS}


def parse(text: str) -> Trigger | None:
    """The tree of a usual trigger. None for any other text, and for some usual ones: these are left
    to `agent.core.trigger`."""
    if len(text) > MAX_LENGTH or "**" in text:
        return None
    tree: Trigger | None = _term(text)
    if tree is None:
        # Whether `||` is outside the groups or inside is not known yet, so both are tried.
        if " || " in text:
            tree = _joined(text, Or, " || ", And, " && ")
        if tree is None and " && " in text:
            tree = _joined(text, And, " && ", Or, " || ")
    return tree


def _joined(
    text: str, outer: type[And | Or], sign: str, inner: type[And | Or], inner_sign: str
) -> Trigger | None:
    """The tree of events and groups of events with one operator between them; None if it does not
    have that form."""
    parts: list[Trigger] = []
    for part in text.split(sign):
        tree: Trigger | None
        if part[:1] == "(" and part[-1:] == ")":
            terms = [_term(each) for each in part[1:-1].split(inner_sign)]
            if len(terms) == 1 or None in terms:
                return None
            tree = inner(tuple(terms))  # type: ignore[arg-type]
        else:
            tree = _term(part)
            if tree is None:
                return None
        parts.append(tree)
    return outer(tuple(parts)) if len(parts) > 1 else None  # type: ignore[arg-type]


def _term(text: str) -> Term | None:
    """The one event of a text."""
    found = _TERM.fullmatch(text)
    if found is None:
        return None
    name, kind, context, extra, label = found.groups()
    if name not in _NAMES:
        return None
    if label is not None:
        first, _, number = label.partition("-")
        # Perhaps `self` or `parent` was meant.
        if (
            len(first) <= MAX_NEAR_JOB
            and (first[0] in _FIRST or first[-1] in _LAST)
            and is_nearly_job(first)
        ):
            return None
        # `self.foo` is a label. The author probably wanted the context `self`.
        if label.startswith(_WITH_A_DOT):
            return None
        # The same, with words after it or after its extra.
        if " " in label and ((word := first.split(" ", 1)[0]) in _CONTEXTS or is_id(word)):
            return None
        # Perhaps the context is at the end.
        if label.endswith(_AT_THE_END):
            return None
    else:
        # An event of a job has no extra, and no extra is a context.
        if extra is not None and (extra in JOB_CONTEXTS or (kind == "job" and extra != "*")):
            return None
        number = extra
        context = _CONTEXTS.get(context) or canonical_id(context)
    if kind != "job" and not _is_complete(kind, number, label is not None):
        return None
    # As `Term(...)` does, in half the time.
    return tuple.__new__(Term, (text, _NAMES[name], _TYPES[kind], context, extra, label))


def _is_complete(kind: str, extra: str | None, is_label: bool) -> bool:
    """Whether an event of a type that needs an extra has one, and a number where it must be one.
    `is_label` is whether `extra` is what follows the first hyphen of a label."""
    if not extra:
        return False
    if kind == "work":
        return True
    number = extra.rpartition("-")[2] if is_label else extra
    return number == "*" or is_id(number)
