"""The oracle agrees with the examples of the rules, so the index can be compared with it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given

from support.cases import Case, Event, Owner, case, cases, events, owners, texts, triggers
from support.oracle import Term, answer, canonical, read


def one(
    trigger: str, event: Event, owner: Owner | None = None, *occurred: Event
) -> tuple[str, str | None]:
    return answer([trigger], event, owner, occurred)[0]


def fires(trigger: str, event: Event, owner: Owner | None = None, *occurred: Event) -> bool:
    return one(trigger, event, owner, *occurred) == ("fires", None)


def job_event(name: str, kind: str = "job", extra: str | None = None, **job: Any) -> Event:
    return {"name": name, "type": kind, "extra": extra, "job": job}


REASON = "expected|unknown|empty|without any owner"

FAILED = {
    "name": "failed",
    "type": "work",
    "extra": "7",
    "job": {"id": 1234, "label": "render", "pid": 1200, "pgrp": 1200},
}

# (trigger, an event that it fires for by itself)
FIRES = [
    ("failed-job-self-*", "failed-job-self"),
    ("done-job-self", "done-job-self"),
    ("done-work-self-*", "done-work-self-1-10"),
    ("complete-job-self", "complete-job-self"),
    ("running-job-19294", "running-job-19294"),
    ("complete-subjob-self-2", "complete-subjob-self-2"),
    ("done-job-hello", "done-job-hello"),
    ("complete-work-self-Initialize", "complete-work-self-Initialize"),
    ("dummy-time-self-834567890", "dummy-time-self-834567890"),
    ("dummy-repeat-self-834567890-3600", "dummy-repeat-self-834567890-3600"),
    ("timeout-subjob-self-*", "timeout-subjob-self-3"),
    ("timeout-subjob-self-\\*", "timeout-subjob-self-3"),
    ("globaltime-10000", "dummy-globaltime-self-10000"),
    ("globaltime-10000", "dummy-globaltime-*-10000"),
    ("globaltime-1*", "dummy-globaltime-self-10000"),
    ("globalrepeat-834567890-3600", "dummy-globalrepeat-self-834567890-3600"),
    ("done-work-self-Segment: 1-100", "done-work-self-Segment: 1-100"),
    ("done-job-job A", "done-job-job A"),
    ("done-work-my-label-1-10", "done-work-my-label-1-10"),
    ("done-job-s*", "done-job-shot"),
    ("done-job-hello-*", "done-job-hello"),
    ("done-host-*-render0*", "done-host-self-render07"),
    ("done-host-*-render0*", "done-host-any-label-render07"),
    ("done-job-self", "complete-job-self"),
    ("done-job-self", "killed-job-self"),
    ("done-job-self", "failed-job-self"),
    ("d*-job-self", "dummy-job-self"),
    ("done-job-007", "done-job-7"),
    ("done-job-7", "done-job-007"),
    ("done-job-*", "done-job-parent"),
    ("done-job-*", "done-job-my-label"),
    ("done-job-*-*", "done-job-hello"),
    ("done-work-*-7", "done-work-my-label-7"),
    ("my own name-job-self", "my own name-job-self"),
    ("done-job-a**b", "done-job-ab"),
    ("done-work-**-7", "done-work-self-7"),
    ("done-job-a&b|c", "done-job-a&b|c"),
    ("done-job-*", "done-job-a && (b) or c"),
    ("done-job-self*", "done-job-self "),
    ("done-job-job--a", "done-job-job--a"),
    ("done-job--a", "done-job--a"),
    ("done-job-" + "1" * 5000, "done-job-0" + "1" * 5000),
]

# (trigger, an event that does not even satisfy a term of it)
NEVER = [
    ("done-job-s*", "done-job-self"),
    ("done-work-self", "done-work-self-7"),
    ("done-work-*", "done-work-a-7"),
    ("complete-job-self", "done-job-self"),
    ("failed-job-self", "done-job-self"),
    ("d*-job-self", "complete-job-self"),
    ("done-job-self", "running-job-self"),
    ("done-job-self", "done-job-self-7"),
    ("done-job-Self", "done-job-self"),
    ("Done-job-self", "done-job-self"),
    ("done-job-self", "done-job-parent"),
    ("done-job-self-7", "done-job-self"),
    ("done-work-hello-7-*", "done-work-hello-7"),
    ("done-subjob-self-007", "done-subjob-self-7"),
    ("done-job-1*", "done-job-12"),
    ("done-job-hello", "done-job-*"),
    ("done-job-٣", "done-job-3"),
    ("done-global-self", "done-job-self"),
]


@pytest.mark.parametrize(("trigger", "event"), FIRES)
def test_a_trigger_fires_for_its_event(trigger: str, event: str) -> None:
    assert one(trigger, event) == ("fires", None)


@pytest.mark.parametrize(("trigger", "event"), NEVER)
def test_a_trigger_does_not_fire_for_another_event(trigger: str, event: str) -> None:
    assert one(trigger, event) == ("no", None)


@pytest.mark.parametrize(
    "trigger",
    [
        "",
        " ",
        "()",
        "done-job-",
        "done--self",
        "-job-self",
        "done-job-self-",
        "done-job-*-",
        "done-work-12-",
        "done-job",
        "done",
        "globaltime-",
        "and done-job-self",
        "done-job-self or",
        "done-job-self &&",
        "done-job-self && and done-job-7",
        "(done-job-self",
        "done-job-self)",
        "(done-job-self) (done-job-7)",
        "done-job-self (done-job-7)",
        "done-Job-self",
        "done-j*-self",
        "done-*-self",
        "link-complete-job-1234,link-complete-job-1235",
    ],
)
def test_what_is_no_trigger_is_refused(trigger: str) -> None:
    with pytest.raises(ValueError, match=REASON):
        read(trigger)


@pytest.mark.parametrize(
    ("trigger", "text"),
    [
        (" done-job-self\t", "done-job-self"),
        ("done-job-007", "done-job-007"),
        ("done-work-self-\\*", "done-work-self-*"),
        ("globaltime-10000", "*-globaltime-*-10000"),
        ("globaltime-job-self", "*-globaltime-*-job-self"),
        ("globalrepeat-834567890-3600", "*-globalrepeat-*-834567890-3600"),
        ("a-job-self and b-job-self", "a-job-self && b-job-self"),
        ("a-job-self Or b-job-self", "a-job-self || b-job-self"),
        ("(a-job-self)and(b-job-self)", "a-job-self && b-job-self"),
        ("a-job-self&&b-job-self||c-job-x y", "(a-job-self && b-job-self) || c-job-x y"),
        ("((a-job-self))&&(b-job-7||c-job-7)", "a-job-self && (b-job-7 || c-job-7)"),
        ("a-job-1 && (b-job-1 && c-job-1)", "a-job-1 && b-job-1 && c-job-1"),
        ("(a-job-1 || b-job-1) || c-job-1", "a-job-1 || b-job-1 || c-job-1"),
        ("done-job-sand and done-job-or-gate", "done-job-sand && done-job-or-gate"),
        (
            "(complete-work-ribgen-1 && complete-work-render-1) || complete-work-composite-1",
            "(complete-work-ribgen-1 && complete-work-render-1) || complete-work-composite-1",
        ),
    ],
)
def test_the_canonical_text(trigger: str, text: str) -> None:
    assert canonical(read(trigger)) == text
    assert canonical(read(text)) == text


def test_a_third_field_is_a_context_or_all_the_rest_is_one_text() -> None:
    assert read("done-work-my-label-1-10") == Term(
        "done-work-my-label-1-10", "done", "work", None, None, "my-label-1-10"
    )
    assert read("done-work-self-1-10") == Term(
        "done-work-self-1-10", "done", "work", "self", "1-10", None
    )


A, B, C, D = (f"done-job-{number}" for number in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("trigger", "missing"),
    [
        (f"({A} && {B}) || ({C} && {D})", f"{B} || ({C} && {D})"),
        (f"({A} || {B}) && {C}", C),
        (f"{A} && {B} && {C}", f"{B} && {C}"),
        (f"{A} && ({B} || {C})", f"{B} || {C}"),
        (f"({A} && ({B} || {C})) || {D} && {B}", f"{B} || {C} || ({D} && {B})"),
        ("complete-job-1 && complete-job-parent", "complete-job-parent"),
    ],
)
def test_what_is_missing_after_the_first(trigger: str, missing: str) -> None:
    assert one(trigger, "complete-job-1") == ("partial", missing)


def test_what_occurred_completes_an_expression_but_fires_nothing_by_itself() -> None:
    both = "complete-job-self && complete-job-parent"
    assert one(both, "complete-job-self") == ("partial", "complete-job-parent")
    assert fires(both, "complete-job-self", None, "complete-job-parent")
    assert one(both, "running-job-self", None, "complete-job-self", "complete-job-parent") == (
        "no",
        None,
    )
    assert fires(
        "running-job-self && done-job-parent", "running-job-self", None, "killed-job-parent"
    )


def test_contexts_of_an_object_event() -> None:
    owner = {"id": 1300, "label": "comp", "pid": 1234, "pgrp": 1200}
    assert fires("failed-work-parent-7", FAILED, owner)
    assert fires("failed-work-1234-7", FAILED, owner)
    assert fires("failed-work-render-7", FAILED, owner)
    assert fires("failed-work-render-*", FAILED, owner)
    assert fires("done-work-*-7", FAILED, owner)
    assert not fires("failed-work-self-7", FAILED, owner)
    assert fires("failed-work-self-7", FAILED, {"id": 1234})
    assert not fires("failed-work-render-7", FAILED, {"id": 1234})
    assert not fires("failed-work-render-7", FAILED, {"id": 1234, "pgrp": 1201})


def test_without_an_owner_it_is_the_events_own_job() -> None:
    assert fires("failed-work-self-7", FAILED)
    assert fires("failed-work-render-7", FAILED)
    assert not fires("failed-work-parent-7", FAILED)
    assert fires("done-job-self", job_event("done"))
    assert not fires("done-job-a", job_event("done", label="a"))
    assert fires("done-job-self && done-job-parent", job_event("done", pid=5), None, "done-job-5")


def test_in_an_empty_owner_nothing_matches() -> None:
    assert not fires("failed-work-self-7", FAILED, {})
    assert not fires("failed-work-render-7", FAILED, {})
    assert not fires("done-job-self", job_event("done"), {})
    assert fires("failed-work-1234-7", FAILED, {})
    assert fires("failed-work-self-7", "failed-work-self-7", {})


@pytest.mark.parametrize("label", ["self", "parent", "12", "012"])
def test_nobody_poses_as_another_job(label: str) -> None:
    event = job_event("done", id=5, label=label, pgrp=1)
    owner = {"id": 7, "pid": 12, "pgrp": 1}
    for trigger in (f"done-job-{label}", "done-job-s*", "done-job-*2*", "done-job-p*"):
        assert one(trigger, event, owner) == ("no", None)
    assert fires("done-job-*", event, owner)


def test_empty_and_null_count_as_not_given() -> None:
    event = job_event("done", extra="", id=1, label="", pgrp=1)
    assert fires("done-job-self", event)
    assert one("done-job-**x", event) == ("no", None)
    assert fires("done-job-self", job_event("done", extra=None, id=1, label=None))


def test_a_label_and_an_extra_are_compared_in_one() -> None:
    event = job_event("done", "work", "1-10", id=1, label="my-label", pgrp=1)
    assert fires("done-work-my-label-1-10", event)
    assert fires("done-work-my-*-10", event)
    assert not fires("done-work-my-label", event)
    assert fires("done-job-my-label-*", job_event("done", id=1, label="my-label", pgrp=1))


def test_the_context_of_a_string_event_is_also_what_the_owner_says() -> None:
    owner = {"id": 12, "pid": 7}
    assert fires("done-job-12", "done-job-self", owner)
    assert fires("done-job-self", "done-job-012", owner)
    assert fires("done-job-7", "done-job-parent", owner)
    assert fires("done-job-parent", "done-job-7", owner)
    assert not fires("done-job-self", "done-job-parent", owner)
    assert fires("done-job-parent", "done-job-self", {"id": 7, "pid": 7})
    assert not fires("done-job-self", "done-job-12")


def test_a_low_pid_and_a_pgrp_of_0_count_as_not_given() -> None:
    for pid in (0, 1):
        event = job_event("done", id=pid)
        assert not fires("done-job-parent", event, {"id": 5, "pid": pid})
        assert fires(f"done-job-{pid}", event, {"id": 5, "pid": pid})
        assert not fires("done-job-parent", f"done-job-{pid}", {"pid": pid})
        assert not fires(f"done-job-{pid}", "done-job-parent", {"pid": pid})
        assert fires("done-job-parent", "done-job-parent", {"pid": pid})
    assert fires("done-job-parent", job_event("done", id=2), {"pid": 2})
    assert fires("done-job-self", job_event("done", id=1), {"id": 1})
    grouped = job_event("done", id=5, label="a", pgrp=0)
    assert not fires("done-job-a", grouped, {"id": 6, "pgrp": 0})
    assert not fires("done-job-a", grouped)
    assert fires("done-job-a", job_event("done", id=5, label="a", pgrp=1), {"id": 6, "pgrp": 1})


REFUSED: list[Event] = [
    "done-job",
    "done-job-",
    "done--self",
    "done-job-self-",
    "done-work-self",
    "done-work-hello",
    "done-Job-self",
    "globaltime-10000",
    "link-complete-job-1",
    {"name": "done", "type": "work", "job": {"id": 1}},
    {"name": "done", "type": "work", "extra": "", "job": {"id": 1}},
    {"name": "done", "type": "Job", "job": {"id": 1}},
    {"name": "", "type": "job", "job": {"id": 1}},
    {"name": "a-b", "type": "job", "job": {"id": 1}},
]


@pytest.mark.parametrize("event", REFUSED)
def test_an_event_that_is_none_is_refused(event: Event) -> None:
    with pytest.raises(ValueError, match=REASON):
        answer([], event, {"id": 1}, [])
    with pytest.raises(ValueError, match=REASON):
        answer([], "done-job-self", {"id": 1}, [event])


def test_an_object_that_occurred_needs_an_owner() -> None:
    occurred = job_event("done", id=5)
    with pytest.raises(ValueError, match=REASON):
        answer([], "done-job-self", None, [occurred])
    assert answer([], "done-job-self", {}, [occurred]) == []
    assert answer([], job_event("done", id=5), None, [occurred]) == []


# The generator


def test_mass_cases_are_of_every_kind() -> None:
    random, verdicts = Random(20140120), Counter[str]()
    for _ in range(2000):
        made = case(random)
        for trigger in made.triggers:
            tree = read(trigger)
            assert read(canonical(tree)) == tree
        try:
            verdicts.update(verdict for verdict, _ in answer(*made))
        except ValueError:
            verdicts["refused"] += 1
    asked = verdicts["fires"] + verdicts["partial"] + verdicts["no"]
    assert 20 < verdicts["refused"] < 200
    assert verdicts["fires"] > asked / 5
    assert verdicts["partial"] > asked / 10
    assert verdicts["no"] > asked / 5


def test_a_case_is_made_from_its_seed_alone() -> None:
    assert [case(Random(1)) for _ in range(3)] == [case(Random(1))] * 3


@given(triggers(), events(), owners())
def test_drawn_triggers_and_events_are_valid(
    trigger: str, event: Event, owner: Owner | None
) -> None:
    assert answer([trigger], event, owner, [])[0][0] in ("fires", "partial", "no")


@given(cases())
def test_no_term_of_what_is_missing_is_satisfied_by_the_event(made: Case) -> None:
    try:
        answers = answer(*made)
    except ValueError:
        return
    for verdict, missing in answers:
        assert (missing is not None) == (verdict == "partial")
        if missing is not None:
            assert one(missing, made.event, made.owner, *made.occurred) == ("no", None)


@given(texts())
def test_any_text_is_a_trigger_or_a_syntax_error(text: str) -> None:
    try:
        tree = read(text)
    except ValueError:
        return
    assert canonical(tree)
