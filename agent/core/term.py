r"""One term of a trigger: the pattern of an event, read from text.

A *term* is `name-type-context-extra`, as an event is. Labels and work names hold hyphens, so a
term is split from the left, and never by guessing:

- name and type end at the first and at the second hyphen;
- if the third field is `self`, `parent`, a job id or a lone `*` (any context), it is the context
  and all the rest is the extra;
- else all the rest is one text. It is compared with `label-extra` of an event's job, or with the
  label where the event has no extra, and with nothing but labels. A text that ends in `-*` also
  matches the label alone.

`*` matches any characters, or none, within a name, an extra or a label's text, never in a type. An
extra of `*` also matches an event without one. `\*`, as the vendor's pages print it, is read as
`*`; several in a row are one. The name `done`, written out, also matches `complete`, `killed` and
`failed`; an event that is itself named `done` is matched by `done` only, and a `*` in a name is
compared with the event's own name only. The short global form `globaltime-10000` is any name in
any context.
"""

from __future__ import annotations

import re
from sys import intern
from typing import NamedTuple

from agent.core.diagnostic import MAX_FINDINGS, Problem, ProblemError
from agent.core.event import (
    NAMES,
    TYPES,
    Event,
    EventType,
    canonical_id,
    glob,
    glob_steps,
    is_id,
    matches_name,
)
from agent.core.quoting import shown
from agent.core.spelling import nearest

#: The most warnings of one trigger. A line of 64 KiB could have 16,000.
MAX_WARNINGS = MAX_FINDINGS

_SHORT_GLOBALS = tuple(f"{row.name}-" for row in TYPES.values() if row.short)
_CONTEXTS = frozenset({"self", "parent", "*"})
_SINGLE_OPERATOR = re.compile(r"(?<!\S)[&|](?!\S)")
_STARS = re.compile(r"\*+")
# Only from the first of several backslashes: trying each takes time quadratic in their number.
_ESCAPED_STAR = re.compile(r"(?<!\\)\\+\*")
_EXPECTED_TYPES = "the types are " + ", ".join(TYPES)


class Term(NamedTuple):
    """One event pattern of a trigger.

    Either `context` is `self`, `parent`, a job id in canonical decimal or `*`, and `extra` is a
    pattern or None; or `label` is the pattern of an event's label and extra in one.
    """

    text: str
    name: str
    type: str
    context: str | None = None
    extra: str | None = None
    label: str | None = None

    def __str__(self) -> str:
        return self.text

    def matches(self, event: Event) -> bool:
        """Whether the event satisfies this term."""
        return (
            self.type == event.type
            and matches_name(self.name, event.name)
            and self._matches_context_and_extra(event)
        )

    def steps(self, event: Event) -> int:
        """The steps of `matches`, as `Steps` counts them."""
        return glob_steps(self.text, event.text or event.extra or event.name)

    def _matches_context_and_extra(self, event: Event) -> bool:
        if self.label is not None:
            return event.text is not None and _matches_label(self.label, event)
        if self.context == "*" and event.unsplit is not None:
            if self.extra is None:
                return TYPES[self.type].extra is None
            return _matches_label("*-" + self.extra, event)
        if self.context != "*" and self.context not in event.contexts:
            return False
        if self.extra is None or event.extra is None:
            return event.extra is None and self.extra in (None, "*")
        return glob(self.extra, event.extra)


def _matches_label(label: str, event: Event) -> bool:
    """Whether the event's text matches; a `label` that ends in `-*` also matches a label alone."""
    assert event.text is not None
    return glob(label, event.text) or (
        event.alone and label.endswith("-*") and glob(label[:-2], event.text)
    )


class _Warnings:
    """Collects the warnings about the term that begins at offset `start` of a trigger."""

    __slots__ = ("_problems", "_start")

    def __init__(self, problems: list[Problem], start: int) -> None:
        self._problems = problems
        self._start = start

    def add(self, code: str, offset: int, message: str, hint: str) -> None:
        """Add a warning about the character at `offset` of the term."""
        if len(self._problems) < MAX_WARNINGS:
            column = self._start + offset + 1
            self._problems.append(Problem(code, message, hint, None, column))


def parse_term(text: str, start: int, problems: list[Problem]) -> Term:
    """The term that `text` is.

    `start` is its offset in the trigger, from which the columns of problems are counted. Warnings
    are appended to `problems`. Raises ProblemError.
    """
    warnings = _Warnings(problems, start)
    if "\\*" in text:
        offset = text.index("\\*")
        text = _ESCAPED_STAR.sub("*", text)
        hint = "write * without the backslash"
        warnings.add("escaped-star", offset, "`\\*` is read as `*`", hint)
    if text.startswith(_SHORT_GLOBALS):
        return _short_global(text, start, warnings)
    fields = text.split("-", 2)
    if len(fields) < 3 or not all(fields) or fields[1] not in TYPES:
        raise _malformed(text, fields, start)
    name, kind, rest = fields
    row = TYPES[kind]
    at_context = len(name) + len(kind) + 2
    if name not in NAMES:
        _check_name(warnings, name)
    field, hyphen, extra = rest.partition("-")
    context, label = field, rest
    if "**" in text:
        name, context, extra, label = map(_one_star, (name, field, extra, rest))
    name, kind = intern(name), intern(kind)
    if context in _CONTEXTS or is_id(context):
        if hyphen and not extra:
            message = "this event ends in a hyphen, and nothing follows it"
            raise _error("empty-field", start + len(text), message, "write the extra, or *")
        if not hyphen and row.extra is not None:
            _warn_never_fires(warnings, text, row)
        elif hyphen and row.numbers:
            _check_number(warnings, row, extra, at_context + len(field) + 1)
        place = intern(context) if context in _CONTEXTS else canonical_id(context)
        return Term(text, name, kind, place, extra if hyphen else None)
    if row.extra is not None:
        if "-" not in label and "*" not in label:
            _warn_never_fires(warnings, text, row)
        elif "-" in label:
            extra = "-".join(rest.split("-")[1:][-(row.numbers or 1) :])
            _check_number(warnings, row, extra, at_context + len(rest) - len(extra))
    _check_label(warnings, text, rest, at_context)
    return Term(text, name, kind, None, None, label)


def _short_global(text: str, start: int, warnings: _Warnings) -> Term:
    kind, _, rest = text.partition("-")
    if not rest:
        raise _error("empty-field", start + len(text), f"there is no time after {kind}-")
    _check_number(warnings, TYPES[kind], rest, len(kind) + 1)
    return Term(f"*-{kind}-*-{rest}", "*", intern(kind), "*", _one_star(rest))


def _error(code: str, offset: int, message: str, hint: str | None = None) -> ProblemError:
    """The error about the character at `offset` of a trigger."""
    return ProblemError(code, message, hint, column=offset + 1)


def _malformed(text: str, fields: list[str], start: int) -> ProblemError:
    """Why a term is not an event: a field is missing or empty, or the type is unknown."""
    name, kind, rest = [*fields, "", ""][:3]
    if not name:
        return _error("empty-field", start, "this event has no name", "write name-type-context")
    at_type = start + len(name) + 1
    if len(fields) == 1:
        hint = "an event is written name-type-context or name-type-context-extra"
        return _error("not-an-event", start, f"{shown(text)} is not an event", hint)
    if not kind:
        return _error("empty-field", at_type, "this event has no type", _EXPECTED_TYPES)
    if kind not in TYPES:
        return _unknown_type(name, kind, start, at_type)
    assert not rest
    hint = "write self, parent, a job id or a label"
    return _error("empty-field", start + len(text), "this event has no context", hint)


def _unknown_type(name: str, kind: str, at_name: int, at_type: int) -> ProblemError:
    if name == "link" and (kind in NAMES or kind == "*"):
        return _error(
            "dependency-syntax",
            at_name,
            "link-... is the syntax of a job's `dependency` attribute, which is not a trigger",
            "write the event without link-, and && between two of them instead of a comma",
        )
    if "*" in kind:
        return _error("unknown-type", at_type, "a type takes no `*`", _EXPECTED_TYPES)
    if kind.lower() in TYPES:
        message = f"the type {kind} is unknown: case counts"
        return _error("unknown-type", at_type, message, f"write {kind.lower()}")
    near = nearest(kind, TYPES)
    hint = f"did you mean {near}?" if near else _EXPECTED_TYPES
    return _error("unknown-type", at_type, f"the type {shown(kind)} is unknown", hint)


def _one_star(field: str) -> str:
    """The field with several `*` in a row as one."""
    return _STARS.sub("*", field)


def _warn_never_fires(warnings: _Warnings, text: str, row: EventType) -> None:
    message = f"this never fires: an event of type {row.name} has an extra, the {row.extra}"
    warnings.add("never-fires", 0, message, f"write {shown(text)}-* to match any")


def _check_name(warnings: _Warnings, name: str) -> None:
    """Warn of a name that Qube does not define and that looks like one that it does."""
    if "*" in name:
        return
    if name.lower() in NAMES:
        message = f"the event name {name} is not one of Qube's: case counts"
        warnings.add("name-case", 0, message, f"write {name.lower()}")
    elif near := nearest(name, NAMES):
        message = f"the event name {shown(name)} is not one of Qube's"
        warnings.add("unknown-name", 0, message, f"did you mean {near}?")


def _check_number(warnings: _Warnings, row: EventType, extra: str, offset: int) -> None:
    """Warn of an extra that matches no event of Qube because it is not a number."""
    if not row.numbers or "*" in extra:
        return
    numbers = extra.split("-")
    if len(numbers) != row.numbers or not all(map(is_id, numbers)):
        message = f"{shown(extra)} is not a number: expected the {row.extra}"
        warnings.add("not-a-number", offset, message, f"write it in digits, such as {row.example}")


def _check_label(warnings: _Warnings, text: str, rest: str, at_context: int) -> None:
    """Warn of a label that was probably meant as something else. `rest` is all after the type."""
    context = rest.partition("-")[0]
    if context.lower() in ("self", "parent"):
        message = f"{context} is read as a label, the context is {context.lower()}"
        warnings.add("context-case", at_context, message, f"write {context.lower()}")
    if "-" in (rest[0], rest[-1]):
        warnings.add(
            "odd-hyphen",
            at_context if rest.startswith("-") else len(text) - 1,
            f"{shown(rest)} is read as a label whose first or last character is a hyphen",
            "remove the hyphen if a field is empty by mistake",
        )
    if "&" not in text and "|" not in text:
        return
    single = _SINGLE_OPERATOR.search(text)
    if single:
        message = f"a single {single[0]} is an ordinary character, here part of a label"
        warnings.add("single-operator", single.start(), message, f"write {single[0] * 2}")
