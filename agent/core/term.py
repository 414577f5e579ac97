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

from agent.core.correction import Corrected
from agent.core.diagnostic import Edit, Problem
from agent.core.event import (
    NAMES,
    TYPES,
    Event,
    canonical_id,
    glob,
    glob_steps,
    is_id,
    matches_name,
)
from agent.core.term_report import (
    TermReport,
    check_extra,
    check_job_in_label,
    check_label,
    check_name,
    check_number,
    malformed,
    no_extra,
    warn_global,
    warn_never_fires,
)

_SHORT_GLOBALS = tuple(f"{row.name}-" for row in TYPES.values() if row.short)
CONTEXTS = frozenset({"self", "parent", "*"})
_STARS = re.compile(r"\*+")
# Only from the first of several backslashes: trying each takes time quadratic in their number.
_ESCAPED_STAR = re.compile(r"(?<!\\)\\+\*")


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
            return event.text is not None and _matches_label(self.label, event.text, event.alone)
        if self.context == "*" and event.unsplit is not None:
            if self.extra is None:
                return TYPES[self.type].extra is None
            # Where there may be no extra, the whole text may be the label.
            if self.extra == "*" and event.alone:
                return True
            return glob("*-" + self.extra, event.unsplit)
        if self.context != "*" and self.context not in event.contexts:
            return False
        if self.extra is None or event.extra is None:
            return event.extra is None and self.extra in (None, "*")
        return glob(self.extra, event.extra)


def _matches_label(label: str, text: str, alone: bool) -> bool:
    """Whether a label, or `label-extra`, matches; one that ends in `-*` also matches it alone."""
    return glob(label, text) or (alone and label.endswith("-*") and glob(label[:-2], text))


def parse_term(text: str, start: int, problems: list[Problem]) -> Term:
    """The term that `text` is.

    `start` is its offset in the trigger, from which the columns of problems are counted. Warnings
    are appended to `problems`. Raises ProblemError.
    """
    report = TermReport(problems, start)
    if "\\*" in text:
        found = [Edit(*m.span(), "*") for m in _ESCAPED_STAR.finditer(text)]
        at, end, _ = found[0]
        hint = "write * without the backslash"
        report.add("escaped-star", at, end - at, "`\\*` is read as `*`", hint, *found)
        corrected = Corrected(text, found)
        text = corrected.text
        report.unescaped(corrected)
    if text.startswith(_SHORT_GLOBALS):
        return _short_global(text, report)
    fields = text.split("-", 2)
    if len(fields) < 3 or not all(fields) or fields[1] not in TYPES:
        raise malformed(report, text, fields)
    name, kind, rest = fields
    row = TYPES[kind]
    if row.is_global:
        warn_global(report, text)
    at_context = len(name) + len(kind) + 2
    if name not in NAMES:
        check_name(report, name, kind, rest)
    field, hyphen, extra = rest.partition("-")
    context, label = field, rest
    if "**" in text:
        name, context, extra, label = map(_one_star, (name, field, extra, rest))
    name, kind = intern(name), intern(kind)
    if context in CONTEXTS or is_id(context):
        if hyphen and not extra:
            raise no_extra(report, text, row)
        if not hyphen and row.extra is not None:
            warn_never_fires(report, text, row)
        elif hyphen:
            check_extra(report, text, row, field, rest.partition("-")[2])
        place = intern(context) if context in CONTEXTS else canonical_id(context)
        return Term(text, name, kind, place, extra if hyphen else None)
    if check_job_in_label(report, text, row, at_context):
        return Term(text, name, kind, None, None, label)
    if row.extra is not None:
        if "-" not in label and "*" not in label:
            warn_never_fires(report, text, row)
        elif "-" in label:
            extra = "-".join(rest.split("-")[1:][-(row.numbers or 1) :])
            check_number(report, row, extra, at_context + len(rest) - len(extra))
    check_label(report, text, row, at_context)
    return Term(text, name, kind, None, None, label)


def _short_global(text: str, report: TermReport) -> Term:
    kind, _, rest = text.partition("-")
    if not rest:
        hint = f"write the {TYPES[kind].extra}, such as {TYPES[kind].example}"
        message = f"there is no time after `{kind}-`"
        raise report.error("empty-field", len(text), 1, message, hint)
    warn_global(report, text)
    check_number(report, TYPES[kind], rest, len(kind) + 1)
    return Term(f"*-{kind}-*-{rest}", "*", intern(kind), "*", _one_star(rest))


def _one_star(field: str) -> str:
    """The field with several `*` in a row as one."""
    return _STARS.sub("*", field)
