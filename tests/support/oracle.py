"""The oracle: the trigger language as its rules are written, slow and without an index.

The real index is tested against this: both are given the same cases and must answer alike.
So nothing here may use the package, and nothing here is made fast.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NEEDS_EXTRA = {
    "job": False,
    "subjob": True,
    "work": True,
    "host": True,
    "time": True,
    "repeat": True,
    "global": False,
    "globaltime": True,
    "globalrepeat": True,
}
DONE = ("done", "complete", "killed", "failed")
SHORT = ("globaltime-", "globalrepeat-")
OPERATORS = {"&&": "&&", "and": "&&", "||": "||", "or": "||"}

# A word is an operator only between white space, parentheses or the ends of the text.
TOKEN = re.compile(r"(&&|\|\||[()]|(?<![^\s()])(?:and|or)(?![^\s()]))", re.IGNORECASE)


class Term(NamedTuple):
    """One event of a trigger. Either `context` is given, or `label` (all after the type)."""

    text: str
    name: str
    type: str
    context: str | None
    extra: str | None
    label: str | None


class Seen(NamedTuple):
    """An event as the owner sees it.

    `text` is all after the type, of a string event with a label; then the rest is empty.
    `label` is the label of an object event, where it is a context.
    """

    name: str
    type: str
    contexts: frozenset[str]
    label: str | None
    extra: str | None
    text: str | None


Tree = Term | tuple[str, tuple["Tree", ...]]
Event = str | Mapping[str, Any]
Owner = Mapping[str, Any]


# Text to tree, and back


def read(trigger: str) -> Tree:
    """The tree of a trigger; ValueError for a syntax error or an unknown type."""
    pieces = [piece.strip() for piece in TOKEN.split(trigger)]
    tokens = [piece for piece in pieces if piece]
    tree = _either(tokens)
    if tokens:
        raise ValueError(f"expected an operator, found {tokens[0]!r}")
    return tree


def _operator(tokens: list[str]) -> str | None:
    """`&&` or `||` if that is the next token, however it is spelled."""
    return OPERATORS.get(tokens[0].lower()) if tokens else None


def _either(tokens: list[str]) -> Tree:
    sides = [_both(tokens)]
    while _operator(tokens) == "||":
        tokens.pop(0)
        sides.append(_both(tokens))
    return _group("||", sides)


def _both(tokens: list[str]) -> Tree:
    sides = [_one(tokens)]
    while _operator(tokens) == "&&":
        tokens.pop(0)
        sides.append(_one(tokens))
    return _group("&&", sides)


def _one(tokens: list[str]) -> Tree:
    if not tokens or tokens[0] == ")" or _operator(tokens):
        raise ValueError("expected an event")
    piece = tokens.pop(0)
    if piece != "(":
        return _term(piece)
    tree = _either(tokens)
    if not tokens or tokens.pop(0) != ")":
        raise ValueError("expected )")
    return tree


def _group(operator: str, sides: Sequence[Tree]) -> Tree:
    """The sides under one operator; sides that are groups of the same operator are opened."""
    flat: list[Tree] = []
    for side in sides:
        if not isinstance(side, Term) and side[0] == operator:
            flat.extend(side[1])
        else:
            flat.append(side)
    return flat[0] if len(flat) == 1 else (operator, tuple(flat))


def _term(written: str) -> Term:
    # Backslashes before a star are removed; all others are ordinary characters.
    text = re.sub(r"\\+\*", "*", written)
    if text.startswith(SHORT):
        text = "*-" + text.replace("-", "-*-", 1)
        if text.endswith("-*-"):
            raise ValueError("empty field")
    stars_as_one = re.sub(r"\*+", "*", text)  # the text itself stays as it was written
    name, kind, rest = _fields(stars_as_one)
    context, extra = _context(rest, "self", "parent", "*")
    return Term(text, name, kind, context, extra, rest if context is None else None)


def _fields(text: str) -> tuple[str, str, str]:
    """Name, type and rest, of a term or a string event."""
    fields = text.split("-", 2)
    if len(fields) < 3 or not all(fields):
        raise ValueError("expected name-type-context, none of them empty")
    name, kind, rest = fields
    if kind not in NEEDS_EXTRA:
        raise ValueError(f"unknown type {kind!r}")
    return name, kind, rest


def _context(rest: str, *words: str) -> tuple[str | None, str | None]:
    """Context and extra of what follows the type; no context where that is a label."""
    third, hyphen, extra = rest.partition("-")
    if third not in words and not _digits(third):
        return None, None
    if hyphen and not extra:
        raise ValueError("empty extra")
    return (_id(third) if _digits(third) else third), (extra or None)


def _digits(text: str) -> bool:
    return re.fullmatch("[0-9]+", text) is not None


def _id(digits: str) -> str:
    return digits.lstrip("0") or "0"


def canonical(tree: Tree) -> str:
    """The one way in which a trigger is written back."""
    if isinstance(tree, Term):
        return tree.text
    operator, sides = tree
    return f" {operator} ".join(
        canonical(side) if isinstance(side, Term) else f"({canonical(side)})" for side in sides
    )


# Events as the owner sees them


def see(event: Event, owner: Owner | None, own: bool = False) -> Seen:
    """The event with its contexts; `own` says that its job is the owner."""
    if isinstance(event, str):
        return _see_text(event, owner or {})
    if not isinstance(event, Mapping):
        raise ValueError("expected a string or an object")
    return _see(event, owner, own)


def _see_text(event: str, owner: Owner) -> Seen:
    name, kind, rest = _fields(event)
    context, extra = _context(rest, "self", "parent")
    if context is None:
        if NEEDS_EXTRA[kind] and "-" not in rest:
            raise ValueError("expected label-extra")
        return Seen(name, kind, frozenset(), None, None, rest)
    if NEEDS_EXTRA[kind] and extra is None:
        raise ValueError("expected an extra")
    contexts = {context}
    same = [{"self", _given(owner, "id")}, {"parent", _parent(owner)}]
    for pair in same + same:  # twice: self is the id, which may be the pid, which is parent
        if None not in pair and contexts & pair:
            contexts |= {word for word in pair if word}
    return Seen(name, kind, frozenset(contexts), None, extra, None)


def _see(event: Mapping[str, Any], owner: Owner | None, own: bool) -> Seen:
    name, kind, job = event.get("name"), event.get("type"), _checked(event.get("job"))
    if not isinstance(name, str) or not name or "-" in name:
        raise ValueError("expected a name without a hyphen")
    if not isinstance(kind, str) or kind not in NEEDS_EXTRA:
        raise ValueError("unknown type")
    extra = _text(event, "extra")
    if NEEDS_EXTRA[kind] and extra is None:
        raise ValueError("expected an extra")
    if owner is None:
        raise ValueError("an object event without any owner")
    number, label, pgrp = _given(job, "id"), _text(job, "label"), _given(job, "pgrp")
    contexts = set()
    if number is not None:
        contexts.add(number)
    if own or (number is not None and number == _given(owner, "id")):
        contexts.add("self")
    if number is not None and number == _parent(owner):
        contexts.add("parent")
    if label is not None and (label in ("self", "parent") or _digits(label)):
        label = None
    if pgrp in (None, "0") or pgrp != _given(owner, "pgrp"):
        label = None
    return Seen(name, kind, frozenset(contexts), label, extra, None)


def _checked(job: object) -> Owner:
    if not isinstance(job, Mapping):
        raise ValueError("expected a job")
    _text(job, "label")
    for field in ("id", "pid", "pgrp"):
        _given(job, field)
    return job


def _given(job: Mapping[str, Any], field: str) -> str | None:
    """An id as it is written in a trigger; None where it is not given."""
    if field not in job:
        return None
    value = job[field]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a number as {field}")
    return str(value)


def _parent(owner: Owner) -> str | None:
    """The id of the parent. A job without one has the pid 1, or 0."""
    pid = _given(owner, "pid")
    return None if pid in ("0", "1") else pid


def _text(where: Mapping[str, Any], field: str) -> str | None:
    """A label or an extra; empty and null are not given."""
    value = where.get(field)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"expected text as {field}")
    return value or None


# What matches


def holds(term: Term, event: Seen) -> bool:
    """Whether this event is the one that the term names."""
    if term.type != event.type:
        return False
    if not (event.name in DONE if term.name == "done" else _like(term.name, event.name)):
        return False
    if event.text is not None:
        return _holds_text(term, event.text, NEEDS_EXTRA[event.type])
    if term.label is not None:
        if event.label is None:
            return False
        if event.extra is None:
            return _like_label(term.label, event.label)
        return _like(term.label, f"{event.label}-{event.extra}")
    if term.context != "*" and term.context not in event.contexts:
        return False
    if term.extra is None:
        return event.extra is None
    return term.extra == "*" or (event.extra is not None and _like(term.extra, event.extra))


def _holds_text(term: Term, text: str, needs_extra: bool) -> bool:
    """The same against `label-extra` in one, or, where the type needs no extra, a label."""
    if term.label is not None:
        return _like(term.label, text) if needs_extra else _like_label(term.label, text)
    if term.context != "*":
        return False
    if term.extra is None or (term.extra == "*" and not needs_extra):
        return not needs_extra
    return _like(f"*-{term.extra}", text)


def _like_label(pattern: str, label: str) -> bool:
    """Against a label alone: `label-*` means it too."""
    alone = pattern.endswith("-*") and _like(pattern[:-2], label)
    return alone or _like(pattern, label)


def _like(pattern: str, text: str) -> bool:
    """`*` matches any characters, or none; everything else matches itself."""
    parts = [re.escape(part) for part in pattern.split("*")]
    return re.fullmatch(".*".join(parts), text, re.DOTALL) is not None


# What fires


def answer(
    triggers: Sequence[str], event: Event, owner: Owner | None, occurred: Sequence[Event]
) -> list[tuple[str, str | None]]:
    """For each trigger in order: ("fires", None), ("partial", what is missing) or ("no", None).

    Without an owner, an object event's own job is the owner. ValueError where the request
    is refused.
    """
    own = owner is None and not isinstance(event, str)
    if owner is not None:
        _checked(owner)
    elif isinstance(event, Mapping):
        owner = event.get("job")
    now = see(event, owner, own)
    all_seen = [now, *(see(other, owner) for other in occurred)]
    return [_verdict(read(trigger), now, all_seen) for trigger in triggers]


def _verdict(tree: Tree, now: Seen, all_seen: Sequence[Seen]) -> tuple[str, str | None]:
    if not any(holds(term, now) for term in _terms(tree)):
        return "no", None
    left = _missing(tree, all_seen)
    return ("fires", None) if left is None else ("partial", canonical(left))


def _terms(tree: Tree) -> list[Term]:
    if isinstance(tree, Term):
        return [tree]
    return [term for side in tree[1] for term in _terms(side)]


def _missing(tree: Tree, all_seen: Sequence[Seen]) -> Tree | None:
    """The tree without its true parts; None where it is true."""
    if isinstance(tree, Term):
        return None if any(holds(tree, event) for event in all_seen) else tree
    operator, sides = tree
    left = [_missing(side, all_seen) for side in sides]
    untrue = [side for side in left if side is not None]
    if not untrue or (operator == "||" and len(untrue) < len(left)):
        return None
    return _group(operator, untrue)
