"""What is wrong with one term of a trigger: the messages, the hints and the corrections.

`agent.core.term` finds the problems. A message names the mistake that a person probably made.
"""

from __future__ import annotations

import re

from agent.core.correction import Corrected
from agent.core.diagnostic import MAX_FINDINGS, Edit, Problem, ProblemError
from agent.core.event import NAMES, TYPE_FORMS, TYPES, EventType, is_id
from agent.core.likely import (
    JOB_CONTEXTS,
    MAX_NEAR_JOB,
    in_order,
    is_nearly_job,
    is_one_job,
    known_name,
    likely_event,
    meant_names,
)
from agent.core.quoting import shown
from agent.core.spelling import nearest, one_letter_away
from agent.core.typography import SUSPICIOUS

#: The most problems of one trigger. A line of 64 KiB could have 16,000.
MAX_PROBLEMS = MAX_FINDINGS

_SINGLE_OPERATOR = re.compile(r"(?<!\S)[&|](?!\S)")
#: What follows `self` or `parent` without a hyphen.
_MORE = re.compile(r"(self|parent)([^\w*-]+)(.+)", re.DOTALL)
_NUMBERS = re.compile(r"[0-9*]+(?:-[0-9*]+)*")
#: A name and a type, and a type and a context, without the hyphen between them.
_JOINED = re.compile(r"(\w+?)[_.:/ ]?(job|subjob|work)")
_TYPE_AND_JOB = re.compile(r"(job|subjob|work)[_.:/ ]?(self|parent)")
_EXPECTED_TYPES = "the types are " + ", ".join(TYPES)
_UNIT = re.compile(r"([0-9]{1,9})\s*(s|sec|m|min|h|d)", re.IGNORECASE)
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


class TermReport:
    """Reports problems of the term that begins at offset `start` of a trigger.

    Offsets are those of the term, after its `\\*` were read as `*`.
    """

    __slots__ = ("_before", "_problems", "_start")

    def __init__(self, problems: list[Problem], start: int) -> None:
        self._problems = problems
        self._start = start
        self._before: Corrected | None = None

    def unescaped(self, corrected: Corrected) -> None:
        """Take offsets from now on as those of this text."""
        self._before = corrected

    def add(
        self, code: str, offset: int, length: int, message: str, hint: str, *edits: Edit
    ) -> None:
        """Add a warning about `length` characters at `offset`. `hint` says what the edits do."""
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(self._problem(code, offset, length, message, hint, edits))

    def has(self, code: str) -> bool:
        """Whether a problem of this code was reported of the trigger."""
        return any(problem.code == code for problem in self._problems)

    def error(
        self, code: str, offset: int, length: int, message: str, hint: str, *edits: Edit
    ) -> ProblemError:
        """The error about `length` characters at `offset`."""
        problem = self._problem(code, offset, length, message, hint, edits)
        return ProblemError(
            code, message, hint, None, problem.column, problem.length, problem.edits
        )

    def _problem(
        self, code: str, offset: int, length: int, message: str, hint: str, edits: tuple[Edit, ...]
    ) -> Problem:
        at = self._at(offset)
        until = self._at(offset + length - 1) + 1
        edits = tuple(Edit(self._at(e.start), self._at(e.end), e.text) for e in edits)
        return Problem(code, message, hint, None, at + 1, None, max(until - at, 1), edits)

    def _at(self, offset: int) -> int:
        return self._start + (self._before.before(offset) if self._before else offset)


def malformed(report: TermReport, text: str, fields: list[str]) -> ProblemError:
    """Why a term is not an event: a field is missing or empty, or the type is unknown."""
    name, kind, rest = [*fields, "", ""][:3]
    if not name:
        hint = "write the event's name before the hyphen, such as failed"
        bare = text.lstrip("- ")
        edits = (Edit(0, len(text) - len(bare), ""),) if likely_event(bare) else ()
        return report.error("empty-field", 0, 1, "this event has no name", hint, *edits)
    if len(fields) == 1:
        return _not_an_event(report, text)
    at_type = len(name) + 1
    if not kind:
        message = "this event has no type between its hyphens"
        edits = (Edit(at_type, at_type, "job"),) if rest in JOB_CONTEXTS else ()
        return report.error("empty-field", at_type, 1, message, _EXPECTED_TYPES, *edits)
    if kind not in TYPES:
        return _unknown_type(report, name, kind, rest)
    assert not rest
    end = len(text)
    add = "self" if text.endswith("-") else "-self"
    add += "-*" if TYPES[kind].extra else ""
    message = f"`{shown(text)}` does not say whose event: it has no context"
    hint = "write self, parent, a job id or a label"
    return report.error("empty-field", end, 1, message, hint, Edit(end, end, add))


def _not_an_event(report: TermReport, text: str) -> ProblemError:
    """Why a term without a hyphen is not an event."""
    message = f"{shown(text)} is not an event: it has no hyphen"
    hint = "an event is written name-type-context or name-type-context-extra"
    name = known_name(text)
    if not name:
        return report.error("not-an-event", 0, len(text), message, hint)
    message = f"{shown(text)} is not an event: it has no type and no context"
    edit = Edit(0, len(text), f"{name}-job-self")
    return report.error("not-an-event", 0, len(text), message, hint, edit)


def no_extra(report: TermReport, text: str, row: EventType) -> ProblemError:
    """Why a term that ends with the hyphen after its context is not an event."""
    end = len(text)
    message = "this event ends in a hyphen, and no extra follows it"
    if row.extra is None:
        edit = Edit(end - 1, end, "")
        return report.error(
            "empty-field", end, 1, message, "remove the hyphen, or write the extra", edit
        )
    hint = f"write the extra, here the {row.extra}, or *"
    return report.error("empty-field", end, 1, message, hint, Edit(end, end, "*"))


def _unknown_type(report: TermReport, name: str, kind: str, rest: str) -> ProblemError:
    """Why the second field of a term is not a type, and what was probably meant."""
    at = len(name) + 1

    def error(message: str, hint: str, *edits: Edit) -> ProblemError:
        return report.error("unknown-type", at, len(kind), message, hint, *edits)

    if name == "link" and (kind in NAMES or kind == "*"):
        return report.error(
            "dependency-syntax",
            0,
            len("link"),
            "link-... is the syntax of a job's `dependency` attribute, which is not a trigger",
            "write the event without link-, and && between two of them instead of a comma",
            *_without_links(f"{name}-{kind}-{rest}"),
        )
    if "*" in kind:
        return error("a type takes no `*`", _EXPECTED_TYPES)
    if kind.lower() in TYPES:
        lower = kind.lower()
        message = f"the type {kind} is unknown: case counts"
        return error(message, f"write {lower}", Edit(at, at + len(kind), lower))
    context = rest.partition("-")[0]
    whole = Edit(0, at + len(kind), f"{kind}-{name}")
    if name in TYPES and meant_names(kind):
        message = f"`{shown(name)}-{shown(kind)}` has the type before the name"
        return error(message, f"write {shown(kind)}-{shown(name)}", whole)
    if is_one_job(kind) and context in TYPES:
        edit = Edit(at, at + len(kind) + 1 + len(context), f"{context}-{kind}")
        message = f"`{kind}-{context}` has the context before the type"
        return error(message, f"write {context}-{kind}", edit)
    if ordered := in_order((name, kind, context)):
        edit = Edit(0, at + len(kind) + 1 + len(context), "-".join(ordered))
        message = (
            f"`{shown(f'{name}-{kind}-{context}')}` has the fields of an event in another order"
        )
        return error(message, f"write {'-'.join(ordered)}", edit)
    if is_one_job(kind):
        message = f"this event has no type before {shown(kind)}"
        # Perhaps the type is there, and another character or none is before it.
        if (joined := _JOINED.fullmatch(name)) and known_name(joined[1]):
            edit = Edit(len(joined[1]), joined.start(2), "-")
            return error(f"the hyphen before the type {joined[2]} is missing", "add it", edit)
        # With another type or context in it, the result would be another event than was meant.
        is_clear = not {name, *rest.split("-")} & {*TYPES, *JOB_CONTEXTS}
        edits = [Edit(at, at, "work-" if rest else "job-")] if is_clear else []
        return error(message, _EXPECTED_TYPES, *edits)
    if joined := _TYPE_AND_JOB.fullmatch(kind):
        edit = Edit(at + joined.end(1), at + joined.start(2), "-")
        return error(f"the hyphen between {joined[1]} and {joined[2]} is missing", "add it", edit)
    near = nearest(kind.lower(), TYPES) or TYPE_FORMS.get(kind.lower())
    hint = f"did you mean {near}?" if near else _EXPECTED_TYPES
    edits = [Edit(at, at + len(kind), near)] if near else []
    return error(f"the type {shown(kind)} is unknown", hint, *edits)


def _without_links(text: str) -> list[Edit]:
    """What makes a trigger of the value of a `dependency` attribute."""
    edits = [Edit(0, len("link-"), "")]
    edits += (Edit(*m.span(), " && ") for m in re.finditer(r"\s*,\s*link-", text))
    return edits


def warn_never_fires(report: TermReport, text: str, row: EventType) -> None:
    """Warn of a term without the extra that its events have."""
    message = f"this never fires: an event of type {row.name} has an extra, the {row.extra}"
    end = len(text)
    name, kind, where = text.split("-", 2)
    if is_nearly_job(where) or not where.strip("*"):
        hint = f"write {shown(text)}-* to match any"
        report.add("never-fires", 0, end, message, hint, Edit(end, end, "-*"))
        return
    # Perhaps it is the extra, and the context is missing.
    job = f"job {where}" if is_id(where) else f'jobs labelled "{shown(where)}"'
    own = shown(f"{name}-{kind}-self-{where}")
    hint = f"write {shown(text)}-* to match any of {job}, or {own} if it is the {row.extra}"
    report.add("never-fires", 0, end, message, hint)


def check_name(report: TermReport, name: str, kind: str, rest: str) -> None:
    """Warn of a name that Qube does not define and that looks like one that it does, or like
    another field. `kind` and `rest` follow it."""
    if name in TYPES or is_one_job(name):
        context = rest.partition("-")[0]
        ordered = in_order((name, kind, context))
        end = len(name) + len(kind) + len(context) + 2
        edits = (Edit(0, end, "-".join(ordered)),) if ordered else ()
        message = f"`{name}` is read as the event's name"
        hint = "write the name, the type and the context, in this order"
        report.add(SUSPICIOUS, 0, len(name), message, hint, *edits)
        return
    meant = meant_names(name) if "*" not in name else ()
    if not meant:
        return
    edit = Edit(0, len(name), meant[0])
    if name.lower() == meant[0]:
        message = f"the event name {name} is not one of Qube's: case counts"
        report.add("name-case", 0, len(name), message, f"write {meant[0]}", edit)
        return
    message = f"the event name {shown(name)} is not one of Qube's"
    hint = f"did you mean {' or '.join(meant)}?"
    edits = (edit,) if known_name(name) else ()
    report.add("unknown-name", 0, len(name), message, hint, *edits)


def check_extra(report: TermReport, text: str, row: EventType, context: str, extra: str) -> None:
    """Warn of an extra that no event has. It ends the text, and `context` is before it."""
    start = len(text) - len(extra)
    before = text[: start - len(context) - 1]
    if row.extra is not None and extra in JOB_CONTEXTS:
        message = f"`{context}-{extra}` has the extra before the context"
        hint = f"write {extra}-{context}"
        edits = [Edit(len(before), len(text), f"{extra}-{context}")]
        if context in JOB_CONTEXTS:
            message = f"`{context}-{extra}` has two contexts: `{extra}` is read as the {row.extra}"
            hint, edits = f"write one of them, and the {row.extra} after it", []
        report.add(SUSPICIOUS, len(before), len(text) - len(before), message, hint, *edits)
    elif row.extra is not None:
        check_number(report, row, extra, start)
    elif not row.is_global and extra.strip("*"):
        message = f"an event of type {row.name} has no extra, so none has this one: {shown(extra)}"
        name = before.partition("-")[0]
        other = f"{name}-work-{context}-{extra} for one item of its work"
        if extra in JOB_CONTEXTS:
            other = f"{before}{extra}: an event has one context"
        hint = f"write {shown(text[: start - 1])}, or {shown(other)}"
        report.add(SUSPICIOUS, start, len(extra), message, hint)


def check_number(report: TermReport, row: EventType, extra: str, offset: int) -> None:
    """Warn of an extra that matches no event of Qube because it is not a number."""
    if not row.numbers or "*" in extra:
        return
    numbers = extra.split("-")
    if len(numbers) == row.numbers and all(map(is_id, numbers)):
        return
    length = len(extra)
    if row.numbers == 2 and len(numbers) == 1 and is_id(extra):
        message = f"an event of type {row.name} has a time and an interval; there is no interval"
        hint = f"write the interval in seconds after the time: {extra}-3600 is every hour"
        report.add("not-a-number", offset, length, message, hint)
        return
    if row.numbers == 1 and len(numbers) > 1 and all(map(is_id, numbers)):
        message = f"{shown(extra)} is not one number: expected the {row.extra}"
        hint = f"write one number, such as {row.example}"
        report.add("not-a-number", offset, length, message, hint)
        return
    last = _UNIT.fullmatch(numbers[-1])
    edits = []
    if len(numbers) == row.numbers == 2 and last and is_id(numbers[0]):
        seconds = int(last[1]) * _SECONDS[last[2].lower()]
        edits = [Edit(offset + length - len(numbers[-1]), offset + length, str(seconds))]
    message = f"{shown(extra)} is not a number: expected the {row.extra}"
    if row.name != "subjob":
        message += ", in seconds"
    hint = f"write it in digits, such as {row.example}"
    report.add("not-a-number", offset, length, message, hint, *edits)


def check_job_in_label(report: TermReport, text: str, row: EventType, at: int) -> bool:
    """Warn if a label looks like `self` or `parent` with something added. Returns whether it does.

    The label is at offset `at` of `text`.
    """
    rest = text[at:]
    if found := _MORE.fullmatch(rest):
        job, between, more = found.groups()
        message = f"`{shown(rest)}` is read as a label: only a hyphen ends the context `{job}`"
        hint = f"remove what follows {job}, or write # before it if it is a comment"
        edits = []
        if row.extra is not None and _NUMBERS.fullmatch(more):
            hint = f"write {job}-{more}"
            edits = [Edit(at + len(job), at + len(job) + len(between), "-")]
        start = at + len(rest) - len((between + more).lstrip())
        report.add(SUSPICIOUS, start, len(text) - start, message, hint, *edits)
        return True
    extra, hyphen, job = rest.rpartition("-")
    if row.extra is None or not hyphen or job not in JOB_CONTEXTS:
        return False
    message = (
        f"`{shown(rest)}` has the extra before the context, and is read as a label and an extra"
    )
    edit = Edit(at, len(text), f"{job}-{extra}")
    report.add(SUSPICIOUS, at, len(rest), message, f"write {job}-{shown(extra)}", edit)
    return True


def check_label(report: TermReport, text: str, row: EventType, at: int) -> None:
    """Warn of a label that was probably meant as something else. It is at offset `at` of `text`."""
    rest = text[at:]
    context, _, extra = rest.partition("-")
    lower = context.lower()
    if lower in JOB_CONTEXTS:
        edit = Edit(at, at + len(context), lower)
        message = f"{context} is read as a label, the context is {lower}"
        report.add("context-case", at, len(context), message, f"write {lower}", edit)
    elif len(lower) <= MAX_NEAR_JOB and (not extra or row.extra is not None):
        near = next((job for job in JOB_CONTEXTS if one_letter_away(lower, job)), None)
        if near:
            meant = f"{text[:at]}{near}{text[at + len(context) :]}"
            message = (
                f'{shown(text)} matches only jobs labelled "{shown(context)}";'
                f" did you mean {shown(meant)}?"
            )
            edit = Edit(at, at + len(context), near)
            report.add(SUSPICIOUS, at, len(context), message, f"write {near}", edit)
    if "-" in (rest[0], rest[-1]):
        _check_odd_hyphen(report, rest, at)
    if "&" not in text and "|" not in text:
        return
    single = _SINGLE_OPERATOR.search(text)
    if single:
        message = f"a single {single[0]} is an ordinary character, here part of a label"
        hint = f"write {single[0] * 2}, and an event on each side, if it is an operator"
        report.add("single-operator", single.start(), 1, message, hint)


def _check_odd_hyphen(report: TermReport, rest: str, at: int) -> None:
    """Warn of a label that begins or ends with a hyphen."""
    inner = rest.strip("-")
    first = len(rest) - len(rest.lstrip("-"))
    edits = []
    if inner:
        edits = [Edit(at, at + first, ""), Edit(at + first + len(inner), at + len(rest), "")]
    report.add(
        "odd-hyphen",
        at if first else at + len(rest) - 1,
        1,
        f"{shown(rest)} is read as a label whose first or last character is a hyphen",
        "remove the hyphen if a field is empty by mistake",
        *edits,
    )


def warn_global(report: TermReport, text: str) -> None:
    """Warn of a global event, once for each trigger."""
    if report.has("global-trigger"):
        return
    message = (
        f"`{shown(text)}` is a global event: Qube installs callbacks for these separately, and does"
        " not document them in callbacks.conf"
    )
    hint = "install it with qbadmin supervisor --globalcallback LANGUAGE TRIGGERS CODE"
    report.add("global-trigger", 0, len(text), message, hint)
