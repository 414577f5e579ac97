"""The match structure: which of many triggers have a term that an event satisfies.

Each term of each trigger is filed in a tree by what it requires of an event: its type, then its
name, then its context, then its extra (or, for a term with a label, the label's text). An event
is looked up level by level; names, extras and labels are sets of patterns (`agent.core.patterns`).
So the cost of a lookup depends on the length of the event and on the number of results, not on the
number of triggers.

**Worst case.** What remains linear in the number of patterns: many patterns with as many different
lengths of their parts; patterns with three or more `*` of which the ends and the longest part all
fit; and, for an event that was given as text with a label (every hyphen may be the label's end),
patterns with two `*` and more against hundreds of hyphens. Then each pattern of the event's type,
name and context is tried once: for 100,000 patterns and an event of 1 KiB this takes about 0.15 s,
and 0.7 s for patterns that are chosen so that comparing them is slow. Each such loop counts its
steps, so that the caller can stop it: see `agent.core.steps`.

A tree is never changed. `edit` makes a new one that shares with the old all that the changes do
not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from agent.core.event import DONE, TYPES, Event, is_id
from agent.core.patterns import Patterns, edit_patterns, edited, patterns_of
from agent.core.steps import Steps
from agent.core.term import Term
from agent.core.trigger import Trigger, terms

#: The numbers of triggers, in rising order.
Numbers = tuple[int, ...]
#: A trigger's number, its tree before and its tree now; None for no trigger.
Change = tuple[int, Trigger | None, Trigger | None]

# The slots beside the contexts, which are `self`, `parent`, ids and `*`. Those of a label alone
# hold the part of a pattern before the `-*` at its end.
_LABEL = "label"
_ALONE = "label alone"
_LABELS = frozenset({_LABEL, _ALONE})

#: What is filed under one type and name: by context or slot, the patterns of the extra or label.
Slots = dict[str, Patterns[Numbers]]
#: By type, the patterns of names.
Tree = dict[str, Patterns[Slots]]


def satisfied(tree: Tree, event: Event, steps: Steps) -> Collection[int]:
    """The numbers of the triggers with a term that the event satisfies, each once, in order."""
    found = list(_satisfied(tree, event, steps))
    if len(found) <= 1:
        return found[0] if found else ()
    merged: set[int] = set()
    for numbers in found:
        steps.take(len(numbers) // 16)
        merged.update(numbers)
    return sorted(merged)


def _satisfied(tree: Tree, event: Event, steps: Steps) -> Iterator[Numbers]:
    found = _slots(tree, event, steps)
    for slots in found:
        for context in event.contexts:
            if (extras := slots.get(context)) is not None:
                yield from extras.find(event.extra, steps)
        if (extras := slots.get("*")) is not None:
            yield from _any_context(extras, event, steps)
        if event.text is not None:
            if (labels := slots.get(_LABEL)) is not None:
                yield from labels.find(event.text, steps)
            if event.alone and (labels := slots.get(_ALONE)) is not None:
                yield from labels.find(event.text, steps)
        if len(found) > 1:
            steps.take()


def _slots(tree: Tree, event: Event, steps: Steps) -> list[Slots]:
    """What is filed under the event's type and name."""
    names = tree.get(event.type)
    if names is None:
        return []
    found = list(names.find(event.name, steps))
    if event.name in DONE and (done := names.literal.get("done")) is not None:
        found.append(done)
    return found


def id_counts(tree: Tree, event: Event, steps: Steps) -> Callable[[int], bool]:
    """Whether the event names a job id, or a term of its type and name requires it. Events that
    differ only in other job ids satisfy the same terms."""
    named: list[Collection[str]] = [c for c in _slots(tree, event, steps) if _may_name_ids(c)]
    if any(map(is_id, event.contexts)):
        named.append(event.contexts)
    if len(named) > _FEW_CONTEXTS:
        together: set[str] = set()
        for contexts in named:
            steps.take(1 + len(contexts))
            together.update(contexts)
        named = [together]

    def counts(number: int) -> bool:
        text = str(number)
        return any(text in contexts for contexts in named)

    return counts if named else lambda _: False


def _may_name_ids(contexts: Collection[str]) -> bool:
    return len(contexts) > _FEW_CONTEXTS or any(map(is_id, contexts))


class Alike(NamedTuple):
    """What singles out events among others like them: of the same type, name, `self` and `parent`,
    either all with an extra or all without.

    All of these that are not singled out satisfy the same terms.
    """

    #: The extras that terms require.
    extras: tuple[Container[str | None], ...]
    #: The contexts that terms require, of which only job ids are to be looked for.
    contexts: tuple[Container[str], ...]

    def singles_out(self, extra: str | None, number: int | None) -> bool:
        """Whether a term requires just this extra, or this job id."""
        for extras in self.extras:
            if extra in extras:
                return True
        if number is None or not self.contexts:
            return False
        return any(str(number) in contexts for contexts in self.contexts)


#: The most contexts of one type and name that are searched for job ids. Where there are more, some
#: are job ids.
_FEW_CONTEXTS = 8


def alike(tree: Tree, event: Event, labelled: bool, steps: Steps) -> Alike | None:
    """What singles out events among those like this one, which may be singled out itself.

    `labelled` is whether some of them may have a label that counts. None if that cannot be said: a
    term requires a pattern of the extra, or a label that they may have.
    """
    extras, contexts = [], []
    for slots in _slots(tree, event, steps):
        if event.unsplit is not None or (labelled and not _LABELS.isdisjoint(slots)):
            return None
        if _may_name_ids(slots):
            contexts.append(slots)
        for context in (*event.contexts, "*"):
            patterns = slots.get(context)
            if patterns is None or event.extra is None:
                continue
            if not patterns.only_literal():
                return None
            if len(patterns.literal) > (None in patterns.literal):
                extras.append(patterns.literal)
    return Alike(tuple(extras), tuple(contexts))


def _any_context(extras: Patterns[Numbers], event: Event, steps: Steps) -> Iterator[Numbers]:
    """The numbers of the terms in any context that an event satisfies.

    If the event was given as text with a label, the start of its extra is not known. So a term's
    extra is compared with the rest of the text after each hyphen, as the pattern `*-extra` would be
    with the text.
    """
    if event.unsplit is None:
        yield from extras.find(event.extra, steps)
        return
    if TYPES[event.type].extra is None:
        yield from extras.find(None, steps)
    yield from extras.find_tails(event.unsplit, steps)


def satisfies_term(trigger: Trigger, event: Event, steps: Steps) -> bool:
    """Whether the event satisfies a term of one trigger."""
    for term in terms(trigger):
        steps.take(term.steps(event))
        if term.matches(event):
            return True
    return False


#: Up to this many events, each term is compared with one event after the other.
FEW_EVENTS = 16
#: The most terms that are filed at once to be compared with many events. A term takes about 300
#: bytes while it is filed.
MAX_FILED = 16_384


def holding(
    triggers: Sequence[Trigger],
    events: Sequence[Event],
    steps: Steps,
    max_filed: int = MAX_FILED,
) -> Callable[[Term], bool]:
    """A function that says whether one of the events satisfies a term of these triggers.

    A request may name tens of thousands of events, and a site may have as many terms. Comparing
    each with each would take minutes, so many events are looked up in a tree of the terms.
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
            if len(filed) == max_filed:
                true.update(_true(list(filed), events, steps))
                filed.clear()
    true.update(_true(list(filed), events, steps))
    return true.__contains__


def _true(terms: list[Term], events: Sequence[Event], steps: Steps) -> Iterator[Term]:
    """The terms that one of the events satisfies."""
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
_Edits = dict[str, dict[str | None, dict[str, dict[str | None, Numbers]]]]


def edit(tree: Tree, changes: Iterable[Change]) -> Tree:
    """The tree after changes, which are in rising order. Only what they touch is copied."""
    edits: _Edits = {}
    more: _More = {}
    removed: set[int] = set()
    for number, was, now in changes:
        if was is not None:
            removed.add(number)
            _gather(edits, more, was, ())
        if now is not None:
            _gather(edits, more, now, (number,))
    for patterns, pattern, numbers in more.values():
        patterns[pattern] = tuple(numbers)

    def edit_leaf(old: Numbers | None, new: Numbers) -> Numbers:
        if not old:
            return new
        stay = [n for n in old if n not in removed]
        return tuple(sorted((*stay, *new))) if new else tuple(stay)

    def edit_slot(
        old: Patterns[Numbers] | None, by_pattern: dict[str | None, Numbers]
    ) -> Patterns[Numbers]:
        # Nothing was removed where nothing was filed.
        return edit_patterns(old, by_pattern, edit_leaf) if old else patterns_of(by_pattern)

    def edit_slots(old: Slots | None, by_slot: dict[str, dict[str | None, Numbers]]) -> Slots:
        return edited(old or {}, by_slot, edit_slot)

    return edited(tree, edits, lambda names, by_name: edit_patterns(names, by_name, edit_slots))


#: Nearly every pattern belongs to one trigger. This has the others: those to which an edit adds
#: several numbers. For each: the dictionary that it is in, and the numbers. The key identifies
#: both.
_More = dict[tuple[int, str | None], tuple[dict[str | None, Numbers], str | None, list[int]]]


def _gather(edits: _Edits, more: _More, tree: Trigger, added: Numbers) -> None:
    """Record each pattern that a trigger's terms touch, and the number to add there, if any."""
    for term in terms(tree):
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
            numbers = patterns.setdefault(pattern, added)
            if numbers is added or not added:
                continue
            if not numbers:
                patterns[pattern] = added
                continue
            key = id(patterns), pattern
            _, _, several = more.setdefault(key, (patterns, pattern, [*numbers]))
            if several[-1] != added[0]:
                several += added


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
    return ((context, extra),)
