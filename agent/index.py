"""The immutable index: which callbacks fire for an event.

Every term of every trigger stands in a tree by what it asks of an event: its type, then its name,
then its context, then its extra (or, for a term with a label, the label's text). An event walks
down that tree. At each step a literal costs one probe; patterns `prefix*`, a lone `*` among them,
cost one probe for each length of prefix that occurs; only other patterns (`x*y`, `*x`) are tried
one after the other, and only those that share all that stands above them. So an answer costs by
what it returns, not by how many callbacks there are.

An index is never changed. `replace` makes a new one that shares with the old all that one
directory's new callbacks do not touch, so that an edit costs by the size of its directory. The
callbacks are numbered by directory and line, which is the order of every answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Generic, NamedTuple, TypeVar

from agent import language
from agent.callback import CONF, MAX_CALLBACKS, Implementation, Registration, Unit
from agent.finding import Finding, Severity
from agent.trigger import DONE, TYPES, Event, Occurred, Term, Trigger, glob, missing, terms

V = TypeVar("V")

#: Characters of a reason, and of the event's text in it: a request of 1 MiB must not be repeated
#: for each callback.
MAX_REASON = 500
#: Terms of one trigger that a reason goes into.
_MOST_TERMS = 20

#: Callbacks that are encoded at once for a digest. To encode them keeps the interpreter, and
#: lookups wait for it. Part of what a digest is made of: two agents must have the same.
_CHUNK = 64


class Callback(NamedTuple):
    """One callback as it is served."""

    directory: str
    registration: Registration
    implementation: Implementation
    language: str
    #: False where supervisor_language_flags forbids it.
    enabled: bool

    @property
    def path(self) -> str:
        return f"{self.directory}/{self.registration.file}"

    def as_json(self) -> dict[str, Any]:
        """The callback as answers carry it, without its code."""
        return {
            "file": self.registration.file,
            "path": self.path,
            "directory": self.directory,
            "language": self.language,
            "trigger": self.registration.text,
            "line": self.registration.line,
            "digest": self.implementation.digest,
            "enabled": self.enabled,
        }


@dataclass(frozen=True, slots=True)
class Served:
    """What one directory serves: its callbacks in line order, and a digest of all their fields."""

    directory: str
    callbacks: tuple[Callback, ...] = ()
    digest: str = ""
    #: That a language is off, and its callbacks silently do not run.
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, directory: str, unit: Unit | None, flags: frozenset[str]) -> Served:
        """What the unit serves under these language flags."""
        enabled: dict[str, tuple[str, bool]] = {}
        callbacks = []
        for registration in unit.served() if unit else ():
            implementation = unit.implementations[registration.file] if unit else None
            assert implementation is not None
            if registration.file not in enabled:
                kind = language.language_of(registration.file)
                assert kind is not None
                enabled[registration.file] = (
                    kind,
                    language.enabled(kind, implementation.code, flags),
                )
            callbacks.append(
                Callback(directory, registration, implementation, *enabled[registration.file])
            )
        if not callbacks:
            return cls(directory)
        digest = hashlib.sha256()
        for start in range(0, len(callbacks), _CHUNK):
            fields = [
                (
                    *(c.registration.file, c.path, directory, c.language, c.registration.text),
                    *(c.registration.line, c.implementation.digest, c.enabled),
                )
                for c in callbacks[start : start + _CHUNK]
            ]
            digest.update(json.dumps(fields).encode())
        name = "sha256:" + digest.hexdigest()
        return cls(directory, tuple(callbacks), name, tuple(_off(callbacks, flags)))


def _off(callbacks: Iterable[Callback], flags: frozenset[str]) -> Iterator[Finding]:
    """A warning for each language flag that callbacks want and that is off.

    It stands at the first of them, and says how many there are.
    """
    wanting: dict[str, list[Callback]] = {}
    for callback in callbacks:
        if not callback.enabled:
            # Only code that mails wants more than its language.
            flag = callback.language if callback.language not in flags else "mail"
            wanting.setdefault(flag, []).append(callback)
    for flag, off in wanting.items():
        first = off[0].registration
        these = "this callback" if len(off) == 1 else f"{len(off)} callbacks, this the first"
        path = f"{off[0].directory}/{CONF}"
        message = (
            f"{flag} is off in supervisor_language_flags: the supervisor will silently not run"
            f" {these}"
        )
        hint = f"add {flag} to supervisor_language_flags of qb.conf"
        place = (first.line, first.column)
        yield Finding(Severity.WARNING, "language-off", path, *place, message, hint)


@dataclass(frozen=True, slots=True)
class Answer:
    """The callbacks that fire, and those that would with `missing`, both in order."""

    callbacks: list[Callback]
    partial: list[tuple[Callback, Trigger]]


@dataclass(frozen=True, slots=True)
class Change:
    """What one callback is now that it was not before."""

    change: str
    callback: Callback

    def as_json(self) -> dict[str, Any]:
        fields = self.callback.as_json()
        return {"change": self.change} | {
            key: fields[key] for key in ("path", "trigger", "line", "digest")
        }


class Index:
    """The callbacks of all directories, in order, and the tree that finds them.

    `generation` counts accepted indexes from 1; `digest` names the content, whoever serves it.
    """

    __slots__ = ("_tree", "count", "digest", "generation", "served")

    def __init__(
        self, generation: int, served: tuple[Served, ...], tree: Mapping[str, _Patterns[_Slots]]
    ) -> None:
        self.generation = generation
        self.served = served
        self.count = sum(len(s.callbacks) for s in served)
        digests = "\n".join(s.digest for s in served if s.callbacks)
        self.digest = "sha256:" + hashlib.sha256(digests.encode()).hexdigest()
        self._tree = tree

    @classmethod
    def of(cls, generation: int, served: Iterable[Served]) -> Index:
        """The index of these directories' callbacks, the directories in this order."""
        served = tuple(served)
        changes = (c for place, new in enumerate(served) for c in _changes(place, None, new))
        return cls(generation, served, _edit({}, changes))

    def replace(self, generation: int, changed: Mapping[int, Served]) -> Index:
        """The index with other callbacks for the directories at some places of the order."""
        served = tuple(changed.get(place, old) for place, old in enumerate(self.served))
        changes = (
            change
            for place in sorted(changed)
            for change in _changes(place, self.served[place], changed[place])
        )
        return Index(generation, served, _edit(self._tree, changes))

    def callbacks(self) -> Iterator[Callback]:
        """All callbacks, in order."""
        for served in self.served:
            yield from served.callbacks

    def lookup(self, event: Event, occurred: Sequence[Event] = ()) -> Answer:
        """Which callbacks fire for the event, given those that occurred before it."""
        answer = Answer([], [])
        events: Occurred | None = None
        for number in sorted(set(self._satisfied(event))):
            callback = self.served[number // _PLACE].callbacks[number % _PLACE]
            tree = callback.registration.trigger
            if not isinstance(tree, Term):
                events = events or Occurred((event, *occurred))
                rest = missing(tree, events)
                if rest is not None:
                    answer.partial.append((callback, rest))
                    continue
            answer.callbacks.append(callback)
        return answer

    def _satisfied(self, event: Event) -> Iterator[int]:
        """The numbers of the callbacks of which the event satisfies a term, some repeatedly."""
        names = self._tree.get(event.type)
        if names is None:
            return
        found = list(names.find(event.name))
        if event.name in DONE and (done := names.literal.get("done")) is not None:
            found.append(done)
        for slots in found:
            for context in event.contexts:
                if (extras := slots.get(context)) is not None:
                    for numbers in extras.find(event.extra):
                        yield from numbers
            if (extras := slots.get("*")) is not None:
                for numbers in _any_context(extras, event):
                    yield from numbers
            if (
                event.unsplit is not None
                and event.alone
                and (extras := slots.get(_ANY_ALONE)) is not None
            ):
                for numbers in _ending(extras, event.unsplit):
                    yield from numbers
            if event.text is not None:
                if (labels := slots.get(_LABEL)) is not None:
                    for numbers in labels.find(event.text):
                        yield from numbers
                if event.alone and (labels := slots.get(_ALONE)) is not None:
                    for numbers in labels.find(event.text):
                        yield from numbers

    def explain(
        self, event: Event, occurred: Sequence[Event] = ()
    ) -> list[tuple[Callback, str, str]]:
        """For every callback with a term of the event's name and type: the verdict (`fires`,
        `partial` or `no`), and the reason."""
        answer = self.lookup(event, occurred)
        firing = {id(callback) for callback in answer.callbacks}
        partial = {id(callback): rest for callback, rest in answer.partial}
        explained = []
        for callback in self.callbacks():
            alike = [t for t in terms(callback.registration.trigger) if _alike(t, event)]
            if not alike:
                continue
            met = _short(" and ".join(str(t) for t in alike if t.matches(event)))
            if id(callback) in firing:
                explained.append((callback, "fires", f"the event satisfies {met}"))
            elif id(callback) in partial:
                reason = f"the event satisfies {met}; still missing: {partial[id(callback)]}"
                reason = _short(reason)
                explained.append((callback, "partial", reason))
            else:
                reason = _short("; ".join(_refusal(t, event) for t in alike[:_MOST_TERMS]))
                explained.append((callback, "no", reason))
        return explained


def changes(old: Iterable[Served], new: Iterable[Served]) -> list[Change]:
    """What changed from the old callbacks to the new, by identity: path and trigger."""
    before = {(c.path, c.registration.text): c for s in old for c in s.callbacks}
    result = []
    for served in new:
        for callback in served.callbacks:
            was = before.pop((callback.path, callback.registration.text), None)
            if was is None:
                result.append(Change("added", callback))
            elif _content(was) != _content(callback):
                result.append(Change("modified", callback))
    return [*(Change("removed", gone) for gone in before.values()), *result]


def _content(callback: Callback) -> tuple[str, int, bool]:
    return callback.implementation.digest, callback.registration.line, callback.enabled


def _alike(term: Term, event: Event) -> bool:
    return term.type == event.type and (
        glob(term.name, event.name) or (term.name == "done" and event.name in DONE)
    )


def _refusal(term: Term, event: Event) -> str:
    """Why an event of a term's name and type does not satisfy it."""
    if term.label is not None:
        seen = _short(event.text) if event.text is not None else "no label that counts"
        return f"{term} wants the label text {term.label}, the event has {seen}"
    if term.context != "*" and term.context not in event.contexts:
        seen = " = ".join(sorted(event.contexts)) or _short(event.text or "none that counts")
        return f"{term} wants the context {term.context}, the event has {seen}"
    if term.extra is None and TYPES[term.type] is not None:
        return f"{term} has no extra, which every event of type {term.type} has"
    extra = "no extra" if term.extra is None else f"the extra {term.extra}"
    seen = event.extra if event.extra is not None else event.unsplit or "none"
    return f"{term} wants {extra}, the event has {_short(seen)}"


def _short(text: str) -> str:
    """The text, cut where it is longer than a person reads."""
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


# The tree ----------------------------------------------------------------------------------------

#: Callbacks are numbered place * _PLACE + position: more than a directory may have.
_PLACE = 1 << 20
assert _PLACE > MAX_CALLBACKS

# The slots beside the contexts, which are `self`, `parent`, ids and `*`. Those of a label alone
# hold what stands before the `-*` at a pattern's end.
_LABEL = "label"
_ALONE = "label alone"
_ANY_ALONE = "any context, label alone"

_Numbers = tuple[int, ...]


class _Patterns(Generic[V]):
    """What stands behind each pattern of one field. Never changed once it is in an index.

    `literal` also holds what stands behind `no such field`, under None.
    """

    __slots__ = ("lengths", "literal", "other", "prefix")

    def __init__(
        self,
        literal: Mapping[str | None, V],
        prefix: Mapping[str, V],
        other: Mapping[str, V],
        lengths: tuple[int, ...],
    ) -> None:
        self.literal = literal
        self.prefix = prefix
        self.other = other
        #: The lengths of the prefixes, each once.
        self.lengths = lengths

    def find(self, text: str | None) -> Iterator[V]:
        """What stands behind each pattern that the text matches."""
        if (found := self.literal.get(text)) is not None:
            yield found
        if text is None:
            return
        for length in self.lengths:
            if length <= len(text) and (found := self.prefix.get(text[:length])) is not None:
                yield found
        for pattern, value in self.other.items():
            if glob(pattern, text):
                yield value

    def patterns(self) -> Iterator[tuple[str, V]]:
        """Every pattern as it is written, and what stands behind it."""
        for literal, value in self.literal.items():
            if literal is not None:
                yield literal, value
        for prefix, value in self.prefix.items():
            yield prefix + "*", value
        yield from self.other.items()

    def __len__(self) -> int:
        return len(self.literal) + len(self.prefix) + len(self.other)


_Slots = dict[str, _Patterns[_Numbers]]


def _any_context(extras: _Patterns[_Numbers], event: Event) -> Iterator[_Numbers]:
    """The terms in any context that an event satisfies.

    Where the event was given as a text with a label, nobody knows where its extra begins. So the
    extra is compared with what follows each of its hyphens: `*-extra` matches nothing else.
    """
    if event.unsplit is None:
        yield from extras.find(event.extra)
        return
    if TYPES[event.type] is None:
        yield from extras.find(None)
    yield from _ending(extras, event.unsplit)


def _ending(extras: _Patterns[_Numbers], text: str) -> Iterator[_Numbers]:
    """What stands behind each pattern that matches what follows some hyphen of the text."""
    if text.count("-") <= len(extras):
        at = text.find("-")
        while at >= 0:
            yield from extras.find(text[at + 1 :])
            at = text.find("-", at + 1)
    else:
        for pattern, numbers in extras.patterns():
            if glob("*-" + pattern, text):
                yield numbers


#: A callback's number, its trigger before and its trigger now; None where there is none.
_Change = tuple[int, Trigger | None, Trigger | None]

#: What an edit adds to the numbers behind each pattern it touches, in rising order.
_Edits = dict[str, dict[str | None, dict[str, dict[str | None, list[int]]]]]


def _changes(place: int, old: Served | None, new: Served) -> Iterator[_Change]:
    """Where a directory has another trigger at some place than before. A line that was added at
    the end leaves all others as they are."""
    before = old.callbacks if old is not None else ()
    for number, (was, now) in enumerate(zip_longest(before, new.callbacks), place * _PLACE):
        if was is None:
            yield number, None, now.registration.trigger
        elif now is None:
            yield number, was.registration.trigger, None
        elif was.registration.text != now.registration.text:
            yield number, was.registration.trigger, now.registration.trigger


def _edit(
    tree: Mapping[str, _Patterns[_Slots]], changes: Iterable[_Change]
) -> dict[str, _Patterns[_Slots]]:
    """The tree after changes, which come in rising order. Only what they touch is copied."""
    edits: _Edits = {}
    gone: set[int] = set()
    for number, was, now in changes:
        if was is not None:
            gone.add(number)
            _gather(edits, was, None)
        if now is not None:
            _gather(edits, now, number)

    def edit_leaf(old: _Numbers | None, new: list[int]) -> _Numbers:
        if not old:
            return tuple(new)
        stay = [n for n in old if n not in gone]
        return tuple(sorted(stay + new)) if new else tuple(stay)

    def edit_slots(old: _Slots | None, by_slot: dict[str, dict[str | None, list[int]]]) -> _Slots:
        return _edited(old or {}, by_slot, lambda p, edits: _edit_patterns(p, edits, edit_leaf))

    return _edited(tree, edits, lambda names, by_name: _edit_patterns(names, by_name, edit_slots))


def _gather(edits: _Edits, tree: Trigger, number: int | None) -> None:
    """Note each pattern that a trigger's terms touch, and the number to add there, if any."""
    for term in (tree,) if isinstance(tree, Term) else terms(tree):
        names = edits.get(term.type)
        if names is None:
            names = edits[term.type] = {}
        slots = names.get(term.name)
        if slots is None:
            slots = names[term.name] = {}
        for slot, pattern in _places(term):
            patterns = slots.get(slot)
            if patterns is None:
                patterns = slots[slot] = {}
            numbers = patterns.get(pattern)
            if numbers is None:
                numbers = patterns[pattern] = []
            if number is not None and (not numbers or numbers[-1] != number):
                numbers.append(number)


def _places(term: Term) -> Sequence[tuple[str, str | None]]:
    """The slots and patterns under which a term stands."""
    _, _, _, context, extra, label = term
    if label is not None:
        if label.endswith("-*"):
            return (_LABEL, label), (_ALONE, label[:-2])
        return ((_LABEL, label),)
    assert context is not None
    if extra == "*":
        return (context, extra), (context, None)
    if context == "*" and extra is not None and extra.endswith("-*"):
        return (context, extra), (_ANY_ALONE, extra[:-2])
    return ((context, extra),)


K = TypeVar("K")
E = TypeVar("E")


def _edited(
    old: Mapping[K, V], edits: Mapping[K, E], edit: Callable[[V | None, E], V | None]
) -> dict[K, V]:
    """A copy of `old` with each of the edits made; what becomes empty goes."""
    new = dict(old)
    for key, change in edits.items():
        value = edit(new.get(key), change)
        if value:
            new[key] = value
        else:
            new.pop(key, None)
    return new


_NONE: dict[Any, Any] = {}
_EMPTY: _Patterns[Any] = _Patterns(_NONE, _NONE, _NONE, ())


def _edit_patterns(
    old: _Patterns[V] | None,
    edits: Mapping[str | None, E],
    edit: Callable[[V | None, E], V | None],
) -> _Patterns[V]:
    literal: dict[str | None, E] = {}
    prefix: dict[str, E] = {}
    other: dict[str, E] = {}
    for pattern, change in edits.items():
        if pattern is None or "*" not in pattern:
            literal[pattern] = change
        elif pattern.index("*") == len(pattern) - 1:
            prefix[pattern[:-1]] = change
        else:
            other[pattern] = change
    old = old or _EMPTY
    prefixes = _edited(old.prefix, prefix, edit) if prefix else old.prefix
    return _Patterns(
        _edited(old.literal, literal, edit) if literal else old.literal,
        prefixes,
        _edited(old.other, other, edit) if other else old.other,
        tuple({len(p) for p in prefixes}) if prefix else old.lengths,
    )
