"""The immutable index: which callbacks fire for an event.

The callbacks are numbered by directory and line, which is the order of every result. The match
structure (`agent.core.match`) finds the numbers of those whose terms an event satisfies.

An index is never changed. `replace` makes a new one that shares with the old all that one
directory's new callbacks do not touch, so the cost of an edit depends on the size of its directory.

`lookup` and `explain` may take long: see the worst case in `agent.core.match`; `explain` compares
every callback. Both take a `checkpoint`, which is called about every 1,000 steps (at most about a
millisecond apart). An exception that it raises ends them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from json.encoder import encode_basestring_ascii
from typing import Literal, NamedTuple

from agent.core import languages, match, reasons
from agent.core.diagnostic import Diagnostic, Problem
from agent.core.event import Event, glob_steps
from agent.core.steps import Steps
from agent.core.term import Term
from agent.core.trigger import Trigger, missing, terms
from agent.core.unit import CONF, MAX_CALLBACKS, Implementation, Registration, Unit

#: Callbacks that are encoded at once for a digest. Encoding holds the GIL, so lookups wait. The
#: digest depends on this number: all agents must use the same.
_DIGEST_CHUNK = 64


#: What may differ of a callback whose path and trigger stay.
Field = Literal["digest", "line", "enabled"]


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


@dataclass(frozen=True, slots=True)
class ServedDirectory:
    """What one directory serves."""

    directory: str
    #: In line order.
    callbacks: tuple[Callback, ...] = ()
    #: Of all fields of all callbacks.
    digest: str = ""
    #: Warnings about languages that are off, so that callbacks silently do not run.
    findings: tuple[Diagnostic, ...] = ()
    #: How many of the callbacks are not enabled.
    disabled: int = 0

    @classmethod
    def of(cls, directory: str, unit: Unit | None, flags: frozenset[str]) -> ServedDirectory:
        """What the unit serves under these flags of supervisor_language_flags."""
        callbacks = tuple(_callbacks(directory, unit, flags)) if unit else ()
        if not callbacks:
            return cls(directory)
        digest = hashlib.sha256()
        for piece in _encoded(callbacks):
            digest.update(piece)
        name = "sha256:" + digest.hexdigest()
        off = [c for c in callbacks if not c.enabled]
        return cls(directory, callbacks, name, tuple(_languages_off(off, flags)), len(off))


def _callbacks(directory: str, unit: Unit, flags: frozenset[str]) -> Iterator[Callback]:
    new = tuple.__new__
    kinds: dict[str, tuple[Implementation, str, bool]] = {}
    for registration in unit.served():
        file = registration.file
        if file not in kinds:
            implementation = unit.implementations[file]
            language = languages.language_of(file)
            assert language is not None
            enabled = languages.is_enabled(language, implementation.code, flags)
            kinds[file] = implementation, language, enabled
        implementation, language, enabled = kinds[file]
        # As `Callback(...)` does, in half the time.
        yield new(Callback, (directory, registration, implementation, language, enabled))


def _encoded(callbacks: Sequence[Callback]) -> Iterator[bytes]:
    """The callbacks of one directory as pieces of bytes, of which its digest is made.

    Each piece is the JSON array of some callbacks, with all of their fields. What is the same for
    all callbacks of a file is encoded once.
    """
    around: dict[str, tuple[str, str]] = {}
    for start in range(0, len(callbacks), _DIGEST_CHUNK):
        encoded = []
        for c in callbacks[start : start + _DIGEST_CHUNK]:
            file, _, text, line, _ = c.registration
            if file not in around:
                first = json.dumps((file, c.path, c.directory, c.language))
                last = json.dumps((c.implementation.digest, c.enabled))
                around[file] = first[:-1], last[1:]
            first, last = around[file]
            encoded.append(f"{first}, {encode_basestring_ascii(text)}, {line}, {last}")
        yield f"[{', '.join(encoded)}]".encode()


def _languages_off(disabled: Iterable[Callback], flags: frozenset[str]) -> Iterator[Diagnostic]:
    """A warning for each flag that callbacks need and that is off.

    Its place is the first of these callbacks.
    """
    by_flag: dict[str, list[Callback]] = {}
    for callback in disabled:
        # If the language itself is on, the callback is .qcb code that sends mail.
        flag = callback.language if callback.language not in flags else "mail"
        by_flag.setdefault(flag, []).append(callback)
    for flag, off in by_flag.items():
        first = off[0].registration
        which = "this callback will not run"
        if len(off) > 1:
            which = f"{len(off)} callbacks will not run (first: line {first.line})"
        message = f"{flag} is off in supervisor_language_flags: {which}"
        hint = f"add {flag} to supervisor_language_flags in qb.conf"
        path = f"{off[0].directory}/{CONF}"
        yield Problem("language-off", message, hint).at(path, first.line, first.column)


Pending = Mapping[tuple[str, str], Trigger]
"""What callbacks still wait for, by path and trigger text: the `missing` of earlier results."""

NOTHING_PENDING: Pending = {}


@dataclass(frozen=True, slots=True)
class Match:
    """The result of a lookup, both lists in index order."""

    #: The callbacks that fire.
    callbacks: list[Callback]
    #: The callbacks that are partial, each with what is missing.
    partial: list[tuple[Callback, Trigger]]


@dataclass(frozen=True, slots=True)
class Change:
    """How one callback differs from before."""

    change: Literal["added", "removed", "modified"]
    callback: Callback
    #: For `modified`, what changed, and the callback as it was.
    what: tuple[Field, ...] = ()
    before: Callback | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """The callbacks of all directories, in order, and the tree that finds them. Made by `of`."""

    #: Counts accepted indexes from 1.
    generation: int
    served: tuple[ServedDirectory, ...]
    #: How many callbacks there are.
    count: int
    #: Names the content, whichever agent serves it.
    digest: str
    _tree: match.Tree
    #: The directories that are held, sorted: what is served of them may be older than their files.
    held: tuple[str, ...] = ()

    @classmethod
    def of(cls, generation: int, served: Iterable[ServedDirectory]) -> Index:
        """The index of these directories' callbacks, the directories in this order."""
        served = tuple(served)
        changes = (c for place, new in enumerate(served) for c in _changes(place, None, new))
        return cls._build(generation, served, match.edit({}, changes))

    @classmethod
    def _build(
        cls, generation: int, served: tuple[ServedDirectory, ...], tree: match.Tree
    ) -> Index:
        count = sum(len(s.callbacks) for s in served)
        digests = "\n".join(s.digest for s in served if s.callbacks)
        digest = "sha256:" + hashlib.sha256(digests.encode()).hexdigest()
        return cls(generation, served, count, digest, tree)

    def replace(self, generation: int, changed: Mapping[int, ServedDirectory]) -> Index:
        """The index with other callbacks for the directories at some places of the order."""
        served = tuple(changed.get(place, old) for place, old in enumerate(self.served))
        changes = (
            change
            for place in sorted(changed)
            for change in _changes(place, self.served[place], changed[place])
        )
        return self._build(generation, served, match.edit(self._tree, changes))

    def with_generation(self, generation: int) -> Index:
        """The same index under another generation."""
        return replace(self, generation=generation)

    def with_held(self, held: Iterable[str]) -> Index:
        """The same index, while other directories are held."""
        # Sorted: another order of the directories alone makes no other index.
        held = tuple(sorted(held))
        return self if held == self.held else replace(self, held=held)

    def callbacks(self) -> Iterator[Callback]:
        """All callbacks, in order."""
        for served in self.served:
            yield from served.callbacks

    def lookup(
        self,
        event: Event,
        occurred: Sequence[Event] = (),
        checkpoint: Callable[[], object] | None = None,
        pending: Pending = NOTHING_PENDING,
    ) -> Match:
        """Which callbacks fire for the event, and which are partial.

        `occurred` are the events that occurred before it. `pending`, in their place, is what
        earlier results said is missing: the callbacks in it are decided by that. `checkpoint` is
        called about every 1,000 steps; an exception that it raises ends the lookup.
        """
        return self._lookup(event, occurred, pending, Steps(checkpoint))

    def id_counts(
        self, event: Event, checkpoint: Callable[[], object] | None = None
    ) -> Callable[[int], bool]:
        """Whether a job id can make a difference to a lookup of the event, where nothing is
        pending: events that differ only in other job ids have the same result. `checkpoint` is
        that of `lookup`."""
        return match.id_counts(self._tree, event, Steps(checkpoint))

    def alike(self, event: Event, labelled: bool) -> match.Alike | None:
        """Which events have the same result as this one, where nothing occurred before or is
        pending; None if that cannot be said. See `match.alike`."""
        return match.alike(self._tree, event, labelled, Steps(None))

    def _lookup(
        self, event: Event, occurred: Sequence[Event], pending: Pending, steps: Steps
    ) -> Match:
        found: list[tuple[Callback, Trigger]] = []
        compound: list[Trigger] = []
        for number in match.satisfied(self._tree, event, steps):
            callback = self.served[number // _STRIDE].callbacks[number % _STRIDE]
            tree = callback.registration.trigger
            if pending:
                left = pending.get(_identity(callback))
                if left is not None:
                    if not match.satisfies_term(left, event, steps):
                        continue
                    tree = left
            found.append((callback, tree))
            # A trigger of one term is true once the event satisfies that term.
            if not isinstance(tree, Term):
                compound.append(tree)
            steps.take()
        if not compound:
            return Match([callback for callback, _ in found], [])
        holds = match.holding(compound, (event, *occurred), steps)
        result = Match([], [])
        for callback, tree in found:
            rest = None if isinstance(tree, Term) else missing(tree, holds)
            steps.take()
            if rest is None:
                result.callbacks.append(callback)
            else:
                result.partial.append((callback, rest))
        return result

    def explain(
        self,
        event: Event,
        occurred: Sequence[Event] = (),
        checkpoint: Callable[[], object] | None = None,
        pending: Pending = NOTHING_PENDING,
    ) -> list[tuple[Callback, str, str]]:
        """For every callback with a term of the event's name and type: verdict and reason.

        The verdict is `fires`, `partial` or `no`. The arguments are those of `lookup`.
        """
        steps = Steps(checkpoint)
        result = self._lookup(event, occurred, pending, steps)
        firing = {id(callback) for callback in result.callbacks}
        partial = {id(callback): rest for callback, rest in result.partial}
        explained = []
        for callback in self.callbacks():
            alike = []
            for term in terms(callback.registration.trigger):
                steps.take(glob_steps(term.name, event.name))
                if reasons.same_name_and_type(term, event):
                    alike.append(term)
            if not alike:
                continue
            if id(callback) in firing:
                reason = f"the event satisfies {reasons.satisfied(alike, event, steps)}"
                explained.append((callback, "fires", reason))
            elif id(callback) in partial:
                met = reasons.satisfied(alike, event, steps)
                rest = partial[id(callback)]
                reason = reasons.short(f"the event satisfies {met}; still missing: {rest}")
                explained.append((callback, "partial", reason))
            elif (left := pending.get(_identity(callback))) and (
                met := reasons.satisfied(alike, event, steps)
            ):
                reason = reasons.short(f"{met} was satisfied before; still missing: {left}")
                explained.append((callback, "no", reason))
            else:
                steps.take(10)
                reason = reasons.mismatches(alike, event)
                explained.append((callback, "no", reason))
        return explained


def changes(old: Iterable[ServedDirectory], new: Iterable[ServedDirectory]) -> list[Change]:
    """The differences between the old callbacks and the new, by identity: path and trigger."""
    before = {_identity(c): c for s in old for c in s.callbacks}
    result = []
    for served in new:
        for callback in served.callbacks:
            was = before.pop(_identity(callback), None)
            if was is None:
                result.append(Change("added", callback))
            elif what := _difference(was, callback):
                result.append(Change("modified", callback, what, was))
    return [*(Change("removed", callback) for callback in before.values()), *result]


def _identity(callback: Callback) -> tuple[str, str]:
    return callback.path, callback.registration.text


def _difference(was: Callback, now: Callback) -> tuple[Field, ...]:
    """What changed of a callback that is served before and after."""
    if was is now:
        return ()
    what: list[Field] = []
    if was.implementation.digest != now.implementation.digest:
        what.append("digest")
    if was.registration.line != now.registration.line:
        what.append("line")
    if was.enabled != now.enabled:
        what.append("enabled")
    return tuple(what)


#: Callbacks are numbered place * _STRIDE + position, so a directory must have fewer than _STRIDE.
_STRIDE = 1 << 20
assert _STRIDE > MAX_CALLBACKS


def _changes(
    place: int, old: ServedDirectory | None, new: ServedDirectory
) -> Iterator[match.Change]:
    """The positions at which a directory has another trigger than before.

    A line that is added at the end changes no other position.
    """
    if old is None:
        for number, now in enumerate(new.callbacks, place * _STRIDE):
            yield number, None, now.registration.trigger
        return
    pairs = zip_longest(old.callbacks, new.callbacks)
    for number, (was, now) in enumerate(pairs, place * _STRIDE):
        if was is None:
            yield number, None, now.registration.trigger
        elif now is None:
            yield number, was.registration.trigger, None
        elif was.registration.text != now.registration.text:
            yield number, was.registration.trigger, now.registration.trigger
