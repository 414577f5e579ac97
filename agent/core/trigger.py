r"""The trigger language: text to a tree, the tree back to text, and whether an event satisfies it.

A *trigger* is an expression of terms with `&&`, `||` and parentheses; `&&` binds tighter. The
words `and` and `or`, in any case, are the same operators where white space, a parenthesis or an
end of the text stands on both sides. A term ends at an operator, a parenthesis or the end of the
text; white space inside it belongs to it, white space around it does not.

A *term* is `name-type-context-extra`, as an event is. Labels and work names hold hyphens, so a
term is split from the left, and never by guessing:

- name and type end at the first and at the second hyphen;
- if the third field is `self`, `parent`, a job id or a lone `*` (any context), it is the context
  and all the rest is the extra;
- else all the rest is one text. It is compared with `label-extra` of an event's job, or with the
  label where the event has no extra, and with nothing but labels. A text that ends in `-*` also
  matches the label alone.

`*` matches any run of characters, also none, within a name, an extra or a label's text, never in
a type. An extra of `*` also matches an event without one. `\*`, as the vendor's pages print it,
is `*`; several in a row are one. The name `done`, written out, also matches `complete`, `killed`
and `failed`; an event that is itself named `done` is matched by `done` only, and a `*` in a name is
compared with the event's own name only. The short global form `globaltime-10000` is any name in
any context.

An *event* is seen from its *owner*, the job that the callbacks hang on. An event given as a text
says its context itself; one given as an object has its contexts worked out from the job ids.

A trigger is driven by events, not by states: it fires for an event that satisfies one of its terms
while the whole expression is true of that event and those that occurred before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from sys import intern
from typing import NamedTuple, Protocol

from agent.core.diagnostic import MAX_FINDINGS, Severity, shorten, shown

#: The types of events, and what the extra of each is (None: the type needs none).
TYPES: dict[str, str | None] = {
    "job": None,
    "subjob": "instance id",
    "work": "work id or name",
    "host": "host name",
    "time": "time of day",
    "repeat": "time of day and interval",
    "global": None,
    "globaltime": "time of day",
    "globalrepeat": "time of day and interval",
}

#: The event names that Qube defines, and two that its examples use. Sites may define more.
NAMES = frozenset(
    {
        *("complete", "done", "submit", "killed", "blocked", "failed", "running", "waiting"),
        *("assigned", "removed", "modified", "dummy", "timeout", "unblock"),
    }
)

#: What the name `done` stands for besides itself.
DONE = frozenset({"complete", "killed", "failed"})

#: The longest trigger that is read, in characters. No trigger that a person writes comes near.
MAX_LENGTH = 65_536
#: The most warnings of one trigger. A line of 64 KiB could have 16,000.
MAX_WARNINGS = MAX_FINDINGS
#: How deep parentheses may nest. It keeps every walk of a tree far from Python's own limit.
MAX_NESTING = 100

# A word that touches && or || counts as an operator too: there it is an error all the same, and a
# term that began with such a word could not be written in the canonical text.
_OPERATOR = re.compile(
    r"&&|\|\||[()]"
    r"|(?:(?<![^\s()])|(?<=&&)|(?<=\|\|))(?:and|or)(?:(?![^\s()])|(?=&&|\|\|))",
    re.IGNORECASE,
)
_SYMBOL = re.compile(r"&&|\|\||[()]")
_WORDS = {"and": "&&", "or": "||"}
_SHORT_GLOBALS = ("globaltime-", "globalrepeat-")
_CONTEXTS = frozenset({"self", "parent", "*"})
_SINGLE = re.compile(r"(?<!\S)[&|](?!\S)")
_STARS = re.compile(r"\*+")
# Only from the first of several backslashes: to try from each takes time quadratic in their number.
_ESCAPED_STAR = re.compile(r"(?<!\\)\\+\*")
_ID = re.compile(r"[0-9]+")
_NUMBER = {"subjob": 1, "time": 1, "globaltime": 1, "repeat": 2, "globalrepeat": 2}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a trigger's text; `offset` counts its characters from 0."""

    severity: Severity
    code: str
    offset: int
    message: str
    hint: str | None = None


class Term(NamedTuple):
    """One event pattern of a trigger.

    Either `context` is `self`, `parent`, a job id in canonical decimal or `*`, and `extra` is a
    pattern or None; or `label` is the pattern over an event's label and extra in one.
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
            and (glob(self.name, event.name) or (self.name == "done" and event.name in DONE))
            and self._matches_place(event)
        )

    def steps(self, event: Event) -> int:
        """How many steps it is to compare this term with the event."""
        return glob_steps(self.text, event.text or event.extra or event.name)

    def _matches_place(self, event: Event) -> bool:
        if self.label is not None:
            return event.text is not None and _matches_label(self.label, event)
        if self.context == "*" and event.unsplit is not None:
            if self.extra is None:
                return TYPES[self.type] is None
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


@dataclass(frozen=True, slots=True)
class And:
    """All of its parts, at least two, none of them an And."""

    parts: tuple[Term | Or, ...]

    def __str__(self) -> str:
        return " && ".join(f"({p})" if isinstance(p, Or) else str(p) for p in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    """Any of its parts, at least two, none of them an Or."""

    parts: tuple[Term | And, ...]

    def __str__(self) -> str:
        return " || ".join(f"({p})" if isinstance(p, And) else str(p) for p in self.parts)


#: The tree of a trigger. `str` gives its canonical text, which parses to the same tree.
Trigger = Term | And | Or


def terms(trigger: Trigger) -> Iterator[Term]:
    """Every term of a trigger, from left to right."""
    if isinstance(trigger, Term):
        yield trigger
    else:
        for part in trigger.parts:
            yield from terms(part)


#: Elementary steps (about 0.1 to 1 microsecond each) between two calls of a checkpoint.
CHECKPOINT_STEPS = 1000


class Steps:
    """Counts the steps of a computation that may be long, so that its caller can stop it.

    `checkpoint` is called about every CHECKPOINT_STEPS steps. What it raises ends the computation
    and reaches the caller. Nothing is left half done: the computations only read.
    """

    __slots__ = ("_checkpoint", "_left")

    def __init__(self, checkpoint: Callable[[], object] | None = None) -> None:
        self._checkpoint = checkpoint
        self._left = CHECKPOINT_STEPS

    def take(self, count: int = 1) -> None:
        """Count so many more steps."""
        self._left -= count
        if self._left <= 0:
            self._left = CHECKPOINT_STEPS
            if self._checkpoint is not None:
                self._checkpoint()


def missing(trigger: Trigger, holds: Callable[[Term], bool]) -> Trigger | None:
    """The trigger with its true parts removed, None when all of it is true.

    `holds` says of a term whether it is true: whether one of the events that happened satisfies
    it. A true part of an And goes; an Or with a true part goes whole.
    """
    if isinstance(trigger, Term):
        return None if holds(trigger) else trigger
    rest = [missing(part, holds) for part in trigger.parts]
    if isinstance(trigger, Or):
        return None if None in rest else _join(Or, [r for r in rest if r is not None])
    return _join(And, [r for r in rest if r is not None]) if any(rest) else None


def glob_steps(pattern: str, text: str) -> int:
    """How many steps it is to compare these: more than one only where both are long."""
    return 1 + (len(pattern) * len(text) >> 14)


def glob(pattern: str, text: str) -> bool:
    """Whether `text` matches `pattern`, in which `*` stands for any run of characters."""
    first, *others = pattern.split("*")
    if not others:
        return first == text
    last = others.pop()
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in others:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


# Events ------------------------------------------------------------------------------------------


class Job(Protocol):
    """A job as an event or an owner gives it. None is `not given`, which equals nothing."""

    @property
    def id(self) -> int | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def pgrp(self) -> int | None: ...


class EventError(ValueError):
    """A text or an object that is no event: what was expected, and from which column (from 1)."""

    def __init__(self, message: str, expected: str, column: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.column = column


class Event(NamedTuple):
    """One event as its owner sees it.

    `contexts` holds what it may be called: `self`, `parent`, job ids in decimal. `text` is what
    terms with a label are compared with, None where no label is a context; `alone` says that it
    is the label without an extra. `unsplit` is that text where the event was given as a text, so
    that nobody knows where its label ends.
    """

    name: str
    type: str
    extra: str | None
    contexts: frozenset[str]
    text: str | None = None
    alone: bool = False
    unsplit: str | None = None

    @classmethod
    def from_text(cls, text: str, owner: Job | None = None) -> Event:
        """The event that a text in the trigger's syntax names, from end to end.

        Raises EventError. In an event `*`, operators and white space are ordinary characters.
        """
        name, hyphen, rest = text.partition("-")
        if not name:
            raise EventError("an event without a name", "name-type-context-extra", 1)
        kind, hyphen, rest = rest.partition("-")
        if kind not in TYPES:
            found = f"the unknown type {shorten(repr(kind))}" if kind else "an event without a type"
            column = min(len(name) + 2, len(text) + 1)
            raise EventError(found, "one of the types " + ", ".join(TYPES), column)
        needs = TYPES[kind]
        if not rest:
            expected = "self, parent, a job id or a label after the type"
            raise EventError("an event without a context", expected, len(text) + 1)
        context, hyphen, extra = rest.partition("-")
        if context in ("self", "parent") or _ID.fullmatch(context):
            if hyphen and not extra:
                raise EventError(
                    "an empty extra", "an extra after the hyphen, or no hyphen", len(text) + 1
                )
            if needs is not None and not hyphen:
                expected = f"{shown(text)}-EXTRA, where EXTRA is the {needs}"
                raise EventError(f"an event of type {kind} without extra", expected, len(text) + 1)
            return cls(name, kind, extra or None, _contexts_of_text(context, owner))
        if needs is not None and not hyphen:
            expected = f"{shown(text)}-EXTRA, where EXTRA is the {needs}"
            raise EventError(f"an event of type {kind} without extra", expected, len(text) + 1)
        return cls(name, kind, None, frozenset(), rest, needs is None, rest)

    @classmethod
    def from_job(
        cls, name: str, kind: str, extra: str | None, job: Job, owner: Job | None = None
    ) -> Event:
        """The event `name` of `job`, its contexts worked out as `owner` sees it.

        Without an owner it is the event's own job, which is then `self` even without an id.
        Raises EventError.
        """
        if not name or "-" in name:
            raise EventError(
                f"the event name {shorten(repr(name))}", "a name without a hyphen, not empty"
            )
        if kind not in TYPES:
            raise EventError(
                f"the unknown type {shorten(repr(kind))}", "one of the types " + ", ".join(TYPES)
            )
        if TYPES[kind] is not None and not extra:
            raise EventError(f"an event of type {kind} without extra", f"the {TYPES[kind]}")
        contexts = set()
        if owner is None:
            contexts.add("self")
            owner = job
        if job.id is not None:
            contexts.add(str(job.id))
            if job.id == owner.id:
                contexts.add("self")
            if job.id == owner.pid:
                contexts.add("parent")
        text = None
        # Nobody may pose as another job by naming his own `self` or `1234`.
        posing = job.label in ("self", "parent") or (job.label and _ID.fullmatch(job.label))
        if job.label and not posing and job.pgrp is not None and job.pgrp == owner.pgrp:
            text = f"{job.label}-{extra}" if extra else job.label
        return cls(name, kind, extra or None, frozenset(contexts), text, not extra)


def _contexts_of_text(context: str, owner: Job | None) -> frozenset[str]:
    """All that a context may be called: `self` is the owner's id too, `parent` its pid."""
    own = _decimal(context) if _ID.fullmatch(context) else context
    contexts = {own}
    if owner is not None:
        ids = {"self": owner.id, "parent": owner.pid}
        number = str(ids[own]) if ids.get(own) is not None else own
        contexts.add(number)
        contexts |= {word for word, i in ids.items() if i is not None and str(i) == number}
    return frozenset(contexts)


def _decimal(digits: str) -> str:
    """A job id in canonical decimal: ids compare as numbers, of any length."""
    return digits.lstrip("0") or "0"


# Text to tree ------------------------------------------------------------------------------------


class _Wrong(Exception):
    """The text is no trigger, for one reason."""

    def __init__(self, code: str, offset: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(Severity.ERROR, code, offset, message, hint)


def parse(text: str) -> tuple[Trigger | None, list[Problem]]:
    """The tree of a trigger's text, and what is wrong with it: one error, MAX_WARNINGS warnings.

    Takes any text. Gives a tree, or at least one problem of severity error, never both, and raises
    nothing.
    """
    problems: list[Problem] = []
    try:
        if len(text) > MAX_LENGTH:
            message = f"this trigger has {len(text)} characters; at most {MAX_LENGTH} are read"
            raise _Wrong("too-long", MAX_LENGTH, message, "split it into several lines")
        if _is_term(text):
            # Nearly every trigger is one term.
            tree: Trigger | None = _term(text, 0, problems)
        else:
            tree = _Parser(text, problems).whole()
        # The canonical text, which is less than twice as long, must be readable too.
        if 2 * len(text) > MAX_LENGTH and (length := len(str(tree))) > MAX_LENGTH:
            message = f"this trigger has {length} characters when written out"
            hint = f"at most {MAX_LENGTH} are read: split it into several lines"
            raise _Wrong("too-long", 0, message, hint)
    except _Wrong as wrong:
        problems.append(wrong.problem)
        tree = None
    return tree, problems


def _is_term(text: str) -> bool:
    """Whether the text is plainly one term, with no operator in it and no white space around."""
    if "&&" in text or "||" in text or "(" in text or ")" in text:
        return False
    words = text.split()
    if len(words) == 1:
        return words[0] == text and text.lower() not in ("and", "or")
    return words != [] and text == text.strip() and _OPERATOR.search(text) is None


class _Parser:
    """Recursive descent over the tokens of one text. Problems of terms are gathered."""

    def __init__(self, text: str, problems: list[Problem]) -> None:
        self.text = text
        self.problems = problems
        #: (kind, start, end); kind is `&&`, `||`, `(`, `)` or `term`.
        self.tokens = list(_tokens(text))
        self.at = 0
        #: Where the parentheses that are open now were opened.
        self.open: list[int] = []

    def whole(self) -> Trigger:
        if not self.tokens:
            hint = "write an event, such as done-job-self"
            raise _Wrong("empty-trigger", 0, "there is no trigger after the `=`", hint)
        tree = self.any_of()
        if self.at < len(self.tokens):
            offset = self.tokens[self.at][1]
            raise _Wrong("trigger-syntax", offset, "this `)` closes nothing", "remove it")
        return tree

    def any_of(self) -> Trigger:
        parts = [self.all_of()]
        while self.at < len(self.tokens) and self.tokens[self.at][0] == "||":
            self.at += 1
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else _join(Or, parts)

    def all_of(self) -> Trigger:
        parts = [self.one()]
        while self.at < len(self.tokens) and self.tokens[self.at][0] == "&&":
            self.at += 1
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else _join(And, parts)

    def one(self) -> Trigger:
        """A term or a group, and the check that an operator, a `)` or the end follows it."""
        if self.at == len(self.tokens):
            _, start, end = self.tokens[-1]
            message = f"nothing follows `{self.text[start:end]}`"
            raise _Wrong("trigger-syntax", start, message, "write an event there, or remove it")
        kind, start, end = self.tokens[self.at]
        if kind not in ("term", "("):
            before = "nothing" if self.at == 0 else f"`{self._text(self.at - 1)}`"
            message = f"there is no event between {before} and `{self.text[start:end]}`"
            if self.at == 0:
                message = f"there is no event before `{self.text[start:end]}`"
            raise _Wrong("trigger-syntax", start, message, "write an event there")
        self.at += 1
        if kind == "term":
            tree: Trigger = _term(self.text[start:end], start, self.problems)
        else:
            tree = self.group(start)
        if self.at < len(self.tokens) and self.tokens[self.at][0] in ("term", "("):
            offset = self.tokens[self.at][1]
            raise _Wrong(
                "trigger-syntax",
                offset,
                f"there is no operator between `{self._text(self.at - 1)}` and"
                f" `{self._text(self.at)}`",
                "write && or || there",
            )
        return tree

    def group(self, start: int) -> Trigger:
        if len(self.open) == MAX_NESTING:
            message = f"parentheses nest more than {MAX_NESTING} deep here"
            raise _Wrong("too-deep", start, message, "remove some")
        self.open.append(start)
        if self.at == len(self.tokens):
            raise self._unclosed()
        tree = self.any_of()
        if self.at == len(self.tokens):
            raise self._unclosed()
        self.at += 1
        self.open.pop()
        return tree

    def _unclosed(self) -> _Wrong:
        message = "this parenthesis is never closed"
        return _Wrong("trigger-syntax", self.open[-1], message, "write the `)` that closes it")

    def _text(self, index: int) -> str:
        """A token as messages quote it."""
        _, start, end = self.tokens[index]
        return shown(self.text[start:end])


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    low = text.lower()
    words = "and" in low or "or" in low
    at = 0
    for operator in (_OPERATOR if words else _SYMBOL).finditer(text):
        start, end = operator.span()
        if term := text[at:start].strip():
            at = text.index(term, at)
            yield "term", at, at + len(term)
        word = operator[0]
        yield _WORDS.get(word) or _WORDS.get(word.lower(), word), start, end
        at = end
    if term := text[at:].strip():
        at = text.index(term, at)
        yield "term", at, at + len(term)


def _join(kind: type[And | Or], parts: Sequence[Trigger]) -> Trigger:
    """One tree of `parts`; a part of the same kind gives its own parts, so that none nests."""
    if len(parts) == 1:
        return parts[0]
    flat: list[Trigger] = []
    for part in parts:
        if isinstance(part, kind):
            flat.extend(part.parts)
        else:
            flat.append(part)
    return kind(tuple(flat))  # type: ignore[arg-type]


def _term(text: str, start: int, problems: list[Problem]) -> Term:
    """The term of `text`, which stands at `start`. Raises _Wrong; warnings go to `problems`."""

    def warn(code: str, offset: int, message: str, hint: str) -> None:
        if len(problems) < MAX_WARNINGS:
            problems.append(Problem(Severity.WARNING, code, start + offset, message, hint))

    if "\\*" in text:
        offset = text.index("\\*")
        text = _ESCAPED_STAR.sub("*", text)
        warn("escaped-star", offset, "`\\*` is read as `*`", "write * without the backslash")
    if text.startswith(_SHORT_GLOBALS):
        kind, _, rest = text.partition("-")
        if not rest:
            raise _Wrong("empty-field", start + len(text), f"there is no time after {kind}-")
        _warn_number(warn, kind, rest, len(kind) + 1)
        return Term(f"*-{kind}-*-{rest}", "*", intern(kind), "*", _star(rest))
    fields = text.split("-", 2)
    if len(fields) < 3 or not all(fields) or fields[1] not in TYPES:
        raise _malformed(text, fields, start)
    name, kind, rest = fields
    needs = TYPES[kind]
    at_context = len(name) + len(kind) + 2
    if name not in NAMES:
        _warn_name(warn, name)
    field, hyphen, extra = rest.partition("-")
    context, label = field, rest
    if "**" in text:
        name, context, extra, label = map(_star, (name, field, extra, rest))
    name, kind = intern(name), intern(kind)
    if context in _CONTEXTS or (context.isdigit() and context.isascii()):
        if hyphen and not extra:
            message = "this event ends in a hyphen, and nothing follows it"
            raise _Wrong("empty-field", start + len(text), message, "write the extra, or *")
        if not hyphen and needs is not None:
            message = f"this never fires: an event of type {kind} has an extra, the {needs}"
            warn("never-fires", 0, message, f"write {shown(text)}-* to match any")
        elif hyphen and kind in _NUMBER:
            _warn_number(warn, kind, extra, at_context + len(field) + 1)
        place = intern(context) if context in _CONTEXTS else _decimal(context)
        return Term(text, name, kind, place, extra if hyphen else None)
    if needs is not None:
        if "-" not in label and "*" not in label:
            message = f"this never fires: an event of type {kind} has an extra, the {needs}"
            warn("never-fires", 0, message, f"write {shown(text)}-* to match any")
        elif "-" in label:
            parts = _NUMBER.get(kind, 1)
            extra = "-".join(rest.split("-")[1:][-parts:])
            _warn_number(warn, kind, extra, at_context + len(rest) - len(extra))
    if context.lower() in ("self", "parent"):
        message = f"{context} is read as a label, the context is {context.lower()}"
        warn("context-case", at_context, message, f"write {context.lower()}")
    if "-" in (rest[0], rest[-1]):
        warn(
            "odd-hyphen",
            at_context if rest.startswith("-") else len(text) - 1,
            f"{shown(rest)} is read as a label whose first or last character is a hyphen",
            "remove the hyphen if a field is empty by mistake",
        )
    single = _SINGLE.search(text) if "&" in text or "|" in text else None
    if single:
        warn(
            "single-operator",
            single.start(),
            f"a single {single[0]} is an ordinary character, here part of a label",
            f"write {single[0] * 2}",
        )
    return Term(text, name, kind, None, None, label)


def _malformed(text: str, fields: list[str], start: int) -> _Wrong:
    """Why a term is no event: a field is missing or empty, or the type is unknown."""
    name, kind, rest = [*fields, "", ""][:3]
    if not name:
        return _Wrong("empty-field", start, "this event has no name", "write name-type-context")
    at_type = start + len(name) + 1
    if len(fields) == 1:
        hint = "an event is written name-type-context or name-type-context-extra"
        return _Wrong("not-an-event", start, f"{shown(text)} is not an event", hint)
    if not kind:
        return _Wrong("empty-field", at_type, "this event has no type", _types())
    if kind not in TYPES:
        return _unknown_type(name, kind, start, at_type)
    assert not rest
    hint = "write self, parent, a job id or a label"
    return _Wrong("empty-field", start + len(text), "this event has no context", hint)


def _star(field: str) -> str:
    """The field with several `*` in a row as one."""
    return _STARS.sub("*", field)


def _types() -> str:
    return "the types are " + ", ".join(TYPES)


def _unknown_type(name: str, kind: str, at_name: int, at_type: int) -> _Wrong:
    if name == "link" and (kind in NAMES or kind == "*"):
        return _Wrong(
            "dependency-syntax",
            at_name,
            "link-... is the language of a job's `dependency` attribute, which is no trigger",
            "write the event without link-, and && between two of them instead of a comma",
        )
    if "*" in kind:
        return _Wrong("unknown-type", at_type, "a type takes no `*`", _types())
    if kind.lower() in TYPES:
        hint = f"write {kind.lower()}"
        return _Wrong("unknown-type", at_type, f"the type {kind} is unknown: case counts", hint)
    near = [known for known in TYPES if one_letter_away(kind, known)]
    hint = f"did you mean {near[0]}?" if near else _types()
    return _Wrong("unknown-type", at_type, f"the type {shown(kind)} is unknown", hint)


class _Warn(Protocol):
    def __call__(self, code: str, offset: int, message: str, hint: str) -> None: ...


def _warn_name(warn: _Warn, name: str) -> None:
    if name in NAMES or "*" in name:
        return
    if name.lower() in NAMES:
        message = f"the event name {name} is none of Qube's: case counts"
        warn("name-case", 0, message, f"write {name.lower()}")
        return
    near = [known for known in sorted(NAMES) if one_letter_away(name, known)]
    if near:
        message = f"the event name {shown(name)} is none of Qube's"
        warn("unknown-name", 0, message, f"did you mean {near[0]}?")


def _warn_number(warn: _Warn, kind: str, extra: str, offset: int) -> None:
    """A time, an interval or an instance that is no number matches no event of Qube."""
    count = _NUMBER.get(kind)
    if count is None or "*" in extra:
        return
    numbers = extra.split("-")
    if len(numbers) != count or not all(map(_ID.fullmatch, numbers)):
        message = f"{shown(extra)} is not a number: expected the {TYPES[kind]}"
        example = {"subjob": "2", "repeat": "834567890-3600", "globalrepeat": "834567890-3600"}
        warn(
            "not-a-number",
            offset,
            message,
            f"write it in digits, such as {example.get(kind, '834567890')}",
        )


def one_letter_away(word: str, known: str) -> bool:
    """Whether one letter more, less or other, or two swapped, make `known` of `word`."""
    if word == known or abs(len(word) - len(known)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, known, strict=False)) if a != b), None)
    if start is None:
        return True
    a, b = word[start:], known[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
