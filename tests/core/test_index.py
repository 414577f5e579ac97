"""The index gives the results of the oracle, however it was built."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.event import Event, is_id
from agent.core.index import Index, ServedDirectory
from agent.core.term import Term
from agent.core.trigger import parse, terms
from agent.core.unit import Implementation, Registration, Unit
from support import oracle
from support.cases import Case, case, cases
from support.indexes import events, served, unit

#: The cases of the mass comparison, in as many parts as keep one test short. A short run has the
#: first twentieth of the cases of each part.
PARTS, CASES = 10, 10_000
THOROUGH = settings.get_current_profile_name() == "thorough"


def answer(index: Index, question: list[Event]) -> list[tuple[str, str | None]]:
    """The result of a lookup in the form of the oracle: a verdict for each callback."""
    got = index.lookup(question[0], question[1:])
    verdicts: dict[str, tuple[str, str | None]] = {c.path: ("fires", None) for c in got.callbacks}
    for callback, missing in got.partial:
        verdicts[callback.path] = ("partial", str(missing))
    assert [c.path for c in got.callbacks] == [
        c.path for c in index.callbacks() if verdicts.get(c.path, ("",))[0] == "fires"
    ]
    return [verdicts.get(c.path, ("no", None)) for c in index.callbacks()]


def expected(case: Case) -> list[tuple[str, str | None]] | None:
    try:
        return oracle.answer(case.triggers, case.event, case.owner, case.occurred)
    except ValueError:
        return None


def compare(case: Case) -> None:
    should = expected(case)
    question = events(case)
    assert (question is None) == (should is None), case
    if question is None:
        return
    assert answer(Index.of(1, [served(case.triggers)]), question) == should, case


@pytest.mark.parametrize("part", range(PARTS))
def test_answers_as_the_oracle_does(part: int) -> None:
    r = random.Random(f"index {part}")
    for _ in range(CASES if THOROUGH else CASES // 20):
        compare(case(r))


@given(cases())
def test_answers_as_the_oracle_does_found_by_hypothesis(one: Case) -> None:
    compare(one)


def test_an_index_that_grew_by_edits_answers_as_one_built_at_once() -> None:
    r = random.Random("edits")
    directories: list[list[str]] = [[] for _ in range(4)]
    index = Index.of(1, [served(t, f"/{i}") for i, t in enumerate(directories)])
    kept = []
    for step in range(5_000 if THOROUGH else 700):
        one = case(r)
        changed = {r.randrange(4): one.triggers}
        if r.random() < 0.2:
            changed[r.randrange(4)] = []
        for place, triggers in changed.items():
            directories[place] = triggers
        index = index.replace(step + 2, {p: served(t, f"/{p}") for p, t in changed.items()})
        built = Index.of(step + 2, [served(t, f"/{i}") for i, t in enumerate(directories)])
        assert index.digest == built.digest
        assert shape(index) == shape(built)
        question = events(one)
        if question is None:
            continue
        assert answer(index, question) == answer(built, question)
        if step % 100 == 0:
            kept.append((index, question, answer(index, question)))
    for old, question, before in kept:
        assert answer(old, question) == before, "an edit changed an index that somebody holds"


def shape(index: Index) -> Any:
    """The tree as plain values, equal for equal trees."""
    return {
        kind: {
            name: {slot: dict(leaves(patterns)) for slot, patterns in slots.items()}
            for name, slots in leaves(names)
        }
        for kind, names in index._tree.items()
    }


def leaves(patterns: Any) -> list[Any]:
    return [
        *((f"literal {p}", n) for p, n in patterns.literal.items()),
        *((f"prefix {p}", n) for p, n in patterns.prefix.items()),
        *((f"general {p}", n) for p, n in (patterns.general.items() if patterns.general else ())),
    ]


@given(cases())
def test_canonical_text_parses_to_the_same_tree(one: Case) -> None:
    for text in one.triggers:
        tree, _ = parse(text)
        assert tree is not None
        again, problems = parse(str(tree))
        assert again == tree, problems
        assert str(again) == str(tree)
        assert str(tree) == oracle.canonical(oracle.read(text))


@given(cases())
def test_explain_agrees_with_lookup(one: Case) -> None:
    question = events(one)
    if question is None:
        return
    index = Index.of(1, [served(one.triggers)])
    verdicts = answer(index, question)
    explained = {c.path: verdict for c, verdict, _ in index.explain(question[0], question[1:])}
    for callback, (verdict, _) in zip(index.callbacks(), verdicts, strict=True):
        alike = any(t.type == question[0].type for t in terms(callback.registration.trigger))
        assert explained.get(callback.path, "no") == verdict
        assert alike or callback.path not in explained
    assert all(reason for _, _, reason in index.explain(question[0], question[1:]))


@pytest.mark.parametrize(
    ("trigger", "event", "owner", "reason"),
    [
        (
            "done-job-parent",
            {"name": "done", "type": "job", "job": {"id": 1}},
            {"id": 5, "pid": 1},
            "the owner's pid counts as not given, because it is not above 1",
        ),
        (
            "done-job-parent",
            "done-job-0",
            {"id": 5, "pid": 0},
            "the owner's pid counts as not given, because it is not above 1",
        ),
        (
            "done-job-render",
            {"name": "done", "type": "job", "job": {"id": 7, "label": "render", "pgrp": 0}},
            {"id": 5, "pgrp": 0},
            "a pgrp of 0 counts as not given",
        ),
    ],
)
def test_a_reason_says_that_a_field_counts_as_not_given(
    trigger: str, event: Any, owner: dict[str, Any], reason: str
) -> None:
    index = Index.of(1, [served([trigger])])
    for low, expected in ((owner, True), ({"id": 5}, False)):
        question = events(Case([trigger], event, low, []))
        assert question is not None
        ((_, verdict, why),) = index.explain(question[0])
        assert verdict == "no"
        assert why.endswith(f"; {reason}") is expected


@given(
    st.lists(st.tuples(st.integers(0, 2), st.text(), st.integers(1, 1 << 18)), min_size=1),
    st.text(),
)
def test_the_digest_is_that_of_all_fields_as_json(
    lines: list[tuple[int, str, int]], directory: str
) -> None:
    files = {0: 'a"b.py', 1: "c.pl", 2: "\u00fc \ud800.qcb"}
    code = {name: Implementation.of(name.encode("utf-8", "replace")) for name in files.values()}
    term = Term("done-job-self", "done", "job", "self")
    unit = Unit(tuple(Registration(files[f], term, text, n) for f, text, n in lines * 9), code)
    made = ServedDirectory.of(directory, unit, frozenset({"perl", "qube"}))
    fields = [
        (c.registration.file, c.path, directory, c.language, c.registration.text,
         c.registration.line, c.implementation.digest, c.enabled)
        for c in made.callbacks
    ]  # fmt: skip
    pieces = (json.dumps(fields[at : at + 64]) for at in range(0, len(fields), 64))
    assert made.digest == "sha256:" + hashlib.sha256("".join(pieces).encode()).hexdigest()


def test_the_digest_names_what_is_served_and_nothing_else() -> None:
    first, second = served(["done-job-self"], "/a"), served(["done-job-x"], "/b")
    digest = Index.of(1, [first, second]).digest
    assert digest == Index.of(7, [served([], "/empty"), first, second]).digest
    assert digest != Index.of(1, [second, first]).digest
    assert digest != Index.of(1, [first]).digest
    off = ServedDirectory.of("/a", unit(["done-job-self"]), frozenset())
    assert digest != Index.of(1, [off, second]).digest


@given(cases(), st.lists(st.text(min_size=1), max_size=3), st.lists(st.integers(0, 9)))
def test_events_that_are_alike_have_the_same_result(
    one: Case, extras: list[str], numbers: list[int]
) -> None:
    question = events(one)
    if not question:
        return
    index = Index.of(1, [served(one.triggers)])
    event = question[0]
    alike = index.alike(event, labelled=event.text is not None)
    if alike is None:
        return
    named = [term for c in index.callbacks() for term in terms(c.registration.trigger)]
    # Those of all terms, pieces of them, and any.
    every: list[str | None] = [None]
    if event.extra is not None:
        every = [*extras, *(t.extra.replace("*", "x") for t in named if t.extra), event.extra, "7"]
    ids = [int(t.context) for t in named if t.context and is_id(t.context) and len(t.context) < 99]
    ours = {context for context in event.contexts if is_id(context)}
    results = [
        index.lookup(event._replace(extra=extra or None, contexts=contexts))
        for extra in every
        for number in [*numbers, *ids, None]
        for contexts in [event.contexts - ours | ({str(number)} if number is not None else set())]
        if not alike.singles_out(extra or None, number)
    ]
    assert all(result == results[0] for result in results)


def test_which_events_are_singled_out() -> None:
    triggers = [
        *("done-work-self-*", "done-work-self-7 && done-work-12-x*", "done-work-parent-8"),
        *("failed-work-comp-*", "running-work-*-frame*"),
    ]
    index = Index.of(1, [served(triggers)])

    def alike(
        event: str, labelled: bool = False
    ) -> Callable[[str | None, int | None], bool] | None:
        found = index.alike(Event.from_text(event), labelled)
        return None if found is None else found.singles_out

    done = alike("done-work-self-1")
    assert done is not None
    assert [done("7", 1), done("8", 1), done("1", 12), done("8", 120)] == [True, False, True, False]
    parent = alike("complete-work-parent-1")
    assert parent is not None
    assert [parent("8", 1), parent("7", 1)] == [True, False]
    assert alike("waiting-work-self-1") is not None
    # A pattern of the extra, a label that a term requires, a label that the event has.
    assert alike("running-work-self-1") is None
    assert alike("done-work-12-1") is None
    assert alike("failed-work-self-1", labelled=True) is None
    assert alike("failed-work-self-1") is not None
    assert alike("done-work-label-1") is None
