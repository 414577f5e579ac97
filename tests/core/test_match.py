"""The match structure finds what comparing every pattern finds, and can be stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import match
from agent.core.event import Event, glob
from agent.core.index import Index, ServedDirectory
from agent.core.patterns import Patterns, edit_patterns
from agent.core.steps import CHECKPOINT_STEPS, Steps
from agent.core.trigger import Trigger, missing, parse, terms
from agent.core.unit import Implementation, Registration, Unit
from support.cases import Case, cases
from support.indexes import events as seen

#: Few letters, so that near misses and several matches are common.
LETTERS = "ab-"


def patterns() -> st.SearchStrategy[list[str]]:
    pieces = st.text(LETTERS, max_size=3)
    one = st.lists(pieces, min_size=1, max_size=5).map("*".join)
    return st.lists(one.map(squeezed), max_size=12, unique=True)


def squeezed(pattern: str) -> str:
    while "**" in pattern:
        pattern = pattern.replace("**", "*")
    return pattern


def texts() -> st.SearchStrategy[str]:
    return st.text(LETTERS + "*", max_size=12)


def filed(patterns: list[str]) -> Patterns[tuple[int, ...]]:
    edits: dict[str | None, list[int]] = {p: [n] for n, p in enumerate(patterns)}
    return edit_patterns(None, edits, lambda _, new: tuple(new))


@pytest.fixture(params=[0, 4, 10**6], ids=["always tried", "as it is", "always probed"])
def cost(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns are always tried one after another, always probed for, or whatever is cheaper."""
    monkeypatch.setattr("agent.core.patterns._TRY", request.param)


@pytest.mark.usefixtures("cost")
@given(patterns(), texts())
def test_all_patterns_that_match_a_text_are_found_once(patterns: list[str], text: str) -> None:
    found = sorted(n for (n,) in filed(patterns).find(text, Steps()))
    assert found == [n for n, p in enumerate(patterns) if glob(p, text)]


@pytest.mark.usefixtures("cost")
@given(patterns(), texts())
def test_all_patterns_that_match_behind_a_hyphen_are_found_once(
    patterns: list[str], text: str
) -> None:
    tails = [text[at + 1 :] for at, c in enumerate(text) if c == "-"]
    found = sorted(n for (n,) in filed(patterns).find_tails(text, Steps()))
    assert found == [n for n, p in enumerate(patterns) if any(glob(p, t) for t in tails)]


@given(st.lists(patterns(), max_size=5), texts())
def test_edits_lead_to_what_one_building_does(steps: list[list[str]], text: str) -> None:
    old: Patterns[tuple[int, ...]] | None = None
    before: list[str] = []
    for now in steps:
        # A pattern that is edited to nothing is removed.
        edits: dict[str | None, tuple[int, ...]] = dict.fromkeys(before, ())
        edits |= {p: (n,) for n, p in enumerate(now)}
        old = edit_patterns(old, edits, lambda _, new: new)
        before = now
    built = filed(before)
    if old is None:
        return
    assert list(old.literal.items()) or not built.literal
    assert sorted(old.find(text, Steps())) == sorted(built.find(text, Steps()))
    assert (old.general is None) == (built.general is None)
    assert bool(old) == bool(built)


def index(triggers: list[str]) -> Index:
    lines = []
    for number, text in enumerate(triggers, 1):
        tree, _ = parse(text)
        assert tree is not None
        lines.append(Registration("a.pl", tree, text, number))
    unit = Unit(tuple(lines), {"a.pl": Implementation.of(b"")})
    return Index.of(1, [ServedDirectory.of("/d", unit, frozenset({"perl"}))])


class Stopped(Exception):
    pass


def stop_at(calls: int) -> tuple[Callable[[], None], list[int]]:
    """A checkpoint that raises at its n-th call, and a list with an entry for each call."""
    made: list[int] = []

    def checkpoint() -> None:
        made.append(len(made))
        if len(made) == calls:
            raise Stopped

    return checkpoint, made


HYPHENS = "done-work-" + "-".join("x" * 500)


@pytest.mark.parametrize(
    ("trigger", "event"),
    [
        ("done-work-*-x*y*{}", HYPHENS),
        ("done-work-*-*x*x*x*{}y", HYPHENS),
        ("done-work-self-*abcab*{}*c*", "done-work-self-" + "abc" * 20),
        ("*xyzxy*{}*x*-work-self-*", "xyzxyzxx-work-self-1"),
        ("done-work-self-*", "done-work-self-1"),
        ("done-work-self-* && done-job-self", "done-work-self-1"),
    ],
)
def test_a_costly_lookup_can_be_stopped_and_asked_again(trigger: str, event: str) -> None:
    count = 5 * CHECKPOINT_STEPS
    one = index([trigger.replace("{}", str(n)) for n in range(count)])
    asked = Event.from_text(event)
    checkpoint, made = stop_at(0)
    expected = one.lookup(asked, (), checkpoint)
    assert len(made) >= 3, "it did not ask often enough"
    for calls in (1, 2, len(made)):
        with pytest.raises(Stopped):
            one.lookup(asked, (), stop_at(calls)[0])
    assert one.lookup(asked) == expected
    with pytest.raises(Stopped):
        one.explain(asked, (), stop_at(len(made) + 2)[0])


@pytest.mark.parametrize("count", [match.FEW_EVENTS, 10 * match.FEW_EVENTS])
def test_what_is_missing_can_be_stopped(count: int) -> None:
    tree, _ = parse(" && ".join(f"done-job-x*{n}" for n in range(1000)))
    assert tree is not None
    happened = [Event.from_text(f"done-job-y{n}") for n in range(count)]
    with pytest.raises(Stopped):
        found_missing(tree, happened, Steps(stop_at(3)[0]))
    checkpoint, made = stop_at(0)
    assert found_missing(tree, happened, Steps(checkpoint)) == tree
    assert 5 <= len(made) <= 25


def found_missing(tree: Trigger, events: Sequence[Event], steps: Steps) -> Trigger | None:
    return missing(tree, match.holding([tree], events, steps))


@pytest.mark.parametrize("most", [2, match.MAX_FILED])
@given(cases())
def test_many_events_at_once_are_what_each_alone_is(most: int, one: Case) -> None:
    """Also if the terms are filed in parts."""
    if (asked := seen(one)) is None:
        return
    trees = [tree for tree, _ in map(parse, one.triggers) if tree is not None]
    holds = match.holding(trees, asked * (match.FEW_EVENTS + 1), Steps(), most)
    for tree in trees:
        for term in terms(tree):
            assert holds(term) == any(map(term.matches, asked)), term


def test_many_events_and_many_terms_are_not_compared_each_with_each() -> None:
    trees = [parse(f"done-job-x*{n} && done-job-y")[0] for n in range(2000)]
    took = []
    for count in (200, 2000):
        events = [Event.from_text(f"done-job-x-{n}-z") for n in range(count)]
        steps = Counted()
        match.holding([tree for tree in trees if tree is not None], events, steps)
        took.append(steps.taken)
    assert took[1] < 200 * 2000


def test_an_extra_that_ends_in_a_hyphen_and_a_star_is_no_label() -> None:
    """Of an event as text it is not known where its label ends. Wherever it does, an extra is
    required, unless it is `*`."""
    triggers = ["failed-job-*-7-*", "failed-job-*-7", "failed-job-*-*", "failed-job-la-7-*"]
    changes = [(number, None, parse(text)[0]) for number, text in enumerate(triggers)]
    tree = match.edit({}, changes)
    for text, expected in (
        ("failed-job-la-7", ["failed-job-*-7", "failed-job-*-*", "failed-job-la-7-*"]),
        ("failed-job-la-7-7", ["failed-job-*-7-*", *triggers[1:]]),
        ("failed-job-la", ["failed-job-*-*"]),
        ("failed-job-self-7", ["failed-job-*-7", "failed-job-*-*"]),
        ("failed-job-self-7-8", ["failed-job-*-7-*", "failed-job-*-*"]),
    ):
        event = Event.from_text(text)
        found = [triggers[number] for number in match.satisfied(tree, event, Steps(None))]
        assert found == expected, text
        assert found == [str(t) for _, _, t in changes if t is not None and t.matches(event)]  # type: ignore[union-attr]


#: A trigger with a number in it, and an event that nearly matches all of them and matches few.
CLOSE = [
    ("done-work-*-x*{}", HYPHENS),
    ("done-work-*-x*{}*", HYPHENS),
    ("done-work-*-*{}", HYPHENS),
    ("done-work-x*{}", "done-work-x-label-7"),
    ("done-work-self-x*{}", "done-work-self-x7"),
    ("done-work-self-*{}*", "done-work-self-x77y"),
    ("done-work-self-x*{}*y*z", "done-work-self-x77yz"),
    ("*{}*-work-self-1", "d77-work-self-1"),
]


@pytest.mark.parametrize(("trigger", "event"), CLOSE)
def test_a_lookup_costs_by_the_event_and_not_by_the_number_of_patterns(
    trigger: str, event: str
) -> None:
    asked = Event.from_text(event)
    took = []
    for count in (1_000, 10_000):
        steps = Counted()
        found = match.satisfied(index_tree(trigger, count), asked, steps)
        took.append(steps.taken + len(found))
    assert took[1] < 2 * took[0]


class Counted(Steps):
    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def take(self, count: int = 1) -> None:
        self.taken += count


def index_tree(trigger: str, count: int) -> match.Tree:
    trees = (parse(trigger.replace("{}", str(n)))[0] for n in range(count))
    return match.edit({}, ((n, None, tree) for n, tree in zip(itertools.count(), trees)))
