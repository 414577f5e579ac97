"""Decides whether a text was probably meant as an event of Qube."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from agent.core.event import NAME_FORMS, NAMES, SYNONYMS, TYPES, is_id
from agent.core.spelling import nearest, one_letter_away

#: The contexts that name a job by a word.
JOB_CONTEXTS = ("self", "parent")
#: The length of the longest text that is one letter away from one of them.
MAX_NEAR_JOB = max(map(len, JOB_CONTEXTS)) + 1


def known_name(text: str) -> str | None:
    """The event name of Qube that a text probably is."""
    lower = text.lower()
    if lower in NAMES:
        return lower
    return NAME_FORMS.get(lower) or nearest(lower, NAMES)


def meant_names(text: str) -> tuple[str, ...]:
    """The event names of Qube that may be meant by a text: the one that it probably is, or those
    that it is another word for."""
    known = known_name(text)
    return (known,) if known else SYNONYMS.get(text.lower(), ())


def in_order(fields: Sequence[str]) -> tuple[str, ...] | None:
    """Three fields as name, type and context, if they are these in any order; else None."""
    for name, kind, context in permutations(fields):
        if kind in TYPES and is_one_job(context) and meant_names(name):
            return name, kind, context
    return None


def is_one_job(field: str) -> bool:
    """Whether a field names a job by a word or by its id."""
    return field in JOB_CONTEXTS or is_id(field)


def likely_event(text: str) -> bool:
    """Whether a text is an event rather than words with hyphens.

    At least two of its first three fields are those of an event of Qube, or misspelled ones.
    """
    fields = text.split("-", 3)
    if len(fields) < 3:
        return False
    name, kind, context = fields[:3]
    points = int(known_name(name) is not None or name == "*")
    points += kind in TYPES or nearest(kind.lower(), TYPES) is not None
    points += is_exact(context) or is_nearly_job(context)
    return points >= 2


def is_exact(context: str) -> bool:
    """Whether a third field is a context rather than a label."""
    return context == "*" or is_one_job(context)


def is_nearly_job(context: str) -> bool:
    """Whether a third field was probably meant as `self` or `parent`."""
    if len(context) > MAX_NEAR_JOB:
        return False
    lower = context.lower()
    return lower in JOB_CONTEXTS or any(one_letter_away(lower, job) for job in JOB_CONTEXTS)
