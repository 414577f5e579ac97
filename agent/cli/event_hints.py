"""Suggests events in place of one that nothing matched."""

from __future__ import annotations

from collections.abc import Collection

from agent.core.event import NAMES, TYPES, is_id
from agent.core.likely import JOB_CONTEXTS, meant_names
from agent.core.quoting import printable
from agent.core.spelling import nearest

_OPERATORS = ("&&", "||", "(", ")")


def hint(text: str, names: Collection[str] = ()) -> str | None:
    """A hint at what looks like a mistake in an event; None if nothing does.

    `text` is an event that the agent accepts, in the syntax of a trigger's term. `names` are the
    event names that are known besides Qube's.
    """
    names = NAMES.union(names)
    if any(operator in text for operator in _OPERATORS):
        return "an event is a single one: give those that occurred before with --occurred"
    stripped = text.strip(" \t'\"\u201c\u201d")
    name, _, rest = stripped.partition("-")
    kind, _, rest = rest.partition("-")
    context, hyphen, extra = rest.partition("-")
    reasons = ["white space and quotes are part of an event"] if stripped != text else []
    row = TYPES.get(kind)
    if row is None:
        return None
    meant: tuple[str, ...] = (name,)
    if name not in names:
        known = _known(name, names)
        meant = (known,) if known else meant_names(name) or meant
    if meant != (name,):
        reasons.append(f"{printable(name)} is not a known event name")
    elif "*" in name:
        reasons.append("an event has one name: * is an ordinary character in it")
        meant = ("NAME",)
    if not is_id(context) and (context == "*" or _known(context, JOB_CONTEXTS)):
        own = _known(context, JOB_CONTEXTS) or "self"
        if own != context:
            reasons.append(f"{printable(context)} is read as the label of a job")
        context = own
    if context in JOB_CONTEXTS or is_id(context):
        example = (row.extra or "").upper().replace(" ", "-")
        if row.extra is None and hyphen:
            reasons.append(f"an event of type {kind} has no extra")
            hyphen = extra = ""
        elif "*" in extra:
            reasons.append(f"* is an ordinary character in an event: give the {row.extra}")
            extra = row.example or example
        elif row.numbers and not all(map(is_id, extra.split("-"))):
            reasons.append(f"the {row.extra} is a number")
            extra = row.example
    if not reasons:
        return None
    events = (printable(f"{name}-{kind}-{context}{hyphen}{extra}") for name in meant)
    return f"did you mean {' or '.join(events)}? {'; '.join(reasons)}"


def _known(word: str, known: Collection[str]) -> str | None:
    """The known word that differs from this one in case or in one letter at most, or None."""
    if word in known:
        return word
    return word.lower() if word.lower() in known else nearest(word.lower(), known)
