"""Why a callback fires for an event or does not, in words for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.core.event import NO_GROUP, NO_PARENT, TYPES, Event, matches_name
from agent.core.spelling import nearest
from agent.core.steps import Steps
from agent.core.term import Term

#: The longest reason, and the longest text of an event in it, in characters. Without a limit, the
#: event of a request of 1 MiB would be repeated for each callback.
MAX_REASON = 500
#: The most terms of one trigger that a reason explains.
MAX_REASON_TERMS = 20


def satisfied(alike: Iterable[Term], event: Event, steps: Steps) -> str:
    """The terms that the event satisfies, for a reason."""
    met = []
    for term in alike:
        steps.take(term.steps(event))
        if term.matches(event):
            met.append(str(term))
    return short(" and ".join(met))


def same_name_and_type(term: Term, event: Event) -> bool:
    """Whether a term is about events of this name and type."""
    return term.type == event.type and matches_name(term.name, event.name)


def mismatches(alike: Sequence[Term], event: Event) -> str:
    """Why an event satisfies none of these terms, which have its name and type."""
    return short("; ".join(_mismatch(term, event) for term in alike[:MAX_REASON_TERMS]))


def _mismatch(term: Term, event: Event) -> str:
    """Why an event of a term's name and type does not satisfy the term."""
    if term.label is not None:
        return _label_mismatch(term, term.label, event)
    if term.context != "*" and term.context not in event.contexts:
        actual = " = ".join(sorted(event.contexts)) or short(event.text or "none that counts")
        reason = f"{term} matches only the context {term.context}, the event has {actual}"
        if event.no_parent and term.context == "parent":
            reason += f"; the owner's pid counts as not given, because it is not above {NO_PARENT}"
        return reason
    if term.extra is None and TYPES[term.type].extra is not None:
        return f"{term} has no extra, which every event of type {term.type} has"
    extra = "no extra" if term.extra is None else f"the extra {term.extra}"
    actual = event.extra if event.extra is not None else event.unsplit or "none"
    return f"{term} matches only {extra}, the event has {short(actual)}"


def _label_mismatch(term: Term, label: str, event: Event) -> str:
    actual = short(event.text) if event.text is not None else "no label that counts"
    reason = f'{term} matches only jobs labelled "{label}", the event has {actual}'
    context, hyphen, extra = label.partition("-")
    if near := nearest(context, ("self", "parent")):
        reason += f"; did you mean {term.name}-{term.type}-{near}{hyphen}{extra}?"
    elif event.no_group:
        reason += f"; a pgrp of {NO_GROUP} counts as not given"
    return reason


def short(text: str) -> str:
    """The text, cut after MAX_REASON characters."""
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."
