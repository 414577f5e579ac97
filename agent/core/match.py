"""The match structure: which of many triggers have a term that an event satisfies.

Each term of each trigger is filed in a tree by what it requires of an event: its type, then its
name, then its context, then its extra (or, for a term with a label, the label's text). An event
is looked up level by level. At each level:

- a pattern without `*` costs one probe of a hash table, whatever the number of patterns;
- patterns `prefix*`, and a lone `*`, cost one probe for each length of prefix that occurs;
- patterns with one other `*` (`x*y`, `*x`) are grouped by the lengths of their two ends. A text
  has one head and one tail of those lengths, so a group costs one probe;
- patterns with two (`x*m*y`, `*m*`) are grouped by the lengths of ends and middle. A group costs
  one probe for each place in the text where the middle may be;
- patterns with more are filed under their two ends and their longest middle part, which is a
  pattern of the kind above. Those under a key that fits are tried one after another.

Where trying every pattern of a group is cheaper than the probes, they are tried. So an answer
costs by the length of the event and by what it returns, not by the number of triggers.

**Worst case.** What remains linear in the number of patterns: many patterns with as many different
lengths of their parts; patterns with three or more `*` of which the ends and the longest part all
fit; and, where an event was given as a text with a label (every hyphen may be the label's end),
patterns with two `*` and more against hundreds of hyphens. Then each pattern of the event's type,
name and context is tried once: for 100,000 patterns and an event of 1 KiB this takes about 0.15 s,
and 0.7 s for patterns that are chosen so that comparing them is slow. Each such loop counts its
steps, so that the caller can stop it: see `Steps`.

A tree is never changed. `edit` makes a new one that shares with the old all that the changes do
not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from agent.core.trigger import DONE, TYPES, Event, Steps, Term, Trigger, glob, glob_steps, terms

V = TypeVar("V")
K = TypeVar("K")
E = TypeVar("E")

#: The numbers of triggers, in rising order.
Numbers = tuple[int, ...]
#: A trigger's number, its tree before and its tree now; None where there is none.
Change = tuple[int, Trigger | None, Trigger | None]

#: The lengths of a pattern's two ends; of its two ends and its middle part.
_Shape = tuple[int, ...]

# The slots beside the contexts, which are `self`, `parent`, ids and `*`. Those of a label alone
# hold what comes before the `-*` at a pattern's end.
_LABEL = "label"
_ALONE = "label alone"
_ANY_ALONE = "any context, label alone"

#: Where a pattern may begin in a text, if it is to match all of it.
_WHOLE = (0,)
#: What it costs to try a pattern, in probes.
_TRY = 4


def _tried(patterns: Mapping[str, V], text: str, tail: bool, steps: Steps) -> Iterator[str]:
    """The patterns that match the text, or with `tail` what follows one of its hyphens."""
    for pattern in patterns:
        steps.take(glob_steps(pattern, text))
        if glob("*-" + pattern if tail else pattern, text):
            yield pattern


def _heads(text: str, length: int, starts: Sequence[int], steps: Steps) -> dict[str, int]:
    """What follows each of `starts`, each text once, with the place behind the first of them.

    What a pattern may match behind a later place with the same head, it may behind the first.
    """
    heads: dict[str, int] = {}
    for start in starts:
        steps.take()
        if start + length > len(text):
            break
        heads.setdefault(text[start : start + length], start + length)
    return heads


def _fitting(
    group: Mapping[str, V], shape: _Shape, text: str, starts: Sequence[int], steps: Steps
) -> Iterator[str]:
    """The patterns of one shape that match the text from one of `starts` to its end, each once."""
    first, last = shape[0], shape[-1]
    if starts[0] + sum(shape) > len(text):
        return
    # Probes of long texts cost more than one.
    weight, most = 1 + sum(shape) // 64, _TRY * len(group)
    if len(starts) * weight > most:
        yield from _tried(group, text, starts is not _WHOLE, steps)
        return
    heads = _heads(text, first, starts, steps)
    end = len(text) - last
    tail = text[end:]
    if len(shape) == 2:
        for head, behind in heads.items():
            pattern = f"{head}*{tail}"
            if behind <= end and pattern in group:
                yield pattern
        return
    if len(heads) * len(text) * weight > most:
        yield from _tried(group, text, starts is not _WHOLE, steps)
        return
    size = shape[1]
    found: set[str] = set()
    for head, behind in heads.items():
        for at in range(behind, end - size + 1):
            if not at & 63:
                steps.take(64 * weight)
            pattern = f"{head}*{text[at : at + size]}*{tail}"
            if pattern in group:
                found.add(pattern)
    yield from found


def _shape(parts: Sequence[str]) -> tuple[_Shape, str]:
    """The shape of a pattern with these parts, of which the first and the last are its ends, and
    the key under which it is filed: the pattern itself if it has at most one middle part."""
    if len(parts) == 2:
        return (len(parts[0]), len(parts[1])), "*".join(parts)
    first, middle, last = parts[0], max(parts[1:-1], key=len), parts[-1]
    return (len(first), len(middle), len(last)), f"{first}*{middle}*{last}"


class _General(Generic[V]):
    """Patterns with a `*` that is not only at the end, by shape."""

    __slots__ = ("deep", "plain")

    def __init__(
        self,
        plain: Mapping[_Shape, Mapping[str, V]],
        deep: Mapping[_Shape, Mapping[str, Mapping[str, V]]],
    ) -> None:
        #: Those with one or two.
        self.plain = plain
        #: Those with more, by their key.
        self.deep = deep

    def find(self, text: str, starts: Sequence[int], steps: Steps) -> Iterator[V]:
        """What is filed under each pattern that matches the text from one of `starts` on."""
        for shape, group in self.plain.items():
            steps.take()
            for pattern in _fitting(group, shape, text, starts, steps):
                yield group[pattern]
        for shape, keys in self.deep.items():
            steps.take()
            for key in _fitting(keys, shape, text, starts, steps):
                patterns = keys[key]
                for pattern in _tried(patterns, text, starts is not _WHOLE, steps):
                    yield patterns[pattern]

    def items(self) -> Iterator[tuple[str, V]]:
        """Every pattern, and what is filed under it."""
        for group in self.plain.values():
            yield from group.items()
        for keys in self.deep.values():
            for patterns in keys.values():
                yield from patterns.items()


class Patterns(Generic[V]):
    """What is filed under each pattern of one field. Never changed once it is in a tree.

    `literal` also holds what is filed under `no such field`, as None.
    """

    __slots__ = ("general", "lengths", "literal", "prefix")

    def __init__(
        self,
        literal: Mapping[str | None, V],
        prefix: Mapping[str, V],
        lengths: tuple[int, ...],
        general: _General[V] | None,
    ) -> None:
        self.literal = literal
        self.prefix = prefix
        #: The lengths of the prefixes, each once.
        self.lengths = lengths
        #: None where there are no such patterns.
        self.general = general

    def find(self, text: str | None, steps: Steps) -> Iterator[V]:
        """What is filed under each pattern that the text matches."""
        if (found := self.literal.get(text)) is not None:
            yield found
        if text is None:
            return
        for length in self.lengths:
            if length <= len(text) and (found := self.prefix.get(text[:length])) is not None:
                yield found
        if self.general is not None:
            yield from self.general.find(text, _WHOLE, steps)

    def find_tails(self, text: str, steps: Steps) -> Iterator[V]:
        """What is filed under each pattern that what follows some hyphen of the text matches."""
        starts = [at + 1 for at, character in enumerate(text) if character == "-"]
        if not starts:
            return
        steps.take(len(starts))
        yield from self._literal_tails(text, starts, steps)
        yield from self._prefix_tails(text, starts, steps)
        if self.general is not None:
            yield from self.general.find(text, starts, steps)

    def _literal_tails(self, text: str, starts: list[int], steps: Steps) -> Iterator[V]:
        if len(starts) * (1 + len(text) // 64) <= _TRY * len(self.literal):
            for start in starts:
                steps.take(1 + len(text) // 64)
                if (found := self.literal.get(text[start:])) is not None:
                    yield found
            return
        for literal, value in self.literal.items():
            steps.take()
            if literal is not None and text.endswith(literal):
                before = len(text) - len(literal)
                if before and text[before - 1] == "-":
                    yield value

    def _prefix_tails(self, text: str, starts: list[int], steps: Steps) -> Iterator[V]:
        if len(starts) * sum(1 + n // 64 for n in self.lengths) > _TRY * len(self.prefix):
            for prefix, value in self.prefix.items():
                steps.take(glob_steps(prefix, text))
                if "-" + prefix in text:
                    yield value
            return
        for length in self.lengths:
            steps.take(len(starts))
            for prefix in {text[s : s + length] for s in starts if s + length <= len(text)}:
                if (found := self.prefix.get(prefix)) is not None:
                    yield found

    def __len__(self) -> int:
        """Zero if and only if there is nothing."""
        return len(self.literal) + len(self.prefix) + (self.general is not None)


#: What is filed under one type and name: by context, or slot, the patterns of the extra or label.
Slots = dict[str, Patterns[Numbers]]
#: By type, the patterns of names.
Tree = Mapping[str, Patterns[Slots]]


def satisfied(tree: Tree, event: Event, steps: Steps) -> Collection[int]:
    """The numbers of the triggers of which the event satisfies a term, each once, in order."""
    found = list(_satisfied(tree, event, steps))
    if len(found) <= 1:
        return found[0] if found else ()
    every: set[int] = set()
    for numbers in found:
        steps.take(len(numbers) // 16)
        every.update(numbers)
    return sorted(every)


def _satisfied(tree: Tree, event: Event, steps: Steps) -> Iterator[Numbers]:
    names = tree.get(event.type)
    if names is None:
        return
    found = list(names.find(event.name, steps))
    if event.name in DONE and (done := names.literal.get("done")) is not None:
        found.append(done)
    for slots in found:
        for context in event.contexts:
            if (extras := slots.get(context)) is not None:
                yield from extras.find(event.extra, steps)
        if (extras := slots.get("*")) is not None:
            yield from _any_context(extras, event, steps)
        if event.text is not None:
            if (labels := slots.get(_LABEL)) is not None:
                yield from labels.find(event.text, steps)
            if event.alone:
                if (labels := slots.get(_ALONE)) is not None:
                    yield from labels.find(event.text, steps)
                if event.unsplit is not None and (extras := slots.get(_ANY_ALONE)) is not None:
                    yield from extras.find_tails(event.unsplit, steps)
        if len(found) > 1:
            steps.take()


def _any_context(extras: Patterns[Numbers], event: Event, steps: Steps) -> Iterator[Numbers]:
    """The terms in any context that an event satisfies.

    Where the event was given as a text with a label, nobody knows where its extra begins. So the
    extra is compared with what follows each of its hyphens: `*-extra` matches nothing else.
    """
    if event.unsplit is None:
        yield from extras.find(event.extra, steps)
        return
    if TYPES[event.type] is None:
        yield from extras.find(None, steps)
    yield from extras.find_tails(event.unsplit, steps)


#: Events up to which a term is compared with one after the other.
FEW_EVENTS = 16
#: The most terms that are filed at once to be compared with many events. They take about 300 bytes
#: each while it lasts.
MAX_FILED = 16_384


def holding(
    triggers: Sequence[Trigger], events: Sequence[Event], steps: Steps
) -> Callable[[Term], bool]:
    """Whether one of the events satisfies a term, for the terms of these triggers.

    A request may name tens of thousands of events, and a site have as many terms. To compare each
    with each would take minutes, so many events are looked up among the terms.
    """
    if len(events) <= FEW_EVENTS:

        def holds(term: Term) -> bool:
            for event in events:
                steps.take(term.steps(event))
                if term.matches(event):
                    return True
            return False

        return holds
    true: set[Term] = set()
    filed: dict[Term, None] = {}
    for trigger in triggers:
        for term in terms(trigger):
            steps.take(4)
            filed[term] = None
            if len(filed) == MAX_FILED:
                true.update(_true(list(filed), events, steps))
                filed.clear()
    true.update(_true(list(filed), events, steps))
    return true.__contains__


def _true(terms: list[Term], events: Sequence[Event], steps: Steps) -> Iterator[Term]:
    """Those of the terms that one of the events satisfies."""
    tree = edit({}, ((number, None, term) for number, term in enumerate(terms)))
    steps.take(10 * len(terms))
    found: set[int] = set()
    for event in events:
        steps.take(4)
        for numbers in _satisfied(tree, event, steps):
            found.update(numbers)
    return (terms[number] for number in found)


# Edits -------------------------------------------------------------------------------------------

#: What an edit adds to the numbers filed under each pattern it touches, in rising order.
_Edits = dict[str, dict[str | None, dict[str, dict[str | None, list[int]]]]]


def edit(tree: Tree, changes: Iterable[Change]) -> Tree:
    """The tree after changes, which come in rising order. Only what they touch is copied."""
    edits: _Edits = {}
    gone: set[int] = set()
    for number, was, now in changes:
        if was is not None:
            gone.add(number)
            _gather(edits, was, None)
        if now is not None:
            _gather(edits, now, number)

    def edit_leaf(old: Numbers | None, new: list[int]) -> Numbers:
        if not old:
            return tuple(new)
        stay = [n for n in old if n not in gone]
        return tuple(sorted(stay + new)) if new else tuple(stay)

    def edit_slots(old: Slots | None, by_slot: dict[str, dict[str | None, list[int]]]) -> Slots:
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
    """The slots and patterns under which a term is filed."""
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
_EMPTY: Patterns[Any] = Patterns(_NONE, _NONE, (), None)


def _edit_patterns(
    old: Patterns[V] | None,
    edits: Mapping[str | None, E],
    edit: Callable[[V | None, E], V | None],
) -> Patterns[V]:
    literal: dict[str | None, E] = {}
    prefix: dict[str, E] = {}
    general: dict[str, E] = {}
    for pattern, change in edits.items():
        if pattern is None or "*" not in pattern:
            literal[pattern] = change
        elif pattern.index("*") == len(pattern) - 1:
            prefix[pattern[:-1]] = change
        else:
            general[pattern] = change
    old = old or _EMPTY
    prefixes = _edited(old.prefix, prefix, edit) if prefix else old.prefix
    return Patterns(
        _edited(old.literal, literal, edit) if literal else old.literal,
        prefixes,
        tuple({len(p) for p in prefixes}) if prefix else old.lengths,
        _edit_general(old.general, general, edit) if general else old.general,
    )


def _edit_general(
    old: _General[V] | None, edits: Mapping[str, E], edit: Callable[[V | None, E], V | None]
) -> _General[V] | None:
    plain: dict[_Shape, dict[str, E]] = {}
    deep: dict[_Shape, dict[str, dict[str, E]]] = {}
    for pattern, change in edits.items():
        parts = pattern.split("*")
        shape, key = _shape(parts)
        if len(parts) <= 3:
            plain.setdefault(shape, {})[pattern] = change
        else:
            deep.setdefault(shape, {}).setdefault(key, {})[pattern] = change

    def edit_group(old: Mapping[str, V] | None, group: dict[str, E]) -> Mapping[str, V]:
        return _edited(old or _NONE, group, edit)

    def edit_keys(
        old: Mapping[str, Mapping[str, V]] | None, keys: dict[str, dict[str, E]]
    ) -> Mapping[str, Mapping[str, V]]:
        return _edited(old or _NONE, keys, edit_group)

    new = _General(
        _edited(old.plain if old else _NONE, plain, edit_group),
        _edited(old.deep if old else _NONE, deep, edit_keys),
    )
    return new if new.plain or new.deep else None
