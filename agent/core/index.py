"""The immutable index: which callbacks fire for an event.

The callbacks are numbered by directory and line, which is the order of every answer. The match
structure (`agent.core.match`) finds the numbers of those whose terms an event satisfies.

An index is never changed. `replace` makes a new one that shares with the old all that one
directory's new callbacks do not touch, so that an edit costs by the size of its directory.

`lookup` and `explain` may take long: see the worst case in `agent.core.match`; `explain` looks at
every callback. Both take a `checkpoint`, which is called about every 1,000 steps (at most about a
millisecond apart) and may raise whatever ends them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from agent.core import languages as language
from agent.core import match
from agent.core.diagnostic import Diagnostic, Severity
from agent.core.trigger import (
    DONE,
    TYPES,
    Event,
    Steps,
    Term,
    Trigger,
    glob,
    glob_steps,
    missing,
    terms,
)
from agent.core.unit import CONF, MAX_CALLBACKS, Implementation, Registration, Unit

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
    findings: tuple[Diagnostic, ...] = ()

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


def _off(callbacks: Iterable[Callback], flags: frozenset[str]) -> Iterator[Diagnostic]:
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
        yield Diagnostic(Severity.WARNING, "language-off", path, *place, message, hint)


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

    def __init__(self, generation: int, served: tuple[Served, ...], tree: match.Tree) -> None:
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
        return cls(generation, served, match.edit({}, changes))

    def replace(self, generation: int, changed: Mapping[int, Served]) -> Index:
        """The index with other callbacks for the directories at some places of the order."""
        served = tuple(changed.get(place, old) for place, old in enumerate(self.served))
        changes = (
            change
            for place in sorted(changed)
            for change in _changes(place, self.served[place], changed[place])
        )
        return Index(generation, served, match.edit(self._tree, changes))

    def with_generation(self, generation: int) -> Index:
        """The same index under another generation."""
        return Index(generation, self.served, self._tree)

    def callbacks(self) -> Iterator[Callback]:
        """All callbacks, in order."""
        for served in self.served:
            yield from served.callbacks

    def lookup(
        self,
        event: Event,
        occurred: Sequence[Event] = (),
        checkpoint: Callable[[], object] | None = None,
    ) -> Answer:
        """Which callbacks fire for the event, given those that occurred before it.

        `checkpoint` is called about every 1,000 steps; what it raises ends the lookup.
        """
        return self._lookup(event, occurred, Steps(checkpoint))

    def _lookup(self, event: Event, occurred: Sequence[Event], steps: Steps) -> Answer:
        found = []
        compound: list[Trigger] = []
        for number in match.satisfied(self._tree, event, steps):
            callback = self.served[number // _PLACE].callbacks[number % _PLACE]
            found.append(callback)
            tree = callback.registration.trigger
            # A trigger of one term is true once the event satisfies that term.
            if not isinstance(tree, Term):
                compound.append(tree)
            steps.take()
        if not compound:
            return Answer(found, [])
        holds = match.holding(compound, (event, *occurred), steps)
        answer = Answer([], [])
        for callback in found:
            tree = callback.registration.trigger
            rest = None if isinstance(tree, Term) else missing(tree, holds)
            steps.take()
            if rest is None:
                answer.callbacks.append(callback)
            else:
                answer.partial.append((callback, rest))
        return answer

    def explain(
        self,
        event: Event,
        occurred: Sequence[Event] = (),
        checkpoint: Callable[[], object] | None = None,
    ) -> list[tuple[Callback, str, str]]:
        """For every callback with a term of the event's name and type: the verdict (`fires`,
        `partial` or `no`), and the reason.

        `checkpoint` is called about every 1,000 steps; what it raises ends it.
        """
        steps = Steps(checkpoint)
        answer = self._lookup(event, occurred, steps)
        firing = {id(callback) for callback in answer.callbacks}
        partial = {id(callback): rest for callback, rest in answer.partial}
        explained = []
        for callback in self.callbacks():
            alike = []
            for term in terms(callback.registration.trigger):
                steps.take(glob_steps(term.name, event.name))
                if _alike(term, event):
                    alike.append(term)
            if not alike:
                continue
            if id(callback) in firing:
                reason = f"the event satisfies {_met(alike, event, steps)}"
                explained.append((callback, "fires", reason))
            elif id(callback) in partial:
                met = _met(alike, event, steps)
                rest = partial[id(callback)]
                reason = _short(f"the event satisfies {met}; still missing: {rest}")
                explained.append((callback, "partial", reason))
            else:
                steps.take(10)
                reason = _short("; ".join(_refusal(t, event) for t in alike[:_MOST_TERMS]))
                explained.append((callback, "no", reason))
        return explained


def _met(alike: Iterable[Term], event: Event, steps: Steps) -> str:
    """Those of the terms that the event satisfies."""
    met = []
    for term in alike:
        steps.take(term.steps(event))
        if term.matches(event):
            met.append(str(term))
    return _short(" and ".join(met))


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


#: Callbacks are numbered place * _PLACE + position: more than a directory may have.
_PLACE = 1 << 20
assert _PLACE > MAX_CALLBACKS


def _changes(place: int, old: Served | None, new: Served) -> Iterator[match.Change]:
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
